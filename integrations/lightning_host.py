"""Lightning as the callback sees it: the `Callback` class, loggers as trackers."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from weibull_monitor.errors import MissingDependencyError
from weibull_monitor.history import RunRecord
from weibull_monitor.history.alert import Alert
from weibull_monitor.history.snapshot import Snapshot
from weibull_monitor.trackers import Tracker
from weibull_monitor.trackers.base import Host, NamedTracker
from weibull_monitor.trackers.registry import tracker_of_run

_FLAVOURS = ("lightning.pytorch", "pytorch_lightning")
HOST = Host(step_metric="trainer/global_step")
"""`WandbLogger` logs its steps in this metric."""


def callback_class() -> type:
    """A `Callback` of the Lightning that is imported; of both packages, if both are, or if neither is and both are there.

    Raises:
        MissingDependencyError: If neither is installed.
    """
    imported = [name for name in _FLAVOURS if name in sys.modules]
    names = imported or [name for name in _FLAVOURS if find_spec(name.partition(".")[0])]
    if not names:
        raise MissingDependencyError("lightning", "lightning")
    return type("Callback", tuple(importlib.import_module(name).Callback for name in names), {})


def measured(trainer: Any, module: Any) -> Any:
    """The Trainer's module, or FSDP1's module around it, which holds those parameters that no other unit of FSDP1 has."""
    around = trainer.strategy.model
    return around if type(around).__name__ == "FullyShardedDataParallel" else module


def is_last_batch(trainer: Any) -> bool:
    """Whether training ends after the batch that has just been trained on, as far as it is known now."""
    if trainer.should_stop or 0 <= trainer.max_steps <= trainer.global_step:
        return True
    loop = trainer.fit_loop
    ends = loop.epoch_loop.batch_progress.is_last_batch and loop.max_epochs is not None and loop.max_epochs >= 0
    return bool(ends and trainer.current_epoch + 1 >= loop.max_epochs)


class LoggerTracker:
    """Writes metrics through one of the Trainer's loggers, and what else the registry's tracker of its run has to show.

    The Trainer closes the logger.

    Args:
        logger: The logger.
        trainer: The Trainer. Its loggers count the batches in which an optimizer stepped; under manual optimization that is
            not the number of optimizer steps.
    """

    def __init__(self, logger: Any, trainer: Any) -> None:
        self._logger, self._trainer = logger, trainer
        self._tracker: Tracker | None = None
        self._step = 0

    def begin(self, record: RunRecord) -> None:
        """Finds the tracker: not before, since asking a logger for its run starts the run."""
        self._tracker = self._tracker or tracker_of_run(self._logger.experiment, HOST)
        self._show("begin", record)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Logs at the step at which `LearningRateMonitor` logs the learning rate of the next step of these weights."""
        loop = self._trainer.fit_loop.epoch_loop
        progress = loop.batch_progress.current
        in_batch = progress.ready - progress.completed  # the count goes up after the batch
        self._step = 0 if step == 0 else loop._batches_that_stepped + in_batch
        extra = self._tracker.extra_values(step) if isinstance(self._tracker, NamedTracker) else {}
        self._logger.log_metrics({**metrics, **extra}, step=self._step)
        self._show("remember", metrics, self._step)

    def picture(self, snapshot: Snapshot) -> None:
        """Draws the sample that was logged last, if the tracker draws."""
        self._show("picture", snapshot, self._step)

    def alert(self, alert: Alert) -> None:
        """Shows an alert beside the metrics that were logged last, if the tracker shows alerts."""
        self._show("alert", alert, self._step)

    def close(self) -> None:
        """Leaves the logger open."""

    def _show(self, method: str, *args: Any) -> None:
        if callable(show := getattr(self._tracker, method, None)):
            show(*args)
