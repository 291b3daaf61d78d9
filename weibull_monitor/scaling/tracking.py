"""Follows optimizers: what each parameter group is stepped with, and what it has spent since the baseline."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from weibull_monitor.measure.transfer import LateNumber
from weibull_monitor.scaling.budget import Budget, StepInfo
from weibull_monitor.scaling.deepspeed import parameters_of, rates_of
from weibull_monitor.scaling.optimizers import Hyperparameters, describe, innermost, rule_of
from weibull_monitor.scaling.resets import StateWatch

MAX_LATE: Final = 1000
"""Bound of the steps whose learning rates are still on their way from a device; beyond it the oldest is waited for."""

_Step = tuple[LateNumber | float, float]
"""η, which may still be on its way from a device, and λ_wd."""


class _TrackedOptimizer:
    """One optimizer: what its parameter groups were last stepped with, and what each has spent."""

    def __init__(self, optimizer: torch.optim.Optimizer, known: bool) -> None:
        self.optimizer = optimizer
        self.innermost = innermost(optimizer)
        self.known = known
        self.rates = rates_of(optimizer)
        self.steps = 0
        """Steps since it is tracked."""
        self.budgets: list[Budget] = []  # one per parameter group, as the next
        self.watch = StateWatch(self.innermost)
        self._steps: list[tuple[float, float] | None] = []
        self._on_device: dict[int, tuple[Tensor, int, LateNumber | float]] = {}
        self._late: deque[list[_Step | None]] = deque()

    def advance(self) -> None:
        """Notes one optimizer step. It runs at every step, not only at samples, so it never waits for a device."""
        groups = self.optimizer.param_groups
        if len(groups) != len(self.budgets):
            self.settle()
            self._fit(len(groups))
        steps: list[_Step | None] = []
        for i, group in enumerate(groups):
            group = self.rates.get(id(group), group)  # DeepSpeed may already have set the rate of the next step
            eta = group.get("lr")
            if eta is None:  # some optimizers choose it themselves
                steps.append(None)
            else:
                eta = eta if isinstance(eta, float) else self._read(i, eta)
                steps.append((eta, float(group.get("weight_decay") or 0.0)))
        self.rates.clear()
        self.steps += 1
        self._late.append(steps)
        self.settle(wait=False)

    def settle(self, wait: bool = True) -> None:
        """Adds steps to the budgets in their order, up to the first whose learning rate is still on its way; waits for all
        of them if ``wait``."""
        while self._late and (wait or len(self._late) > MAX_LATE or all(map(_is_here, self._late[0]))):
            self._steps = [_known(step) for step in self._late.popleft()]
            for i, step in enumerate(self._steps):
                if step is not None:
                    self.budgets[i] = self.budgets[i].advanced(*step)

    def _read(self, group: int, rate: Any) -> LateNumber | float:
        """A learning rate that is not a float. One on an accelerator is read only after it was written to: on CUDA without
        waiting, on other devices at once."""
        if not isinstance(rate, Tensor) or rate.device.type == "cpu":
            return float(rate)
        known = self._on_device.get(group)
        if known is None or known[0] is not rate or known[1] != rate._version:
            now = LateNumber(rate) if rate.device.type == "cuda" else float(rate)
            known = self._on_device[group] = (rate, rate._version, now)
        return known[2]

    def used(self) -> list[Hyperparameters | None]:
        """What each group was last stepped with; None for one without a learning rate, and before the first step."""
        self.settle()
        if not self.steps:
            return [None] * len(self.optimizer.param_groups)
        rule = rule_of(self.innermost)
        return [
            rule.hyperparameters({**group, "lr": step[0], "weight_decay": step[1]}) if step else None
            for step, group in zip(self._steps, self.optimizer.param_groups, strict=False)
        ]

    def restore(self, spent: Sequence[Sequence[Any]] | None, seen: Sequence[Any] | None) -> None:
        """Continues from what each group had spent; None if that is not known."""
        self.known = spent is not None
        self._late.clear()
        self.budgets = [Budget(*budget) for budget in spent or ()]
        self._steps = [None] * len(self.budgets)
        self.watch.restore(seen)

    def _fit(self, groups: int) -> None:
        """Makes room for a changed number of groups. Added groups have spent nothing; after some were removed, it is not known
        which are left."""
        self.known &= groups >= len(self.budgets)
        self.budgets = (self.budgets + [Budget()] * groups)[:groups]
        self._steps = [None] * groups


def _known(step: _Step | None) -> tuple[float, float] | None:
    return None if step is None else (step[0].value() if isinstance(step[0], LateNumber) else step[0], step[1])


def _is_here(step: _Step | None) -> bool:
    return step is None or not isinstance(step[0], LateNumber) or step[0].ready()


class BudgetTracker:
    """Follows optimizers: what their parameter groups are stepped with, and what they have spent.

    A learning rate in a CUDA tensor arrives some steps later; `by_parameter` and `state` wait for it.

    Args:
        optimizers: One optimizer, several, or None. Wrappers of Accelerate, Lightning and DeepSpeed are unwrapped.
    """

    def __init__(self, optimizers: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None) -> None:
        given = optimizers if isinstance(optimizers, Sequence) else [optimizers] if optimizers is not None else []
        self._tracked = [_TrackedOptimizer(optimizer, known=True) for optimizer in given]

    @property
    def optimizers(self) -> list[Any]:
        """The optimizers themselves, under their wrappers."""
        return [tracked.innermost for tracked in self._tracked]

    def add(self, optimizer: torch.optim.Optimizer, known: bool) -> None:
        """Follows one more optimizer from now on, unless it is followed already.

        Args:
            optimizer: The optimizer.
            known: Whether it has not stepped yet, so that what it spends from now on is all that it spends.
        """
        if all(tracked.innermost is not innermost(optimizer) for tracked in self._tracked):
            self._tracked.append(_TrackedOptimizer(optimizer, known))

    def advance(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Notes the step just taken: one multiply-add per parameter group.

        Args:
            optimizer: The optimizer that took it; by default, all of them did.
        """
        for tracked in self._tracked:
            if optimizer is None or tracked.innermost is innermost(optimizer):
                tracked.advance()

    def lose_track(self) -> None:
        """Notes that steps were missed, so that what was spent is not known any more."""
        for tracked in self._tracked:
            tracked.known = False

    def by_parameter(self, parameters: Mapping[str, Tensor]) -> dict[str, StepInfo]:
        """What each parameter was last stepped with, and what its group has spent.

        To be called at each sample: it checks whether the optimizers' state was reset since the last one.

        Args:
            parameters: By name, the tensor that an optimizer holds for each parameter.

        Returns:
            By name; parameters that no optimizer has stepped yet are absent.
        """
        found: dict[int, StepInfo] = {}
        for n, tracked in enumerate(self._tracked):
            reset = tracked.watch.reset(tracked.steps)
            rule = rule_of(tracked.innermost)
            for i, used in enumerate(tracked.used()):
                group = tracked.optimizer.param_groups[i]
                if used is None and tracked.steps:
                    used = Hyperparameters(math.nan, float(group.get("weight_decay") or 0.0), "own_learning_rate")
                if used is None:
                    continue
                budget = tracked.budgets[i] if tracked.known else None
                known: dict[torch.Size, StepInfo] = {}  # the same for all parameters of one shape
                for p in parameters_of(tracked.optimizer, i):
                    if p.shape not in known:
                        scale, bound = rule.scale(group, p.shape), rule.bound(group, p.shape)
                        known[p.shape] = StepInfo(used, budget, scale, (n, i), reset, bound)
                    found[id(p)] = known[p.shape]
        return {name: found[id(p)] for name, p in parameters.items() if id(p) in found}

    def owners(self) -> dict[int, tuple[Mapping[str, Any], Any]]:
        """The parameter group and the optimizer that step each tensor, by the tensor's id."""
        return {
            id(p): (group, tracked.innermost)
            for tracked in self._tracked
            for i, group in enumerate(tracked.optimizer.param_groups)
            for p in parameters_of(tracked.optimizer, i)
        }

    def describe(self) -> list[dict[str, Any]]:
        """The class and hyper-parameters of each optimizer, as JSON can hold them."""
        return describe(self.optimizers)

    def steps_of(self, optimizer: int) -> int:
        """Steps of one optimizer, by its index, since it is tracked."""
        return self._tracked[optimizer].steps

    def state(self) -> list[list[list[Any]] | None] | None:
        """What the groups of each optimizer have spent, as JSON can hold it; None if part of the run was not tracked."""
        for tracked in self._tracked:
            tracked.settle()
        states = [[list(budget) for budget in t.budgets] if t.known else None for t in self._tracked]
        return None if states and not any(t.known for t in self._tracked) else states

    def watched(self) -> list[list[Any]]:
        """The step count of each optimizer's own state and whether it was reset, as JSON can hold them."""
        return [tracked.watch.state() for tracked in self._tracked]

    def restore(
        self, state: Sequence[Sequence[Sequence[Any]] | None] | None, watched: Sequence[Sequence[Any]] | None = None
    ) -> None:
        """Continues from `state` and `watched`; the past of optimizers that are not in them is unknown."""
        for i, tracked in enumerate(self._tracked):
            spent = state[i] if state is not None and i < len(state) else None
            tracked.restore(spent, watched[i] if watched is not None and i < len(watched) else None)
