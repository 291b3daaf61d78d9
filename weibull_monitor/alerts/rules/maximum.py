"""`impossible_change`: of the RMS, of the largest |w|, of one value alone, and of what is frozen."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from weibull_monitor.alerts.rules.decay import carried_on
from weibull_monitor.alerts.rules.result import RuleResult, rule_result, strongest
from weibull_monitor.alerts.rules.scale import FEW_VALUES, largest_of
from weibull_monitor.alerts.rules.scale import impossible_change as impossible_rms
from weibull_monitor.alerts.rules.steps import SUSTAINED_ONE_WAY
from weibull_monitor.alerts.rules.words import apart, between, cause_of, decimal, unstepped
from weibull_monitor.alerts.rules.writes import averaged, made_by_habit, may_be_habit
from weibull_monitor.alerts.settings import ImpossibleChange
from weibull_monitor.alerts.statistics import ON_GRIDS, Bools, Floats, or_zero, quiet, reaches
from weibull_monitor.alerts.window import SampleWindow

BIN: Final = 1.0 / 64
"""Width of a bin, as a share of its lower edge: at most (`weibull_monitor.measure.bins`)."""
DOUBLED: Final = 2.0
"""How many times as large as ever the largest |w| is, at least, where one value went alone: as much as one bit of an exponent."""
MOST_OF_GAIN: Final = 0.5
"""Share of what a matrix gained, in Σ w², that one value has alone. Healthy runs reach 0.30."""
SHRANK: Final = 0.1
"""Share by which the largest |w| falls at least, for all values that were about as large to have fallen."""
MIN_ELEMENTS: Final = 512
"""Of fewer values that are not zero, one may well gain as much as all others."""

STILL: Final = 3
"""Intervals in which not one count of a matrix changed, from which on it is frozen."""


def impossible_change(window: SampleWindow, settings: ImpossibleChange) -> RuleResult | None:
    """The RMS or the largest value of a matrix moved further since the previous sample than the optimizer can have moved it."""
    rules = (impossible_rms, impossible_maximum, changed_while_frozen)
    found = [result for rule in rules if (result := rule(window, settings)) is not None]
    if not found:
        return None
    one = one_value_alone(window)
    if one is not None:
        known = np.any([result.strength >= 1.0 for result in found], axis=0)
        found.append(replace(one, strength=np.where(known, 0.0, one.strength)))
    levels = [np.stack([read("rms"), read("largest")]) for read in (window.now, window.before)]
    found = [found[0], *(result for result in found[1:] if result.strength.any())]  # nearly always one
    result = strongest(found, levels=levels[0], before=levels[1], level_names=("RMS", "largest |w|"), lasting=True)
    return _beside_writes(window, result)


def _beside_writes(window: SampleWindow, result: RuleResult) -> RuleResult:
    """The same where the training itself may have written: its optimizer's bound says nothing of that."""
    if result.strength.ndim > 1 or not reaches(result.strength):  # many samples at once, or nearly always
        return result
    strength = np.where(made_by_habit(window), 0.0, result.strength)
    severity = np.where(may_be_habit(window) | averaged(window), 1, result.severity).astype(np.int8)
    return replace(result, strength=strength, severity=severity)


def changed_while_frozen(window: SampleWindow, settings: ImpossibleChange) -> RuleResult | None:
    """A frozen matrix changed: what no optimizer steps, and what did not change by one count in `STILL` intervals.

    Frozen is what needs no gradient, what is in no optimizer while others are, and what has an η of 0. What is updated in each
    interval from other weights, as a teacher is, is not still. What has a trained copy in the model may be updated from it now
    and then, as a target network: an info; as for what an optimizer that is not known may step.
    """
    components = window.components
    unknown = unstepped(window)  # all arrays (components,)
    with quiet():
        idle = (window.now("eta_sum") == window.before("eta_sum")) & (window.now("eta") == 0.0)
        frozen = ~components.trainable | unknown | idle
        if len(window.steps) < STILL + 2 or not frozen.any():
            return None
        counts = [window[name][-STILL - 2 : -1] for name in ("rms", "zeros")]  # equal to nine digits if the counts are
        still = np.logical_and(*((values == values[-1]).all(axis=0) for values in counts))
        moved = np.fmax(*(np.abs(window.log_change(name)) for name in ("rms", "lambda")))
        strength = np.where(frozen & still, moved / (ON_GRIDS + components.precision), 0.0)
        found = strength >= 1.0
    if not found.any():
        return None
    copied = _has_trained_copy(window, found)
    return rule_result(
        strength=np.where(found, strength, 0.0),
        severity=np.where(copied | unknown, 1, 2).astype(np.int8),
        quantity="RMS",
        value=window.now("rms"),
        meaning=lambda i: (
            f"RMS {between(window.before('rms')[i], window.now('rms')[i], window.steps[-2])}. "
            + (
                "This matrix is in no optimizer that the monitor knows"
                if unknown[i]
                else "This matrix is frozen"
                if not components.trainable[i]
                else "Its η is 0"
            )
            + ", and not one of its values had changed before, so something wrote to it: an adapter that was merged or unmerged, "
            "a checkpoint that was loaded. "
            + (
                "A matrix that is trained has the same name in another part of the model: if it is copied from there now and "
                "then, nothing has to be done."
                if copied[i]
                else "If it was not you, go back to the last checkpoint."
            )
        ),
    )


def _has_trained_copy(window: SampleWindow, found: Bools) -> Bools:
    """Which of the ``found`` ones (components,) a trained matrix shares its size with, and its name but for the first part."""
    components = window.components
    tails = [name.partition(".")[2] for name in components.names]
    others = components.trainable & ~np.atleast_2d(found).any(axis=0)
    trained = {(tails[i], components.numel[i]) for i in np.flatnonzero(others)}
    copied = np.array([at in trained for at in zip(tails, components.numel, strict=True)], dtype=bool)
    both: Bools = found & copied
    return both


def impossible_maximum(window: SampleWindow, settings: ImpossibleChange) -> RuleResult | None:
    """The largest |w| moved by more than every single update of the optimizer allows: an error, with nothing tuned.

    One step changes a value by η(u + λ_wd·w), and decay only shrinks it. If |u| has the bound b, then after some steps
    max|w| ≤ max|w₀| + b·Σ η (triangle inequality). What was the largest value is still there, so that
    max|w| ≥ (1 - λ_wd·Σ η)·max|w₀| - b·Σ η. The counts give the bin of the largest value: its upper edge bounds it from above
    and its lower edge from below, so widths of bins and what the counts cannot tell apart are no change. Rounding to bf16 or fp16
    can double a step, and move a value by one unit in the last place at each step. A fall within the bound, but beyond what
    gradients of a steady size make (`_steady_fall`), is a warning.

    Silent for what no optimizer with a bound has stepped: frozen matrices, SGD, rates that the optimizer chooses, weights that
    the user sets.
    """
    if len(window.steps) < 2:
        return None
    components = window.components
    now, before = window.now("largest"), window.before("largest")  # (components,), as all that follows
    with quiet():
        path = window.path
        bound = largest_of(window, "element_max")
        steps = window.steps[-1] - window.steps[-2]
        likely = path * bound * np.where(components.coarse, 2.0, 1.0) * (1.0 + 1e-6)
        likely = likely + np.where(components.coarse, np.fmin(steps * components.precision, 1.0) * before, 0.0)
        bin_width = _bin_width(window)
        decay = path * or_zero(np.fmax(window.now("weight_decay"), window.before("weight_decay")))
        kept = before / bin_width * np.fmax(1.0 - decay, 0.0)
        moved = np.fmax(now / bin_width - before, kept - now)
        strength = np.where(moved > likely, moved / likely, 0.0)
        impossible = strength >= 1.0
        steady = _steady_fall(window, kept - now)  # NaN where it is not judged
        shrank = ~impossible & (now <= (1.0 - SHRANK) * kept) & (kept - now > steady)
        strength = np.where(shrank, (kept - now) / steady, strength)
        limit = np.where(shrank, steady, likely)
        found = strength >= 1.0

    def meaning(i: int) -> str:
        was, is_now = apart(before[i], now[i])
        return (
            f"The largest |w| went from {was} to {is_now} since step {window.steps[-2]}; with this η "
            + ("and gradients of a steady size no value moves" if shrank[i] else "no value can have moved")
            + f" by more than {decimal(limit[i])}"
            + (", and all that were nearly as large have shrunk" if shrank[i] else "")
            + f". {cause_of(window, i, found)}"
        )

    return rule_result(
        strength=np.where(components.trainable, strength, 0.0),
        severity=np.where(shrank, 2, 3).astype(np.int8),
        quantity="largest |w|",
        value=now,
        meaning=meaning,
        low=np.where(kept > limit, kept - limit, np.nan),
        high=before + likely,
    )


def _bin_width(window: SampleWindow) -> Floats:
    """How many times the lower edge of the largest value's bin its upper edge is, at most, (components,)."""
    return 1.0 + np.fmax(BIN, window.components.precision)


def _steady_fall(window: SampleWindow, fell: Floats) -> Floats:
    """How far the largest value can fall in the last interval while gradients have a steady size, (components,).

    The RMS of u is at most about 1 then, also of a single value over the steps, and `SUSTAINED_ONE_WAY` where it keeps its sign.
    One value of many may have a gradient that grows. But where the largest value falls by a tenth, all of that tenth have. NaN
    where the optimizer makes longer steps, where there are few values, and where nothing has fallen so far.
    """
    bound = np.minimum(window.now("update_max"), window.before("update_max"))  # of steady gradients; (components,)
    limit = SUSTAINED_ONE_WAY * window.path
    if not (fell > limit).any():
        return np.full(limit.shape, np.nan)  # nearly always
    limit = np.fmax(SUSTAINED_ONE_WAY, carried_on(window)) * window.path * np.where(window.components.coarse, 2.0, 1.0)
    return np.where((bound == bound) & (window.components.numel >= FEW_VALUES), limit, np.nan)


def one_value_alone(window: SampleWindow) -> RuleResult | None:
    """One value gained more than all others of its matrix together, and became twice as large as any ever was: a warning.

    A gradient is a sum of products of what comes in and of what goes back, so it moves whole rows and columns, and what one value
    of many gets of Σ Δw² is little, whatever the size of a step. A flipped bit, of a weight or of its momentum, moves one value.
    Of Σ w² = n·RMS² the largest value has w² at least, by the lower edge of its bin. What it gained has to be `MOST_OF_GAIN` of
    what the matrix gained beyond what weight decay and a growth of all values make, as λ shows it, and more than that growth; or
    of all that there is now, where the others were made small.
    """
    if len(window.steps) < 2:
        return None
    components = window.components
    now, before = window.now("largest"), window.before("largest")  # all arrays (components,)
    with quiet():
        edge = now / _bin_width(window)
        found = (edge >= DOUBLED * before) & (before > 0.0)
        if not found.any():
            return None  # nearly always
        found &= components.numel - or_zero(window.now("zeros")) >= MIN_ELEMENTS
        ever = np.fmax.reduce(window["largest"][:-1], axis=0)
        gained = edge**2 - ever**2
        spent = or_zero(window.now("decay") - window.before("decay"))
        kept = window.before("rms") ** 2 * np.exp(-2.0 * spent)
        others = kept * np.expm1(2.0 * (window.log_change("lambda") + spent))  # what the others gained or lost
        of_all = gained / window.now("rms") ** 2
        of_gain = gained / (window.now("rms") ** 2 - kept - np.fmax(others, 0.0))
        of_gain = np.where(gained > components.numel * np.abs(others), of_gain, 0.0)
        share = np.fmax(of_gain, of_all) / components.numel
        strength = np.where(found & (edge >= DOUBLED * ever), share / MOST_OF_GAIN, 0.0)

    def meaning(i: int) -> str:
        was, is_now = apart(before[i], now[i])
        return (
            f"The largest |w| went from {was} to {is_now} since step {window.steps[-2]}: it has gained more than all others "
            "together. Gradients move whole rows and columns; a flipped bit, of a weight or of its momentum, "
            "or a bad copy moves one value. Look at `weight.abs().argmax()`; if you did not set that value, go back to the last "
            "checkpoint."
        )

    return rule_result(
        strength=strength, severity=2, quantity="largest |w|", value=now, meaning=meaning, high=DOUBLED * ever
    )
