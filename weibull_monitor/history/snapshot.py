"""One sample of a run: the fit of each component at one step, and the flat metrics that trackers get."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np

from weibull_monitor.history.columns import SOURCES, unknown
from weibull_monitor.history.reasons import Reason
from weibull_monitor.history.shown import in_words, kinds_html
from weibull_monitor.history.values import finite, median_of, read
from weibull_monitor.model.components import AttentionPair, Component, distinct, representatives

if TYPE_CHECKING:
    from weibull_monitor.measure import WeibullFit

Detail = Literal["kind", "component"]


def prefix_of(name: str | None) -> str:
    """What the keys of a model's metrics begin with.

    >>> prefix_of("student") + "weibull_k/attn_q", prefix_of(None)
    ('student/weibull_k/attn_q', '')
    """
    return f"{name}/" if name else ""


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
        lambda_ratio: λ/√(η_peak/λ_wd), where η_peak is the largest η so far.
        budget_ratio: c = √(λ² - λ_0²·exp(-2S))/√I.
        forecast: λ at the end of the run.
        equilibrium: The λ that the matrix would reach if η and λ_wd stayed constant from now on.
        reason: Why there is no forecast; a key of `weibull_monitor.history.reasons.EXPLANATION`. None if there is one.
        eta_sum: Σ η over the steps taken.
        update_max: Upper bound of the RMS of one update of the optimizer, in units of η (`weibull_monitor.scaling.optimizers`).
        element_max: Upper bound of every single value of it.
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
    element_max: float | None = None


NO_SCALING = Scaling()


@dataclass(frozen=True)
class Reference:
    """One component before the first step: drift is measured against it.

    Attributes:
        k: Its k.
        lambda_: Its λ.
        p999_p50: Its P99.9/P50; None if not known.
        largest: The largest |w| over the RMS; None if not known.
    """

    k: float
    lambda_: float
    p999_p50: float | None = None
    largest: float | None = None


def reference_of(fit: WeibullFit) -> Reference:
    """The reference of a component, from its fit before the first step."""
    return Reference(fit.k, fit.lambda_, finite(fit.p999_p50), finite(fit.largest / fit.rms))


class ForceShares(NamedTuple):
    """Shares of the three terms of `Forces`, with their signs."""

    alignment: float
    injection: float
    decay: float


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
    def shares(self) -> ForceShares:
        """Alignment, injection and decay, each over the sum of their absolute values.

        >>> Forces(-0.001, 0.002, -0.001, 0.0, None).shares
        ForceShares(alignment=-0.25, injection=0.5, decay=-0.25)
        """
        size = abs(self.alignment) + abs(self.injection) + abs(self.decay) or 1.0  # if all are 0, so are their shares
        return ForceShares(self.alignment / size, self.injection / size, self.decay / size)


@dataclass(frozen=True)
class Update:
    """The last update u of one component, a step of the optimizer divided by η; from the optimizer's state.

    Attributes:
        k: Weibull shape of |u|; for Lion and Muon, of the magnitudes of the momentum that u is made of.
        lambda_: Scale of the same.
        rms: Root mean square of the same.
        ratio: RMS(u)·η/RMS(w): how far the step went, in units of the weights. None where the size of u is not known.
    """

    k: float
    lambda_: float
    rms: float
    ratio: float | None


@dataclass(frozen=True)
class Delta:
    """What a low-rank adapter adds to a weight: ΔW = s·B·A.

    Attributes:
        k: Weibull shape of |ΔW|; None while B is zero, as it begins.
        lambda_: Scale of the same.
        rms: Root mean square of ΔW; 0 while B is zero.
        ratio: RMS(ΔW)/RMS(W); None if W has no fit, as when it is quantised.
        target: Kind of W, as metric keys spell it.
    """

    k: float | None
    lambda_: float | None
    rms: float
    ratio: float | None
    target: str = "other"


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
        updates: The last update of each component, by name; empty unless asked for.
        deltas: What each adapter adds to its weight, by the name of its A.
        unchanged: Number of trainable components with η > 0 whose counts are the same as in the sample before; None in the first
            sample.
        seconds: Wall time of the measurement, in seconds.
        name: Name of the model among several in one run; the keys of its metrics begin with it.
        model: What is known of the model beside its matrices: class, architecture, number of parameters.
        pairs: Which W_q meets which W_k, for the scale of attention.
    """

    step: int
    time: float
    components: tuple[Component, ...]
    fits: Mapping[str, WeibullFit]
    scaling: Mapping[str, Scaling] = field(default_factory=dict)
    baseline: Mapping[str, Reference] = field(default_factory=dict)
    forces: Mapping[str, Forces] = field(default_factory=dict)
    updates: Mapping[str, Update] = field(default_factory=dict)
    deltas: Mapping[str, Delta] = field(default_factory=dict)
    unchanged: int | None = None
    seconds: float = 0.0
    name: str | None = None
    model: Mapping[str, Any] = field(default_factory=dict)
    pairs: tuple[AttentionPair, ...] = ()

    def __repr__(self) -> str:
        return in_words(self)

    def _repr_html_(self) -> str:
        return kinds_html(f"k and λ at step {self.step:,}", [self])

    @property
    def withheld(self) -> dict[Reason, int]:
        """The reasons why components have no forecast of λ, and the number of components for each."""
        found = Counter(scaling.reason for scaling in self.scaling.values() if scaling.forecast is None)
        return {reason: count for reason, count in found.items() if reason is not None}

    def column(self, name: str) -> list[float | None]:
        """One value per component, in their order, as `RecordedSnapshot.columns` has it; None where there is no finite value.

        Args:
            name: One of `weibull_monitor.history.columns.COLUMNS`.

        Raises:
            KeyError: If there is no such column.
        """
        if name not in SOURCES:
            raise KeyError(unknown("column", name, SOURCES))
        source, path = SOURCES[name]
        return [finite(value) for value in read(getattr(self, source), [c.name for c in self.components], path)]

    def values(self, column: str) -> dict[str, float]:
        """The values of a column that exist, by component name, as `RecordedSnapshot.values`."""
        return {c.name: v for c, v in zip(self.components, self.column(column), strict=True) if v is not None}

    def metrics(self, detail: Detail = "kind") -> dict[str, float]:
        """The flat metrics of this sample: finite floats by key. A value that does not exist has no key.

        Args:
            detail: ``"kind"`` for at most 80 keys whatever the model's depth; ``"component"`` for three more per component,
                except experts.
        """
        # Only fits that exist count: a matrix without one must not hide the others of its kind.
        fits = {name: fit for name, fit in self.fits.items() if fit.available}
        # A head or a fused matrix beside its parts would count elements twice: one matrix stands for each.
        by_kind: dict[str, list[str]] = defaultdict(list)
        for component in representatives(self.components):
            if component.name in fits:
                by_kind[component.label].append(component.name)
        out = self._class_metrics(fits) | self._attention_metrics(fits) | self._health_metrics(fits)
        out |= self._adapter_metrics()
        for kind, names in by_kind.items():
            for key, (source, path) in _MEDIANS.items():
                out[f"{key}/{kind}"] = self._median_of(source, path, names)
            foretold = all(self.scaling[name].forecast for name in names if name in self.scaling)
            if not foretold:  # a median over some of the matrices would not go with λ, the median over all
                del out[f"weibull_scaling/lambda_forecast/{kind}"]
            # A median hides one bad matrix, the extreme shows it.
            out[f"weibull_r2_min/{kind}"] = min(fits[name].r2 for name in names)
            out |= self._tail_metrics(kind, [name for name in names if name in self.baseline])
            if kind in OUTSIDE_OF_BLOCKS:
                del out[f"weibull_scaling/lambda_ratio/{kind}"]  # the law fails there
            else:
                out[f"weibull_k_min/{kind}"] = min(fits[name].k for name in names)
                out[f"weibull_lambda_max/{kind}"] = max(fits[name].lambda_ for name in names)
            if detail == "component" and foretold:
                for end in ("low", "high"):
                    key = f"weibull_scaling/lambda_forecast_{end}/{kind}"
                    out[key] = self._median_of("scaling", f"forecast.{end}", names)
        if detail == "component":
            for component in self.components:
                if component.name in fits and component.expert is None:
                    fit, key = fits[component.name], f"weibull_component/{component.name}"
                    out |= {f"{key}/k": fit.k, f"{key}/lambda": fit.lambda_, f"{key}/r2": fit.r2}
        prefix = prefix_of(self.name)
        return {prefix + key: float(value) for key, value in out.items() if value is not None and math.isfinite(value)}

    def _median_of(self, source: str, path: str, names: Iterable[str]) -> float | None:
        """Median of an attribute over the named components, of those that have it."""
        return median_of(read(getattr(self, source), names, path))

    def _class_metrics(self, fits: Mapping[str, WeibullFit]) -> dict[str, float | None]:
        """k, its drift and the learning rates: medians over all matrices of a class, each element counted once."""
        out: dict[str, float | None] = {}
        still = {c.name for c in self.components if not c.trainable} if self.deltas else set()  # drift is of what moves
        classes: dict[str, list[str]] = {"selection": [], "transmission": []}
        for component in distinct(self.components):
            if component.component_class in classes:
                classes[component.component_class].append(component.name)
        for name, members in classes.items():
            k = {member: fits[member].k for member in members if member in fits}
            start = {n: r for n, r in self.baseline.items() if n not in still}
            out[f"weibull_class/{name}_k"] = median_of(k.values())
            out[f"weibull_class/{name}_drift_pct"] = median_of(
                100.0 * (value / start[member].k - 1.0) for member, value in k.items() if member in start
            )
            out[f"weibull_update/{name}_k"] = self._median_of("updates", "k", members)
            out[f"weibull_update/{name}_rms"] = self._median_of("updates", "rms", members)
            ratios = [u.ratio for n in members if (u := self.updates.get(n)) is not None and u.ratio is not None]
            out[f"weibull_update/{name}_ratio"] = median_of(ratios)
            out[f"weibull_update/{name}_ratio_max"] = max(ratios, default=None)
        both = [member for members in classes.values() for member in members]
        out["weibull_scaling/sqrt_eta_over_wd"] = self._median_of("scaling", "sqrt_eta_over_wd", both)
        out["weibull_scaling/effective_sqrt_eta_over_wd"] = self._median_of("scaling", "effective", both)
        out["weibull_scaling/t_over_tau"] = self._median_of("scaling", "t_over_tau", both)
        return out

    def _adapter_metrics(self) -> dict[str, float | None]:
        """What adapters add to weights: medians over those of one kind."""
        kinds: dict[str, list[Delta]] = defaultdict(list)
        trained = {c.name for c in self.components if c.trainable} & self.deltas.keys()
        for name in trained or self.deltas:  # another adapter of the same weight may be at rest
            kinds[self.deltas[name].target].append(self.deltas[name])
        out: dict[str, float | None] = {}
        for kind, members in kinds.items():
            for name in ("k", "lambda_", "ratio"):
                out[f"weibull_adapter/{name.strip('_')}/{kind}"] = median_of(getattr(one, name) for one in members)
        return out

    def _attention_metrics(self, fits: Mapping[str, WeibullFit]) -> dict[str, float | None]:
        """The scale of attention: median and highest over the blocks."""
        scales = [
            pair.scale(fits[pair.query].rms, fits[pair.key].rms)
            for pair in self.pairs
            if pair.head is None and pair.query in fits and pair.key in fits
        ]
        return {ATTENTION_SCALE: median_of(scales), f"{ATTENTION_SCALE}_max": max(scales, default=None)}

    def _tail_metrics(self, kind: str, names: Sequence[str]) -> dict[str, float | None]:
        """The extreme tail of a kind, where it has moved since the baseline: elsewhere it is what the sizes make it."""
        out: dict[str, float | None] = {}
        fits, starts = [self.fits[name] for name in names], [self.baseline[name] for name in names]
        ratios = [(fit.p999_p50, start.p999_p50) for fit, start in zip(fits, starts, strict=True)]
        peaks = [(fit.largest / fit.rms, start.largest) for fit, start in zip(fits, starts, strict=True)]
        for key, pairs, chosen in (("p999_p50", ratios, np.median), ("max_over_rms", peaks, np.max)):
            if known := [(now, start) for now, start in pairs if start is not None and math.isfinite(now)]:
                now, start = chosen([now for now, _ in known]), chosen([start for _, start in known])
                out[f"weibull_tail/{key}/{kind}"] = float(now) if abs(np.log(now / start)) >= TAIL_MOVED[key] else None
        return out

    def _health_metrics(self, fits: Mapping[str, WeibullFit]) -> dict[str, float | None]:
        """What was read, and the cost of reading it."""
        zeros = (fit.zeros / max(1, fit.n + fit.zeros + fit.nonfinite) for fit in self.fits.values())
        once = (self.fits[c.name].nonfinite for c in distinct(self.components) if c.name in self.fits)
        return {
            "weibull_health/components": len(fits),
            "weibull_health/nonfinite": sum(once),
            "weibull_health/zero_fraction_max": max(zeros, default=None),
            "weibull_health/unchanged": self.unchanged,
            "weibull_health/seconds": self.seconds,
        }


ATTENTION_SCALE: Final = "weibull_selection/attention_scale"
TAIL_MOVED: Final = {"p999_p50": math.log(1.1), "max_over_rms": math.log(1.25)}
"""|ln| of the ratio to the baseline from which the tail of a kind is logged; noise of the largest of 10⁴ values is 0.08."""
OUTSIDE_OF_BLOCKS: Final = frozenset({"embedding", "lm_head"})  # of one matrix: its k is the lowest, its λ the highest
_MEDIANS: Final = {
    "weibull_k": ("fits", "k"),
    "weibull_lambda": ("fits", "lambda_"),
    "weibull_scaling/lambda_ratio": ("scaling", "lambda_ratio"),
    "weibull_scaling/budget_ratio": ("scaling", "budget_ratio"),
    "weibull_scaling/lambda_forecast": ("scaling", "forecast.value"),
    "weibull_force/alignment": ("forces", "shares.alignment"),  # shares: η moves all three terms together
    "weibull_force/injection": ("forces", "shares.injection"),
    "weibull_force/decay": ("forces", "shares.decay"),
    "weibull_force/net": ("forces", "net"),
    "weibull_force/closure": ("forces", "closure"),
}
"""Metrics that are a median over the matrices of a kind: the mapping of `Snapshot`, and the attribute of its values."""
