"""λ and the RMS against what the optimizer can do, and against their own past: `impossible_change`, `scale_shift`."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Final

import numpy as np

from weibull_monitor.alerts.rules.alone import TRADES, alone, at_once, fall_alone
from weibull_monitor.alerts.rules.decay import (
    GATHERING,
    GIVEN_BACK,
    GOES_ON,
    IN_GRADIENT,
    SCALED,
    carried_on,
    explained_by_decay,
    falls_in_shape,
    gathers,
    given_back,
    goes_on_falling,
    in_gradient,
    lost_most,
    scaled_to_zero,
)
from weibull_monitor.alerts.rules.excuse import FROM_NOTHING, UNWINDS
from weibull_monitor.alerts.rules.gradient_sized import GRADIENT_GREW, may_grow
from weibull_monitor.alerts.rules.movement import (
    AS_OTHERS,
    LEAST_SPEED,
    MIN_INTERVALS,
    caution,
    median_if_many,
    shift_result,
    suddenness,
    unlike_both,
    usual_movement,
)
from weibull_monitor.alerts.rules.result import RuleResult, graded, rule_result
from weibull_monitor.alerts.rules.steps import ALIKE, SUSTAINED_ONE_WAY, from_nothing, one_way, rises_alike, unwinds
from weibull_monitor.alerts.rules.trained import goes_on
from weibull_monitor.alerts.rules.words import (
    ONE_WAY_CASE,
    SE_LAMBDA,
    apart,
    between,
    cause_of,
    cause_of_shift,
    decimal,
    signed,
    unstepped,
)
from weibull_monitor.alerts.settings import ImpossibleChange, ScaleShift
from weibull_monitor.alerts.statistics import (
    Bools,
    Floats,
    median_along,
    median_of,
    or_zero,
    quiet,
    resolution,
    spread_of,
)
from weibull_monitor.alerts.window import SampleWindow

BODY_REACH: Final = 0.1
"""Change of the RMS, as a share of Σ η, that counts as usual for a matrix of a block with few past intervals."""
OTHER_REACH: Final = 0.2
"""The same for embeddings and heads, whose steps all go the same way at first: six times it is more than Σ η."""
UNLIKE_BLOCKS: Final = 2.0
"""Factor of the thresholds for what is in no block, or of no known kind: no others show how such a matrix moves."""
COMMON: Final = 0.5
"""Share of ``z`` that is enough if half of all matrices fall."""
AFTER_JUMP: Final = 1 / 3
"""Share of ``z`` that is enough if η has jumped beyond twice everything before."""
AFTER_OTHERS: Final = 7.0
"""How many times its recent movements a matrix has to move after a jump of η, to be found for that alone."""
DECAY_JUMP: Final = 3.0
"""A λ_wd this many times the usual one has jumped …"""
UNDER_DECAY: Final = 1 / 4
"""… and this share of ``z`` is enough, as what it does is not chance."""
MOST_OF_ALL: Final = 1.4
"""An interval with this many times the Σ η of all steps before it may well take away what these have added."""
SMALL: Final = 1.5
"""How much more a rise has to be of one matrix alone where it is small."""
FASTER_ALONE: Final = 1.2
"""How many times as fast as ever for its η a matrix is that grows alone."""
A_LITTLE_FASTER: Final = 1.08
"""A model of which blocks and the rest are both this many times as fast as ever …"""
ON_AVERAGE: Final = 1.04
"""… may be ``faster`` times this on average, by the geometric mean."""
SMALLER: Final = 0.6
"""Share of the median RMS of the attention and feed-forward matrices below which a matrix is small."""
FULL_STEPS: Final = 1.0
"""Speed of steps with an RMS of 1 in random directions: a model that begins to learn may come to it."""
UNKNOWN_BOUND: Final = 30.0
"""Largest RMS of updates, in units of η, where no bound of the optimizer is known …"""
UNKNOWN_SHARE: Final = 0.1
"""… beside this share of the RMS, as averages of weights move without η."""
FEW_VALUES: Final = 256
"""Gradients of so few values may all grow and keep their signs, so only the bound is beyond them."""
SIGN: Final = 1.0
"""Bound of updates that all have one size."""


def impossible_change(window: SampleWindow, settings: ImpossibleChange) -> RuleResult | None:
    """The RMS moved further since the previous sample than the optimizer can have moved it.

    By the triangle inequality |ΔRMS| ≤ RMS(Δw) ≤ Σ_t η_t(|u|_max + λ_wd·RMS), with |u|_max of
    `weibull_monitor.scaling.optimizers`. Beyond that is an error. Gradients reach Adam's bound only while they keep growing; with
    gradients of a steady size the mean of u² is at most about 1 (Σ g²/v telescopes: A. Défossez et al., "A Simple Convergence
    Proof of Adam and Adagrad", 2020, lemma 5.2). Beyond ``sustained`` times that, and within the bound, is a warning. Rounding
    to bf16 or fp16 can at most double a step. The RMS is computed from bins: a movement within a bin does not count. Where no
    bound is known, as of SGD, a warning is what is beyond `UNKNOWN_BOUND` times Σ η.
    """
    if len(window.steps) < 2:
        return None
    rms, before = window.now("rms"), window.before("rms")  # all arrays: (components,)
    precision = window.components.precision
    with quiet():
        path = window.path
        # Values that have no fit may all lie in one bin, and then their errors do not average out.
        apart_in_bins = np.where(np.isfinite(window.now("k") + window.before("k")), window.components.numel, 1.0)
        # The larger λ_wd and RMS of both ends bound those of every step between.
        decay = or_zero(np.fmax(window.now("weight_decay"), window.before("weight_decay")))
        rest = (path * decay + precision + resolution(apart_in_bins)) * np.fmax(rms, before)
        bound = largest_of(window, "update_max")
        rounding = np.where(window.components.coarse, 2.0, 1.0)
        certain = path * np.fmin(bound, largest_of(window, "element_max")) * rounding + rest
        # Gradients that keep their sign while they grow lead a little further, and further still where they have done so.
        sustained = np.where(one_way(window), np.fmax(settings.sustained, SUSTAINED_ONE_WAY), settings.sustained)
        sustained = np.fmax(sustained, carried_on(window))
        sustained = np.where(window.components.numel < FEW_VALUES, np.inf, sustained)
        # No step of any optimizer in use is as long, while gradients have a steady size; those of LAMB grow with the weights.
        unknown = path * UNKNOWN_BOUND * np.fmax(1.0, before) + UNKNOWN_SHARE * before
        # Some bounds grow with the weights, and so do steps of a usual size then.
        sustained = np.fmin(bound, sustained * np.fmax(1.0, np.fmax(rms, before)))
        likely = np.where(np.isnan(bound), unknown, path * sustained) * rounding + rest
        likely = np.fmin(likely, certain)
        moved = np.abs(rms - before)
        strength = moved / likely
        impossible = moved > certain
        limit = np.where(impossible, certain, likely)
    return rule_result(
        strength=np.where(window.components.trainable, strength, 0.0),
        severity=graded(moved, (likely, likely, certain)),
        quantity="RMS",
        value=rms,
        low=np.where(before > limit, before - limit, np.nan),
        high=before + limit,
        meaning=lambda i: (
            f"The RMS went from {' to '.join(apart(before[i], rms[i]))} since step {window.steps[-2]}; "
            + ("the optimizer" if impossible[i] else "the optimizer, with gradients of a steady size,")
            + f" cannot have moved it by more than {decimal(limit[i])} in these steps at this learning rate. "
            + cause_of(window, i, strength >= 1.0)
        ),
    )


def largest_of(window: SampleWindow, column: str) -> Floats:
    """The largest bound in the last interval, (components,): that of its ends; NaN if there is none.

    A bound that is missing at the start, with an η, did not hold then. Before the first step there is neither; a bound that
    grows with the weights may then have been up to exp(Σ η) times as high at the start.
    """
    now, before = window.now(column), window.before(column)
    known = np.where(window.before("eta") > 0.0, np.maximum(now, before), np.fmax(now, before))
    return np.where(np.isnan(before), known * np.exp(np.fmin(window.path, 1.0)), known)


def scale_shift(window: SampleWindow, settings: ScaleShift) -> RuleResult | None:
    """λ moved in a way that neither η, nor weight decay, nor the matrix's own past explains.

    λ falls no faster than weight decay makes it, but what training has added to a matrix it can take away as fast. So what a
    fall is beyond Σ ηλ_wd, with the usual λ_wd, is compared with all past movements, or with past falls alone if it takes away
    two thirds of what was added in one interval. It may grow quickly when a matrix or a whole model begins to learn: a rise is
    compared with past rises, with what the other matrices do in the same interval, and, where no interval in the past was as
    long, with what η can do. Less is enough if η has jumped, if λ_wd is negative, or if half of the attention and feed-forward
    matrices fall. A matrix that moves faster for its η than ever, and than the others, is found, too; and so is a whole model.
    Where steps have the size of the gradient, a rise of one matrix is an info until the next sample (`gradient_sized.may_grow`).
    """
    if len(window.steps) < MIN_INTERVALS + 2:
        return None
    components = window.components
    body = components.body & components.trainable
    jumped = window.jumped
    with quiet():
        move = usual_movement(window, "log lambda", settings.lookback)
        noise = SE_LAMBDA * window.now("k_se") / window.now("k")  # all arrays: (components,)
        least = noise**2 + settings.floor**2
        # The usual λ_wd; that of the first sample is not known.
        rates = window["weight_decay"][-settings.lookback - 1 :]
        steady = (rates[0] == rates[-1]).all(axis=-1, keepdims=True)
        usual_decay = rates[-1] if steady.all() else np.where(steady, rates[-1], median_of(rates[:-1]))
        negative = rates[-1] < 0.0
        raised = (rates[-1] > DECAY_JUMP * usual_decay) & (usual_decay > 0.0)
        driven = jumped | negative | raised
        reach = np.where(components.body, BODY_REACH, OTHER_REACH) * window.now("work") / window.now("rms")
        unexplained = np.where(np.isfinite(window.now("update_max")), reach, OTHER_REACH) / (1.0 + move.alike) ** 2
        allowed = np.where(driven, 0.0, unexplained**2 + (AS_OTHERS * move.others) ** 2)
        rise = np.sqrt(move.size**2 + least + allowed)
        # A fall: what it is beyond weight decay, which does not touch vectors.
        decay = or_zero(usual_decay * window.now("work"))
        fallen = np.isfinite(move.centre) & (move.last + decay < 0.0)
        past = np.minimum(move.past[:, fallen], 0.0)  # (intervals, fallen ones)
        fall = np.full(fallen.shape, np.nan)
        fall[fallen] = np.sqrt(median_of(past**2) + spread_of(past, median_of(past)) ** 2 + least[fallen])
        falling = fallen & ((move.last + decay) / fall <= -COMMON * settings.z)
        common = np.zeros(1, dtype=bool)
        if body.sum() > MIN_INTERVALS:
            common = falling[..., body].mean(axis=-1, keepdims=True) > 0.5
        long = window.path > MOST_OF_ALL * window.before("eta_sum")
        grown = goes_on(window) | long | ~lost_most(window, move.last, decay)
        fall = np.where(grown & ~common, np.sqrt(fall**2 + move.own**2), fall)
        ordinary = components.body & (fallen | ~components.wakes)
        share = np.where(falling & common, COMMON, np.where(ordinary, 1.0, UNLIKE_BLOCKS))
        share = np.where(raised, UNDER_DECAY, np.where(driven, AFTER_JUMP, share))
        centre, usual = np.where(fallen, -decay, move.centre), np.where(fallen, fall, rise)
        change = np.where(fallen, settings.fall, settings.change) * np.where(jumped, 1.0, share)
        limits = np.where(grown, settings.both_fall, settings.both_lost), settings.fall
        # A matrix that was still for long moves unlike its recent past when it learns.
        lost = unlike_both(window, move.last + decay, move, noise, limits, type(settings).sure, None)
        besides = np.where(fallen, lost, 0.0)
        # A higher η moves all matrices, so there are no others to be unlike; the past is what it was before the jump.
        if driven.any():
            after = np.abs(move.last) / (AFTER_OTHERS * np.hypot(move.recent, noise))
            besides = np.where(driven & (after >= 1.0), np.fmax(besides, type(settings).sure * after), besides)
        rose = window.log_change("rms")
        ever = window.furthest("log rms")
        by_rms = alone(window, rose + decay, ever, noise, (settings.alone, settings.own), TRADES, siblings=True)
        by_rms = by_rms * at_once(window)
        small = np.minimum(by_rms / SMALL, (rose + decay) / settings.change)
        by_rms = np.fmax(np.minimum(by_rms, (rose + decay) / settings.far), small)
        # Of a small matrix the same steps are a larger share: if it is not faster for its η than before, it grows as usual.
        fastest, speed, size = np.fmax.reduce(window["speed"][:-1], axis=0), window.now("speed"), window.before("rms")
        faster_alone = (size >= SMALLER * median_if_many(size[..., body])) | ~(speed <= FASTER_ALONE * fastest)
        by_rms = np.where(np.isfinite(move.centre) & faster_alone, by_rms, 0.0)
        besides = np.where(by_rms >= 1.0, np.fmax(besides, type(settings).sure * by_rms), besides)
        by_fall = np.zeros(rose.shape)
        # Weight decay that the others have, too, explains what they do, and LAMB brings no matrix as far as Σ ηλ_wd.
        own_decay = np.fmax(decay - median_along(decay[..., body]), 0.0)
        shrank = (-np.fmin(move.last, rose) - own_decay >= settings.fall) & ~jumped & ~long
        if shrank.any():
            by_fall = np.where(shrank, fall_alone(window, noise, move.others), 0.0)
            besides = np.where(by_fall >= 1.0, np.fmax(besides, type(settings).sure * by_fall), besides)
        grew = np.isfinite(window.now("update_max")) & (rose >= settings.change) & ~driven
        faster = _faster(window, settings)
        outran = (faster >= 1.0) & body & grew
        besides = np.where(outran, np.fmax(besides, type(settings).sure * faster), besides)
        # Nobody means a negative λ_wd, so what it explains is not chance.
        against = negative & ~jumped & (move.last > 0.0)
        if against.any():
            unusual = suddenness(move.last - centre, usual, settings.z * share, change)[1]
            besides = np.where(against & (unusual >= 1.0), np.fmax(besides, type(settings).sure * unusual), besides)

        of_shape = fallen & falls_in_shape(window, move.last + decay, decay)
        judged = components.trainable & ~(of_shape & in_gradient(window))
        known = np.isfinite(window.now("eta"))  # or it may be a warm-up that nobody sees
        judged &= window.warm | known & ((by_rms >= 1.0) | (besides >= type(settings).sure))
        factor = np.where(fallen & common, 1.0, caution(window))
        of_rms = (by_rms >= 1.0) | ((by_fall >= 1.0) & ~(move.last < rose))  # (components,)
        moved, thresholds = (move.last, centre, usual), (settings.z * share, change)
        strength = np.fmax(suddenness(move.last - centre, usual, *thresholds)[1], besides)

    @cache  # asked only where something was found
    def explanations() -> list[tuple[Bools, str]]:
        """Matrices that something explains, (components,), and what; the first that holds counts."""
        back = falling & given_back(window) & ~raised & ~negative
        of_falls = back[..., body].sum(axis=-1, keepdims=True) / np.fmax(
            falling[..., body].sum(axis=-1, keepdims=True), 1
        )
        alone_or_young = (by_rms >= 1.0) | (caution(window) > 1.0)
        learning = ~fallen & components.body & alone_or_young & ~driven
        return [
            (explained_by_decay(window) & ~raised, IN_GRADIENT),
            (goes_on_falling(window) & fallen, GOES_ON),
            (fallen & common & (of_falls >= COMMON), GIVEN_BACK),
            (scaled_to_zero(window) & fallen, SCALED),
            # Attention takes one direction before it learns.
            (components.wakes & ~fallen & one_way(window) & rises_alike(window), ONE_WAY_CASE),
            (~fallen & from_nothing(window), FROM_NOTHING),
            # Still nearly of one size, so not drawn anew.
            (fallen & unwinds(window) & (window.now("k") >= ALIKE), UNWINDS),
            (gathers(window) & ~driven & ~(fallen & common), GATHERING),
            (learning & may_grow(window, rose + decay, np.fmax(ever, noise)), GRADIENT_GREW),
        ]

    def explained() -> Bools:
        with quiet():
            found: Bools = np.logical_or.reduce([unstepped(window), *(holds for holds, _ in explanations())])
        return found

    def meaning(i: int) -> str:
        shrank = by_fall[i] >= 1.0
        column, name, by = ("rms", "RMS", rose[i]) if of_rms[i] else ("lambda", "λ", move.last[i])
        before, now = window.before(column)[i], window.now(column)[i]
        if of_rms[i] or shrank:
            furthest = window.furthest(f"log {column}")[i]
            usually = (
                f"in an interval of this length it never changed by more than {100 * np.expm1(furthest):.1f} % before"
            )
            others = (
                f"No other {'expert' if components.expert[i] else 'matrix'}"
                f"{'' if shrank or components.wakes[i] or components.expert[i] else ', except perhaps W_q and W_k,'} "
                f"{'shrank' if shrank else 'grew'} nearly as much."
            )
        else:
            usually = f"the usual change in this time is {signed(centre[i])}"
            others = "Most other matrices did not."
        causes = (cause for holds, cause in explanations() if holds[i])
        cause = next(causes, None) or cause_of_shift(window, i, strength >= 1.0, others)
        return f"{name} {between(before, now, window.steps[-2])}, by {signed(by)}; {usually}. {cause}"

    result = shift_result(window, "log lambda", moved, thresholds, judged, "λ", meaning, besides, factor, explained)
    if not of_rms.any():
        return result  # nearly always
    low, high, z = (np.where(of_rms, np.nan, shown) for shown in (result.low, result.high, result.z))
    value, quantity = np.where(of_rms, window.now("rms"), result.value), lambda i: "RMS" if of_rms[i] else "λ"
    return replace(result, quantity=quantity, value=value, low=low, high=high, z=z)


def _faster(window: SampleWindow, settings: ScaleShift) -> Floats:
    """Strength of a whole model that moves faster for its η than it ever did after its first steps, shape (1,).

    A model that begins to learn moves its blocks, but an optimizer that goes wrong moves all that it steps: the smaller of two
    ratios is taken, that of the attention and feed-forward matrices and that of the others, such as embeddings and heads; or
    their geometric mean, if both are above 1 by more than a little, and most of both grow. Only where the size of steps can grow:
    those of signs and of orthogonal matrices cannot, and are as fast as their directions agree. And only where most matrices of
    the blocks grow.
    """
    components, speed = window.components, window.speed  # speed: a number, or (…, 1) at many samples
    body, rest = components.body & components.trainable, ~components.body & components.trainable
    ratio = speed / np.fmax(window.fastest, FULL_STEPS)
    if not np.any(ratio >= A_LITTLE_FASTER) or not rest.any():
        return np.zeros(1)  # nearly always
    growth = window.log_change("rms")
    grew, all_grew = (median_along(growth[..., part]) >= settings.change for part in (body, rest))
    can_grow = median_along(window.now("update_max")[..., body]) > SIGN
    warm = window.warm[..., body].any(axis=-1, keepdims=True)
    past, now = window["speed"][:-1][..., rest], window.now("speed")[..., rest]  # (intervals, others), (others,)
    known = (past > 0.0).sum(axis=0) >= MIN_INTERVALS - 1
    others = np.where(known, now / np.fmax(np.fmax.reduce(past, axis=0), LEAST_SPEED), np.nan)
    judged = grew & can_grow & warm & (np.asarray(window.moving_intervals) > MIN_INTERVALS)
    of_others = median_along(others)
    both = np.minimum(ratio, of_others)
    mean = np.where(all_grew & (both >= A_LITTLE_FASTER), np.sqrt(ratio * of_others) / ON_AVERAGE, 0.0)
    return np.where(judged, or_zero(np.fmax(both, mean) / settings.faster), 0.0)
