"""What the steps of an optimizer make of a matrix: in one direction, from nothing, and back again."""

from __future__ import annotations

from typing import Final

import numpy as np

from weibull_monitor.alerts.rules.movement import MIN_INTERVALS, caution
from weibull_monitor.alerts.rules.words import SAME_ERRORS
from weibull_monitor.alerts.statistics import Bools, Floats, median_along, or_zero
from weibull_monitor.alerts.window import EARLY, SampleWindow
from weibull_monitor.measure.weibull import anchors

SUSTAINED_ONE_WAY: Final = 1.5
"""Largest RMS of updates that go one way …"""
ONE_WAY_AT_LEAST: Final = 3.0
"""How many times as much as in random directions RMS² grows, at least."""
ALIKE: Final = 1.3
"""k from which on values are nearly of one size, as after steps that went one way; 1.2054 is that of a normal distribution."""
FIRST_K: Final = (0.2, 1.25, 0.4)
"""A bound of ln k against ln RMS, constant and then rising from the third number on.

Normal values plus ±d have (0.07, 0.35), (0.58, 0.80), (1.04, 1.15) and (1.58, 1.63) for d = 1, 2, 3, 5 standard deviations.
"""
STEPPED: Final = ((0.0, 0.35, 0.80, 1.15, 1.63), (0.0, 0.07, 0.58, 1.04, 1.58))
"""ln RMS and ln k of such values, without a margin."""
ERRORS: Final = 2.0
"""Standard errors of ln k that are taken for chance."""
GROWN: Final = 1.2
"""How many times as large the RMS gets where the size of steps is not known."""
K_AS_RMS: Final = 2.0
"""… and how many times as much as ln RMS ln k rises then: about as much, since the mean of |w| grows and its spread does not."""
K_WITH_RMS: Final = 0.15
"""How much of a rise of ln RMS ln k rises by, at least, where the rise explains that λ grew."""
STEP: Final = 0.3
"""An initialisation below this share of a step at the highest η is nothing beside it."""
NEAR: Final = 0.01
"""The same share of the median RMS of all, for optimizers whose steps have no known size."""
GROWING: Final = 9
"""Samples over which a matrix that began at nothing has to keep its size …"""
SETTLED_SHARE: Final = 0.5
"""… to this share, to have settled."""
LEAP: Final = 2.0
"""How many times its largest past change of the RMS, for as much work, is too much for a sum of steps; healthy ones reach 1.4."""
OUTGROWN: Final = 0.5
"""Share of the attention and feed-forward matrices that have outgrown their start, where a model began at nothing."""
AS_GROWN: Final = 1.7
"""How many times as far as its growth explains k comes nearer to that of a normal distribution, at most; 1.4 in healthy runs."""
KEPT: Final = 0.9
"""Share of λ that is kept by values which come to another shape by and by."""
NORMAL_K: Final = 1.18
"""k of a normal distribution, less what training makes of it by and by."""


def one_way(window: SampleWindow) -> Bools:
    """Matrices whose steps of the last interval, all in one direction, explain that k rose; shape (components,).

    Where a gradient keeps its sign, an optimizer that normalises moves each value by η in the same direction at every step. The
    values become ±Σ η, all of one size: RMS² grows by up to (Σ η)², k rises far above that of a normal distribution, and R²
    falls meanwhile. In n steps of random directions RMS² grows by (Σ η)²/n. What is above the geometric mean of both,
    (Σ η)²/√n, or three times the latter, counts as one way, if k rises about as the RMS does. So does a growth by a fifth where
    the size of steps is not known. What writes to a matrix may make k rise, too, but the RMS hardly grows by just so much then;
    and where two sizes are mixed, k falls.
    """
    return window.once("one way", lambda: _one_way(window))


def _one_way(window: SampleWindow) -> Bools:
    if len(window.steps) < 2:
        return np.zeros(window.now("k").shape, dtype=bool)
    rms, before = window.now("rms"), window.before("rms")  # all arrays (components,)
    grew, too_far = _grew_one_way(window, -1)
    unknown = np.isnan(window.now("update_max"))
    by_k, by_rms = window.log_change("k"), window.log_change("rms")
    enough = (grew | unknown & (rms >= GROWN * before)) & ~too_far
    fits = (by_k <= most_k_of_steps(window)) | _one_way_before(window)
    if unknown.any():
        since_start = unknown & _one_way_since_start(window)
        fits |= since_start
        # In a short interval a matrix grows by less, but k rises no further than ln RMS does.
        enough |= since_start & (by_k <= by_rms) & (rms >= GROWN * window.baseline["rms"])
    rose = (window.now("k") - window.before("k") > window.now("k_se")) & fits
    found: Bools = rose & enough
    return found


def most_k_of_steps(window: SampleWindow) -> Floats:
    """How far ln k of a matrix can rise in the last interval where all steps have one size, shape (components,).

    Equal steps in one direction make of normal values what `FIRST_K` says; what has one size already gets it more quickly.
    """
    by_rms = window.log_change("rms")
    first = FIRST_K[0] + FIRST_K[1] * np.fmax(by_rms - FIRST_K[2], 0.0)
    return np.where(window.before("k") < ALIKE, first, K_AS_RMS * by_rms)


def _path(window: SampleWindow, end: int) -> Floats:
    """Σ η of the interval to sample ``end``, -1 or before, (components,)."""
    return window.path if end == -1 else window["eta_sum"][end] - or_zero(window["eta_sum"][end - 1])


def _reach(window: SampleWindow, end: int = -1) -> tuple[Floats, Floats]:
    """The least that steps in one direction add to RMS² in the interval to sample ``end``, and the most to the RMS."""
    path, bound = _path(window, end), window.now("update_max")
    steps = np.fmax(window.steps[end] - window.steps[end - 1], 1)
    full = path * np.fmin(bound, 1.0)  # for what a step is below η in any case, as of Muon
    return full**2 * np.fmin(1.0 / np.sqrt(steps), ONE_WAY_AT_LEAST / steps), path * np.fmin(bound, SUSTAINED_ONE_WAY)


def _grew_one_way(window: SampleWindow, end: int) -> tuple[Bools, Bools]:
    """Whether a matrix grew in the interval to sample ``end`` as in steps that go one way, and whether too far for that."""
    least, most = _reach(window, end)
    rms, before = window["rms"][end], window["rms"][end - 1]  # (components,)
    kept = before * np.exp(-or_zero(window.now("weight_decay")) * _path(window, end))
    return rms**2 - kept**2 >= least, rms - before > most


def _one_way_before(window: SampleWindow) -> Bools:
    """Whether the interval before the last one went one way, too, and k has risen as it does over both, shape (components,)."""
    if len(window.steps) < 3:
        return np.zeros(window.now("k").shape, dtype=bool)
    grew, too_far = _grew_one_way(window, -2)
    by_k, by_rms = (np.log(window.now(column) / window[column][-3]) for column in ("k", "rms"))
    error = np.hypot(window.now("k_se") / window.now("k"), window["k_se"][-3] / window["k"][-3])
    found: Bools = grew & ~too_far & (by_k - ERRORS * error <= np.interp(by_rms, *STEPPED))
    return found


def _one_way_since_start(window: SampleWindow) -> Bools:
    """Whether k has risen as it does in steps of one size over all the growth since the start, shape (components,)."""
    by_k, by_rms = (np.log(window.now(column) / window.baseline[column]) for column in ("k", "rms"))
    found: Bools = by_k <= np.interp(by_rms, *STEPPED)
    return found


def from_nothing(window: SampleWindow) -> Bools:
    """Matrices that began at zero, or so near to it that a step replaces all values, and still grow; shape (components,).

    Such a matrix takes the shape that its steps have: after the first of Adam, all values have one size. It is so in a young run,
    and as long as the past that a movement is compared with is that of another size: where the RMS has doubled over the last
    `GROWING` samples, or is still below a step, in itself or in a part of it.
    """
    return window.once("from nothing", lambda: _from_nothing(window))[1]


def began_at_nothing(window: SampleWindow) -> Bools:
    """Matrices that began at zero, or next to it, and consist of steps, whether they still grow or not, (components,)."""
    return window.once("from nothing", lambda: _from_nothing(window))[0]


def _from_nothing(window: SampleWindow) -> tuple[Bools, Bools]:
    """`began_at_nothing` and `from_nothing`."""
    start, rms = window.baseline["rms"], window["rms"][-GROWING:]  # (components,), (samples, components)
    bound = window.now("update_max")
    unknown = np.isnan(bound)
    rate = np.fmax(window.peak, window.now("eta"))
    step, near = _next_to_nothing(window)
    # Steps as large as the gradient, or as the weights, have no known size. But where most matrices are several times as large
    # as they began, and were so before the last interval, a model consists of its steps.
    before = np.fmin.reduce(rms[-2:], axis=0)
    outgrown = unknown & (start < STEP * before)
    body = window.components.body & window.components.trainable
    many = outgrown[..., body].mean(axis=-1, keepdims=True) >= OUTGROWN if body.any() else np.zeros(1, dtype=bool)
    outgrown &= many
    # In a warm-up the highest η is still to come. What is far larger than its start, and no larger than all steps so far can have
    # made it, consists of them.
    by_steps = ~unknown & (caution(window) > 1.0) & (start < STEP * before)
    by_steps &= rms[-1] <= window.now("eta_sum") * np.fmin(bound, 1.0)
    nothing, size = np.where(outgrown | by_steps, STEP * before, near), np.where(outgrown, before, rms[-1])
    begun = np.isfinite(start) & ~(start >= np.where(unknown & ~(rate > 0.0) | by_steps, nothing, step))
    begun = np.broadcast_to(begun, rms.shape[1:])
    if not begun.any():
        return begun, begun  # nearly always
    grows = ~(np.fmin.reduce(rms, axis=0) >= SETTLED_SHARE * size) | (np.fmin(rms[-1], window.now("lambda")) < near)
    found: Bools = begun & (caution(window) > 1.0) | begun & grows & ~(start >= nothing)
    # Where steps have no known size, a high η says nothing about it: an ordinary start lies below it, too.
    began = begun & ~(start >= np.where(unknown, np.fmax(nothing, STEP * before), nothing))
    # A fused matrix of which one part still grows holds values of several sizes.
    owners = window.components.owners
    for owner in np.unique(owners[np.nonzero(found)[-1]]):
        parts = owners == owner
        if parts.sum() > 1:
            found[..., parts] = begun[..., parts] & found[..., parts].any(axis=-1, keepdims=True)
    return began, found & ~leaps(window) if found.any() else found


def _next_to_nothing(window: SampleWindow) -> tuple[Floats, Floats]:
    """The RMS below which a matrix is nothing beside a step; and the same, where a step has no known size beside the others.

    Both of shape (components,).
    """
    bound = window.now("update_max")
    step = STEP * np.fmax(window.peak, window.now("eta")) * np.fmin(bound, 1.0)
    usual = median_along(np.where(window.components.trainable, window.baseline["rms"], np.nan))
    return step, np.where(np.isnan(bound), NEAR * usual, step)


def leaps(window: SampleWindow) -> Bools:
    """Matrices whose RMS changed in the last interval by `LEAP` times as much as in any before, (components,).

    Those without a fit before may have had no gradient, what is still next to nothing may grow by any factor, and the first
    intervals say nothing of later ones, nor do those in which no step was taken.
    """
    return window.once("leaps", lambda: _leaps(window))


def _leaps(window: SampleWindow) -> Bools:
    if len(window.steps) < MIN_INTERVALS + 2:
        return np.zeros(window.now("rms").shape, dtype=bool)
    change = np.diff(window["rms"], axis=0)  # (intervals, components)
    spent = window["eta_sum"]
    work = np.where(spent[1:] == spent[:-1], np.nan, window["work"][1:])
    known = (work[:-1] == work[:-1]).sum(axis=0) >= MIN_INTERVALS
    past = np.fmax.reduce(np.abs(change[:-1]) * np.fmax(work[-1] / work[:-1], 1.0), axis=0)
    judged = known & np.isfinite(window.before("k")) & (np.asarray(window.steps[-1]) > EARLY)
    small = np.fmin(window.now("rms"), window.now("lambda")) < _next_to_nothing(window)[1]
    found: Bools = judged & ~(small & (change[-1] > 0.0)) & (np.abs(change[-1]) > LEAP * past)
    return found


def rises_alike(window: SampleWindow) -> Bools:
    """Matrices whose ln k rose by `K_WITH_RMS` of what ln RMS did, or more, as values that come to one size, (components,)."""
    rise = window.log_change("k")
    found: Bools = rise >= K_WITH_RMS * window.log_change("rms")
    return found


def straightens(window: SampleWindow) -> Bools:
    """Matrices whose k comes nearer to that of a normal distribution on a line as good as before, by learning, (components,).

    Learning adds normal values to some that began otherwise, such as uniform ones: the excess kurtosis of the sum falls as RMS⁻⁴,
    and k goes with it about as far. Or values that had come to one size leave it, and keep their size, by and by. What is drawn
    anew is at once where a normal distribution is, whether it grew or not.
    """
    return window.once("straightens", lambda: _straightens(window))


def _straightens(window: SampleWindow) -> Bools:
    normal, error = anchors()["normal"].k, window.now("k_se")
    beyond, was = window.now("k") - normal, window.before("k") - normal  # all arrays (components,)
    apart, before = np.abs(beyond), np.abs(was)
    kept = window.before("rms") * np.exp(window.before("decay") - window.now("decay"))
    by_growth = before * -np.expm1(-4.0 * np.log(window.now("rms") / kept))
    on_its_way = (window.now("lambda") >= KEPT * window.before("lambda")) & (apart > SAME_ERRORS * error)
    nearer = (apart <= before) & ((beyond * was > 0.0) | (apart <= SAME_ERRORS * error))
    found: Bools = nearer & ((before - apart <= AS_GROWN * by_growth) | on_its_way)
    return found & (window.now("r2") >= window.before("r2"))


def unwinds(window: SampleWindow) -> Bools:
    """Matrices whose values had come to one size, and whose steps of the last interval take that back, shape (components,).

    RMS² falls by at least as much as `one_way` asks for as a growth, within what the steps can do, and k from above `ALIKE`
    towards that of a normal distribution. On the way some values have gone back and others have not, so R² falls.
    """
    return window.once("unwinds", lambda: _unwinds(window))


def _unwinds(window: SampleWindow) -> Bools:
    if len(window.steps) < 2:
        return np.zeros(window.now("k").shape, dtype=bool)
    rms, before = window.now("rms"), window.before("rms")  # all arrays (components,)
    least, most = _reach(window)
    back = (window.before("k") >= ALIKE) & (window.now("k") < window.before("k")) & (window.now("k") >= NORMAL_K)
    found: Bools = back & (before**2 - rms**2 >= least) & (before - rms <= most)
    return found
