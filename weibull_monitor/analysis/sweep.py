"""λ at the end of several runs against √(η/λ_wd): the published law, and the same with the effective value.

The law says λ ∝ √(η/λ_wd) at the end of long runs with a constant rate (T. Ding, arXiv:2606.19367, 2026). For runs of any
length and schedule, the growth √(λ² - λ_0²·exp(-2S)) is compared with √I of `weibull_monitor.scaling.budget`; the slope is c.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import StatisticsError, correlation, fmean, median, stdev
from typing import Final

from weibull_monitor.errors import counted
from weibull_monitor.history.record import History
from weibull_monitor.measure.shown import table
from weibull_monitor.model.components import representatives

# Two-sided 95 % points of Student's t for 1 to 30 degrees of freedom (any table; tests compare them with scipy's).
# fmt: off
_STUDENT: Final = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604, 2.1448, 2.1314,
    2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423,
)
# fmt: on


@dataclass(frozen=True)
class Regression:
    """A line through the origin, y = slope·x.

    Attributes:
        n: Number of points.
        r: Pearson's correlation of x and y; None for fewer than three points, or where all x or all y are the same.
        slope: Σxy/Σx².
        low: Lower end of the 95 % confidence interval of the slope; None for a single point.
        high: Upper end of it.
        cv: Standard deviation of y/x in units of its mean; None for a single point.
    """

    n: int
    r: float | None
    slope: float
    low: float | None
    high: float | None
    cv: float | None


def through_origin(x: Sequence[float], y: Sequence[float]) -> Regression | None:
    """Fits a line through the origin by least squares.

    Args:
        x: Positive values, n of them.
        y: n values.

    Returns:
        The line, with Student's interval for n - 1 degrees of freedom; None if n is 0.

    >>> line = through_origin([1.0, 2.0, 3.0], [2.1, 3.9, 6.0])
    >>> f"{line.slope:.4f} [{line.low:.4f}, {line.high:.4f}], r = {line.r:.4f}, CV = {100 * line.cv:.1f} %"
    '1.9929 [1.8799, 2.1058], r = 0.9990, CV = 3.8 %'
    """
    if not x:
        return None
    squares = math.fsum(a * a for a in x)
    slope = math.fsum(a * b for a, b in zip(x, y, strict=True)) / squares
    ratios = [b / a for a, b in zip(x, y, strict=True)]
    if len(x) == 1:
        return Regression(1, None, slope, None, None, None)
    freedom = len(x) - 1
    residual = math.fsum((b - slope * a) ** 2 for a, b in zip(x, y, strict=True))
    # Beyond the table: the normal point and the first terms of the expansion of Student's t in 1/freedom.
    t = _STUDENT[freedom - 1] if freedom <= len(_STUDENT) else 1.95996 + 2.37 / freedom + 2.8 / freedom**2
    half = t * math.sqrt(residual / freedom / squares)
    return Regression(len(x), pearson(x, y), slope, slope - half, slope + half, stdev(ratios) / fmean(ratios))


def pearson(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Pearson's correlation; None for fewer than three points, or where all x or all y are the same.

    >>> pearson([1.0, 2.0, 3.0], [3.0, 2.0, 1.0])
    -1.0
    """
    try:
        return correlation(x, y) if len(x) > 2 else None
    except StatisticsError:  # a constant input
        return None


@dataclass(frozen=True)
class RunEnd:
    """The end of a run for one kind or class: medians over its matrices.

    Attributes:
        run: The run's name.
        group: The kind or class.
        lambda_: λ.
        plain: √(η/λ_wd), with the highest η that was sampled; None without weight decay.
        grown: √(λ² - λ_0²·exp(-2S)), the part of λ that training has added; None if it is not known.
        effective: √I; None if it is not known.
    """

    run: str
    group: str
    lambda_: float
    plain: float | None
    grown: float | None
    effective: float | None


@dataclass(frozen=True)
class SweepGroup:
    """All runs for one kind or class.

    Attributes:
        name: The kind or class.
        ends: The end of each run.
        plain: λ against √(η/λ_wd).
        effective: The growth of λ against √I; the slope is c.
    """

    name: str
    ends: tuple[RunEnd, ...]
    plain: Regression | None
    effective: Regression | None


@dataclass(frozen=True)
class Sweep:
    """Several runs compared.

    Attributes:
        classes: Selection and transmission.
        kinds: Every kind for which the law has a value.
        left_out: Runs that could not be compared, by name, with the reason.
    """

    classes: tuple[SweepGroup, ...]
    kinds: tuple[SweepGroup, ...]
    left_out: dict[str, str]

    def __repr__(self) -> str:
        runs = {end.run for group in (*self.classes, *self.kinds) for end in group.ends}
        return f"Sweep({counted(len(runs), 'run')} compared, {len(self.left_out)} left out)"

    def _repr_html_(self) -> str:
        rows = [
            [
                group.name,
                len(group.ends),
                *(f"{fit.slope:.4g}" if fit else "–" for fit in (group.plain, group.effective)),
            ]
            for group in (*self.classes, *self.kinds)
        ]
        return table(repr(self), ["group", "runs", "λ / √(η/λ_wd)", "c"], rows)


def compare_runs(histories: Iterable[tuple[str, History]]) -> Sweep:
    """Compares the ends of runs, each given by its name and history."""
    ends: list[RunEnd] = []
    left_out: dict[str, str] = {}
    for name, history in histories:
        reason = why_not(history)
        if reason is None:
            ends += ends_of(name, history)
        else:
            left_out[name] = reason
    found = [group(name, ends) for name in dict.fromkeys(end.group for end in ends)]
    found = [g for g in found if g.plain or g.effective]
    classes = tuple(g for g in found if g.name in ("selection", "transmission"))
    return Sweep(classes, tuple(g for g in found if g not in classes), left_out)


def why_not(history: History) -> str | None:
    """Why a run cannot be compared with others; None if it can."""
    if not history.snapshots or history.snapshots[-1].step == 0:
        return "it has no sample after the first step"
    last = history.snapshots[-1]
    for reason, words in (
        ("weight_decay_changed", "its weight decay was changed during the run"),
        ("optimizer_reset", "its optimizer was reset during the run"),
    ):
        if last.withheld.get(reason):
            return words
    etas, decays = last.values("eta"), last.values("weight_decay")
    if not etas:
        return "its history has no optimizer"
    if not any(decays.values()) and not last.values("effective"):
        return "it has no weight decay"
    laws = [group.get("law") for run in history.runs for o in run.optimizers for group in o.get("groups", ())]
    if laws and "applies" not in laws:
        return "the law does not apply to its optimizer"
    return None


def ends_of(name: str, history: History) -> list[RunEnd]:
    """The end of a run for every kind and both classes."""
    last = history.snapshots[-1]
    scales, decays = last.values("lambda"), last.values("weight_decay")
    effective, spent = last.values("effective"), last.values("t_over_tau")
    first = history.baseline.values("lambda") if history.baseline else {}
    peaks: dict[str, float] = {}
    for sample in history.snapshots:
        for component, eta in sample.values("eta").items():
            peaks[component] = max(eta, peaks.get(component, 0.0))
    plain = {c: math.sqrt(peaks[c] / decays[c]) for c in peaks if decays.get(c) and peaks[c] > 0}
    grown = {}  # the growth of λ, where √I is known too
    for c in scales.keys() & first.keys() & effective.keys():
        square = scales[c] ** 2 - first[c] ** 2 * math.exp(-2.0 * spent.get(c, 0.0))
        if square > 0 and effective[c]:
            grown[c] = math.sqrt(square)
    root = {c: effective[c] for c in grown}
    shown = representatives(last.components)
    groups = {c.label: [d.name for d in shown if d.label == c.label] for c in shown}
    for one in ("selection", "transmission"):
        groups[one] = [c.name for c in shown if c.component_class == one]
    found = []
    for label, members in groups.items():
        names = [c for c in members if c in scales and c in peaks]
        if names:
            scale = median(scales[c] for c in names)
            found.append(RunEnd(name, label, scale, *(_median(column, names) for column in (plain, grown, root))))
    return found


def group(name: str, ends: Iterable[RunEnd]) -> SweepGroup:
    """The runs for one kind or class, with both lines."""
    own = tuple(end for end in ends if end.group == name)
    plain = [(e.plain, e.lambda_) for e in own if e.plain is not None]
    effective = [(e.effective, e.grown) for e in own if e.effective is not None and e.grown is not None]
    return SweepGroup(name, own, _line(plain), _line(effective))


def _line(pairs: Sequence[tuple[float, float]]) -> Regression | None:
    return through_origin([x for x, _ in pairs], [y for _, y in pairs])


def _median(values: Mapping[str, float], names: Sequence[str]) -> float | None:
    present = [values[name] for name in names if name in values]
    return median(present) if present else None
