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
from torch import nn

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


class BudgetKeeper:
    """Follows an optimizer: what its parameter groups are stepped with, and what they have spent.

    Args:
        optimizer: The optimizer, or None for none; wrappers with ``param_groups`` are seen through.
    """

    def __init__(self, optimizer: torch.optim.Optimizer | None) -> None:
        self._optimizer = optimizer
        self._name = type(getattr(optimizer, "optimizer", optimizer)).__name__
        self._used: list[Hyperparameters] = []
        self._budgets: list[Budget] = []
        self._known = True

    def advance(self) -> None:
        """Takes note of the step just taken: one multiply-add a parameter group."""
        if self._optimizer is None:
            return
        self._used = [hyperparameters(group, self._name) for group in self._optimizer.param_groups]
        fresh = [Budget()] * (len(self._used) - len(self._budgets))
        self._budgets = [
            b.advanced(u.eta, u.weight_decay) for b, u in zip(self._budgets + fresh, self._used, strict=True)
        ]

    def by_parameter(self, model: nn.Module) -> dict[str, tuple[Hyperparameters, Budget | None]]:
        """What each parameter of the model was stepped with and its group has spent; nothing before the first step.

        Returns:
            By the parameter's name in ``model.named_parameters()``; parameters without an optimizer are absent. The budget is
            None if part of the run was not followed.
        """
        if self._optimizer is None or not self._used:
            return {}
        group_of = {id(p): i for i, group in enumerate(self._optimizer.param_groups) for p in group["params"]}
        return {
            name: (self._used[group_of[id(parameter)]], self._budgets[group_of[id(parameter)]] if self._known else None)
            for name, parameter in model.named_parameters()
            if id(parameter) in group_of
        }

    def state(self) -> list[list[float]] | None:
        """What the groups have spent, as JSON can hold it; None if part of the run was not followed."""
        return [list(budget) for budget in self._budgets] if self._known else None

    def restore(self, state: Sequence[Sequence[float]] | None) -> None:
        """Goes on from `state`."""
        self._known = state is not None
        self._budgets = [Budget(*budget) for budget in state or ()]
