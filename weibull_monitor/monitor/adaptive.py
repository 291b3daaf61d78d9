"""A cadence that follows: for a while after an event, samples are ten times as dense."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from weibull_monitor.errors import Guard
from weibull_monitor.model.sharding import Ranks
from weibull_monitor.monitor.events import Change, Denser, Rates, RateWatch
from weibull_monitor.monitor.schedule import Schedule

FROM: Final = 10
"""The shortest regular interval that is followed by default; below it, regular samples are dense enough."""
WATCHED: Final = 256
"""Frozen parameters that are looked at for unfreezing, at most."""
CHECKED: Final = 4
"""Steps between looks for a jump of η: at all others, nothing but a number is compared."""
AT_ONCE: Final = 16
"""Parameter groups that are looked at for it together; of more, others the next time."""


class Adaptive:
    """Decides about samples beside the schedule, alike on every rank.

    A jump of the η of a parameter group is noticed within four steps. Every ``every/10`` steps, and at least every 10, it asks
    whether something else has happened: η has grown (`RateWatch`), or parameters that were frozen need a gradient. With
    ``alerts``, also whether an alert of any severity was raised, the run was resumed, or η has returned to where it was. If so,
    eight samples follow (`Denser`).

    Without ``alerts`` it costs next to nothing: it reads learning rates, and waits for nothing. A resumed run then takes the
    samples that an uninterrupted one takes. With ``alerts`` all samples must have been judged before it is asked. Several ranks
    notice a jump when they ask, and agree with one all-reduce of two numbers each time.

    Args:
        every: Number of optimizer steps between regular samples.
        model: The model.
        guard: Reports problems once: what goes wrong on one rank must not keep it from agreeing with the others.
        ranks: The processes that measure together; None for this one alone.
        alerts: Whether to follow alerts and resumptions as well.

    Attributes:
        every: Number of steps between questions.
        next: The next step at which it may ask.
        alerts: As given.
    """

    def __init__(self, every: Any, model: nn.Module, guard: Guard, ranks: Ranks | None, alerts: bool) -> None:
        self._denser, self._rates = Denser(every), RateWatch(returns=alerts)
        self._guard, self._ranks, self.alerts = guard, ranks, alerts
        self.every, self._regular = self._denser.every, Schedule(every).every
        self._model, self._frozen, self._thawed = model, list[nn.Parameter](), set[int]()
        self._limits: list[list[tuple[Mapping[str, Any], float]]] = []
        self._then: Rates = ()
        self._looked = self._event = False
        self._raised, self._question = 0, self._denser.after(0)
        self._wait(0)

    @classmethod
    def of(
        cls, wanted: bool | None, schedule: Any, model: nn.Module, guard: Guard, ranks: Ranks | None
    ) -> Adaptive | None:
        """For the option ``adaptive``; None if nothing is followed.

        By default that is so on several processes, which would have to agree, and with a function as schedule.
        """
        if wanted is None and (ranks is not None or not isinstance(schedule, Schedule) or schedule.every < FROM):
            return None
        return None if wanted is False else cls(schedule.every, model, guard, ranks, alerts=wanted is True)

    def asks(self, step: int) -> bool:
        """Whether it has to be asked about a step: with ``alerts``, samples queued before must have been judged by then.

        It need not be called before step ``next``.
        """
        if step >= self._question:
            return True
        self._wait(step)
        if self._limits:
            for group, limit in self._limits[step // CHECKED % len(self._limits)]:
                rate = group["lr"]
                if type(rate) is float and rate > limit:
                    return True
        return False

    def due(self, step: int, optimizers: Sequence[Any], raised: int = 0) -> bool:
        """Whether a step at which it `asks` is sampled. Every rank has to call this.

        Args:
            step: Optimizer steps taken.
            optimizers: The optimizers, after that step and before their schedulers.
            raised: Number of alerts that were raised so far; on the main process, and 0 on the others.
        """
        change = self._guard("looking for events", self._change, step, optimizers, raised) or Change.NONE
        if self._ranks is not None:
            votes = torch.tensor([int(change is one) for one in (Change.SLOW, Change.JUMP)], device=self._ranks.device)
            slow, jump = self._ranks.sum_(votes).tolist()
            change = Change.JUMP if jump else Change.SLOW if slow else Change.NONE
        taken = self._denser.takes(step, change)
        self._question = self._denser.after(step)
        self._wait(step)
        return taken

    def expects(self, step: int) -> bool:
        """Whether it is known already that a step will be sampled."""
        return self._denser.expects(step)

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, as JSON can hold it."""
        return self._denser.state() | self._rates.state() if self._looked else {}

    def resume(self, state: object, step: int) -> None:
        """Continues after a step from `state`, or from nothing. With ``alerts``, a resumption is an event."""
        known = state if isinstance(state, Mapping) else {}
        self._denser.resume(known)
        self._rates.resume(known)
        self._event, self._question = self.alerts, self._denser.after(step)
        self._wait(step)

    def _change(self, step: int, optimizers: Sequence[Any], raised: int) -> Change:
        happened = self._unfrozen()
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        rates = [rate_of(group) for group in groups]
        change = self._rates.change(step, rates)
        if self._ranks is None and (change or step % self.every or self._are_stale(rates)):
            self._set_limits(groups, rates)  # on several ranks, all have to ask at the same steps
        if not self._looked or step % self._regular == 0:  # going through a model takes longer than a question may
            self._look()
        if self.alerts:
            happened |= self._event | (raised > self._raised)
            self._raised, self._event = raised, False
        elif self.every == 1:  # regular samples are dense enough for what is slow
            return change if change is Change.JUMP else Change.NONE
        return max(change, Change.SLOW if happened else Change.NONE)

    def _are_stale(self, rates: Rates) -> bool:
        """Whether limits have to be made anew: groups that share a schedule move together, so the first stands for all."""
        if len(rates) != len(self._then):
            return True
        now, then = (rates[0], self._then[0]) if rates else (None, None)
        return now is not None and then is not None and not 0.9 * then <= now <= 1.1 * then

    def _set_limits(self, groups: Sequence[Mapping[str, Any]], rates: Rates) -> None:
        limits = zip(groups, self._rates.limits(self.every), strict=True)
        known = [(group, limit) for group, limit in limits if limit < math.inf]
        self._limits, self._then = [known[i : i + AT_ONCE] for i in range(0, len(known), AT_ONCE)], rates

    def _wait(self, step: int) -> None:
        self.next = min(step - step % CHECKED + CHECKED, self._question)

    def _unfrozen(self) -> bool:
        """Whether a parameter that was frozen needs a gradient now. Those of a GAN, which come and go, count once."""
        thawed = [id(p) for p in self._frozen if p.requires_grad]
        if thawed:
            self._thawed.update(thawed)
            self._frozen = [p for p in self._frozen if not p.requires_grad]
        return bool(thawed)

    def _look(self) -> None:
        frozen = [p for p in self._model.parameters() if not p.requires_grad and id(p) not in self._thawed]
        self._frozen = frozen[:: len(frozen) // WATCHED + 1]  # of a layer, some are left
        self._looked = True


def rate_of(group: Mapping[str, Any]) -> float | None:
    """η of a parameter group; None if it chooses its own, or if a device would have to be waited for."""
    rate = group.get("lr")
    if type(rate) is float:
        return rate
    if isinstance(rate, Tensor):
        return float(rate) if rate.device.type == "cpu" else None
    return None if rate is None else float(rate)
