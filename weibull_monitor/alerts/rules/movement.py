"""How a column usually moves from sample to sample, and how unusual its last movement is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from weibull_monitor.alerts.rules.result import RuleResult, rule_result
from weibull_monitor.alerts.rules.trained import goes_on
from weibull_monitor.alerts.settings import UnlikeOthers
from weibull_monitor.alerts.statistics import (
    Bools,
    Floats,
    median_along,
    median_of,
    or_zero,
    quiet,
    spread_of,
)
from weibull_monitor.alerts.window import SampleWindow

MIN_INTERVALS: Final = 3
"""Intervals between samples that a matrix needs in its past before a movement can be called unusual."""
MIN_OTHERS: Final = 6
"""Matrices that have to move for their median to say how the whole model moves."""
AS_OTHERS: Final = 0.7
"""Share of the movement of the other matrices in the same interval that counts as usual: the model begins to learn as a whole."""
LEAST_SPEED: Final = 0.3
"""Below this speed a matrix is as good as still: healthy ones that learn have 0.5 to 3."""
RECENT: Final = 6.5
"""How many times the recent movements, by their root mean square, a movement has to be, to be unlike its own past."""
LONGER: Final = 1.5
"""How much further that is in an interval that is longer than all before."""
MORE: Final = 1.2
"""How many times its largest past movement is more than a matrix has done before: the largest one grows by chance, too."""
YOUNG: Final = (60.0, 120.0)
"""Steps at the η of the end of the warm-up, by Σ η, up to which a run is young, and from which on it is not."""
LOW: Final = 0.3
"""Share of η after the warm-up below which a model hardly learns."""
LESS_ALIKE: Final = 1.75
"""How much further a movement of one matrix has to be in a young run, where some begin to learn and others do not yet."""
SIMILAR_RATIO: Final = 1.5
"""An interval is as long as another if its `work` is at most this many times as much."""


@dataclass(frozen=True, eq=False)
class Movement:
    """The last movement of a column and its past ones, each brought to the length of the last interval.

    Attributes:
        last: The last movement, shape (components,).
        past: The movements before it, shape (intervals, components).
        centre: Their median, shape (components,); NaN with fewer than `MIN_INTERVALS`.
        size: Root sum of squares of their robust spread and their median size, shape (components,).
        own: The largest past movement (`SampleWindow.furthest`), shape (components,).
        moves: The past movements as they were, whatever the length of their intervals, shape (intervals, components).
        alike: Number of past intervals that were about as long, shape (components,).
        others: Median size of the last movement of the attention and feed-forward matrices, shape (1,); 0 if there are few.
    """

    last: Floats
    past: Floats
    centre: Floats
    size: Floats
    own: Floats
    moves: Floats
    alike: Floats
    others: Floats

    @cached_property
    def recent(self) -> Floats:
        """Root mean square of ``moves``, without intervals that do not count, shape (components,); NaN where ``own`` is.

        Those of longer intervals than the last one are brought to its length, as in ``past``.
        """
        known = self.past == self.past
        squares = np.where(known, np.minimum(self.moves**2, self.past**2), 0.0)
        size = np.sqrt(squares.sum(axis=0) / known.sum(axis=0))
        return np.where(self.own == self.own, size, np.nan)


def usual_movement(window: SampleWindow, column: str, lookback: int) -> Movement:
    """The last movement of a column, and the usual one.

    Args:
        window: The window.
        column: Name of the column; ``log lambda`` for the logarithm of one.
        lookback: Number of past intervals.
    """
    if (column, lookback) in window.memo:
        known: Movement = window.memo[column, lookback]
        return known
    values = window[column.removeprefix("log ")][-lookback - 2 :]  # (intervals + 2, components)
    work = window["work"][-lookback - 2 :][1:]  # (intervals + 1, components)
    with quiet():
        levels = np.log(values) if column.startswith("log ") else values
        moves = levels[1:] - levels[:-1]
        # Bring past movements to the length of the last interval: in proportion to its work if it is longer, as a drift grows;
        # by the square root if it is shorter, as noise shrinks. Either is the larger movement of the two, so the safer one.
        ratio = work[-1] / work[:-1]
        past = moves[:-1] * np.where(ratio > 1.0, ratio, np.sqrt(ratio))  # (intervals, components)
        # A matrix that was frozen, or got no gradient, says nothing of how it moves when it learns.
        spent = window["eta_sum"][-lookback - 2 :]
        still = spent[1:-1] == spent[:-2]
        past = np.where(still | (past == 0), np.nan, past)
        centre = median_of(past)
        size = np.sqrt(spread_of(past, centre) ** 2 + median_of(np.abs(past)) ** 2)
        count = np.isfinite(past).sum(axis=0)
        enough = count >= _needed(window, lookback)
        alike = (ratio <= SIMILAR_RATIO).sum(axis=0).astype(float)
        body = window.components.body & window.components.trainable
        others = median_if_many(np.abs(moves[-1][..., body]))
    centre = np.where(enough, centre, np.nan)
    own = np.where(enough, window.furthest(column), np.nan)
    found = Movement(moves[-1], past, centre, size, own, moves[:-1], alike, others)
    window.memo[column, lookback] = found
    return found


def median_if_many(sizes: Floats) -> Floats:
    """The median of ``sizes`` (…, n) without NaN, shape (…, 1); 0 where there are fewer than `MIN_OTHERS`."""
    enough = (sizes == sizes).sum(axis=-1, keepdims=True) >= MIN_OTHERS
    return np.where(enough, median_along(sizes), 0.0) if sizes.shape[-1] else np.zeros((*sizes.shape[:-1], 1))


def _needed(window: SampleWindow, lookback: int) -> Floats:
    """Intervals that each matrix needs in its past, (components,).

    One that begins at zero moves in its own way at first: after Adam's first step all its values have the same size.
    """
    start = np.isfinite(window.baseline["k"])
    return np.where(start | (not start.any()), MIN_INTERVALS, lookback)


def caution(window: SampleWindow) -> Floats:
    """Factor of the thresholds for sudden movements of single matrices, shape (components,): above 1 in a young run.

    A model begins to learn with one matrix after the other. So what a matrix does alone says less in the warm-up and soon
    after it, and where η rises again. Trained weights are not young.
    """
    return window.once("caution", lambda: _caution(window))


def _caution(window: SampleWindow) -> Floats:
    rate = np.where(window.plateau > 0.0, window.plateau, window.peak)
    spent = window["eta_sum"]
    # After a time of low η, as before a restart, a model begins to learn again.
    low = (window["eta"] < LOW * rate) & (window.now("eta") >= LOW * rate)
    since = spent[-1] - np.fmax(np.fmax.reduce(np.where(low, spent, 0.0), axis=0), 0.0)
    taken = np.asarray(window.steps[-1] - window.loaded_at, dtype=float)  # where no η is known, all steps count alike
    age = np.where(window.warm, np.where(rate > 0.0, since / rate, taken), 0.0)  # in steps
    share = np.clip((YOUNG[1] - age) / (YOUNG[1] - YOUNG[0]), 0.0, 1.0)
    known = 1.0 + (LESS_ALIKE - 1.0) * or_zero(share)
    return np.ones(known.shape) if goes_on(window) else known


def as_ever(usual: Floats, own: Floats, units: float) -> Floats:
    """A usual size of movements, so large that one as large as ever before, ``own``, is not beyond ``units`` of it.

    The spread of past movements is a robust one: one large movement among eight does not count in it. A matrix that has done
    it before may do it again, though, so only what is larger than ever is sure.
    """
    return np.maximum(usual, MORE * or_zero(own) / units)  # NaN stays where nothing is known of what is usual


def suddenness(moved: Floats, usual: Floats, z: float | Floats, change: float | Floats) -> tuple[Floats, Floats]:
    """z-scores of movements, and their strength: 1 if the movement is ``z`` times the usual size and ``change`` in itself."""
    score = moved / usual
    return score, np.minimum(np.abs(score) / z, np.abs(moved) / change)


def surely(strength: Floats, sure: float) -> Floats:
    """Strengths of what is a warning wherever it is found, with ``sure`` of the rule's defaults; shape (components,)."""
    return np.where(strength >= 1.0, sure * strength, strength)


def unlike_others(window: SampleWindow, move: Movement, noise: Floats, settings: UnlikeOthers) -> Floats:
    """Strength of movements that are far larger than those of the other matrices in the same interval, shape (components,).

    It needs no past, so it also holds where intervals between samples get longer; but what a matrix has done before is not sure.
    Only attention and feed-forward matrices have others that they are like; embeddings move in their own way.

    Args:
        window: The window.
        move: The usual movement, and the last one.
        noise: Size of a movement that is noise, shape (components,).
        settings: The thresholds.
    """
    size = np.abs(move.last)
    if not move.others.any():
        return np.zeros(size.shape)
    usual = np.sqrt(move.others**2 + noise**2)
    strength = np.minimum(size / (settings.others * usual), size / settings.far)
    strength = np.minimum(strength, type(settings).sure * size / (MORE * or_zero(move.own)))
    return np.where(window.components.body, or_zero(strength), 0.0)


def unlike_both(
    window: SampleWindow,
    moved: Floats,
    move: Movement,
    noise: Floats,
    limits: tuple[float | Floats, float | Floats],
    sure: float,
    recent: float | Floats | None = RECENT,
) -> Floats:
    """Strength of movements unlike a matrix's own past and unlike those of the other matrices in the interval, (components,).

    Unlike its past is what is ``limit`` times the largest movement of the last samples, so that what the matrix has done once is
    usual for it, or ``recent`` times the root mean square of the latest. Either may be so in a healthy run, where intervals get
    longer or a layer begins to learn. Both together are not, so such a movement is always ``sure``.

    Args:
        window: The window.
        moved: The movements, shape (components,).
        move: The usual movement.
        noise: Size of a movement that is noise, shape (components,).
        limits: ``limit``, and how large the movement is in itself.
        sure: The rule's setting of that name.
        recent: How many times as large as the recent movements and as the others the movement is; None to leave that out.
    """
    if not move.others.any():
        return np.zeros(moved.shape)
    size = np.abs(moved)
    squared, error = size * size, noise * noise  # squares, since np.hypot takes most of the time
    of_others = squared / (move.others**2 + error)
    by_past = np.minimum(squared / (move.own**2 + error), of_others) / np.square(limits[0])
    if recent is not None:
        latest = recent * np.where(move.alike > 0, 1.0, LONGER)
        unlike = np.minimum(squared / (move.recent**2 + error), of_others)
        by_past = np.fmax(by_past, unlike / latest**2)
    ratio = or_zero(np.minimum(np.sqrt(by_past), size / limits[1]))
    return np.where(window.components.body, surely(ratio, sure), 0.0)


def shift_result(
    window: SampleWindow,
    column: str,
    moved: tuple[Floats, Floats, Floats],
    thresholds: tuple[float | Floats, float | Floats],
    judged: Bools,
    quantity: str,
    meaning: Callable[[int], str],
    besides: Floats | float,
    factor: Floats,
    healthy: Callable[[], Bools],
) -> RuleResult:
    """The result of a rule for sudden changes of a column: a warning, with the latest value and the expected range.

    Args:
        window: The window.
        column: Name of the column; ``log lambda`` for the logarithm of one.
        moved: The last movement, its usual centre and its usual size, each of shape (components,).
        thresholds: ``z`` and ``change`` of `suddenness`.
        judged: Components that are judged, shape (components,).
        quantity: Name of the value.
        meaning: What to say of the component with this index.
        besides: Strength for another reason, shape (components,).
        factor: Of all thresholds, shape (components,).
        healthy: Finds the components for which it is an info, however strong, shape (components,); asked if one is found.
    """
    last, centre, usual = moved
    name = column.removeprefix("log ")
    before = window.before(name)
    with quiet():
        z, strength = suddenness(last - centre, usual, *thresholds)
        ends = [centre + sign * thresholds[0] * usual for sign in (-1.0, 1.0)]
        low, high = (before * np.exp(end) if column.startswith("log ") else before + end for end in ends)
        # What is found for another reason may be within the usual range, which then says nothing.
        inside = (window.now(name) >= low) & (window.now(name) <= high)
        low, high, z = (np.where(inside, np.nan, shown) for shown in (low, high, z))
    strength = np.fmax(strength, besides) / factor
    levels = {"levels": window.now(name)[None], "before": before[None], "level_names": (quantity,)}
    strength = np.where(judged, strength, 0.0)
    severity = np.where(healthy(), 1, 2).astype(np.int8) if (strength >= 1.0).any() else 2
    return rule_result(strength, severity, quantity, window.now(name), meaning, low, high, z, **levels)
