"""λ against √(η/λ_wd), live: what the optimizer's schedule has spent so far, and the ratio to it.

Under decoupled weight decay a weight forgets at the rate ηλ_wd a step and is fed steps of size η, so λ tends to a multiple of
√(η/λ_wd) (T. Ding, arXiv:2606.19367, 2026; Z. Fan et al., arXiv:2510.15262, 2025) over the time τ = 1/(ηλ_wd) (X. Wang,
L. Aitchison, arXiv:2405.13698, 2024). Schedules and finite budgets are followed by the recursion of its square:

    I ← I·exp(-2ηλ_wd) + 2η²,   S ← S + ηλ_wd,   effective √(η/λ_wd) = √I,   c = √(λ² - λ_0²·exp(-2S))/√I
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from weibull_monitor.engines import parameters_of, rates_of
from weibull_monitor.snapshot import NO_SCALING, Scaling

_COUPLED = frozenset({"Adam", "NAdam", "RAdam", "Adamax", "SGD", "RMSprop", "Adagrad", "Adadelta", "Rprop", "ASGD"})
"""Optimizers of torch whose weight decay is added to the gradient, unless their ``decoupled_weight_decay`` says otherwise."""
_UNBOUNDED = frozenset({"SGD", "Adagrad", "Adadelta", "Rprop", "ASGD"})
"""Optimizers whose steps are not of the size η, so that no law of η alone applies."""


class Hyperparameters(NamedTuple):
    """What one parameter group is stepped with."""

    eta: float
    weight_decay: float
    law: bool
    """Whether the scaling law applies: steps of size η, and weight decay (if any) decoupled from the gradient."""


class Budget(NamedTuple):
    """What one parameter group has spent since the baseline: I and S above."""

    integral: float = 0.0
    decay: float = 0.0

    def advanced(self, eta: float, weight_decay: float) -> Budget:
        """The budget after one more step.

        >>> budget = Budget()
        >>> for _ in range(20_000):
        ...     budget = budget.advanced(eta=1e-3, weight_decay=1.0)
        >>> round(math.sqrt(budget.integral) / math.sqrt(1e-3 / 1.0), 3)  # constant η, S ≫ 1: √(η/λ_wd)
        1.001
        """
        spent = eta * weight_decay
        return Budget(self.integral * math.exp(-2.0 * spent) + 2.0 * eta * eta, self.decay + spent)


def hyperparameters(group: Mapping[str, Any], optimizer: str) -> Hyperparameters:
    """η and λ_wd of a parameter group, and whether the law applies to it.

    Args:
        group: An element of ``optimizer.param_groups``.
        optimizer: The optimizer's class name.

    >>> hyperparameters({"lr": 1e-3, "weight_decay": 0.1}, "AdamW")
    Hyperparameters(eta=0.001, weight_decay=0.1, law=True)
    >>> hyperparameters({"lr": 1e-3, "weight_decay": 0.1}, "Adam").law  # decay is added to the gradient
    False
    """
    eta, weight_decay = float(group["lr"]), float(group.get("weight_decay") or 0.0)
    coupled = weight_decay != 0.0 and optimizer in _COUPLED and not group.get("decoupled_weight_decay", False)
    return Hyperparameters(eta, weight_decay, not coupled and optimizer not in _UNBOUNDED)


def scaling_of(used: Hyperparameters | None, budget: Budget | None, lambda_: float, lambda_0: float | None) -> Scaling:
    """Where a component stands on the law.

    Args:
        used: η and λ_wd of the step just taken; None if no optimizer steps this component.
        budget: What its parameter group has spent since the baseline; None if that is not known.
        lambda_: λ now; NaN if there is no fit.
        lambda_0: λ at the baseline, if known.

    Returns:
        Every value that exists; those that do not (no weight decay, no baseline, no step yet) are None.
    """
    if used is None:
        return NO_SCALING
    if not used.law:
        return Scaling(eta=used.eta, weight_decay=used.weight_decay)
    plain = math.sqrt(used.eta / used.weight_decay) if used.weight_decay > 0 and used.eta > 0 else None
    effective = math.sqrt(budget.integral) if budget and budget.integral > 0 else None
    grown = lambda_**2 - lambda_0**2 * math.exp(-2.0 * budget.decay) if budget and lambda_0 is not None else math.nan
    return Scaling(
        eta=used.eta,
        weight_decay=used.weight_decay,
        sqrt_eta_over_wd=plain,
        effective=effective,
        t_over_tau=budget.decay if budget and used.weight_decay > 0 else None,
        lambda_ratio=lambda_ / plain if plain and math.isfinite(lambda_) else None,
        budget_ratio=math.sqrt(grown) / effective if effective and grown >= 0 else None,
    )


Stepped = tuple[Hyperparameters, Budget | None]
"""What a parameter was stepped with, and what its group has spent, if that is known."""


def to_notes(stepped: Mapping[str, Stepped]) -> dict[str, tuple[float, ...]]:
    """The same as six numbers for each parameter, as ranks tell them to each other.

    >>> from_notes(to_notes({"w": (Hyperparameters(0.1, 0.0, True), None)}))
    {'w': (Hyperparameters(eta=0.1, weight_decay=0.0, law=True), None)}
    """
    return {
        name: (used.eta, used.weight_decay, float(used.law), float(budget is not None), *(budget or Budget()))
        for name, (used, budget) in stepped.items()
    }


def from_notes(notes: Mapping[str, Sequence[float]]) -> dict[str, Stepped]:
    """What `to_notes` was given."""
    return {
        name: (Hyperparameters(eta, weight_decay, bool(law)), Budget(integral, decay) if known else None)
        for name, (eta, weight_decay, law, known, integral, decay) in notes.items()
    }


class _Followed:
    """One optimizer: what its parameter groups were last stepped with, and what each has spent."""

    def __init__(self, optimizer: torch.optim.Optimizer, known: bool) -> None:
        self.optimizer = optimizer
        self.innermost = innermost(optimizer)
        self.known = known
        self.rates = rates_of(optimizer)
        self.stepped = False
        self.budgets: list[Budget] = []
        self._steps: list[tuple[float, float] | None] = []

    def advance(self) -> None:
        """Takes note of a step. This is all that happens off schedule, so it does nothing that can wait."""
        groups = self.optimizer.param_groups
        if len(groups) != len(self.budgets):
            self._fit(len(groups))
        for i, group in enumerate(groups):
            group = self.rates.get(id(group), group)  # an engine may already have moved on to the next step's
            if group.get("lr") is None:  # some optimizers choose it themselves
                self._steps[i] = None
                continue
            step = self._steps[i] = (float(group["lr"]), float(group.get("weight_decay") or 0.0))
            self.budgets[i] = self.budgets[i].advanced(*step)
        self.rates.clear()
        self.stepped = True

    def used(self) -> list[Hyperparameters | None]:
        """What each group was last stepped with; None for one without a learning rate, and before the first step."""
        if not self.stepped:
            return [None] * len(self.optimizer.param_groups)
        name = type(self.innermost).__name__
        return [
            step and hyperparameters({**group, "lr": step[0], "weight_decay": step[1]}, name)
            for step, group in zip(self._steps, self.optimizer.param_groups, strict=False)
        ]

    def restore(self, spent: Sequence[Sequence[float]] | None) -> None:
        """Goes on from what each group had spent; None if that is not known."""
        self.known = spent is not None
        self.budgets = [Budget(*budget) for budget in spent or ()]
        self._steps = [None] * len(self.budgets)

    def _fit(self, groups: int) -> None:
        """Groups were added, and have spent nothing so far; or taken away, and then which is which is not known."""
        self.known &= groups >= len(self.budgets)
        self.budgets = (self.budgets + [Budget()] * groups)[:groups]
        self._steps = [None] * groups


class BudgetKeeper:
    """Follows optimizers: what their parameter groups are stepped with, and what they have spent.

    Args:
        optimizers: One optimizer, several, or None for none; wrappers with ``param_groups`` are seen through.
    """

    def __init__(self, optimizers: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None) -> None:
        given = optimizers if isinstance(optimizers, Sequence) else [optimizers] if optimizers is not None else []
        self._followed = [_Followed(optimizer, known=True) for optimizer in given]

    def add(self, optimizer: torch.optim.Optimizer, known: bool) -> None:
        """Follows one more optimizer from now on, unless it is followed already.

        Args:
            optimizer: The optimizer.
            known: Whether it has not stepped yet, so that what it spends from now on is all that it spends.
        """
        if all(followed.innermost is not innermost(optimizer) for followed in self._followed):
            self._followed.append(_Followed(optimizer, known))

    def advance(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Takes note of the step just taken: one multiply-add a parameter group.

        Args:
            optimizer: The optimizer that took it; by default, each has.
        """
        for followed in self._followed:
            if optimizer is None or followed.innermost is innermost(optimizer):
                followed.advance()

    def by_parameter(self, parameters: Mapping[str, Tensor]) -> dict[str, Stepped]:
        """What each parameter was stepped with and its group has spent; nothing before the first step.

        Args:
            parameters: By name, the tensor that an optimizer holds for each parameter.

        Returns:
            By the same names; parameters that no optimizer has stepped are absent. The budget is None if part of the run was not
            followed.
        """
        found: dict[int, Stepped] = {}
        for followed in self._followed:
            for i, used in enumerate(followed.used()):
                if used is not None:
                    stands = (used, followed.budgets[i] if followed.known else None)
                    found.update((id(p), stands) for p in parameters_of(followed.optimizer, i))
        return {name: found[id(p)] for name, p in parameters.items() if id(p) in found}

    def state(self) -> list[list[list[float]] | None] | None:
        """What the groups of each optimizer have spent, as JSON can hold it; None where part of the run was not followed."""
        states = [[list(budget) for budget in f.budgets] if f.known else None for f in self._followed]
        return None if states and not any(f.known for f in self._followed) else states

    def restore(self, state: Sequence[Sequence[Sequence[float]] | None] | None) -> None:
        """Goes on from `state`; optimizers that it does not hold have an unknown past."""
        for i, followed in enumerate(self._followed):
            followed.restore(state[i] if state is not None and i < len(state) else None)


def innermost(optimizer: Any) -> Any:
    """The optimizer itself under the wrappers of Accelerate, Lightning and DeepSpeed.

    >>> inner = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2, 2))])
    >>> innermost(inner) is inner
    True
    """
    while hasattr(inner := getattr(optimizer, "optimizer", None), "param_groups"):
        optimizer = inner
    return optimizer
