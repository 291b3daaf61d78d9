"""`impossible_change`: of the RMS, of the largest |w|, and of what is frozen."""

from __future__ import annotations

from typing import Final

import numpy as np

from weibull_monitor.alerts.rules.result import RuleResult, rule_result, strongest
from weibull_monitor.alerts.rules.scale import impossible_change as impossible_rms
from weibull_monitor.alerts.rules.scale import largest_of
from weibull_monitor.alerts.rules.words import apart, between, cause_of, decimal, unstepped
from weibull_monitor.alerts.settings import ImpossibleChange
from weibull_monitor.alerts.statistics import ON_GRIDS, Bools, or_zero, quiet
from weibull_monitor.alerts.window import SampleWindow

BIN: Final = 1.0 / 64
"""Width of a bin, as a share of its lower edge: at most (`weibull_monitor.measure.bins`)."""


STILL: Final = 3
"""Intervals in which not one count of a matrix changed, from which on it is frozen."""


def impossible_change(window: SampleWindow, settings: ImpossibleChange) -> RuleResult | None:
    """The RMS or the largest value of a matrix moved further since the previous sample than the optimizer can have moved it."""
    rules = (impossible_rms, impossible_maximum, changed_while_frozen)
    found = [result for rule in rules if (result := rule(window, settings)) is not None]
    if not found:
        return None
    levels = [np.stack([read("rms"), read("largest")]) for read in (window.now, window.before)]
    found = [found[0], *(result for result in found[1:] if result.strength.any())]  # nearly always one
    return strongest(found, levels=levels[0], before=levels[1], level_names=("RMS", "largest |w|"), lasting=True)


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
    can double a step, and move a value by one unit in the last place at each step.

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
        bin_width = 1.0 + np.fmax(BIN, components.precision)
        decay = path * or_zero(np.fmax(window.now("weight_decay"), window.before("weight_decay")))
        kept = before / bin_width * np.fmax(1.0 - decay, 0.0)
        moved = np.fmax(now / bin_width - before, kept - now)
        strength = np.where(moved > likely, moved / likely, 0.0)
        found = strength >= 1.0

    def meaning(i: int) -> str:
        was, is_now = apart(before[i], now[i])
        return (
            f"The largest |w| went from {was} to {is_now} since step {window.steps[-2]}; with this η no value can have moved by "
            f"more than {decimal(likely[i])}. {cause_of(window, i, found)}"
        )

    return rule_result(
        strength=np.where(components.trainable, strength, 0.0),
        severity=3,
        quantity="largest |w|",
        value=now,
        meaning=meaning,
        low=np.where(kept > likely, kept - likely, np.nan),
        high=before + likely,
    )
