"""What the Lightning callback stands on: the host's `Callback` class, its loggers as trackers, its schedulers as rules."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

from weibull_monitor.errors import MissingDependencyError
from weibull_monitor.history import RunRecord
from weibull_monitor.history.alert import Alert
from weibull_monitor.history.snapshot import Snapshot
from weibull_monitor.scaling.learning_rates import Rule
from weibull_monitor.trackers.bands import bands_of
from weibull_monitor.trackers.tensorboard import write_alert, write_layout, write_picture
from weibull_monitor.trackers.wandb import STEP, define_metrics, media_of, send_alert

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
        self._step = 0
        self._bands: dict[str, float] = {}

    def begin(self, record: RunRecord) -> None:
        """Lays out TensorBoard's charts, and W&B's table of runs."""
        experiment = self._logger.experiment
        if _is_tensorboard(experiment) or _is_wandb(experiment):
            self._bands = bands_of(record.components, record.attention)
        if _is_tensorboard(experiment):
            write_layout(experiment, self._bands)
        elif _is_wandb(experiment):
            define_metrics(experiment, "trainer/global_step")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Logs where `LearningRateMonitor` logs the learning rate that these weights meet next."""
        loop = self._trainer.fit_loop.epoch_loop
        progress = loop.batch_progress.current
        in_batch = progress.ready - progress.completed  # the count goes up after the batch
        self._step = 0 if step == 0 else loop._batches_that_stepped + in_batch
        mine = {STEP: step} if _is_wandb(self._logger.experiment) else {}
        self._logger.log_metrics({**metrics, **self._bands, **mine}, step=self._step)

    def picture(self, snapshot: Snapshot) -> None:
        """Shows TensorBoard and W&B the sample that was logged last."""
        experiment = self._logger.experiment
        if _is_tensorboard(experiment):
            write_picture(experiment, snapshot, self._step)
        elif _is_wandb(experiment):
            self._logger.log_metrics({**media_of(snapshot), STEP: snapshot.step}, step=self._step)

    def alert(self, alert: Alert) -> None:
        """Tells TensorBoard and W&B, beside the metrics logged last; other loggers have nothing for alerts."""
        experiment = self._logger.experiment
        if _is_tensorboard(experiment):
            write_alert(experiment, alert, self._step)
        elif _is_wandb(experiment):
            send_alert(experiment, alert)

    def close(self) -> None:
        """Leaves the logger open."""


def _is_tensorboard(experiment: Any) -> bool:
    return hasattr(experiment, "add_text")


def _is_wandb(experiment: Any) -> bool:
    return hasattr(experiment, "alert")


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


def _ticks(config: Any, batches: float, accumulated: int) -> Callable[[int], int]:
    """How often Lightning steps a scheduler after each optimizer step; frequencies count the batches of an epoch."""
    an_epoch = math.ceil(batches / accumulated) if math.isfinite(batches) else sys.maxsize

    def ticks(step: int) -> int:
        epoch, within = divmod(step - 1, an_epoch)
        if config.interval == "step":
            return int(min((within + 1) * accumulated, batches) % config.frequency == 0)
        return int(within + 1 == an_epoch and (epoch + 1) % config.frequency == 0)

    return ticks
