"""What the optimizer's schedule has spent so far, and the ratio of λ to it.

Under decoupled weight decay every step multiplies a weight by 1 - ηλ_wd and adds an update of size η, so λ tends to a multiple of
√(η/λ_wd) (T. Ding, arXiv:2606.19367, 2026; Z. Fan et al., arXiv:2510.15262, 2025) over the time τ = 1/(ηλ_wd) (X. Wang,
L. Aitchison, arXiv:2405.13698, 2024). A recursion for its square takes schedules and finite runs into account:

    I ← I·exp(-2ηλ_wd) + 2η²,   S ← S + ηλ_wd,   effective √(η/λ_wd) = √I,   c = √(λ² - λ_0²·exp(-2S))/√I
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from weibull_monitor.errors import shown
from weibull_monitor.history.conform import conforms
from weibull_monitor.history.reasons import Reason
from weibull_monitor.history.snapshot import Scaling
from weibull_monitor.scaling.optimizers import Hyperparameters, UpdateBound, UpdateForm


class Budget(NamedTuple):
    """What a parameter has spent since the baseline: I, S and Σ η, and whether λ_wd stayed the same."""

    integral: float = 0.0
    """I."""
    decay: float = 0.0
    """S."""
    weight_decay: float | None = None
    """λ_wd of the last step; None before the first."""
    changed: bool = False
    """Whether λ_wd was changed in mid-run."""
    path: float = 0.0
    """Σ η."""
    peak: float = 0.0
    """Largest η."""

    @staticmethod
    def of(values: Sequence[Any]) -> Budget:
        """The budget of a saved state.

        Raises:
            ValueError: If its values are not those of one.
        """
        if not conforms(values, list[float | bool | None]) or None in (budget := Budget(*values))._replace(
            weight_decay=0
        ):
            raise ValueError(f"{shown(values)} is not a budget")
        return budget

    def advanced(self, eta: float, weight_decay: float, steps: int = 1) -> Budget:
        """The budget after one more step, or after several that were alike.

        >>> budget = Budget()
        >>> for _ in range(20_000):
        ...     budget = budget.advanced(eta=1e-3, weight_decay=1.0)
        >>> round(math.sqrt(budget.integral) / math.sqrt(1e-3 / 1.0), 3)  # constant η, S ≫ 1: √(η/λ_wd)
        1.001
        """
        spent = eta * weight_decay  # the share of the weights that this step removes
        changed = self.changed or (weight_decay != self.weight_decay and self.weight_decay is not None)
        if steps != 1:
            kept = math.exp(-2.0 * spent)
            added = 2.0 * eta * eta * (math.expm1(-2.0 * spent * steps) / math.expm1(-2.0 * spent) if spent else steps)
            integral = self.integral * kept**steps + added  # a geometric sum
            path, peak = self.path + eta * steps, max(self.peak, eta)
            return Budget(integral, self.decay + spent * steps, weight_decay, changed, path, peak)
        # The square of what is left of earlier updates shrinks by exp(-2ηλ_wd); the 2 in front of η² makes the limit η/λ_wd.
        integral = self.integral * math.exp(-2.0 * spent) + 2.0 * eta * eta
        peak = eta if eta > self.peak else self.peak
        return Budget(integral, self.decay + spent, weight_decay, changed, self.path + eta, peak)


class StepInfo(NamedTuple):
    """What one parameter was last stepped with, and what it has spent."""

    used: Hyperparameters
    budget: Budget | None
    """None if part of the run was not followed."""
    scale: float = 1.0
    """RMS of a step in units of η, relative to AdamW's (`weibull_monitor.scaling.optimizers.OptimizerRule`)."""
    group: tuple[int, int] = (0, 0)
    """Index of the optimizer, and of the group within it."""
    reset: bool = False
    """Whether the optimizer's state was reset in mid-run."""
    bound: UpdateBound | None = None
    """Bound of an update; None if there is none."""
    peak: float = 0.0
    """Largest η so far."""
    form: UpdateForm | None = None
    """How the size of an update follows from the optimizer's state; None if it does not."""


def scaling_of(
    stepped: StepInfo | None, lambda_: float, lambda_0: float | None, numel: int = 1, rms: float = 1.0
) -> Scaling:
    """Where a component stands on the law.

    Args:
        stepped: How its parameter was stepped; None if no optimizer steps it.
        lambda_: λ now; NaN if there is no fit.
        lambda_0: λ at the baseline, if known.
        numel: Number of elements of the component.
        rms: RMS of the whole parameter.

    Returns:
        The values; those that do not exist (no weight decay, no baseline, no step yet) are None. ``reason`` says why there
        is no budget ratio, or why there must be no forecast from it.
    """
    if stepped is None:
        return Scaling(reason="no_optimizer")
    used, budget = stepped.used, stepped.budget
    path, update_max = budget.path if budget else None, stepped.bound.rms(numel, rms) if stepped.bound else None
    element_max = stepped.bound.element if stepped.bound else None
    if used.reason == "own_learning_rate":
        return Scaling(weight_decay=used.weight_decay, reason=used.reason)
    if used.reason is not None:
        eta = used.eta if math.isfinite(used.eta) else None
        wd, reason = used.weight_decay, used.reason
        return Scaling(
            eta=eta, weight_decay=wd, reason=reason, eta_sum=path, update_max=update_max, element_max=element_max
        )
    # Muon's steps are not of AdamW's size: both roots are in units of AdamW's.
    plain = stepped.scale * math.sqrt(used.eta / used.weight_decay) if used.weight_decay > 0 and used.eta > 0 else None
    # λ belongs to the schedule as a whole, so it is held against the largest η: one that goes to 0 at the end says nothing of λ.
    peak = max(used.eta, stepped.peak)
    highest = stepped.scale * math.sqrt(peak / used.weight_decay) if used.weight_decay > 0 and peak > 0 else None
    effective = stepped.scale * math.sqrt(budget.integral) if budget and budget.integral > 0 else None
    # What training has put into λ²: λ² less what decay has left of the initial λ_0². NaN where it is not known.
    grown = lambda_**2 - lambda_0**2 * math.exp(-2.0 * budget.decay) if budget and lambda_0 is not None else math.nan
    known = effective and grown >= 0 and not stepped.reset
    return Scaling(
        eta=used.eta,
        weight_decay=used.weight_decay,
        sqrt_eta_over_wd=plain,
        effective=effective,
        t_over_tau=budget.decay if budget and used.weight_decay > 0 else None,
        lambda_ratio=lambda_ / highest if highest and math.isfinite(lambda_) else None,
        budget_ratio=math.sqrt(grown) / effective if known and effective else None,
        reason=_why_not_beyond(stepped, lambda_0),
        eta_sum=path,
        update_max=update_max,
        element_max=element_max,
    )


def _why_not_beyond(stepped: StepInfo, lambda_0: float | None) -> Reason | None:
    """Why there must be no forecast for a component; None if there may be one. The first reason that holds counts."""
    used, budget = stepped.used, stepped.budget
    if budget is None:
        return "unknown_past"
    if stepped.reset:
        return "optimizer_reset"
    if budget.changed:
        return "weight_decay_changed"
    if used.eta <= 0:
        return "zero_learning_rate"
    if used.weight_decay <= 0:
        return "no_weight_decay"
    return "no_baseline" if lambda_0 is None else None
