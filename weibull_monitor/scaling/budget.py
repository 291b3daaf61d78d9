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

import numpy as np
from numpy.typing import NDArray

from weibull_monitor.errors import shown
from weibull_monitor.history.conform import conforms
from weibull_monitor.history.reasons import Reason
from weibull_monitor.history.snapshot import ScalingRows
from weibull_monitor.measure.rows import Numbers
from weibull_monitor.scaling.bounds import UpdateBound
from weibull_monitor.scaling.optimizers import Hyperparameters, UpdateForm


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


class Shared(NamedTuple):
    """What all matrices that were stepped alike have in common on the law. Values that do not exist are NaN."""

    eta: float
    weight_decay: float
    sqrt_eta_over_wd: float = math.nan
    effective: float = math.nan
    t_over_tau: float = math.nan
    eta_sum: float = math.nan
    element_max: float = math.nan
    highest: float = math.nan
    """√(η_peak/λ_wd), which λ is held against: a schedule that goes to 0 at the end says nothing of λ."""
    left: float = math.nan
    """exp(-2S): what decay has left of λ_0²; NaN where there must be no budget ratio."""
    reason: Reason | None = None


def shared_of(stepped: StepInfo | None) -> Shared:
    """What the matrices of a parameter have in common.

    Args:
        stepped: How the parameter was stepped; None if no optimizer steps it.

    Returns:
        ``reason`` says why there is no budget ratio, or why there must be no forecast from it, if a baseline is known.
    """
    if stepped is None:
        return Shared(math.nan, math.nan, reason="no_optimizer")
    (eta, decay, reason), budget, bound = stepped.used, stepped.budget, stepped.bound
    if math.isnan(eta) and reason in ("own_learning_rate", "step_not_eta"):
        return Shared(math.nan, decay, reason=reason)
    path = budget.path if budget else math.nan
    element = bound.element if bound else None
    known = Shared(eta, decay, eta_sum=path, element_max=math.nan if element is None else element, reason=reason)
    if reason is not None:
        return known if math.isfinite(eta) else known._replace(eta=math.nan)
    # Muon's steps are not of AdamW's size: both roots are in units of AdamW's.
    peak = max(eta, stepped.peak)
    return known._replace(
        sqrt_eta_over_wd=stepped.scale * math.sqrt(eta / decay) if decay > 0 and eta > 0 else math.nan,
        effective=stepped.scale * math.sqrt(budget.integral) if budget and budget.integral > 0 else math.nan,
        t_over_tau=budget.decay if budget and decay > 0 else math.nan,
        highest=stepped.scale * math.sqrt(peak / decay) if decay > 0 and peak > 0 else math.nan,
        left=math.exp(-2.0 * budget.decay) if budget and not stepped.reset else math.nan,
        reason=_why_not_beyond(stepped),
    )


def scalings_of(
    stepped: Sequence[StepInfo | None],
    of: NDArray[np.int64],
    names: tuple[str, ...],
    lambda_: Numbers,
    lambda_0: Numbers,
    numel: Numbers,
    rms: Numbers,
) -> tuple[ScalingRows, list[Shared]]:
    """Where matrices stand on the law.

    Args:
        stepped: The ways in which they were stepped; None for no optimizer.
        of: The way of each matrix, (matrices,), like all that follows; -1 for matrices that are left out.
        names: Their names.
        lambda_: λ now; NaN if there is no fit.
        lambda_0: λ at the baseline; NaN if that is not known.
        numel: Number of elements.
        rms: RMS of the whole parameter.

    Returns:
        The values; those that do not exist (no weight decay, no baseline, no step yet) are NaN. And what is common to each way.
    """
    shared = [shared_of(how) for how in stepped]
    table = np.array([row[:-1] for row in shared] + [(np.nan,) * 9])[of].T  # (values, matrices)
    columns = dict(zip(Shared._fields, table, strict=False))
    highest, left = columns.pop("highest"), columns.pop("left")
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(np.isfinite(lambda_) & (highest != 0), lambda_ / highest, np.nan)
        # What training has put into λ²: λ² less what decay has left of the initial λ_0².
        grown = _squares(lambda_) - _squares(lambda_0) * left
        budget_ratio = np.sqrt(np.where(grown >= 0, grown, np.nan)) / columns["effective"]
    most = np.full(len(names), np.nan)
    for n, how in enumerate(stepped):
        if how is not None and how.bound is not None and shared[n].reason != "own_learning_rate":
            here = of == n
            most[here] = how.bound.rms_of(numel[here], rms[here], np.isfinite(lambda_0[here]))
    reasons: list[Reason | None] = [shared[n].reason if n >= 0 else None for n in of.tolist()]
    for n in np.flatnonzero(np.isnan(lambda_0)).tolist():
        reasons[n] = reasons[n] or "no_baseline"
    columns |= {"lambda_ratio": ratio, "budget_ratio": budget_ratio, "update_max": most}
    return ScalingRows(names, of >= 0, columns, reasons), shared


def _squares(values: Numbers) -> Numbers:
    """Squares as `pow` rounds them, which a product does not always do."""
    return np.array([value**2 for value in values.tolist()], dtype=np.float64)


def _why_not_beyond(stepped: StepInfo) -> Reason | None:
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
    return "no_weight_decay" if used.weight_decay <= 0 else None
