"""The learning rates to come, read from a scheduler without changing it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from weibull_monitor.errors import ConfigurationError
from weibull_monitor.scaling.forecast import RemainingBudget
from weibull_monitor.scaling.optimizers import innermost
from weibull_monitor.scaling.schedulers import Curve, Epochs, Rates, curve_of, epoch_of

MAX_SEGMENTS: Final = 4096
"""Largest number of stretches that given learning rates are summed over; fewer steps are kept one by one."""
SAMPLED: Final = 512
"""Largest number of learning rates that a scheduler is asked for."""
NEAR: Final = 0.05
"""As `TOLERANCE`, where the planned learning rates are only near to those that the scheduler will set."""
TOLERANCE: Final = 1e-4
"""Relative difference between a learning rate and the planned one that counts as rounding."""


def one_tick(step: int) -> int:
    """A scheduler that steps once after each optimizer step."""
    return 1


@dataclass(frozen=True)
class Ticks:
    """A scheduler that steps ``times`` times after each optimizer step."""

    times: int

    def __call__(self, step: int) -> int:
        """How often it steps after optimizer step ``step``."""
        return self.times

    def until(self, step: int) -> int:
        """How often it has stepped when the optimizer has taken ``step`` steps."""
        return self.times * step


@dataclass(frozen=True)
class Rule:
    """What sets the learning rates of an optimizer.

    Attributes:
        scheduler: A scheduler of ``torch.optim.lr_scheduler``; or a function of the optimizer step (from 1) that the learning
            rates of all groups are proportional to.
        ticks: How often the scheduler steps between optimizer step n, its argument, and the next. If it has a method ``until``,
            that says how often it does up to and with the one after step n.
        optimizer: The optimizer that a function is for; None for all of them.
    """

    scheduler: Any
    ticks: Callable[[int], int] = one_tick
    optimizer: Any = None

    def is_for(self, optimizer: Any) -> bool:
        """Whether the rule sets the learning rates of an optimizer."""
        own = getattr(self.scheduler, "optimizer", None) if isinstance(self.scheduler, LRScheduler) else self.optimizer
        return own is None or innermost(own) is innermost(optimizer)

    def position(self) -> int | None:
        """How often the scheduler has stepped; None for a function."""
        return epoch_of(self.scheduler) if isinstance(self.scheduler, LRScheduler) else None


def as_rules(given: Any) -> list[Rule]:
    """The rules that the user's ``scheduler`` argument stands for.

    Args:
        given: A scheduler, a function of the step, a `Rule`, several of them, or None.

    Raises:
        ConfigurationError: For anything else.
    """
    if given is None:
        return []
    several = given if isinstance(given, Sequence) else [given]
    for one in several:
        if not isinstance(one, (Rule, LRScheduler)) and not callable(one):
            raise ConfigurationError(
                f"scheduler is a {type(one).__name__}; pass a scheduler of torch.optim.lr_scheduler, or a function of the "
                "optimizer step (from 1) that the learning rate is in proportion to"
            )
    return [one if isinstance(one, Rule) else Rule(one) for one in several]


def rates_ahead(rule: Rule, step: int, total: int, now: Sequence[float]) -> Rates | None:
    """The learning rates of the optimizer steps after ``step``, one by one, read without any effect on the scheduler.

    Args:
        rule: What sets them.
        step: Optimizer steps taken; the scheduler has not stepped since the last of them.
        total: Optimizer steps of the whole run.
        now: The learning rate of each parameter group at the last step; before the first step, that of the first.

    Returns:
        Shape (groups, total - step), float64; None if they cannot be known (`ReduceLROnPlateau`, a scheduler that raises).

    >>> import torch
    >>> optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2, 2))], lr=1.0)
    >>> scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
    >>> rates_ahead(Rule(scheduler), step=0, total=5, now=[1.0]).tolist()
    [[1.0, 1.0, 0.5, 0.5, 0.25]]
    >>> scheduler.last_epoch
    0
    """
    try:
        found = _rates_at(rule, step, total, now)
        rates = None if found is None else found[0](np.arange(step + 1, total + 1))
        return None if rates is None or np.isnan(rates).any() else rates
    except Exception:
        if _is_users(rule):
            raise
        return None


def plan_ahead(rule: Rule, step: int, total: int, now: Sequence[float]) -> list[RatesAhead] | None:
    """The learning rates to come of each parameter group, from at most `MAX_SEGMENTS` of them, however long the run is.

    Args:
        rule: What sets them.
        step: Optimizer steps taken.
        total: Optimizer steps of the whole run.
        now: The learning rate of each parameter group at the last step.
    """
    try:
        found = _rates_at(rule, step, total, now)
        if found is None:
            return None
        rates_at, exact = found
        # Of each stretch of `size` steps the rate in its middle stands for all: (stretches,) each.
        size = -(-(total - step) // SAMPLED) or 1
        starts = np.arange(0, total - step, size)
        lengths = np.diff(np.append(starts, total - step))
        middle = rates_at(step + 1 + starts + (lengths - 1) // 2)  # (groups, stretches)
        if np.isnan(middle).any():
            return None
        return [RatesAhead(row, step, lengths, _single(rates_at, g), exact) for g, row in enumerate(middle)]
    except Exception:  # a scheduler that needs a metric, ends before the run or cannot be copied: the rates are unknown
        if _is_users(rule):
            raise
        return None


def _is_users(rule: Rule) -> bool:
    """Whether the rates come from a function of the user, whose failure is reported."""
    return not isinstance(rule.scheduler, LRScheduler) or isinstance(rule.scheduler, LambdaLR)


def _rates_at(rule: Rule, step: int, total: int, now: Sequence[float]) -> tuple[Curve, bool] | None:
    """From steps after ``step``, shape (n,), to learning rates, shape (groups, n); and whether they are exact."""
    scheduler = rule.scheduler
    if isinstance(scheduler, ReduceLROnPlateau):
        return None
    if not isinstance(scheduler, LRScheduler):
        here = float(scheduler(max(1, step)))
        # Only proportions count: the rates of now, times the function over its present value, if that is positive.
        unit = here if here > 0 else np.nan
        return lambda steps: np.outer(now, [float(scheduler(int(n))) / unit for n in steps]), True
    first, passed = epoch_of(scheduler), _ticks_between(rule.ticks, step, total)
    found = curve_of(scheduler, first + int(passed(np.array([total]))[0]))
    return None if found is None else ((lambda steps: found[0](first + passed(steps))), found[1])


def _ticks_between(ticks: Callable[[int], int], step: int, total: int) -> Callable[[Epochs], Epochs]:
    """How often the scheduler steps after ``step`` and before each of some later steps; it does not before the first step."""
    if ticks is one_tick:
        return lambda steps: steps - max(1, step)
    if (until := getattr(ticks, "until", None)) is not None:
        before = until(max(0, step - 1))
        return lambda steps: np.array([until(int(n) - 1) - before for n in steps], dtype=np.int64)
    table = np.cumsum([ticks(n) if n > 0 else 0 for n in range(step, total)])
    return lambda steps: table[steps - step - 1]


def ticks_between(ticks: Callable[[int], int], step: int, later: int) -> int:
    """How often a scheduler steps after optimizer step ``step`` and before step ``later`` + 1, that after ``later`` left out."""
    if later <= step:
        return 0
    return int(_ticks_between(ticks, step, later)(np.array([later]))[0])


def _single(rates_at: Curve, group: int) -> Callable[[int], float]:
    return lambda step: float(rates_at(np.array([step]))[group, 0])


class RatesAhead:
    """The learning rates to come of one parameter group, summed so that `rest` is quick at any later step.

    Args:
        rates: The learning rates of the steps after ``step``, shape (steps,); with ``lengths``, those of stretches of steps.
        step: Optimizer steps taken before them.
        lengths: Steps of each stretch, shape (stretches,); None for one each.
        single: The learning rate of a step; None to take it from ``rates``.
        exact: Whether the rates are those that the scheduler will set, and not only near to them.

    >>> ahead = RatesAhead(np.array([1e-3, 1e-3]), step=8)
    >>> ahead.rest(step=9, weight_decay=0.1)
    RemainingBudget(decay=0.0001, injection=2e-06, path=0.001)
    >>> ahead.rate(10)
    0.001
    """

    def __init__(
        self,
        rates: Rates,
        step: int,
        lengths: Epochs | None = None,
        single: Callable[[int], float] | None = None,
        exact: bool = True,
    ) -> None:
        self._step, self.tolerance = step, TOLERANCE if exact else NEAR
        self._single = single if lengths is not None and lengths.max(initial=1) > 1 else None
        self._rates = rates
        self._end = step + (len(rates) if lengths is None else int(lengths.sum()))
        if lengths is None:
            # Of each stretch of `size` steps only the length, Σ η and Σ η² are needed: (stretches,) each.
            size = -(-len(rates) // MAX_SEGMENTS) if len(rates) else 1
            starts = np.arange(0, len(rates), size)
            self._lengths = np.diff(np.append(starts, len(rates)))
            self._sum = np.add.reduceat(rates, starts) if len(rates) else np.zeros(0)
            self._squares = np.add.reduceat(rates**2, starts) if len(rates) else np.zeros(0)
        else:
            self._lengths, self._sum, self._squares = lengths, rates * lengths, rates**2 * lengths
        self._starts = step + np.cumsum(self._lengths) - self._lengths
        self._memo: tuple[tuple[int, float], RemainingBudget] | None = None  # the same for all matrices of a group

    def rate(self, step: int) -> float | None:
        """The learning rate of a step; None for steps that are not among those to come."""
        if not self._step < step <= self._end:
            return None
        return self._single(step) if self._single is not None else float(self._rates[step - self._step - 1])

    def rest(self, step: int, weight_decay: float) -> RemainingBudget:
        """What the steps after ``step`` will spend.

        They add Σ_j 2η_j²·exp(-2 Σ_{i>j} η_iλ_wd) to I at the end, which is the recursion of `Budget` unrolled. Within one
        stretch of steps η is assumed to be constant.
        """
        if self._memo is not None and self._memo[0] == (step, weight_decay):
            return self._memo[1]
        # All (stretches,). `share` is the part of each stretch that is still to come: 0, 1 or, for one of them, between.
        share = np.clip((self._starts + self._lengths - step) / self._lengths, 0.0, 1.0)
        length = self._lengths * share
        decay = self._sum * share * weight_decay
        # S of all later stretches, and on average that of the later steps of the same stretch.
        later = np.cumsum(decay[::-1])[::-1] - decay
        within = decay * np.maximum(0.0, length - 1.0) / (2.0 * np.maximum(length, 1.0))
        injection = 2.0 * self._squares * share * np.exp(-2.0 * (later + within))
        found = RemainingBudget(float(decay.sum()), float(injection.sum()), float((self._sum * share).sum()))
        self._memo = ((step, weight_decay), found)
        return found
