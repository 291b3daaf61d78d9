"""Where λ is going: at the end of the schedule, and in equilibrium if the learning rate stays the same.

Between two samples s < t the recursion of `weibull_monitor.scaling.budget` says, with c for the steps between them,

    λ_t²·exp(2S_t) - λ_s²·exp(2S_s) = c²·(I_t·exp(2S_t) - I_s·exp(2S_s))

so c² of some steps is a slope: of λ²·exp(2S) on I·exp(2S). It may be negative, where the gradients shrink a matrix faster than
weight decay does. c² is still changing in most runs: it rises during the first half of the eight published ones (T. Ding,
arXiv:2606.19367, 2026, CC BY 4.0). So the steps to come are assumed to have c² of the second half of the steps so far, and to
change it, per doubling of the steps, by `DAMPING` times as much as it changed from the second quarter to the second half.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Places = NDArray[np.int64]

MIN_DECAY: Final = 0.01
"""Smallest S that gives an equilibrium."""
MIN_SHARE: Final = 0.25
"""Smallest share of the run's steps that gives a forecast. At a tenth of the published runs the error is up to 37 %."""
DAMPING: Final = 0.25
"""How much of the change of c² goes on."""
NOISE: Final = 0.004
"""Half width of the interval in ln λ when no step is left. docs/scaling.md says how often the interval is right."""
WIDTH: Final = 0.015
"""What Σ η of the steps to come, over Σ η of those so far, adds to it."""
MISSES: Final = 3.2
"""How many times the miss of an earlier forecast is added to `WIDTH`."""
TYPICAL: Final = 0.8
"""The quantile of the misses of all matrices that stands for those of a matrix with a smaller one."""
WIDEST: Final = 5.0
"""The largest half width in ln λ: a factor of 148."""
UNKNOWN: Final = 0.1
"""The miss that is assumed where there are too few samples."""
EQUILIBRIUM: Final = 3.0
"""S after which λ is at 99.8 % of its equilibrium's square."""


class RemainingBudget(NamedTuple):
    """What the steps to come will spend."""

    decay: float
    """Σ ηλ_wd over them."""
    injection: float
    """What they add to I at the end."""
    path: float
    """Σ η over them."""


@dataclass(frozen=True)
class Points:
    """One sample: where the matrices stand.

    Attributes:
        step: Optimizer steps taken.
        names: Names of the matrices.
        values: λ, I, S and Σ η of each, shape (4, matrices), float64, with the nine digits that the history keeps, so that a
            resumed run forecasts exactly the same.
    """

    step: int
    names: tuple[str, ...]
    values: Array

    @classmethod
    def of(cls, step: int, rows: Mapping[str, Sequence[float]]) -> Points:
        """From λ, √I, S and Σ η by name."""
        values = np.array(list(rows.values()), dtype=np.float64).reshape(-1, 4).T
        return cls.of_columns(step, tuple(rows), values[0], values[1:], np.arange(len(rows)))

    @classmethod
    def of_columns(cls, step: int, names: tuple[str, ...], lambda_: Array, spent: Array, of: Places) -> Points:
        """From columns.

        Args:
            step: Optimizer steps taken.
            names: Names of the matrices.
            lambda_: λ of each, shape (matrices,).
            spent: √I, S and Σ η of each set of matrices that were stepped alike, shape (3, sets).
            of: The set of each matrix, shape (matrices,).
        """
        values = np.empty((4, len(names)))
        values[0] = _nine_digits(lambda_)
        values[1:] = np.array([_nine_digits(row) for row in spent])[:, of]
        values[1] **= 2
        return cls(step, names, values)

    def chosen(self, names: tuple[str, ...]) -> Array:
        """The values of some matrices, shape (4, matrices); NaN for matrices that the sample does not have."""
        if names is self.names:
            return self.values
        known = self.__dict__.get("_chosen")  # the same names are asked for at every sample
        if known is None or known[0] is not names:
            places = {name: n for n, name in enumerate(self.names)}
            found = np.append(self.values, np.full((4, 1), np.nan), axis=1)[:, [places.get(name, -1) for name in names]]
            known = self.__dict__["_chosen"] = names, found
        found = known[1]
        return found


def _nine_digits(values: Array) -> list[float]:
    return [float(f"{value:.9g}") for value in values.tolist()]


class Trail:
    """The samples so far, thinned out, to compute c² of the recent steps with.

    It holds a few dozen samples at most: those after a quarter of the steps so far, each at least 4 % further than the one
    before it, and the last one before them.
    """

    def __init__(self) -> None:
        self._samples: list[Points] = []

    def add(self, points: Points) -> None:
        """Adds a sample, unless it is too close to the last one."""
        if self._samples and points.step < 1.04 * self._samples[-1].step:
            return
        self._samples.append(points)
        while len(self._samples) > 2 and self._samples[1].step <= points.step / 4:
            del self._samples[0]

    def __iter__(self) -> Any:
        return iter(self._samples)


class Growth(NamedTuple):
    """How fast λ² grows; each of shape (matrices,)."""

    recent: Array
    """c² of the second half of the steps so far."""
    expected: Array
    """c² of the steps to come."""
    missed: Array
    """By how much a forecast with c² of the second quarter misses λ of now, in ln λ, over the ratio of Σ η of its steps to Σ η
    before them."""


def growth(trail: Iterable[Points], baseline: Array, now: Points, total: int) -> Growth:
    """c² of the recent steps and of those to come.

    Args:
        trail: Samples before ``now``, in order.
        baseline: λ before the first step, shape (matrices,).
        now: The last sample.
        total: Optimizer steps of the whole run.
    """
    start = np.zeros((4, len(now.names)))
    start[0] = baseline
    samples = [(0, start), *((p.step, p.chosen(now.names)) for p in trail if p.step < now.step), (now.step, now.values)]
    steps = np.array([step for step, _ in samples])
    values = np.stack([value for _, value in samples])  # (samples, 4, matrices)
    left = np.exp(2.0 * (values[:, 2] - now.values[2]))  # (samples, matrices): exp(2S), relative to now
    x, y = values[:, 1] * left, values[:, 0] ** 2 * left
    half = int(np.searchsorted(steps, now.step / 2, side="right")) - 1
    quarter = int(np.searchsorted(steps, steps[half] / 2, side="right")) - 1
    recent = _slope(x[half:], y[half:])
    if quarter >= half:
        return Growth(recent, recent, np.full_like(recent, UNKNOWN))
    changed = recent - _slope(x[quarter : half + 1], y[quarter : half + 1])
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.clip(now.values[3] / values[half, 3] - 1.0, 0.3, 3.0)  # of Σ η
        foretold = 1.0 - changed * (x[-1] - x[half]) / y[-1]  # over λ² of now
        missed = np.abs(np.log(np.maximum(foretold, 0.1))) / 2.0 / ratio
    typical = np.nanquantile(missed, TYPICAL) if np.isfinite(missed).any() else UNKNOWN
    missed = np.fmax(missed, typical)
    # The middles of the three stretches on a logarithmic scale of steps: c² has changed from the first to the second.
    ends = np.log(np.maximum(1.0, [steps[quarter], steps[half], now.step, total]))
    middles = (ends[1:] + ends[:-1]) / 2
    ahead = (middles[2] - middles[1]) / (middles[1] - middles[0]) if middles[1] > middles[0] else 0.0
    return Growth(recent, np.where(np.isnan(changed), recent, recent + DAMPING * ahead * changed), missed)


class Interval(NamedTuple):
    """Predicted values and the ends of their intervals, each of shape (matrices,)."""

    value: Array
    low: Array
    high: Array


def forecast(now: Points, found: Growth, rest: Array) -> Interval:
    """λ after the steps to come.

    Args:
        now: The last sample.
        found: The result of `growth`.
        rest: What the steps to come will spend, a `RemainingBudget` for each matrix: shape (3, matrices).

    Returns:
        The forecasts; NaN where so fast a fall would end below 0.
    """
    scale, _, _, path = now.values
    decay, injection, ahead = rest
    square = scale**2 * np.exp(-2.0 * decay) + found.expected * injection
    value = np.sqrt(np.where(square > 0, square, np.nan))
    with np.errstate(invalid="ignore", divide="ignore"):
        width = np.minimum(WIDEST, NOISE + (WIDTH + MISSES * found.missed) * ahead / path)
    return Interval(value, value * np.exp(-width), value * np.exp(width))


def equilibrium(now: Points, found: Growth, plain: Array) -> Interval:
    """λ in equilibrium, if η and λ_wd stay the same: c·√(η/λ_wd), with c of the recent steps.

    The interval is that of a forecast for the Σ η that brings S to `EQUILIBRIUM`, and at least that for as much Σ η as so far.

    Args:
        now: The last sample.
        found: The result of `growth`.
        plain: √(η/λ_wd), shape (matrices,).

    Returns:
        The values; NaN where c² is not positive.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        value = np.sqrt(np.where(found.recent > 0, found.recent, np.nan)) * plain
        ratio = np.clip(EQUILIBRIUM / now.values[2] - 1.0, 1.0, 10.0)
    width = np.minimum(WIDEST, NOISE + (WIDTH + MISSES * found.missed) * ratio)
    return Interval(value, value * np.exp(-width), value * np.exp(width))


def _slope(x: Array, y: Array) -> Array:
    """Slopes of least squares over the samples that have both values: (samples, matrices) to (matrices,); NaN without two."""
    known = ~(np.isnan(x) | np.isnan(y))
    n = known.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        a = np.where(known, x - np.where(known, x, 0.0).sum(0) / n, 0.0)
        b = np.where(known, y - np.where(known, y, 0.0).sum(0) / n, 0.0)
        return np.where(n > 1, (a * b).sum(0) / (a * a).sum(0), np.nan)
