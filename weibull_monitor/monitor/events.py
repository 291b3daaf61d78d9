"""What a cadence that follows is made of: whether learning rates have jumped, and how many dense samples may follow.

Both depend on the steps and the rates alone, so that a recorded run can be replayed with the samples it would have had.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from typing import Any, Final

from weibull_monitor.errors import as_integer
from weibull_monitor.history.conform import MAX_INTEGER
from weibull_monitor.monitor.schedule import Schedule

DENSER: Final = 10
"""Samples after an event are this many times as dense."""
FARTHEST: Final = 10
"""Most steps between dense samples: with q and k at thirty times their rate, attention is gone after 25 to 60 steps."""
BURST: Final = 8
"""Dense samples after an event."""
AFTER_JUMP: Final = (0, 1, 2, 4, 8, 16, 32, 64)
"""Steps from a jump of η to the samples that follow it, as at the start of a run: thirty times η moves in one step as far as a
matrix has moved in a thousand."""
START: Final = 16
"""Dense samples that a run may take before its regular samples earn more: one each."""
MOST: Final = 32
"""Most dense samples that can be saved up."""
JUMP: Final = 1.5
"""Factor by which η must exceed what a warm-up would make of it, to be a jump."""
HIGHER: Final = 1.2
"""Factor above the highest η at a question from which η is higher than ever: between two questions it may have been a little
higher."""
LOOKED_BACK: Final = 10
"""Questions that growth is looked at over: one interval between regular samples."""
KEPT: Final = 256
"""Rates that are saved in a checkpoint, at most."""
ROUNDING: Final = 1.0 + 1e-6
"""What growth in proportion to the step may differ by."""

Rates = Sequence[float | None]
"""η of each parameter group; None where it is not known."""


class Change(IntEnum):
    """What has happened since the last question; the higher, the more urgent."""

    NONE = 0
    SLOW = 1
    """η has grown over several questions, or something else has happened."""
    JUMP = 2
    """η has jumped since the last question."""


class RateWatch:
    """Tells jumps of η, and growth over many steps, from the ordinary courses of η.

    Over the last ten questions, a warm-up raises η at most by (t/t₀)², from step t₀ to t: a linear one by t/t₀, a cosine by its
    square. What exceeds that by a factor of 1.5 is an event. Where a group outgrows another one by 1.5, the two have no warm-up
    in common, and t/t₀ is the measure. So rates that rise by 2 % a step are noticed when they are about twice as high. A group
    whose η leaves 0 when others are trained already, and a group that is added, are events too; whatever falls is not. Where all
    groups return to what they had before, as in a warm restart, it is an event only with ``returns``.

    Args:
        returns: Whether a return to a height that η has had before is an event as well.

    >>> watch = RateWatch()
    >>> [watch.change(step, [1e-5 * step]).name for step in (10, 20, 30)]
    ['NONE', 'NONE', 'NONE']
    >>> watch.change(40, [4e-3]).name
    'JUMP'
    """

    def __init__(self, returns: bool = False) -> None:
        self._returns = returns
        self._seen: deque[tuple[int, Rates]] = deque(maxlen=LOOKED_BACK)
        self._highest: list[float] = []

    def change(self, step: int, rates: Rates) -> Change:
        """What has happened to η of the groups by a step, since the steps that were asked about before.

        Args:
            step: Optimizer steps taken; more than the last time.
            rates: η of each parameter group at that step, always in one order; groups may be added at the end.
        """
        found = self._change(step, rates) if self._seen else Change.NONE
        if found or len(self._highest) != len(rates):
            self._seen.clear()
        self._seen.append((step, tuple(rates)))
        if len(self._highest) != len(rates):
            self._highest = [0.0] * len(rates)
        for i, rate in enumerate(rates):
            if rate is not None and rate > self._highest[i]:
                self._highest[i] = rate
        return found

    def limits(self, steps: int) -> list[float]:
        """What η of each group has to exceed within some steps, to be worth a question at once."""
        at, rates = self._seen[-1]
        return [rate * JUMP * _passed(at, at + steps) if rate else math.inf for rate in rates]

    def _change(self, step: int, rates: Rates) -> Change:
        last, before = self._seen[-1]
        if len(before) != len(rates):
            return Change.SLOW if len(rates) > len(before) > 0 else Change.NONE
        linear = _passed(last, step) * ROUNDING
        found = Change.NONE
        for i, (now, then) in enumerate(zip(rates, before, strict=True)):
            # What has not outgrown a linear warm-up since the last question has not since those before it, either.
            if now is not None and then is not None and now > then * linear:
                found = max(found, self._of_group(step, rates, i, now))
        return found

    def _of_group(self, step: int, rates: Rates, group: int, now: float) -> Change:
        new = self._returns or now > self._highest[group] * HIGHER
        for at, then in reversed(self._seen):
            start, passed = then[group], _passed(at, step)
            if start is None or start < 0.0:
                continue
            if start == 0.0:
                if new and any(then):  # others were trained already
                    return Change.SLOW
                continue
            growth = now / (start * JUMP * passed)
            if (new and growth > passed) or (growth > 1.0 and _outgrown(rates, then, now / start)):
                return Change.JUMP if at == self._seen[-1][0] else Change.SLOW
        return Change.NONE

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, as JSON can hold it; the latest questions alone where there are many groups."""
        kept = list(self._seen)[-max(1, KEPT // max(1, len(self._highest))) :]
        return {"rates": [[step, list(rates)] for step, rates in kept], "highest": self._highest}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Continues from `state`; from nothing, if it does not have that form."""
        self._seen.clear()
        self._highest = []
        seen, highest = state.get("rates"), state.get("highest")
        if not isinstance(seen, list) or not isinstance(highest, list) or not _are_rates(highest) or None in highest:
            return
        for one in seen:
            step = as_integer(one[0]) if isinstance(one, list) and len(one) == 2 else None
            if step is None or not 0 <= step < MAX_INTEGER or not _are_rates(one[1]) or len(one[1]) != len(highest):
                self._seen.clear()
                return
            self._seen.append((step, tuple(one[1])))
        self._highest = list(highest)


def _are_rates(given: object) -> bool:
    return isinstance(given, list) and all(x is None or type(x) in (int, float) for x in given)


def _passed(at: int, step: int) -> float:
    """What a linear warm-up multiplies η by from one step to another; schedulers count the first step as 0."""
    return (step - 1) / (at - 1) if at > 1 else math.inf


def _outgrown(rates: Rates, then: Rates, growth: float) -> bool:
    """Whether another group has grown by less than a growth over `JUMP`."""
    return any(a and b is not None and b / a * JUMP < growth for a, b in zip(then, rates, strict=True))


class Denser:
    """Which steps are sampled beside a schedule, given at which steps something happened.

    At a jump of η samples follow as at the start of a run: at once, and 1, 2, 4, … 64 steps later. After another event eight
    samples follow, a tenth of the regular interval apart, and at most 10 steps. Each costs one credit; a run begins with 16, and
    each regular sample at a step that is asked about earns one. So a run takes at most 16 samples more than twice its regular
    ones.

    Args:
        every: Number of optimizer steps between regular samples.

    Attributes:
        every: Number of steps between questions, and between dense samples.
        next: The next step that is wanted after a jump; infinite if none is.

    >>> denser = Denser(100)
    >>> [s for s in range(110, 300) if denser.asks(s) and denser.takes(s, Change.SLOW if s == 150 else Change.NONE)]
    [150, 160, 170, 180, 190, 210, 220, 230]
    >>> denser = Denser(100)
    >>> [s for s in range(150, 300) if denser.asks(s) and denser.takes(s, Change.JUMP if s == 150 else Change.NONE)]
    [150, 151, 152, 154, 158, 166, 182, 214]
    """

    def __init__(self, every: Any) -> None:
        self._schedule = Schedule(every)
        self.every = max(1, min(self._schedule.every // DENSER, FARTHEST))
        self._left, self._credit = 0, START
        self._wanted: list[int] = []
        self.next = math.inf

    def asks(self, step: int) -> bool:
        """Whether `takes` has to be asked about a step."""
        return step % self.every == 0 or step >= self.next

    def after(self, step: int) -> float:
        """The next step at which it `asks`."""
        return min(step - step % self.every + self.every, self.next)

    def takes(self, step: int, change: Change) -> bool:
        """Whether a step is sampled beside the schedule: one at which it `asks`, or at which something happened.

        Args:
            step: Optimizer steps taken.
            change: What has happened since the last question.
        """
        if change is Change.JUMP:
            self._want(step + later for later in AFTER_JUMP if later < self._schedule.every)
        elif change is Change.SLOW:
            self._left = BURST
        wanted = step >= self.next
        if wanted:
            self._want(later for later in self._wanted if later > step)
        if self._schedule(step):  # it is sampled anyway
            self._credit = min(MOST, self._credit + (step % self.every == 0))
            return False
        if not (wanted or (self._left and step % self.every == 0)) or not self._credit:
            return False
        self._left -= not wanted
        self._credit -= 1
        return True

    def expects(self, step: int) -> bool:
        """Whether a step will be sampled beside the schedule, whatever happens until then."""
        dense = step >= self.next or (self._left > 0 and step % self.every == 0)
        return dense and self._credit > 0 and not self._schedule(step)

    def _want(self, steps: Iterable[int]) -> None:
        self._wanted = list(steps)
        self.next = self._wanted[0] if self._wanted else math.inf

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, as JSON can hold it."""
        return {"credit": self._credit, "left": self._left, "wanted": self._wanted}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Continues from `state`, or from nothing."""
        credit, left, wanted = as_integer(state.get("credit")), as_integer(state.get("left")), state.get("wanted")
        self._credit = START if credit is None else min(max(credit, 0), MOST)
        self._left = 0 if left is None else min(max(left, 0), BURST)
        whole = wanted[: len(AFTER_JUMP)] if isinstance(wanted, list) else []
        self._want(sorted(step for one in whole if (step := as_integer(one)) is not None))
