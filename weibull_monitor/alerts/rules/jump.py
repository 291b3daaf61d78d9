"""`scale_shift`, with jumps of the scale that are unlike all that a matrix ever did: most of all of embeddings and heads.

Embeddings, output heads and mixers are like no others, and move in their own way, so that the others of the interval say little.
But what training does to a matrix it does for a while: it goes on in the next interval. What writes to a matrix moves it once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from weibull_monitor.alerts.rules.alone import largest_other, largest_peer
from weibull_monitor.alerts.rules.gradient_sized import gradient_sized
from weibull_monitor.alerts.rules.lately import MIN_ELEMENTS, fell_lately, moved_lately
from weibull_monitor.alerts.rules.movement import MIN_INTERVALS, caution
from weibull_monitor.alerts.rules.result import RuleResult, rule_result, strongest
from weibull_monitor.alerts.rules.scale import scale_shift as shift
from weibull_monitor.alerts.rules.start import back_at_start
from weibull_monitor.alerts.rules.steps import from_nothing
from weibull_monitor.alerts.rules.words import BY_STEPS, SE_LAMBDA, between, by_steps, signed, unstepped
from weibull_monitor.alerts.settings import ScaleShift
from weibull_monitor.alerts.statistics import Bools, Floats, median_along, or_zero, quiet, rates_of
from weibull_monitor.alerts.window import EARLY, JUMP, SCALES, SHAPES, SampleWindow

LEAST: Final = 0.08
"""|Δ ln λ| and |Δ ln RMS| of a jump, at least."""
RISE: Final = (2.5, 6.0)
"""How many times the growth of any other matrix, and its own largest past movement, a jump up is."""
FALL: Final = 5.2
"""How many times its own largest past movement a jump down is."""
RESTED_RISE: Final = (1.15, 5.6)
"""The same for a jump that is as many times what the matrix moved by in the next interval, too …"""
RESTED_ANYWAY: Final = 7.5
"""… and how many times both, where another matrix grew more."""
RESTED_FALL: Final = 3.2
"""As `FALL`, for a jump that is as many times what the matrix moved by in the next interval, too."""
UNLIKE: Final = 2.0
"""How many times the median movement of the model in the interval it is; what all do at once, a rate or a restart has done."""
ALONE: Final = (1.3, 1.5, 3.2)
"""How many times as far as any other matrix of the blocks one grows at least, and as it ever did before or in the next interval;
and the geometric mean of both. Healthy ones that are not W_q or W_k reach 2.82 once in 1,389 runs, and else 2.65."""
LEAST_ALONE: Final = 0.05
"""|Δ ln λ| and |Δ ln RMS| of such a jump, at least."""
OF_SEVERAL: Final = (1.5, 8.0, 2.0, 10.0)
"""How many times as far as it ever did before, as in the next interval, and as the median of all such matrices one grows at least
that was written to together with others; and the geometric mean of the three. Healthy ones reach 7.4 once, and else 6.5."""
STOPPED: Final = (1.2, 12.0)
"""How many times as far as it ever moved before, and as in the next interval, a matrix fell that was written. Healthy ones that
fell further than ever moved by 1/8.4 of that or more in the next interval."""
LEAST_STOPPED: Final = 0.1
"""|Δ ln λ| and |Δ ln RMS| of such a fall beyond weight decay, at least."""
NEXT: Final = 0.5
"""Share of the `work` of the interval that the next one has at least, to tell that a fall has stopped."""


def scale_shift(window: SampleWindow, settings: ScaleShift) -> RuleResult | None:
    """λ moved in a way that neither η, nor weight decay, nor the matrix's own past explains (`scale.scale_shift`), or jumped.

    So does what comes back to its start in one interval (`start.back_at_start`).
    """
    found = shift(window, settings)
    if found is None:
        return None
    back = back_at_start(window, type(settings).sure)
    with quiet():
        said = (found.strength >= settings.sure) | (found.strength >= 1.0) & (found.severity < 2)  # or explained
        lately = np.where(said, 0.0, fell_lately(window))
        grows = from_nothing(window)
        last = np.fmax(np.where(grows, 0.0, _jumps(window, 1)), lately)
        before = np.where(grows, 0.0, np.fmax(_jumps(window, 2), rested(window, settings)))
        jump = np.fmax(last, before)
        if back is None and not (jump >= 1.0).any():
            return found  # nearly always
    jumped = jump >= 1.0
    earlier = before >= last
    of_late = (lately >= 1.0) & ~earlier
    earlier_rms = np.where(earlier, window["rms"][-3], window.before("rms"))

    def meaning(i: int) -> str:
        start, end = (window.steps[-3], window.steps[-2]) if earlier[i] else (window.steps[-2], window.steps[-1])
        was, at = earlier_rms[i], (window.before("rms") if earlier[i] else window.now("rms"))[i]
        furthest = _around(window, "rms") if earlier[i] else window.furthest("log rms")
        if of_late[i]:
            furthest = window.lately("log rms")
        after = (
            f", and has moved by {100 * abs(window.now('rms')[i] / at - 1.0):.2g} % since step {end}"
            if earlier[i]
            else ""
        )
        cause = (
            BY_STEPS
            if by_steps(window, i)
            else ("Training does not jump and then rest: something" if earlier[i] else "Probably something")
            + " wrote to this matrix (a checkpoint that was loaded, a scale that was applied twice, an adapter that was merged). "
            "Check first what did; if it was not you, go back to the last checkpoint."
        )
        return (
            f"RMS {between(was, at, start)}, by {signed(np.log(at / was))}{after}; its largest other change"
            f"{' of late' if of_late[i] else ''}, in an interval of this length, was "
            f"{100 * np.expm1(furthest[i]):.1f} %. {cause}"
        )

    jumps = rule_result(
        np.where(jumped, type(settings).sure * jump, 0.0),
        np.where(unstepped(window), 1, 2).astype(np.int8),
        "RMS",
        window.now("rms"),
        meaning,
    )
    levels = {
        "levels": window.now("lambda")[None],
        "before": np.where(earlier & jumped, window["lambda"][-3], window.before("lambda"))[None],
        "level_names": ("λ",),
    }
    results = [replace(found, strength=np.where(jumped, 0.0, found.strength)), jumps]
    if back is not None:  # it says more than the others
        at_start = back.strength > 0.0
        results = [replace(one, strength=np.where(at_start, 0.0, one.strength)) for one in results]
        results.append(back)
    return strongest(results, **levels)


def _jumps(window: SampleWindow, ago: int) -> Floats:
    """Strength of jumps of λ and the RMS in the last interval, or in the one before it (``ago`` 2), shape (components,).

    λ and the RMS jump together, and the one that jumped less counts. A jump in the interval before has to be far beyond what the
    matrix moved by in the last one, too; so it is enough to look at its latest movements before.
    """
    components = window.components
    nothing = np.zeros(window.now("rms").shape)
    if len(window.steps) < MIN_INTERVALS + 2 + ago:
        return nothing
    if not (moved_both(window, ago) >= LEAST).any():
        return nothing  # nearly always
    rows = [np.log(window[c][-ago - 1 : len(window.steps) + 1 - ago]) for c in SCALES]  # each (2, components)
    # What weight decay takes away in proportion is no jump; LAMB takes away less, so it does not count for rises.
    spent = window["decay"][-ago] - window["decay"][-ago - 1]
    moved = [np.where(now > before, now - before, np.fmin(now - before + spent, 0.0)) for before, now in rows]
    size = np.minimum(*np.abs(moved))
    # `scale` leaves rises of what has no size of steps to the sample after.
    of_gradients = gradient_sized(window) & (moved[1] > 0.0) if ago > 1 else np.zeros(nothing.shape, dtype=bool)
    judged = (
        components.trainable
        & (~components.body | of_gradients)
        & ~components.expert
        & (components.numel >= MIN_ELEMENTS)
        & (moved[0] * moved[1] > 0.0)
    )
    judged &= (size >= LEAST) & (np.asarray(window.steps[-ago]) > EARLY) & window.warm
    if not judged.any():
        return nothing
    noise = SE_LAMBDA * window["k_se"][-ago] / window["k"][-ago]
    units = np.full(nothing.shape, np.inf)
    for column, far in zip(SCALES, moved, strict=True):
        usual = window.furthest(f"log {column}") * _longer(window) if ago == 1 else _around(window, column)
        units = np.minimum(units, np.abs(far) / np.fmax(usual, noise))
    fell, grown = moved[1] < 0.0, np.fmax(moved[1], 0.0)
    among = components.trainable & ~components.expert
    fall, rise = (RESTED_FALL, RESTED_RISE) if ago > 1 else (FALL, RISE)
    strength = np.where(fell, units / fall, 0.0)
    rose = judged & ~fell & (units >= rise[1])
    if rose.any():
        others = largest_other(grown, among, components.owners)
        alone = or_zero(np.minimum(units / rise[1], grown / (rise[0] * others)))
        strength = np.where(rose, np.fmax(alone, units / RESTED_ANYWAY if ago > 1 else 0.0), strength)
    judged &= np.abs(moved[1]) >= UNLIKE * np.abs(median_along(moved[1][..., among]))
    judged &= moved_lately(window, "log lambda", -ago)
    return or_zero(np.where(judged & ~_rate_jumped(window, ago), strength, 0.0))


def rested(window: SampleWindow, settings: ScaleShift) -> Floats:
    """Strength of jumps of matrices of the blocks in the interval before the last one, after which they rest, (components,).

    One that learns may grow more than any other, or more than it ever did, and so more than in the next interval. Both at once is
    as unlikely as far more of one of them. W_q and W_k do it when attention wakes; and an η that rises moves the others, too.
    Where several were written to, as those of one block, none is alone; but they moved unlike the model, before and after, too.
    What training or weight decay takes away it goes on to take away: what fell further than it ever moved and stops at once was
    written, whatever the others do. Gradients may add and take back by any factor at once.

    Args:
        window: The window.
        settings: Thresholds: what `alone` and `own` are above their defaults is asked for here, too.
    """
    components = window.components
    nothing = np.zeros(window.now("rms").shape)
    if len(window.steps) < MIN_INTERVALS + 4 or not (moved_both(window, 2) >= LEAST_ALONE).any():
        return nothing  # nearly always, as below
    body = components.body & components.trainable
    judged = body & ~components.expert & (components.numel >= MIN_ELEMENTS)
    judged = judged & window.warm & (np.asarray(window.steps[-2]) > EARLY) & ~gradient_sized(window)
    rows = [np.log(window[c][-3:]) for c in SCALES]  # each (3, components)
    spent = window["decay"][-2] - window["decay"][-3]
    rose = [row[1] - row[0] for row in rows]
    fell = [np.fmax(-spent - by, 0.0) for by in rose]
    work = window["work"][-2:]
    longer = np.fmax(work[0] / work[1], 1.0)
    noise = SE_LAMBDA * window.before("k_se") / window.before("k")
    after = [np.abs(row[2] - row[1]) for row in rows]
    least_others, times, both = ALONE
    usual = [by * longer for by in after]  # as a drift grows: a rate that comes down is no rest
    grew = judged & ~components.wakes & (np.minimum(*rose) >= LEAST_ALONE)
    grew &= _times(rose, usual, noise) >= times
    stops = _times(fell, [by * longer for by in after], noise)
    lost = judged & (np.minimum(*fell) >= LEAST_STOPPED) & (stops >= STOPPED[1]) & (longer <= 1.0 / NEXT)
    if not (grew | lost).any():
        return nothing
    past = [window.furthest(f"log {column}", end=-2) for column in SCALES]
    strength = np.where(lost, np.minimum(_times(fell, past, noise) / STOPPED[0], stops / STOPPED[1]), 0.0)
    if grew.any():
        strict = max(settings.alone / type(settings).alone, settings.own / type(settings).own) * caution(window)
        others = _times(rose, [largest_peer(window, np.abs(by), False) for by in rose], noise)
        ever, next_one = _times(rose, past, noise), _times(rose, usual, noise)
        as_all = _times(rose, [median_along(np.abs(by[..., body])) for by in rose], noise)
        units = np.minimum(ever, next_one)
        others = np.minimum(others, as_all)  # what most matrices do, too, one does not do alone
        one = np.where((others >= least_others) & (units >= times), np.sqrt(others * units) / both, 0.0)
        least_past, least_next, least_all, mean = OF_SEVERAL
        many = (ever >= least_past) & (next_one >= least_next) & (as_all >= least_all)
        several = np.where(many, np.cbrt(ever * next_one * as_all) / mean, 0.0)
        strength = np.where(grew, np.fmax(one, several) / strict, strength)
    return or_zero(strength)


def _times(moved: Sequence[Floats], beside: Sequence[Floats], noise: Floats) -> Floats:
    """How many times as far as others, or as ever, a matrix moved, in that of `SCALES` in which it is less, (components,)."""
    smaller: Floats = np.minimum(*(by / np.fmax(other, noise) for by, other in zip(moved, beside, strict=True)))
    return smaller


def moved_both(window: SampleWindow, ago: int) -> Floats:
    """The smaller of |Δ ln λ| and |Δ ln RMS| in an interval, (components,): as they were, and with what weight decay explains."""
    raw = window["moved"][-ago][..., 0, :, :]  # (columns, components)
    smaller: Floats = np.minimum(*(raw[..., SHAPES.index(f"log {column}"), :] for column in SCALES))
    return smaller


def _around(window: SampleWindow, column: str) -> Floats:
    """The largest movement of a column of late, before the last interval but one, and in the last one, shape (components,).

    Each is brought to the length of the last but one, as in `SampleWindow.furthest`.
    """
    next_one = np.abs(window.log_change(column))
    next_one = next_one * np.sqrt(np.fmax(window.before("work") / window.now("work"), 1.0))
    most: Floats = np.fmax(window.lately(f"log {column}", -2), next_one)
    return most


def _longer(window: SampleWindow) -> Floats:
    """The root of how much longer the last interval is than all before, or 1, (components,): a drift grows in proportion."""
    work = window["work"]
    longer: Floats = np.sqrt(np.fmax(work[-1] / np.fmax.reduce(work[1:-1], axis=0), 1.0))
    return longer


def _rate_jumped(window: SampleWindow, ago: int) -> Bools:
    """Whether η of the interval was above all before it by `JUMP`, (components,)."""
    rates = rates_of(window["eta_sum"], window.steps)
    found: Bools = (rates[-ago] > JUMP * np.fmax.reduce(rates[:-ago], axis=0)) | (window.jumped if ago == 1 else False)
    return found
