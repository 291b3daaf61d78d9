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

from weibull_monitor.bounds import UpdateBound, update_bound
from weibull_monitor.continuity import StateWatch
from weibull_monitor.engines import parameters_of, rates_of
from weibull_monitor.optimizers import Hyperparameters as Hyperparameters
from weibull_monitor.optimizers import describe, rule_of, update_scale
from weibull_monitor.optimizers import hyperparameters as hyperparameters
from weibull_monitor.optimizers import innermost as innermost
from weibull_monitor.reasons import Reason
from weibull_monitor.snapshot import Scaling


class Budget(NamedTuple):
    """What one parameter group has spent since the baseline: I and S above, and what became of the law's premises."""

    integral: float = 0.0
    decay: float = 0.0
    weight_decay: float | None = None
    """λ_wd of the last step."""
    changed: bool = False
    """Whether λ_wd was changed in mid-run."""
    path: float = 0.0
    """Σ η."""

    def advanced(self, eta: float, weight_decay: float) -> Budget:
        """The budget after one more step.

        >>> budget = Budget()
        >>> for _ in range(20_000):
        ...     budget = budget.advanced(eta=1e-3, weight_decay=1.0)
        >>> round(math.sqrt(budget.integral) / math.sqrt(1e-3 / 1.0), 3)  # constant η, S ≫ 1: √(η/λ_wd)
        1.001
        """
        spent = eta * weight_decay
        changed = self.changed or (weight_decay != self.weight_decay and self.weight_decay is not None)
        integral = self.integral * math.exp(-2.0 * spent) + 2.0 * eta * eta
        return Budget(integral, self.decay + spent, weight_decay, changed, self.path + eta)


class Stepped(NamedTuple):
    """What one parameter was last stepped with, and what its group has spent."""

    used: Hyperparameters
    budget: Budget | None
    """None if part of the run was not followed."""
    scale: float = 1.0
    """RMS of a step in units of η, relative to AdamW's; see `weibull_monitor.optimizers.update_scale`."""
    group: tuple[int, int] = (0, 0)
    """Which optimizer, and which of its groups."""
    reset: bool = False
    """Whether the optimizer's state was reset in mid-run."""
    bound: UpdateBound | None = None
    """What bounds an update, if there is a bound."""


def scaling_of(stepped: Stepped | None, lambda_: float, lambda_0: float | None, numel: int = 1) -> Scaling:
    """Where a component stands on the law.

    Args:
        stepped: How its parameter was stepped; None if no optimizer steps it.
        lambda_: λ now; NaN if there is no fit.
        lambda_0: λ at the baseline, if known.
        numel: Elements of the component.

    Returns:
        Every value that exists; those that do not (no weight decay, no baseline, no step yet) are None, and ``reason`` says
        why there is no budget ratio, or else why it must not be extrapolated.
    """
    if stepped is None:
        return Scaling(reason="no_optimizer")
    used, budget = stepped.used, stepped.budget
    path, update_max = budget.path if budget else None, stepped.bound.rms(numel) if stepped.bound else None
    if used.reason is not None:
        eta = used.eta if math.isfinite(used.eta) else None
        wd, reason = used.weight_decay, used.reason
        return Scaling(eta=eta, weight_decay=wd, reason=reason, eta_sum=path, update_max=update_max)
    plain = stepped.scale * math.sqrt(used.eta / used.weight_decay) if used.weight_decay > 0 and used.eta > 0 else None
    effective = stepped.scale * math.sqrt(budget.integral) if budget and budget.integral > 0 else None
    grown = lambda_**2 - lambda_0**2 * math.exp(-2.0 * budget.decay) if budget and lambda_0 is not None else math.nan
    known = effective and grown >= 0 and not stepped.reset
    return Scaling(
        eta=used.eta,
        weight_decay=used.weight_decay,
        sqrt_eta_over_wd=plain,
        effective=effective,
        t_over_tau=budget.decay if budget and used.weight_decay > 0 else None,
        lambda_ratio=lambda_ / plain if plain and math.isfinite(lambda_) else None,
        budget_ratio=math.sqrt(grown) / effective if known and effective else None,
        reason=_why_not_beyond(stepped, lambda_0, grown),
        eta_sum=path,
        update_max=update_max,
    )


def _why_not_beyond(stepped: Stepped, lambda_0: float | None, grown: float) -> Reason | None:
    """Why nothing is to be extrapolated from where a component stands; None if it may be."""
    used, budget = stepped.used, stepped.budget
    reasons: list[tuple[bool, Reason]] = [
        (budget is None, "unknown_past"),
        (stepped.reset, "optimizer_reset"),
        (budget is not None and budget.changed, "weight_decay_changed"),
        (used.eta <= 0, "zero_learning_rate"),
        (used.weight_decay <= 0, "no_weight_decay"),
        (lambda_0 is None, "no_baseline"),
        (not grown >= 0, "shrunk"),
    ]
    return next((reason for holds, reason in reasons if holds), None)


class _Followed:
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
        self._on_device: dict[int, tuple[torch.Tensor, int, float]] = {}

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
            eta = group["lr"] if isinstance(group["lr"], float) else self._read(i, group["lr"])
            step = self._steps[i] = (eta, float(group.get("weight_decay") or 0.0))
            self.budgets[i] = self.budgets[i].advanced(*step)
        self.rates.clear()
        self.steps += 1

    def _read(self, group: int, rate: Any) -> float:
        """A learning rate that is no float. One that lies on an accelerator is waited for, so only if it has been written to."""
        if not isinstance(rate, torch.Tensor) or rate.device.type == "cpu":
            return float(rate)
        known = self._on_device.get(group)
        if known is None or known[0] is not rate or known[1] != rate._version:
            known = self._on_device[group] = (rate, rate._version, float(rate))
        return known[2]

    def used(self) -> list[Hyperparameters | None]:
        """What each group was last stepped with; None for one without a learning rate, and before the first step."""
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
        self.budgets = [Budget(*budget) for budget in spent or ()]
        self._steps = [None] * len(self.budgets)
        self.watch.restore(seen)

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
            self._followed.append(_Followed(optimizer, known))

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

    def by_parameter(self, parameters: Mapping[str, Tensor]) -> dict[str, Stepped]:
        """What each parameter was stepped with and its group has spent; nothing before the first step.

        To be called at a sample: it looks at the optimizers' state, to tell whether it was reset since the last one.

        Args:
            parameters: By name, the tensor that an optimizer holds for each parameter.

        Returns:
            By the same names; parameters that no optimizer has stepped are absent.
        """
        found: dict[int, Stepped] = {}
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
                known: dict[torch.Size, Stepped] = {}  # all of a shape are stepped alike
                for p in parameters_of(followed.optimizer, i):
                    shape = p.shape
                    if shape not in known:
                        scale, bound = update_scale(group, rule, shape), update_bound(rule, group, shape)
                        known[shape] = Stepped(used, budget, scale, (n, i), reset, bound)
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
