"""One sample of a run: the fit of each component at one step, and the flat metrics that trackers get."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np

from weibull_monitor.history.columns import SOURCES
from weibull_monitor.history.reasons import Reason
from weibull_monitor.measure import WeibullFit
from weibull_monitor.model.components import Component, distinct, representatives

Detail = Literal["kind", "component"]


@dataclass(frozen=True)
class Estimate:
    """A predicted value, and the interval in which it is expected.

    Attributes:
        value: The value.
        low: Lower end of the interval; `weibull_monitor.scaling.forecast` says which errors it covers.
        high: Upper end.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Scaling:
    """One component and the scaling law, λ ∝ √(η/λ_wd). Values that do not exist are None.

    Attributes:
        eta: η, the learning rate of the step just taken.
        weight_decay: λ_wd, the weight decay of that step.
        sqrt_eta_over_wd: √(η/λ_wd).
        effective: √I, the effective √(η/λ_wd) of the schedule so far.
        t_over_tau: S = Σ ηλ_wd over the steps taken: training time in units of τ = 1/(ηλ_wd).
        lambda_ratio: λ/√(η/λ_wd).
        budget_ratio: c = √(λ² - λ_0²·exp(-2S))/√I.
        forecast: λ at the end of the run.
        equilibrium: The λ that the matrix would reach if η and λ_wd stayed constant from now on.
        reason: Why there is no forecast; a key of `weibull_monitor.history.reasons.EXPLANATION`. None if there is one.
        eta_sum: Σ η over the steps taken.
        update_max: Upper bound of the RMS of one update of the optimizer, in units of η (`weibull_monitor.scaling.bounds`).
    """

    eta: float | None = None
    weight_decay: float | None = None
    sqrt_eta_over_wd: float | None = None
    effective: float | None = None
    t_over_tau: float | None = None
    lambda_ratio: float | None = None
    budget_ratio: float | None = None
    forecast: Estimate | None = None
    equilibrium: Estimate | None = None
    reason: Reason | None = None
    eta_sum: float | None = None
    update_max: float | None = None


NO_SCALING = Scaling()


@dataclass(frozen=True)
class Reference:
    """k and λ of one component before the first step: drift is measured against them."""

    k: float
    lambda_: float


@dataclass(frozen=True)
class Forces:
    """The effect of one optimizer step on ‖w‖² of one component, in units of ‖w‖² before the step.

    Attributes:
        alignment: -2η⟨w, u⟩/‖w‖²: negative if the update u points along the weights and shrinks them.
        injection: η²‖u‖²/‖w‖²: always makes them grow.
        decay: -2ηλ_wd: always shrinks them.
        net: (‖w'‖² - ‖w‖²)/‖w‖².
        closure: The measured change minus the three terms, over the sum of their absolute values; None if the norm before the
            step was not measured.
    """

    alignment: float
    injection: float
    decay: float
    net: float
    closure: float | None

    @property
    def shares(self) -> tuple[float, float, float]:
        """Alignment, injection and decay, each over the sum of their absolute values.

        >>> Forces(-0.001, 0.002, -0.001, 0.0, None).shares
        (-0.25, 0.5, -0.25)
        """
        size = abs(self.alignment) + abs(self.injection) + abs(self.decay)
        if not size:
            return 0.0, 0.0, 0.0
        return self.alignment / size, self.injection / size, self.decay / size


@dataclass(frozen=True)
class Snapshot:
    """The fits of all components at one optimizer step.

    Attributes:
        step: Optimizer steps taken when the weights were read; 0 is the baseline.
        time: Unix time at which they were read, in seconds.
        components: The components, in the model's order.
        fits: The fit of each component, by name; components that could not be read are absent.
        scaling: The values of the scaling law for each component, by name.
        baseline: k and λ of each component at step 0, by name; empty if there is none.
        forces: The effect of the last step on the squared norm of each component, by name; empty unless asked for.
        unchanged: Number of trainable components with η > 0 whose counts are the same as in the sample before; None in the first
            sample.
        seconds: Wall time of the measurement, in seconds.
    """

    step: int
    time: float
    components: tuple[Component, ...]
    fits: Mapping[str, WeibullFit]
    scaling: Mapping[str, Scaling] = field(default_factory=dict)
    baseline: Mapping[str, Reference] = field(default_factory=dict)
    forces: Mapping[str, Forces] = field(default_factory=dict)
    unchanged: int | None = None
    seconds: float = 0.0

    @property
    def withheld(self) -> dict[Reason, int]:
        """The reasons why components have no forecast of λ, and the number of components for each."""
        found = Counter(scaling.reason for scaling in self.scaling.values() if scaling.forecast is None)
        return {reason: count for reason, count in found.items() if reason is not None}

    def column(self, name: str) -> list[float | None]:
        """One value per component, in their order, as `RecordedSnapshot.columns` has it; None where there is no finite value.

        Args:
            name: One of `weibull_monitor.history.columns.COLUMNS`.
        """
        source, path = SOURCES[name]
        held: Mapping[str, Any] = getattr(self, source)
        return [_finite(_attribute(held.get(component.name), path)) for component in self.components]

    def values(self, column: str) -> dict[str, float]:
        """The values of a column that exist, by component name, as `RecordedSnapshot.values`."""
        pairs = zip(self.components, self.column(column), strict=True)
        return {component.name: value for component, value in pairs if value is not None}

    def metrics(self, detail: Detail = "kind") -> dict[str, float]:
        """The flat metrics of this sample: finite floats by key. A value that does not exist has no key.

        Args:
            detail: ``"kind"`` for about 75 keys whatever the model's depth; ``"component"`` for three more per component, except
                experts.
        """
        # Only fits that exist count: a matrix without one must not hide the others of its kind.
        fits = {name: fit for name, fit in self.fits.items() if fit.available}
        # A head or a fused matrix beside its parts would count elements twice: one matrix stands for each.
        by_kind: dict[str, list[str]] = defaultdict(list)
        for component in representatives(self.components):
            if component.name in fits:
                by_kind[component.label].append(component.name)
        out: dict[str, float | None] = {}
        for kind, names in by_kind.items():
            shapes = [fits[name] for name in names]
            out[f"weibull_k/{kind}"] = _median(fit.k for fit in shapes)
            out[f"weibull_lambda/{kind}"] = _median(fit.lambda_ for fit in shapes)
            # A median hides one bad matrix, the lowest value shows it.
            out[f"weibull_k_min/{kind}"] = min(fit.k for fit in shapes)
            out[f"weibull_r2_min/{kind}"] = min(fit.r2 for fit in shapes)
            out |= self._law_of_kind(kind, names, detail) | self._forces_of_kind(kind, names)
        out |= self._class_metrics(fits) | self._health_metrics(fits)
        if detail == "component":
            for component in self.components:
                if component.name in fits and component.expert is None:
                    fit, key = fits[component.name], f"weibull_component/{component.name}"
                    out |= {f"{key}/k": fit.k, f"{key}/lambda": fit.lambda_, f"{key}/r2": fit.r2}
        return {key: float(value) for key, value in out.items() if value is not None and math.isfinite(value)}

    def _law_of_kind(self, kind: str, names: Sequence[str], detail: Detail) -> dict[str, float | None]:
        """The scaling law: medians over the matrices of one kind."""
        law = [self.scaling.get(name, NO_SCALING) for name in names]
        forecasts = [scaling.forecast for scaling in law if scaling.forecast is not None]
        out = {
            f"weibull_scaling/lambda_ratio/{kind}": _median(scaling.lambda_ratio for scaling in law),
            f"weibull_scaling/budget_ratio/{kind}": _median(scaling.budget_ratio for scaling in law),
            f"weibull_scaling/lambda_forecast/{kind}": _median(forecast.value for forecast in forecasts),
        }
        if detail == "component":
            out[f"weibull_scaling/lambda_forecast_low/{kind}"] = _median(forecast.low for forecast in forecasts)
            out[f"weibull_scaling/lambda_forecast_high/{kind}"] = _median(forecast.high for forecast in forecasts)
        return out

    def _forces_of_kind(self, kind: str, names: Sequence[str]) -> dict[str, float | None]:
        """The forces: medians over the matrices of one kind. Shares, since η moves all three terms together."""
        forces = [self.forces[name] for name in names if name in self.forces]
        shares = zip(*(force.shares for force in forces), strict=True)  # three rows of (matrices,), or none
        out = {
            f"weibull_force/{term}/{kind}": _median(values)
            for term, values in zip(("alignment", "injection", "decay"), shares, strict=False)
        }
        out[f"weibull_force/net/{kind}"] = _median(force.net for force in forces)
        out[f"weibull_force/closure/{kind}"] = _median(force.closure for force in forces)
        return out

    def _class_metrics(self, fits: Mapping[str, WeibullFit]) -> dict[str, float | None]:
        """k, its drift and the learning rates: medians over all matrices of a class, each element counted once."""
        out: dict[str, float | None] = {}
        classes: dict[str, list[str]] = {"selection": [], "transmission": []}
        for component in distinct(self.components):
            if component.component_class in classes:
                classes[component.component_class].append(component.name)
        for name, members in classes.items():
            k = {member: fits[member].k for member in members if member in fits}
            start = self.baseline
            out[f"weibull_class/{name}_k"] = _median(k.values())
            out[f"weibull_class/{name}_drift_pct"] = _median(
                100.0 * (value / start[member].k - 1.0) for member, value in k.items() if member in start
            )
        law = [self.scaling.get(member, NO_SCALING) for members in classes.values() for member in members]
        out["weibull_scaling/sqrt_eta_over_wd"] = _median(scaling.sqrt_eta_over_wd for scaling in law)
        out["weibull_scaling/effective_sqrt_eta_over_wd"] = _median(scaling.effective for scaling in law)
        out["weibull_scaling/t_over_tau"] = _median(scaling.t_over_tau for scaling in law)
        return out

    def _health_metrics(self, fits: Mapping[str, WeibullFit]) -> dict[str, float | None]:
        """What was read, and the cost of reading it."""
        once = (self.fits[c.name] for c in distinct(self.components) if c.name in self.fits)
        zeros = (fit.zeros / max(1, fit.n + fit.zeros + fit.nonfinite) for fit in self.fits.values())
        return {
            "weibull_health/components": len(fits),
            "weibull_health/nonfinite": sum(fit.nonfinite for fit in once),
            "weibull_health/zero_fraction_max": max(zeros, default=None),
            "weibull_health/unchanged": self.unchanged,
            "weibull_health/seconds": self.seconds,
        }


def _median(values: Iterable[float | None]) -> float | None:
    """Median of the values that exist, or None."""
    present = [value for value in values if value is not None]
    return float(np.median(present)) if present else None


def _attribute(value: Any, path: str) -> float | None:
    """An attribute of an attribute, written with a dot; None if one of them is None."""
    for name in path.split("."):
        value = getattr(value, name, None)
    return cast("float | None", value)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
