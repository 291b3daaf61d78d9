"""The learning rates to come, read from a scheduler without changing it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from weibull_monitor.errors import ConfigurationError
from weibull_monitor.scaling.forecast import RemainingBudget
from weibull_monitor.scaling.optimizers import innermost

Rates = npt.NDArray[np.float64]

MAX_SEGMENTS: Final = 4096
"""Largest number of stretches that the steps to come are summed over; fewer steps are kept one by one."""
TOLERANCE: Final = 1e-4
"""Relative difference between a learning rate and the planned one that counts as rounding."""


@dataclass(frozen=True)
class Rule:
    """What sets the learning rates of an optimizer.

    Attributes:
        scheduler: A scheduler of ``torch.optim.lr_scheduler``; or a function of the optimizer step (from 1) that the learning
            rates of all groups are proportional to.
        ticks: How often the scheduler steps between optimizer step n, its argument, and the next.
        optimizer: The optimizer that a function is for; None for all of them.
    """

    scheduler: Any
    ticks: Callable[[int], int] = lambda step: 1
    optimizer: Any = None

    def is_for(self, optimizer: Any) -> bool:
        """Whether the rule sets the learning rates of an optimizer."""
        own = getattr(self.scheduler, "optimizer", None) if isinstance(self.scheduler, LRScheduler) else self.optimizer
        return own is None or innermost(own) is innermost(optimizer)

    def position(self) -> int | None:
        """How often the scheduler has stepped; None for a function."""
        return self.scheduler.last_epoch if isinstance(self.scheduler, LRScheduler) else None


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
    """The learning rates of the optimizer steps after ``step``, read without any effect on the scheduler.

    Args:
        rule: What sets them.
        step: Optimizer steps taken; the scheduler has not stepped since the last of them.
        total: Optimizer steps of the whole run.
        now: The learning rate of each parameter group at the last step; before the first step, that of the first.

    Returns:
        Shape (groups, total - step), float64; None if they cannot be known (`ReduceLROnPlateau`, a scheduler that raises).

    >>> import torch
    >>> optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(2, 2))], lr=1.0)
    >>> scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
    >>> rates_ahead(Rule(scheduler), step=0, total=5, now=[1.0]).tolist()
    [[1.0, 1.0, 0.5, 0.5, 0.25]]
    >>> scheduler.last_epoch
    0
    """
    scheduler = rule.scheduler
    if isinstance(scheduler, ReduceLROnPlateau):
        return None
    if not isinstance(scheduler, LRScheduler):
        return _of_function(scheduler, step, total, now)
    # (total - step,): how often the scheduler steps before each of the steps to come; it does not before the first.
    ticks = np.array([rule.ticks(n) if n > 0 else 0 for n in range(step, total)])
    if type(scheduler).get_lr is LambdaLR.get_lr:
        return _of_lambdas(scheduler, scheduler.last_epoch + np.cumsum(ticks))
    return _by_rehearsal(scheduler, ticks)


def _of_function(function: Callable[[int], float], step: int, total: int, now: Sequence[float]) -> Rates | None:
    # Only proportions count: the rates of now, times the function over its present value. (groups,) x (total - step,)
    here = float(function(max(1, step)))
    ahead = np.array([function(n) for n in range(step + 1, total + 1)], dtype=np.float64)
    return np.outer(now, ahead / here) if here > 0 else None


def _of_lambdas(scheduler: Any, epochs: npt.NDArray[np.int64]) -> Rates:
    """Calls the functions of a `LambdaLR` with the epochs to come, each once per epoch, even if many groups share it.

    Stepping a copy, as `_by_rehearsal` does, takes seconds for the hundreds of thousands of steps of a long run.
    """
    wanted, position = np.unique(epochs, return_inverse=True)
    factors: dict[int, Rates] = {}
    for function in scheduler.lr_lambdas:
        if id(function) not in factors:
            values = np.array([float(function(int(epoch))) for epoch in wanted], dtype=np.float64)
            factors[id(function)] = values[position]  # (total - step,)
    bases = [float(base) for base in scheduler.base_lrs]
    return np.stack([base * factors[id(f)] for base, f in zip(bases, scheduler.lr_lambdas, strict=True)])


class _OptimizerStandIn:
    """The part of an optimizer that a scheduler needs."""

    def __init__(self, groups: Iterable[Mapping[str, Any]]) -> None:
        self.param_groups = [
            {name: _number(value) for name, value in group.items() if name != "params"} for group in groups
        ]
        self.defaults: dict[str, Any] = {}
        self.state: dict[Any, Any] = {}
        self._opt_called = True

    def step(self) -> None:
        """Does nothing."""

    vars(step)["_wrapped_by_lr_sched"] = True  # without it, torch warns of a wrong order of calls


def _by_rehearsal(scheduler: Any, ticks: npt.NDArray[np.int64]) -> Rates | None:
    """Steps a copy of the scheduler, with a stand-in for the optimizer."""
    stand_in = _OptimizerStandIn(scheduler.optimizer.param_groups)
    known: dict[int, Any] = {id(scheduler.optimizer): stand_in}
    # A scheduler may hold the model (its weights must not be copied).
    known |= {id(value): value for value in vars(scheduler).values() if isinstance(value, nn.Module)}
    try:
        twin = copy.deepcopy(scheduler, known)
        rates = np.empty((len(ticks), len(stand_in.param_groups)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for i, times in enumerate(ticks):
                for _ in range(times):
                    twin.step()
                rates[i] = [group["lr"] for group in stand_in.param_groups]
    except Exception:  # a scheduler that needs a metric, ends before the run or cannot be copied: the rates are unknown
        return None
    return rates.T


def _number(value: Any) -> Any:
    return float(value) if hasattr(value, "item") else copy.copy(value)


class RatesAhead:
    """The learning rates to come of one parameter group, summed so that `rest` is quick at any later step.

    Args:
        rates: The learning rates of the steps after ``step``, shape (steps,).
        step: Optimizer steps taken before them.

    >>> ahead = RatesAhead(np.array([1e-3, 1e-3]), step=8)
    >>> ahead.rest(step=9, weight_decay=0.1)
    RemainingBudget(decay=0.0001, injection=2e-06)
    >>> ahead.rate(10)
    0.001
    """

    def __init__(self, rates: Rates, step: int) -> None:
        self._rates, self._step = rates.astype(np.float32 if len(rates) > 10 * MAX_SEGMENTS else np.float64), step
        # Of each stretch of `size` steps only the length, Σ η and Σ η² are needed: (stretches,) each.
        size = -(-len(rates) // MAX_SEGMENTS) if len(rates) else 1
        starts = np.arange(0, len(rates), size)
        self._starts = step + starts
        self._lengths = np.diff(np.append(starts, len(rates)))
        self._sum = np.add.reduceat(rates, starts) if len(rates) else np.zeros(0)
        self._squares = np.add.reduceat(rates**2, starts) if len(rates) else np.zeros(0)
        self._memo: tuple[tuple[int, float], RemainingBudget] | None = None  # the same for all matrices of a group

    def rate(self, step: int) -> float | None:
        """The learning rate of a step; None for steps that are not among those to come."""
        n = step - self._step - 1
        return float(self._rates[n]) if 0 <= n < len(self._rates) else None

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
        found = RemainingBudget(float(decay.sum()), float(injection.sum()))
        self._memo = ((step, weight_decay), found)
        return found
