"""The shape of the probability plot, of a kind and of a matrix: `transmission_exit`, `body_break`."""

from __future__ import annotations

from typing import Final

import numpy as np

from weibull_monitor.alerts.component_arrays import LEAST_PART
from weibull_monitor.alerts.rules.alone import moved_together, moved_together_outside, part_lost
from weibull_monitor.alerts.rules.decay import IN_GRADIENT, fades, grows_on
from weibull_monitor.alerts.rules.excuse import STRAIGHTENS, comparable, excused, group_excused, mostly, reason
from weibull_monitor.alerts.rules.gradient_sized import OF_STEPS, made_of_steps
from weibull_monitor.alerts.rules.groups import GroupResults, around, group_error, median_k, median_start, warm
from weibull_monitor.alerts.rules.lately import k_lately, r2_lately
from weibull_monitor.alerts.rules.movement import (
    AS_OTHERS,
    MIN_INTERVALS,
    as_ever,
    caution,
    suddenness,
    surely,
    unlike_both,
    unlike_others,
    usual_movement,
)
from weibull_monitor.alerts.rules.result import RuleResult, rule_result
from weibull_monitor.alerts.rules.steps import began_at_nothing, leaps, most_k_of_steps, one_way, straightens
from weibull_monitor.alerts.rules.words import (
    LOST_CASE,
    ONE_WAY_CASE,
    R2_NOISE,
    between,
    fit_got_worse,
    mixed_case,
    unstepped,
)
from weibull_monitor.alerts.settings import BodyBreak, TransmissionExit
from weibull_monitor.alerts.statistics import or_zero, quiet
from weibull_monitor.alerts.window import EARLY, SampleWindow
from weibull_monitor.analysis.published import FEED_FORWARD, published_medians
from weibull_monitor.measure.weibull import anchors

LOOKBACK: Final = 8
"""Past intervals that `body_break` looks at."""
OUTSIDE: Final = 4.0
"""How many times its largest past movement k of what is in no block has to move …"""
OUTSIDE_CHANGE: Final = 0.1
"""… and by how much; in the first steps, it moves by far more."""
MIXER: Final = 1.25
"""Factor of both for what is in a block, such as a mixer, which learns with it."""
ONE_SIZE: Final = 1.02
"""How many times k of a normal distribution k is from which on values are more alike than those."""
GREW: Final = 0.05
"""Growth of ln RMS from which on steps may have made values more alike."""
TWICE: Final = 2.0
"""How many times as much as in `one_way` k of what is in no block rises in steps of one size, at most."""
SAME_R2: Final = 0.002
"""Change of R² that is not worth a word where R² itself is the sign."""
LOWEST: Final = min(published_medians(("attn_o", *FEED_FORWARD)))
"""Lowest per-model median over blocks of k of attention-output or feed-forward matrices, 20 models: 1.0409, OLMo-1 7B."""


def transmission_exit(window: SampleWindow, settings: TransmissionExit) -> RuleResult:
    """The median k of a kind of the Transmission class left the band of healthy models."""
    results, starts = GroupResults(window.now("k").shape), np.full(len(window.components), np.nan)
    of_steps, faded = (np.zeros(results.value.shape, dtype=bool) for _ in range(2))
    for group in window.components.groups:
        if group.component_class != "transmission" or not warm(window, group).any():
            continue
        now, error = median_k(window, group), group_error(window.now("k_se"), group)
        starts[group.members] = start = median_start(window, group)
        # The start is always inside: PyTorch's default initialisation is at 1.375, a fine-tuned model starts where it was left.
        low, high = around(settings.low, start, settings.high)
        with quiet():
            beyond = np.maximum(low - now, now - high) / (settings.z * error)
            # The published models are decoders, and updates that are like signs lead beyond a uniform distribution: only what is
            # far below all of them is a warning.
            far = np.minimum(low, LOWEST) - settings.margin - now > settings.z * error
            strength = np.where(warm(window, group) & (beyond > 1.0), beyond, 0.0)
        if not (strength > 0.0).any():
            continue  # nearly always
        of_steps[..., group.members] = made = made_of_steps(window, group)
        faded[..., group.members] = fading = mostly(fades(window), group)
        far &= ~group_excused(window, group) & ~fading & comparable(window)
        results.set(group, far & ~made, strength, now, settings.low, settings.high)
    return results.rule_result(
        "median k",
        lambda i: (
            f"The median k of this kind {between(starts[i], results.value[i], 0)}, outside the band of feed-forward "
            "and attention-output matrices of trained models"
            + (
                " and far below all published ones. Check first R²: a low one means a damaged matrix. Then check the "
                "learning rate and the weight decay, and lower the rate if they are as you set them."
                if results.severity[i] > 1
                else f". {because}"
                if (because := OF_STEPS if of_steps[i] else reason(window, i) or (IN_GRADIENT if faded[i] else None))
                else ". Small and young models can be there; nothing has to be done."
            )
        ),
    )


def body_break(window: SampleWindow, settings: BodyBreak) -> RuleResult:
    """The probability plot is no longer a line, or bent suddenly: the matrix holds two populations of weights.

    R² below ``r2``; or a fall of R² by ``fall``, or a change of k by ``change``, that is also ``z`` times the usual size. A
    sudden change of k of W_q or W_k is left to `selection_shift`.
    """
    components, r2, start = window.components, window.now("r2"), window.baseline["r2"]  # arrays: (components,)
    strength, z = np.zeros(len(components)), np.full(len(components), np.nan)
    by_k, outside = np.zeros(len(components), dtype=bool), np.zeros(len(components))
    mixed = lost = mixed_outside = outside
    evener = by_k
    lone = ~components.body & ~components.expert & components.trainable
    with quiet():
        if len(window.steps) >= MIN_INTERVALS + 2:
            # A fall of R²: only a fall counts, so the sign stays.
            move = usual_movement(window, "r2", LOOKBACK)
            usual = np.sqrt(move.size**2 + R2_NOISE**2 / components.numel)
            z = (move.last - move.centre) / as_ever(usual, move.own, settings.z * type(settings).sure)
            strength = np.minimum(-z / settings.z, (move.centre - move.last) / settings.fall)
            noise, limits = R2_NOISE / np.sqrt(components.numel), (settings.both_r2, settings.fall)
            alone = unlike_both(window, np.minimum(move.last, 0.0), move, noise, limits, type(settings).sure, None)
            alone = np.fmax(alone, surely(r2_lately(window), type(settings).sure))
            strength = np.where(window.jumped, strength, np.fmax(strength, alone))
            # A change of k in either direction, if it is the stronger sign.
            move = usual_movement(window, "k", LOOKBACK)
            error = window.now("k_se")
            usual = np.sqrt(move.size**2 + error**2 + (AS_OTHERS * move.others) ** 2)
            usual = as_ever(usual, move.own, settings.z * type(settings).sure)
            k_z, k_strength = suddenness(move.last - move.centre, usual, settings.z, settings.change)
            # A higher η moves each matrix in its own way.
            unlike = unlike_others(window, move, error, settings)
            k_strength = np.fmax(k_strength, np.where(window.jumped, 0.0, unlike))
            limits = settings.both, settings.change
            both = unlike_both(window, move.last, move, error, limits, type(settings).sure)
            mixed, lost = moved_together(window), part_lost(window)
            late = k_lately(window)
            both = np.fmax(both, surely(np.fmax(np.fmax(mixed, lost), late), type(settings).sure))
            k_strength = np.fmax(k_strength, np.where(window.jumped, 0.0, both))
            # Embeddings and heads are like no others, so mostly their past tells.
            size = np.abs(move.last)
            further = np.fmax(size / (OUTSIDE * np.hypot(move.own, error)), late)
            further = np.minimum(further, size / OUTSIDE_CHANGE)
            further = np.where(components.blocks < 0, further, further / MIXER)
            # Steps of one size lead to values of one size; what writes to a matrix hardly ever makes k higher than at the start.
            # And then the size stays, while steps make it grow.
            as_far = window.log_change("k") <= TWICE * most_k_of_steps(window)
            grew = window.log_change("rms") >= GREW
            evener = grew & as_far & (move.last > 0.0) & (window.now("k") > ONE_SIZE * anchors()["normal"].k)
            past = (window.steps[-1] > EARLY) & ~one_way(window) & ~window.jumped & ~evener
            mixed_outside = moved_together_outside(window)
            further = np.fmax(np.where(lone, further, 0.0), mixed_outside)
            outside = or_zero(np.where(past & (further >= 1.0), type(settings).sure * further, 0.0))
            by_k = (~components.selection & window.warm & (k_strength > or_zero(strength))) | (outside > 0.0)
            strength, z = np.where(by_k, k_strength, strength) / caution(window), np.where(by_k, k_z, z)
        # R² below its limit: strength 1 at the limit, whatever was usual.
        below = (1.0 - r2) / (1.0 - settings.r2)
        by_k &= ~(below > strength) | (outside > 0.0)
        # Of a stored matrix the parts are judged: each is a population of its own.
        judged = (components.numel >= LEAST_PART) & ~components.whole
        whole = np.where(components.body, np.fmax(below, strength), outside / caution(window))
        found = np.where(judged, whole, 0.0)
        if not (found >= 1.0).any():
            return rule_result(found, 1, "R²", r2, "")  # nearly always
        # What began at zero comes to the shape of the others by and by, which is not a break.
        normal = anchors()["normal"].k
        nearer = np.abs(window.now("k") - normal) <= np.abs(window.before("k") - normal)
        young = caution(window) > 1.0
        sudden = or_zero(strength) >= 1.0
        comes = ~np.isfinite(start) & (nearer | young) & sudden
        if comes.any():
            sudden &= ~comes | leaps(window)
        # Nor is what learning brings nearer to the shape of a normal distribution.
        better = by_k & (sudden | (outside > 0.0))
        if better.any():
            better &= straightens(window)
        # Where two sizes are mixed, k falls: what grows to values of one size is one population.
        sudden &= by_k | ~evener
        sudden |= outside > 0.0
        sudden &= ~better
        z = np.where(np.abs(z) < settings.z, np.nan, z)  # found for another reason
        straight = one_way(window) | grows_on(window)
        # A norm that divides a matrix changes its scale, and hardly its shape.
        straight_before = window["r2"][-2:][0] >= settings.r2
        bent = unstepped(window) & (r2 < settings.slowly) & straight_before
        harmless = excused(window) & ~bent
        # Steps that an optimizer makes long by itself lead slowly to the shape of such steps, and it stays.
        slow = (r2 < settings.slowly) & (start >= settings.r2) & ~harmless & (window.withheld.own_rate == 0)
        slow &= ~began_at_nothing(window)
        sudden &= ~straight & ~harmless & ~(by_k & window.jumped)  # `scale_shift` tells of a jump of η

    def moved_by(i: int, column: str) -> str:
        before, now, since = window.before(column)[i], window.now(column)[i], window.steps[-2]
        if column == "r2" and abs(now - before) < SAME_R2:
            return f"is {now:.4g}, about as at step {since}"
        return between(before, now, since)

    return rule_result(
        strength=found,
        # What was not one population at the baseline, such as zeros, has not broken. One that bends slowly is not broken, either:
        # steps like signs do that. A sudden change is a warning, unless steps that go one way explain it.
        severity=np.where(sudden | slow, 2, 1).astype(np.int8),
        quantity=lambda i: "k" if by_k[i] else "R²",
        value=np.where(by_k, window.now("k"), r2),
        low=np.where(by_k | (r2 >= settings.r2), np.nan, settings.r2),  # a sudden fall may end within the range
        high=np.where(by_k | (r2 >= settings.r2), np.nan, 1.0),
        z=z,
        meaning=lambda i: (
            (
                f"{'k' if by_k[i] else 'R² of its fit'} {moved_by(i, 'k' if by_k[i] else 'r2')}. "
                if len(window.steps) > 1 and np.isfinite(window.before("k")[i])
                else ""
            )
            + (
                ONE_WAY_CASE
                if straight[i]
                else because
                if (because := None if bent[i] else reason(window, i))
                else STRAIGHTENS
                if better[i]
                else LOST_CASE
                if by_k[i] and lost[i] >= 1.0 and components.body[i]
                else mixed_case(window, i)
                if by_k[i] and max(mixed[i], mixed_outside[i]) >= 1.0
                else "Its fit is as good as before, so all of its values changed alike, as if it was initialised or loaded anew. "
                "Check first whether something wrote to it; if so, and if you did not mean it, go back to the last checkpoint."
                if by_k[i] and not fit_got_worse(window, i)
                else "The weights no longer form one population: a part of them (a head, some rows, a piece of a checkpoint) has "
                'a different size from the rest. Check first the matrix by row and by head (`weight.std(1)`, resolution="head"); '
                "if something wrote to it, go back to the last checkpoint."
            )
        ),
    )
