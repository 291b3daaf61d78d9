"""Steps in Lightning: when the Trainer's optimizers have stepped, and how its schedulers set their learning rates."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from operator import is_not
from typing import Any

from weibull_monitor.monitor.monitor import WeibullMonitor
from weibull_monitor.scaling.deepspeed import engine_of
from weibull_monitor.scaling.learning_rates import Rule
from weibull_monitor.scaling.optimizers import innermost


class OptimizerHooks:
    """Has the Trainer's optimizers say when they have stepped. Micro-batches and skipped steps do not count.

    Args:
        trainer: The Trainer.
        monitor: A single optimizer makes it sample, before any scheduler steps.
    """

    def __init__(self, trainer: Any, monitor: WeibullMonitor) -> None:
        self._trainer, self._monitor = trainer, monitor
        self._stepped = False
        self._engine_steps: int | None = None
        self._followed = list(trainer.optimizers)
        self._hooks: list[Any] = []
        if any(map(engine_of, self._followed)):  # it steps once per group, each time on part of the weights
            self._engine_steps = trainer.strategy.model.global_steps
        else:
            self._hooks = [innermost(o).register_step_post_hook(self._after_step) for o in self._followed]

    def replaced(self) -> bool:
        """Whether the Trainer now has other optimizers."""
        now = self._trainer.optimizers
        return len(now) != len(self._followed) or any(map(is_not, self._followed, now))

    def take(self) -> bool:
        """Whether several optimizers, or DeepSpeed, have stepped since the last call."""
        if self._engine_steps is not None and self._engine_steps != (
            steps := self._trainer.strategy.model.global_steps
        ):
            self._engine_steps, self._stepped = steps, True
        stepped, self._stepped = self._stepped, False
        return stepped

    def remove(self) -> None:
        """Removes the hooks."""
        for hook in self._hooks:
            hook.remove()

    def _after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if len(self._hooks) == 1:
            self._monitor.step()
        else:
            self._monitor.optimizer_stepped(optimizer)
            self._stepped = True


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
