"""Follows optimizers: what each parameter group is stepped with, and what it has spent since the baseline."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from weibull_monitor.measure.transfer import LateNumber
from weibull_monitor.scaling.bounds import update_bound
from weibull_monitor.scaling.budget import Budget, StepInfo
from weibull_monitor.scaling.deepspeed import parameters_of, rates_of
from weibull_monitor.scaling.optimizers import (
    Hyperparameters,
    describe,
    hyperparameters,
    innermost,
    rule_of,
    update_scale,
)
from weibull_monitor.scaling.resets import StateWatch

LATE: Final = 1000
"""Steps whose learning rates may be on their way from a device."""

_Step = tuple[LateNumber | float, float]
"""η, which may be on its way, and λ_wd."""


class _TrackedOptimizer:
    """One optimizer: what its parameter groups were last stepped with, and what each has spent."""

    def __init__(self, optimizer: torch.optim.Optimizer, known: bool) -> None:
        self.optimizer = optimizer
        self.innermost = innermost(optimizer)
        self.known = known
        self.rates = rates_of(optimizer)
        self.steps = 0
        """Steps since it is followed."""
        self.budgets: list[Budget] = []
        self.watch = StateWatch(self.innermost)
        self._steps: list[tuple[float, float] | None] = []
        self._on_device: dict[int, tuple[Tensor, int, LateNumber | float]] = {}
        self._late: deque[list[_Step | None]] = deque()

    def advance(self) -> None:
        """Takes note of a step. This is all that happens off schedule, so it does nothing that waits."""
        groups = self.optimizer.param_groups
        if len(groups) != len(self.budgets):
            self.settle()
            self._fit(len(groups))
        steps: list[_Step | None] = []
        late = bool(self._late)
        for i, group in enumerate(groups):
            group = self.rates.get(id(group), group)  # an engine may already have moved on to the next step's
            eta = group.get("lr")
            if eta is None:  # some optimizers choose it themselves
                steps.append(None)
                continue
            if not isinstance(eta, float):
                eta = self._read(i, eta)
                late = late or isinstance(eta, LateNumber)
            steps.append((eta, float(group.get("weight_decay") or 0.0)))
        self.rates.clear()
        self.steps += 1
        if late:
            self._late.append(steps)
            self.settle(wait=False)
        else:
            self._spend(steps)  # type: ignore[arg-type]

    def settle(self, wait: bool = True) -> None:
        """Spends what was stepped with, in the order of the steps, as far as it is known; all of it if it is waited for."""
        while self._late and (wait or len(self._late) > LATE or all(map(_is_here, self._late[0]))):
            self._spend([_known(step) for step in self._late.popleft()])

    def _spend(self, steps: list[tuple[float, float] | None]) -> None:
        self._steps = steps
        for i, step in enumerate(steps):
            if step is not None:
                self.budgets[i] = self.budgets[i].advanced(*step)

    def _read(self, group: int, rate: Any) -> LateNumber | float:
        """A learning rate that is no float. One that lies on an accelerator is read if it has been written to: on CUDA it is
        sent for, elsewhere it is waited for."""
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
        name = rule_of(self.innermost)
        return [
            hyperparameters({**group, "lr": step[0], "weight_decay": step[1]}, name) if step else None
            for step, group in zip(self._steps, self.optimizer.param_groups, strict=False)
        ]

    def restore(self, spent: Sequence[Sequence[Any]] | None, seen: Sequence[Any] | None) -> None:
        """Goes on from what each group had spent; None if that is not known."""
        self.known = spent is not None
        self._late.clear()
        self.budgets = [Budget(*budget) for budget in spent or ()]
        self._steps = [None] * len(self.budgets)
        self.watch.restore(seen)

    def _fit(self, groups: int) -> None:
        """Groups were added, and have spent nothing so far; or taken away, and then which is which is not known."""
        self.known &= groups >= len(self.budgets)
        self.budgets = (self.budgets + [Budget()] * groups)[:groups]
        self._steps = [None] * groups


def _known(step: _Step | None) -> tuple[float, float] | None:
    return None if step is None else (step[0].value() if isinstance(step[0], LateNumber) else step[0], step[1])


def _is_here(step: _Step | None) -> bool:
    return step is None or not isinstance(step[0], LateNumber) or step[0].ready()


class BudgetTracker:
    """Follows optimizers: what their parameter groups are stepped with, and what they have spent.

    A learning rate that a scheduler keeps in a CUDA tensor is known a little later; what needs it waits for it.

    Args:
        optimizers: One optimizer, several, or None for none; wrappers with ``param_groups`` are seen through.
    """

    def __init__(self, optimizers: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None) -> None:
        given = optimizers if isinstance(optimizers, Sequence) else [optimizers] if optimizers is not None else []
        self._followed = [_TrackedOptimizer(optimizer, known=True) for optimizer in given]

    @property
    def optimizers(self) -> list[Any]:
        """The optimizers themselves, under their wrappers."""
        return [followed.innermost for followed in self._followed]

    def add(self, optimizer: torch.optim.Optimizer, known: bool) -> None:
        """Follows one more optimizer from now on, unless it is followed already.

        Args:
            optimizer: The optimizer.
            known: Whether it has not stepped yet, so that what it spends from now on is all that it spends.
        """
        if all(followed.innermost is not innermost(optimizer) for followed in self._followed):
            self._followed.append(_TrackedOptimizer(optimizer, known))

    def advance(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Takes note of the step just taken: one multiply-add a parameter group.

        Args:
            optimizer: The optimizer that took it; by default, each has.
        """
        for followed in self._followed:
            if optimizer is None or followed.innermost is innermost(optimizer):
                followed.advance()

    def lose_track(self) -> None:
        """Steps were taken that nobody told of: what was spent is not known any more."""
        for followed in self._followed:
            followed.known = False

    def by_parameter(self, parameters: Mapping[str, Tensor]) -> dict[str, StepInfo]:
        """What each parameter was stepped with and its group has spent; nothing before the first step.

        To be called at a sample: it looks at the optimizers' state, to tell whether it was reset since the last one.

        Args:
            parameters: By name, the tensor that an optimizer holds for each parameter.

        Returns:
            By the same names; parameters that no optimizer has stepped are absent.
        """
        found: dict[int, StepInfo] = {}
        for n, followed in enumerate(self._followed):
            reset = followed.watch.reset(followed.steps)
            rule = rule_of(followed.innermost)
            for i, used in enumerate(followed.used()):
                group = followed.optimizer.param_groups[i]
                if used is None and followed.steps:
                    used = Hyperparameters(math.nan, float(group.get("weight_decay") or 0.0), "own_learning_rate")
                if used is None:
                    continue
                budget = followed.budgets[i] if followed.known else None
                known: dict[torch.Size, StepInfo] = {}  # all of a shape are stepped alike
                for p in parameters_of(followed.optimizer, i):
                    shape = p.shape
                    if shape not in known:
                        scale, bound = update_scale(group, rule, shape), update_bound(rule, group, shape)
                        known[shape] = StepInfo(used, budget, scale, (n, i), reset, bound)
                    found[id(p)] = known[shape]
        return {name: found[id(p)] for name, p in parameters.items() if id(p) in found}

    def owners(self) -> dict[int, tuple[Mapping[str, Any], Any]]:
        """The parameter group and the optimizer itself that step each tensor, by the tensor's id."""
        return {
            id(p): (group, followed.innermost)
            for followed in self._followed
            for i, group in enumerate(followed.optimizer.param_groups)
            for p in parameters_of(followed.optimizer, i)
        }

    def describe(self) -> list[dict[str, Any]]:
        """What each optimizer is, as JSON can hold it."""
        return describe(self.optimizers)

    def steps_of(self, optimizer: int) -> int:
        """Steps of one optimizer since it is followed."""
        return self._followed[optimizer].steps

    def state(self) -> list[list[list[Any]] | None] | None:
        """What the groups of each optimizer have spent, as JSON can hold it; None where part of the run was not followed."""
        for followed in self._followed:
            followed.settle()
        states = [[list(budget) for budget in f.budgets] if f.known else None for f in self._followed]
        return None if states and not any(f.known for f in self._followed) else states

    def watched(self) -> list[list[Any]]:
        """What is known of each optimizer's own state, as JSON can hold it: how far it had come, and whether it was reset."""
        return [followed.watch.state() for followed in self._followed]

    def restore(
        self, state: Sequence[Sequence[Sequence[Any]] | None] | None, watched: Sequence[Sequence[Any]] | None = None
    ) -> None:
        """Goes on from `state` and `watched`; optimizers that they do not hold have an unknown past."""
        for i, followed in enumerate(self._followed):
            spent = state[i] if state is not None and i < len(state) else None
            followed.restore(spent, watched[i] if watched is not None and i < len(watched) else None)
