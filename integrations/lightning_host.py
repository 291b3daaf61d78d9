"""What the Lightning callback stands on: the host's `Callback` class, and its loggers as trackers."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from weibull_monitor.errors import MissingDependencyError

_FLAVOURS = ("lightning.pytorch", "pytorch_lightning")


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
    """Writes through one of the Trainer's loggers, which stays the Trainer's.

    Args:
        logger: The logger.
        trainer: The Trainer. Its loggers count the batches in which an optimizer stepped; under manual optimization that is
            not the number of optimizer steps.
    """

    def __init__(self, logger: Any, trainer: Any) -> None:
        self._logger, self._trainer = logger, trainer

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Logs where `LearningRateMonitor` logs the learning rate that these weights meet next."""
        loop = self._trainer.fit_loop.epoch_loop
        progress = loop.batch_progress.current
        in_batch = progress.ready - progress.completed  # the count goes up after the batch
        self._logger.log_metrics(dict(metrics), step=0 if step == 0 else loop._batches_that_stepped + in_batch)

    def close(self) -> None:
        """Leaves the logger open."""
