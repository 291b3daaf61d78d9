"""Single values that moved further than the optimizer can move them: `impossible_change` of the largest |w|."""

from __future__ import annotations

from typing import Final

import numpy as np

from weibull_monitor.alerts.rules.result import RuleResult, rule_result, strongest
from weibull_monitor.alerts.rules.scale import impossible_change as impossible_rms
from weibull_monitor.alerts.rules.scale import largest_of
from weibull_monitor.alerts.rules.words import apart, cause_of, rounded
from weibull_monitor.alerts.settings import ImpossibleChange
from weibull_monitor.alerts.statistics import quiet
from weibull_monitor.alerts.window import SampleWindow

BIN: Final = 1.0 / 64
"""Width of a bin, as a share of its lower edge: at most (`weibull_monitor.measure.bins`)."""


def impossible_change(window: SampleWindow, settings: ImpossibleChange) -> RuleResult | None:
    """The RMS or the largest value of a matrix moved further since the previous sample than the optimizer can have moved it."""
    found = [result for rule in (impossible_rms, impossible_maximum) if (result := rule(window, settings)) is not None]
    if not found:
        return None
    levels = [np.stack([read("rms"), read("largest")]) for read in (window.now, window.before)]
    if len(found) == 2 and not found[1].strength.any():
        found = found[:1]  # nearly always
    return strongest(found, levels=levels[0], before=levels[1], level_names=("RMS", "largest |w|"), lasting=True)


def impossible_maximum(window: SampleWindow, settings: ImpossibleChange) -> RuleResult | None:
    """The largest |w| grew by more than every single update of the optimizer allows: an error, with nothing tuned.

    One step changes a value by η(u + λ_wd·w), and decay only shrinks it. If |u| has the bound b, then after some steps
    max|w| ≤ max|w₀| + b·Σ η (triangle inequality). The counts give the bin of the largest value: its upper edge bounds
    max|w₀|, and its lower edge is at most max|w|, so widths of bins and what the counts cannot tell apart are no change.
    Rounding to bf16 or fp16 can double a step, and move a value by one unit in the last place at each step.

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
        lower = now / (1.0 + np.fmax(BIN, components.precision))
        strength = np.where(lower > before + likely, (lower - before) / likely, 0.0)
        found = strength >= 1.0

    def meaning(i: int) -> str:
        was, is_now = apart(before[i], now[i])
        return (
            f"The largest |w| went from {was} to {is_now} since step {window.steps[-2]}; with this η no value can have moved by "
            f"more than {rounded(likely[i])}. {cause_of(window, i, found)}"
        )

    return rule_result(
        strength=np.where(components.trainable, strength, 0.0),
        severity=3,
        quantity="largest |w|",
        value=now,
        meaning=meaning,
        high=before + likely,
    )
