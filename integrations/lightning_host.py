"""Lightning as the callback sees it: the `Callback` class, loggers as trackers, schedulers as rules."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from weibull_monitor.errors import MissingDependencyError
from weibull_monitor.history import RunRecord
from weibull_monitor.history.alert import Alert
from weibull_monitor.history.snapshot import Snapshot
from weibull_monitor.scaling.learning_rates import Rule
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


def schedule_of(trainer: Any, module: Any) -> tuple[list[Rule], int | None]:
    """How the learning rates of the Trainer's optimizers come about, and how many optimizer steps there will be.

    Args:
        trainer: The Trainer, when training has started.
        module: Its module.

    Returns:
        Rules for `weibull_monitor.scaling.learning_rates`, none under manual optimization; an optimizer without a scheduler
        keeps its rate. No number of steps where training has no end.
    """
    if not module.automatic_optimization:
        return [], None
    total = trainer.estimated_stepping_batches
    configs = [config for config in trainer.lr_scheduler_configs if not config.reduce_on_plateau]
    rules = [
        Rule(c.scheduler, _ticks(c, trainer.num_training_batches, trainer.accumulate_grad_batches)) for c in configs
    ]
    plateau = [config.scheduler.optimizer for config in trainer.lr_scheduler_configs if config.reduce_on_plateau]
    scheduled = [*plateau, *(rule.scheduler.optimizer for rule in rules)]
    free = [optimizer for optimizer in trainer.optimizers if all(optimizer is not other for other in scheduled)]
    rules += [Rule(lambda step: 1.0, optimizer=optimizer) for optimizer in free]
    return rules, int(total) if math.isfinite(total) and total > 0 else None


@dataclass(frozen=True)
class _Ticks:
    """How often Lightning steps a scheduler after each optimizer step; frequencies count the batches of an epoch.

    Attributes:
        interval: ``step`` or ``epoch``.
        frequency: In so many batches or epochs the scheduler steps once.
        batches: Batches of an epoch.
        accumulated: Batches of an optimizer step.
    """

    interval: str
    frequency: int
    batches: float
    accumulated: int

    def __call__(self, step: int) -> int:
        return self.until(step) - self.until(step - 1)

    def until(self, step: int) -> int:
        """How often the scheduler has stepped when the optimizer has taken ``step`` steps."""
        an_epoch = math.ceil(self.batches / self.accumulated) if math.isfinite(self.batches) else sys.maxsize
        epochs, within = divmod(step, an_epoch)
        if self.interval != "step":
            return epochs // self.frequency
        every = self.frequency // math.gcd(self.frequency, self.accumulated)
        # The last step of an epoch may have fewer batches than the others.
        an_epochs = (an_epoch - 1) // every + int(min(an_epoch * self.accumulated, self.batches) % self.frequency == 0)
        return int(epochs * an_epochs + within // every)


def _ticks(config: Any, batches: float, accumulated: int) -> Callable[[int], int]:
    return _Ticks(config.interval, config.frequency, batches, accumulated)
