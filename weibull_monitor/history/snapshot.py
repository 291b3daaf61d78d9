"""One sample of everything: each component's fit at one step, and the flat metrics that trackers get."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from weibull_monitor.history.reasons import Reason
from weibull_monitor.measure import WeibullFit
from weibull_monitor.model.components import Component, distinct, representatives

if TYPE_CHECKING:
    pass

Detail = Literal["kind", "component"]


@dataclass(frozen=True)
class Estimate:
    """A value that is foretold, and the interval that it is expected in.

    Attributes:
        value: The value.
        low: Lower end of the interval; `weibull_monitor.scaling.forecast` says what it allows for.
        high: Upper end.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Scaling:
    """Where one component stands on the scaling law, λ ∝ √(η/λ_wd). None where a value does not exist.

    Attributes:
        eta: η, the learning rate of the step just taken.
        weight_decay: λ_wd, the weight decay of that step.
        sqrt_eta_over_wd: √(η/λ_wd).
        effective: √I, the effective √(η/λ_wd) of the schedule so far.
        t_over_tau: S = Σ ηλ_wd over the steps taken: training time in units of τ = 1/(ηλ_wd).
        lambda_ratio: λ/√(η/λ_wd).
        budget_ratio: c = √(λ² - λ_0²·exp(-2S))/√I.
        forecast: λ at the end of the run.
        equilibrium: λ where it would end if η and λ_wd stayed as they are.
        reason: Why there is no forecast, if there is none; a key of `weibull_monitor.history.reasons.EXPLANATION`.
        eta_sum: Σ η over the steps taken.
        update_max: Bound of the RMS of the optimizer's update of one step, in units of η (`weibull_monitor.scaling.optimizers`).
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
    """What drift is measured against: k and λ of one component before the first step."""

    k: float
    lambda_: float


@dataclass(frozen=True)
class Snapshot:
    """Every component's fit at one optimizer step.

    Attributes:
        step: Optimizer steps taken when the weights were read; 0 is the baseline.
        time: Unix time of the reading, in seconds.
        components: The components, in the model's order.
        fits: The fit of each component, by name; components that could not be read are absent.
        scaling: Where each component stands on the scaling law, by name.
        baseline: k and λ of each component at step 0, by name; empty if there is none.
        forces: What the last step did to the squared norm of each component, by name; empty unless asked for.
        unchanged: Number of trainable components with η > 0 whose counts are identical to those of the sample before; None
            where there is none before.
        seconds: Wall time that measuring took, in seconds.
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
        """Why components have no forecast of λ, and how many for each reason."""
        found = Counter(scaling.reason for scaling in self.scaling.values() if scaling.forecast is None)
        return {reason: count for reason, count in found.items() if reason is not None}

    def metrics(self, detail: Detail = "kind") -> dict[str, float]:
        """The flat metrics of this sample: finite floats by key; what does not exist is absent.

        Args:
            detail: ``"kind"`` for about 75 keys whatever the model's depth, ``"component"`` for three more a component, experts
                excepted.
        """
        out: dict[str, float | None] = {}
        fits = {name: fit for name, fit in self.fits.items() if fit.available}
        by_kind: dict[str, list[tuple[Component, WeibullFit]]] = defaultdict(list)
        for component in representatives(self.components):
            if component.name in fits:
                by_kind[component.label].append((component, fits[component.name]))
        for kind, members in by_kind.items():
            out[f"weibull_k/{kind}"] = _median(fit.k for _, fit in members)
            out[f"weibull_lambda/{kind}"] = _median(fit.lambda_ for _, fit in members)
            out[f"weibull_k_min/{kind}"] = min(fit.k for _, fit in members)
            out[f"weibull_r2_min/{kind}"] = min(fit.r2 for _, fit in members)
            scaling = [self.scaling.get(component.name, NO_SCALING) for component, _ in members]
            out[f"weibull_scaling/lambda_ratio/{kind}"] = _median(s.lambda_ratio for s in scaling)
            out[f"weibull_scaling/budget_ratio/{kind}"] = _median(s.budget_ratio for s in scaling)
            foretold = [s.forecast for s in scaling if s.forecast is not None]
            out[f"weibull_scaling/lambda_forecast/{kind}"] = _median(f.value for f in foretold)
            if detail == "component":
                out[f"weibull_scaling/lambda_forecast_low/{kind}"] = _median(f.low for f in foretold)
                out[f"weibull_scaling/lambda_forecast_high/{kind}"] = _median(f.high for f in foretold)
            forces = [self.forces[component.name] for component, _ in members if component.name in self.forces]
            for place, force in enumerate(("alignment", "injection", "decay")):
                out[f"weibull_force/{force}/{kind}"] = _median(f.shares[place] for f in forces)
            out[f"weibull_force/net/{kind}"] = _median(f.net for f in forces)
            out[f"weibull_force/closure/{kind}"] = _median(f.closure for f in forces)
        once = distinct(self.components)
        for name in ("selection", "transmission"):
            members = [(c, fits[c.name]) for c in once if c.component_class == name and c.name in fits]
            out[f"weibull_class/{name}_k"] = _median(fit.k for _, fit in members)
            out[f"weibull_class/{name}_drift_pct"] = _median(
                100.0 * (fit.k / self.baseline[c.name].k - 1.0) for c, fit in members if c.name in self.baseline
            )
        law = [self.scaling.get(c.name, NO_SCALING) for c in once if c.component_class in ("selection", "transmission")]
        out["weibull_scaling/sqrt_eta_over_wd"] = _median(s.sqrt_eta_over_wd for s in law)
        out["weibull_scaling/effective_sqrt_eta_over_wd"] = _median(s.effective for s in law)
        out["weibull_scaling/t_over_tau"] = _median(s.t_over_tau for s in law)
        out["weibull_health/components"] = float(len(fits))
        out["weibull_health/nonfinite"] = float(sum(self.fits[c.name].nonfinite for c in once if c.name in self.fits))
        out["weibull_health/zero_fraction_max"] = max(
            (fit.zeros / max(1, fit.n + fit.zeros + fit.nonfinite) for fit in self.fits.values()),
            default=None,
        )
        out["weibull_health/unchanged"] = self.unchanged
        out["weibull_health/seconds"] = self.seconds
        if detail == "component":
            for component in self.components:
                if component.name in fits and component.expert is None:
                    fit = fits[component.name]
                    out[f"weibull_component/{component.name}/k"] = fit.k
                    out[f"weibull_component/{component.name}/lambda"] = fit.lambda_
                    out[f"weibull_component/{component.name}/r2"] = fit.r2
        return {key: float(value) for key, value in out.items() if value is not None and math.isfinite(value)}


def _median(values: Iterable[float | None]) -> float | None:
    """Median of the values that exist, or None."""
    present = [value for value in values if value is not None]
    return float(np.median(present)) if present else None


@dataclass(frozen=True)
class Forces:
    """What one step did to ‖w‖², in units of ‖w‖² before it.

    Attributes:
        alignment: -2η⟨w, u⟩/‖w‖²: negative where the update points along the weights and shrinks them.
        injection: η²‖u‖²/‖w‖²: always grows them.
        decay: -2ηλ_wd: always shrinks them.
        net: (‖w'‖² - ‖w‖²)/‖w‖².
        closure: What the terms miss of the change that was measured, over the sum of their sizes; None if the norm before the
            step was not measured.
    """

    alignment: float
    injection: float
    decay: float
    net: float
    closure: float | None

    @property
    def shares(self) -> tuple[float, float, float]:
        """Alignment, injection and decay over the sum of their sizes, with their signs.

        >>> Forces(-0.001, 0.002, -0.001, 0.0, None).shares
        (-0.25, 0.5, -0.25)
        """
        size = abs(self.alignment) + abs(self.injection) + abs(self.decay)
        if not size:
            return 0.0, 0.0, 0.0
        return self.alignment / size, self.injection / size, self.decay / size
