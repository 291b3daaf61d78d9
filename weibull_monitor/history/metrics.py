"""The flat metrics of a sample, which trackers get."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from weibull_monitor.history.values import MANY, aligned, median_of, read
from weibull_monitor.measure.rows import Numbers, Rows, fitted
from weibull_monitor.model.components import Component, distinct, representatives
from weibull_monitor.model.components.kept import Kept, names_of

Sample = Any
"""A `weibull_monitor.history.snapshot.Snapshot`, whose module imports this one."""
Places = npt.NDArray[np.int64]

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


@dataclass(frozen=True, eq=False)
class Groups:
    """Which components the metrics are taken over, by their places.

    Attributes:
        kinds: For each kind, as metric keys spell it, the components that a median is taken over.
        classes: For each class that has metrics, its components, each element once.
        distinct: The components that cover each element once.
        single: Whether a component is not of an expert.
        still: Whether a component is not trained.
    """

    kinds: dict[str, Places]
    classes: dict[str, Places]
    distinct: Places
    single: npt.NDArray[np.bool_]
    still: npt.NDArray[np.bool_]


@Kept
def groups_of(components: tuple[Component, ...]) -> Groups:
    """The groups of some components."""
    place = {id(component): n for n, component in enumerate(components)}
    kinds: dict[str, list[int]] = defaultdict(list)
    # A head or a fused matrix beside its parts would count elements twice: one matrix stands for each.
    for component in representatives(components):
        kinds[component.label].append(place[id(component)])
    classes: dict[str, list[int]] = {"selection": [], "transmission": []}
    once = distinct(components)
    for component in once:
        if component.component_class in classes:
            classes[component.component_class].append(place[id(component)])
    return Groups(
        kinds={kind: np.array(members, dtype=np.int64) for kind, members in kinds.items()},
        classes={name: np.array(members, dtype=np.int64) for name, members in classes.items()},
        distinct=np.array([place[id(component)] for component in once], dtype=np.int64),
        single=np.array([c.expert is None for c in components], dtype=bool),
        still=np.array([not c.trainable for c in components], dtype=bool),
    )


def metrics_of(sample: Sample, detail: str) -> dict[str, float]:
    """The metrics of a sample, as `Snapshot.metrics` returns them; without the name of the model."""
    columns = _Columns(sample)
    groups, available = groups_of(sample.components), columns.available
    k, lambda_, r2 = (columns.of("fits", path) for path in ("k", "lambda_", "r2"))
    # Only fits that exist count: a matrix without one must not hide the others of its kind.
    here = {kind: members[available[members]] for kind, members in groups.kinds.items()}
    by_kind = sorted(((kind, members) for kind, members in here.items() if len(members)), key=lambda of: of[1][0])
    out = _of_classes(columns) | _of_attention(columns) | _of_health(columns) | _of_adapters(sample)
    for kind, places in by_kind:
        for key, (source, path) in _MEDIANS.items():
            if getattr(sample, source):
                out[f"{key}/{kind}"] = columns.median(source, path, places)
        foretold = columns.all_foretold(places)
        if not foretold:  # a median over some of the matrices would not go with λ, the median over all
            out.pop(f"weibull_scaling/lambda_forecast/{kind}", None)
        # A median hides one bad matrix, the extreme shows it.
        out[f"weibull_r2_min/{kind}"] = min(r2[places].tolist())
        out |= _of_tails(columns, kind, places)
        if kind in OUTSIDE_OF_BLOCKS:
            out.pop(f"weibull_scaling/lambda_ratio/{kind}", None)  # the law fails there
        else:
            out[f"weibull_k_min/{kind}"] = float(k[places].min())
            out[f"weibull_lambda_max/{kind}"] = float(lambda_[places].max())
        if detail == "component" and foretold:
            for end in ("low", "high"):
                key = f"weibull_scaling/lambda_forecast_{end}/{kind}"
                out[key] = columns.median("scaling", f"forecast.{end}", places)
    if detail == "component":
        for place in np.flatnonzero(available & groups.single).tolist():
            key = f"weibull_component/{sample.components[place].name}"
            out |= {f"{key}/k": k[place], f"{key}/lambda": lambda_[place], f"{key}/r2": r2[place]}
    return {key: float(value) for key, value in out.items() if value is not None and math.isfinite(value)}


class _Columns:
    """The columns of a sample, each made once."""

    def __init__(self, sample: Sample) -> None:
        self.sample = sample
        self.names = names_of(sample.components)
        self._made: dict[tuple[str, str], Numbers] = {}
        self.available = fitted(self.of("fits", "k"), self.of("fits", "lambda_"))

    def of(self, source: str, path: str) -> Numbers:
        """A column, float64 (components,); NaN where there is no value."""
        if (source, path) not in self._made:
            self._made[source, path] = aligned(getattr(self.sample, source), path, self.names)
        return self._made[source, path]

    def values(self, source: str, path: str, places: Places) -> list[float | None]:
        """The values that some components have."""
        held = getattr(self.sample, source)
        if not isinstance(held, Rows):
            return read(held, [self.names[place] for place in places.tolist()], path)
        values = self.of(source, path)[places]
        found: list[float | None] = values[~np.isnan(values)].tolist()
        return found

    def median(self, source: str, path: str, places: Places) -> float | None:
        """Their median."""
        held = getattr(self.sample, source)
        if isinstance(held, Rows) and len(places) > MANY:  # not as a list
            values = self.of(source, path)[places]
            values = values[~np.isnan(values)]
            return float(np.median(values)) if len(values) else None
        return median_of(self.values(source, path, places)) if held else None

    def all_foretold(self, places: Places) -> bool:
        """Whether all of some components that have values of the scaling law have a forecast."""
        scaling = self.sample.scaling
        if not isinstance(scaling, Rows):
            names = (self.names[place] for place in places.tolist())
            return all(scaling[name].forecast for name in names if name in scaling)
        missing = np.isnan(self.of("scaling", "forecast.value")[places])
        if scaling.names is self.names:
            return not (missing & scaling.here[places]).any()
        return not any(self.names[place] in scaling for place in places[missing].tolist())


def _of_classes(columns: _Columns) -> dict[str, float | None]:
    """k, its drift and the learning rates: medians over all matrices of a class, each element counted once."""
    out: dict[str, float | None] = {}
    sample, groups = columns.sample, groups_of(columns.sample.components)
    k, start = columns.of("fits", "k"), columns.of("baseline", "k")
    if sample.deltas:
        start = np.where(groups.still, np.nan, start)  # drift is of what moves
    for name, members in groups.classes.items():
        here = members[columns.available[members]]
        out[f"weibull_class/{name}_k"] = median_of(k[here].tolist())
        known = here[~np.isnan(start[here])]
        out[f"weibull_class/{name}_drift_pct"] = median_of((100.0 * (k[known] / start[known] - 1.0)).tolist())
        out[f"weibull_update/{name}_k"] = columns.median("updates", "k", members)
        out[f"weibull_update/{name}_rms"] = columns.median("updates", "rms", members)
        found = columns.values("updates", "ratio", members) if sample.updates else []
        ratios = [ratio for ratio in found if ratio is not None]
        out[f"weibull_update/{name}_ratio"] = median_of(ratios)
        out[f"weibull_update/{name}_ratio_max"] = max(ratios, default=None)
    both = np.concatenate(list(groups.classes.values()))
    out["weibull_scaling/sqrt_eta_over_wd"] = columns.median("scaling", "sqrt_eta_over_wd", both)
    out["weibull_scaling/effective_sqrt_eta_over_wd"] = columns.median("scaling", "effective", both)
    out["weibull_scaling/t_over_tau"] = columns.median("scaling", "t_over_tau", both)
    return out


def _of_adapters(sample: Sample) -> dict[str, float | None]:
    """What adapters add to weights: medians over those of one kind."""
    out: dict[str, float | None] = {}
    if not sample.deltas:
        return out
    kinds: dict[str, list[Any]] = defaultdict(list)
    trained = {c.name for c in sample.components if c.trainable} & sample.deltas.keys()
    for name in trained or sample.deltas:  # another adapter of the same weight may be at rest
        kinds[sample.deltas[name].target].append(sample.deltas[name])
    for kind, members in kinds.items():
        for name in ("k", "lambda_", "ratio"):
            out[f"weibull_adapter/{name.strip('_')}/{kind}"] = median_of(getattr(one, name) for one in members)
    return out


def _of_attention(columns: _Columns) -> dict[str, float | None]:
    """The scale of attention: median and highest over the blocks."""
    if not columns.sample.pairs:
        return {}
    rms = dict(zip(columns.names, np.where(columns.available, columns.of("fits", "rms"), np.nan).tolist(), strict=True))
    scales = [
        pair.scale(rms[pair.query], rms[pair.key])
        for pair in columns.sample.pairs
        if pair.head is None and not math.isnan(rms.get(pair.query, math.nan) + rms.get(pair.key, math.nan))
    ]
    return {ATTENTION_SCALE: median_of(scales), f"{ATTENTION_SCALE}_max": max(scales, default=None)}


def _of_tails(columns: _Columns, kind: str, places: Places) -> dict[str, float | None]:
    """The extreme tail of a kind, where it has moved since the baseline: elsewhere it is what the sizes make it."""
    out: dict[str, float | None] = {}
    if not columns.sample.baseline:
        return out
    with np.errstate(invalid="ignore", divide="ignore"):
        peaks = columns.of("fits", "largest")[places] / columns.of("fits", "rms")[places]
    chosen: Callable[[Iterable[Any]], float | None]
    for key, start, now, chosen in (
        ("p999_p50", "p999_p50", columns.of("fits", "p999_p50")[places], median_of),
        ("max_over_rms", "largest", peaks, max),
    ):
        before = columns.of("baseline", start)[places]
        known = np.isfinite(now) & ~np.isnan(before)
        if known.any():
            value, first = chosen(now[known].tolist()), chosen(before[known].tolist())
            moved = value is not None and first is not None and abs(np.log(value / first)) >= TAIL_MOVED[key]
            out[f"weibull_tail/{key}/{kind}"] = value if moved else None
    return out


def _of_health(columns: _Columns) -> dict[str, float | None]:
    """What was read, and the cost of reading it."""
    sample, groups = columns.sample, groups_of(columns.sample.components)
    zeros, nonfinite = columns.of("fits", "zeros"), columns.of("fits", "nonfinite")
    shares = zeros / np.maximum(1, columns.of("fits", "n") + zeros + nonfinite)
    once = nonfinite[groups.distinct]
    return {
        "weibull_health/components": int(columns.available.sum()),
        "weibull_health/nonfinite": int(once[~np.isnan(once)].sum()),
        "weibull_health/zero_fraction_max": max(shares[~np.isnan(shares)].tolist(), default=None),
        "weibull_health/unchanged": sample.unchanged,
        "weibull_health/seconds": sample.seconds,
    }
