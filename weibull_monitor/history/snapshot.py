"""One sample of a run: the fit of each component at one step, and the flat metrics that trackers get."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from itertools import compress
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from weibull_monitor.history.columns import COUNTS, SOURCES, unknown
from weibull_monitor.history.metrics import metrics_of
from weibull_monitor.history.reasons import Reason
from weibull_monitor.history.shown import in_words, kinds_html
from weibull_monitor.history.values import aligned, finite
from weibull_monitor.measure.rows import Numbers, Rows, fitted
from weibull_monitor.model.components import AttentionPair, Component
from weibull_monitor.model.components.kept import names_of

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


_NESTED, _ENDS = ("forecast", "equilibrium"), ("value", "low", "high")
_SINGLE = tuple(f.name for f in fields(Scaling) if f.name not in (*_NESTED, "reason"))


class ScalingRows(Rows[Scaling]):
    """The scaling law of matrices by name.

    Args:
        names: The names of all matrices.
        here: Whether a matrix has values, bool (matrices,).
        columns: The attributes of `Scaling` that some have, ``forecast.value`` among them, float64 (matrices,) each; NaN for
            None, and for matrices without values.
        reasons: The reason of each, (matrices,).
    """

    def __init__(
        self,
        names: tuple[str, ...],
        here: npt.NDArray[np.bool_],
        columns: dict[str, Numbers],
        reasons: list[Reason | None],
    ) -> None:
        super().__init__(names, here)
        self.columns, self.reasons = columns, reasons

    def column(self, path: str) -> Numbers:
        """An attribute of each, float64 (matrices,); NaN where there is none."""
        found = self.columns.get(path)
        return np.full(len(self.names), np.nan) if found is None else found

    def add(self, name: str, rows: npt.NDArray[np.bool_], found: tuple[Numbers, Numbers, Numbers]) -> None:
        """Adds an `Estimate` to some rows: its value and its ends, (rows,) each; none where the value is not finite."""
        for path, values in zip(_ENDS, found, strict=True):
            column = self.columns[f"{name}.{path}"] = np.full(len(self.names), np.nan)
            column[rows] = np.where(np.isfinite(found[0]), values, np.nan)

    def counted(self) -> Counter[Reason | None]:
        """How many rows have each reason."""
        return Counter(compress(self.reasons, self.here.tolist()))

    def _make(self, row: int) -> Scaling:
        def value(path: str) -> Any:
            number = float(self.column(path)[row])
            return None if number != number else number

        values = {name: value(name) for name in _SINGLE}
        for name in _NESTED:
            ends = [float(self.column(f"{name}.{path}")[row]) for path in _ENDS]
            values[name] = None if math.isnan(ends[0]) else Estimate(*ends)
        return Scaling(**values, reason=self.reasons[row])


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


class References(Rows[Reference]):
    """References by name.

    Args:
        names: The names of all matrices.
        columns: The attributes of `Reference`, float64 (matrices,) each; NaN for None.
    """

    def __init__(self, names: tuple[str, ...], columns: Mapping[str, Numbers]) -> None:
        super().__init__(names, ~np.isnan(columns["k"]))
        self.columns = columns

    @staticmethod
    def of(held: Mapping[str, Reference]) -> References:
        """The same references as columns."""
        names = tuple(held)
        return References(names, {f.name: aligned(held, f.name, names) for f in fields(Reference)})

    @staticmethod
    def of_fits(fits: Mapping[str, WeibullFit]) -> References:
        """The references of matrices, from their fits before the first step."""
        names = fits.names if isinstance(fits, Rows) else tuple(fits)
        k, lambda_, tail, largest, rms = (
            aligned(fits, path, names) for path in ("k", "lambda_", "p999_p50", "largest", "rms")
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            size = largest / rms
        available = fitted(k, lambda_)
        columns = {"k": k, "lambda_": lambda_, "p999_p50": tail, "largest": size}
        return References(names, {n: np.where(available & np.isfinite(v), v, np.nan) for n, v in columns.items()})

    def column(self, path: str) -> Numbers:
        """An attribute of each, float64 (matrices,); NaN where there is none."""
        return self.columns[path]

    def _make(self, row: int) -> Reference:
        k, lambda_, *rest = (float(self.columns[f.name][row]) for f in fields(Reference))
        return Reference(k, lambda_, *(finite(value) for value in rest))


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
class Writes:
    """What moved the weights of one component since the sample before: the steps of the optimizer, and what was written between.

    The figures are of up to 64 elements of the component, spread evenly over it.

    Attributes:
        times: Before how many steps it was found to have been written to, outside of the optimizer; the mean over its parts.
        rms: How far: RMS of the change, the root of the sum of squares of several; 0 if none of the elements was changed.
        state_times: Before how many steps what the optimizer keeps of it (moments) was written to in place.
        after: The number of steps taken before the last write; None if there was none.
        step_rms: RMS of the change by one step of the optimizer, over the steps that moved it; None if none did.
    """

    times: float
    rms: float
    state_times: float
    after: float | None = None
    step_rms: float | None = None


@dataclass(frozen=True)
class Expected:
    """A change of one component that was announced (`WeibullMonitor.expect_change`).

    Attributes:
        after: The number of steps taken at that call.
    """

    after: int


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
        writes: What steps did to each component since the sample before, and what was written to it between them, by name; empty
            where that is not watched.
        expected: The changes that were announced since the sample before, by name.
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
    writes: Mapping[str, Writes] = field(default_factory=dict)
    expected: Mapping[str, Expected] = field(default_factory=dict)
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
        if isinstance(self.scaling, ScalingRows):
            found = self.scaling.counted()
        else:
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
        made = int if name in COUNTS else float
        return [made(value) if math.isfinite(value) else None for value in self.array(name).tolist()]

    def array(self, name: str) -> Numbers:
        """As `column`, float64 (components,): NaN or infinite where there is no finite value."""
        source, path = SOURCES[name]
        return aligned(getattr(self, source), path, names_of(self.components))

    def values(self, column: str) -> dict[str, float]:
        """The values of a column that exist, by component name, as `RecordedSnapshot.values`."""
        return {c.name: v for c, v in zip(self.components, self.column(column), strict=True) if v is not None}

    def metrics(self, detail: Detail = "kind") -> dict[str, float]:
        """The flat metrics of this sample: finite floats by key. A value that does not exist has no key.

        Args:
            detail: ``"kind"`` for at most 80 keys whatever the model's depth; ``"component"`` for three more per component,
                except experts.
        """
        prefix = prefix_of(self.name)
        return {prefix + key: value for key, value in metrics_of(self, detail).items()}
