"""A cadence that follows: for a while after an event, samples are ten times as dense."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import nn

from weibull_monitor.errors import as_integer
from weibull_monitor.model.sharding import Ranks
from weibull_monitor.monitor.schedule import Schedule

DENSER: Final = 10
"""Samples after an event are this many times as dense."""
BURST: Final = 8
"""Dense samples after an event."""
START: Final = 16
"""Dense samples that a run may take before its regular samples earn more: one each."""
MOST: Final = 32
"""Most dense samples that can be saved up."""
JUMP: Final = 1.5
"""Factor by which η must exceed what a linear warm-up would make of it, to be a jump."""


class Adaptive:
    """Decides about samples beside the schedule, alike on every rank.

    Every ``every/10`` steps it asks whether something has happened since it last asked: an alert of any severity was raised,
    the η of a parameter group has jumped, more parameters need a gradient, or the run was resumed. If so, eight samples follow,
    ``every/10`` steps apart. A dense sample costs one credit; a run begins with 16, and each regular sample earns one. So a run
    takes at most 16 samples more than twice its regular ones.

    What is asked depends on the steps, the learning rates and the samples that were queued before alone. Ranks agree with one
    all-reduce of one number each time.

    Args:
        every: Number of optimizer steps between regular samples.
        model: The model.
        ranks: The processes that measure together; None for this one alone.
    """

    def __init__(self, every: Any, model: nn.Module, ranks: Ranks | None) -> None:
        self._schedule, self._model, self._ranks = Schedule(every), model, ranks
        self.every = max(1, self._schedule.every // DENSER)
        self._left, self._credit = 0, START
        self._rates: tuple[float | None, ...] = ()
        self._step, self._trainable, self._raised = 0, self._count_trainable(), 0
        self._event = False

    def asks(self, step: int) -> bool:
        """Whether it has to be asked about a step: before that, all samples queued before must have been judged."""
        return step % self.every == 0 and step > min(self._schedule.early, self._schedule.every)

    def due(self, step: int, optimizers: Sequence[Any], raised: int) -> bool:
        """Whether a step at which it `asks` is sampled. Every rank has to call this.

        Args:
            step: Optimizer steps taken.
            optimizers: The optimizers, after that step and before their schedulers.
            raised: Number of alerts that were raised so far; on the main process, and 0 on the others.
        """
        happened = self._jumped(step, optimizers) | self._unfrozen() | self._event | (raised > self._raised)
        self._raised, self._event = raised, False
        if self._ranks is not None:
            votes = torch.tensor([int(happened)], device=self._ranks.device)
            happened = int(self._ranks.sum_(votes).item()) > 0
        if happened:
            self._left = BURST
        if self._schedule(step):  # it is sampled anyway
            self._credit = min(MOST, self._credit + 1)
            return False
        if not self._left or not self._credit:
            return False
        self._left -= 1
        self._credit -= 1
        return True

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, as JSON can hold it."""
        return {"credit": self._credit, "left": self._left}

    def resume(self, state: object) -> None:
        """Continues from `state`, or from nothing. A resumption is an event."""
        credit = as_integer(state.get("credit")) if isinstance(state, Mapping) else None
        self._credit = START if credit is None else min(max(credit, 0), MOST)
        self._left, self._event, self._rates = 0, True, ()

    def _jumped(self, step: int, optimizers: Sequence[Any]) -> bool:
        """Whether η of a group is above what a linear warm-up would have made of it since the last time."""
        now = tuple(_rate(group) for optimizer in optimizers for group in optimizer.param_groups)
        before, self._rates = self._rates, now
        growth = JUMP * (step / self._step if self._step else 1.0)
        self._step = step
        if len(before) != len(now):
            return False
        return any(a is not None and b is not None and 0.0 < a * growth < b for a, b in zip(before, now, strict=True))

    def _unfrozen(self) -> bool:
        before, self._trainable = self._trainable, self._count_trainable()
        return self._trainable > before

    def _count_trainable(self) -> int:
        return sum(parameter.requires_grad for parameter in self._model.parameters())


def _rate(group: Mapping[str, Any]) -> float | None:
    """η of a group; None if it chooses its own, or if a device would have to be waited for."""
    rate = group.get("lr")
    if isinstance(rate, torch.Tensor):
        return float(rate) if rate.device.type == "cpu" else None
    return None if rate is None else float(rate)
