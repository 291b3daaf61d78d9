"""What happens to a whole model between two samples: `all_jumped`."""

from __future__ import annotations

from typing import Final

import numpy as np

from weibull_monitor.alerts.common_movement import judged_together
from weibull_monitor.alerts.rules.movement import MIN_INTERVALS
from weibull_monitor.alerts.rules.result import RuleResult, rule_result
from weibull_monitor.alerts.rules.words import R2_NOISE, SE_LAMBDA, between
from weibull_monitor.alerts.settings import AllJumped
from weibull_monitor.alerts.statistics import Bools, Floats, median_along, or_zero, quiet
from weibull_monitor.alerts.window import EARLY, SHAPES, SampleWindow

LOOKBACK: Final = 8
"""Past intervals that the model's movement is compared with."""
ALIKE: Final = 0.7
"""Share of the `work` of an interval that another has, at least, to be about as long …"""
MIN_ALIKE: Final = 2
"""… and how many of the past ones have to be so."""
UNLIKE: Final = 2.0
"""How many times as much is asked for where fewer are: then little says how far the model moves in such a time."""
NEXT: Final = 0.5
"""Share of the `work` that the interval after a jump has, at least: a shorter one does not tell that the model is quiet again."""
FIRST_STEPS: Final = 20
"""In the first steps a model moves as it never does later; where no interval was as long, up to step `EARLY`."""
NAMES: Final = ("λ", "RMS", "k", "R²")


def all_jumped(window: SampleWindow, settings: AllJumped) -> RuleResult | None:
    """Most matrices jumped in the interval before the last one, and moved in the last one no faster than before the jump.

    Training that goes faster goes on so: when η rises, when a model begins to learn, after a restart. Who writes to the weights
    (loads, merges, averages or rounds them) moves them once. So the movement of a matrix is compared with what it did on both
    sides: the largest of its past movements, and the one after, each brought to the length of the interval. Only the median over
    the matrices counts. As a second measure, that median is compared with the medians of the last intervals; the geometric mean
    of both ratios has to be ``ratio``. A growth that steps in random directions make is usual.
    """
    jump, asked = common_jump(window)
    limit = settings.ratio * float(asked[0])
    if not (jump >= limit).any():
        return None  # nearly always
    n = len(SHAPES)
    columns = [window[c.removeprefix("log ")][-3:] for c in SHAPES]  # each (3, components)
    levels = np.stack([np.log(v) if c.startswith("log ") else v for c, v in zip(SHAPES, columns, strict=True)], axis=1)
    moved, after = levels[1] - levels[0], levels[2] - levels[1]  # (columns, components), as all below
    error, k = window.before("k_se"), window.before("k")
    noise = np.stack([*(2 * [SE_LAMBDA * error / k]), error, R2_NOISE / np.sqrt(window.components.numel)])
    work = window["work"][-2:]  # (2, components)
    longer = np.fmax(or_zero(work[0] / work[1]), 1.0)
    own = np.stack([window.furthest(column, end=-2) for column in SHAPES])
    part = judged_together(window.components, np.isfinite(window.now("eta")) & (work > 0.0).all(axis=0))
    grown = _growth(window, part, work[0])
    random = np.where((np.arange(n) < 2)[:, None] & (moved > 0.0), grown, 0.0)
    ratio = np.abs(moved) / np.sqrt(own**2 + (after * longer) ** 2 + noise**2 + random**2)
    # The same of the medians: `jump` without what steps in random directions and errors of the fits make.
    middle = median_along(np.abs(moved[:, part]))[:, 0]  # (columns,)
    usual = middle / np.fmax(jump, 1e-9)
    up = median_along(moved[:, part])[:, 0] > 0.0
    random_of_all = np.where(up & (np.arange(n) < 2), grown, 0.0)
    errors = 0.5 * median_along(noise[:, part])[:, 0]
    of_all = middle / np.sqrt(usual**2 + random_of_all**2 + errors**2)
    both = np.sqrt(of_all * or_zero(median_along(ratio[:, part])[:, 0])) / limit  # (columns,)
    worst = int(np.argmax(both))
    if both[worst] < 1.0:
        return None
    strength = np.where(part, np.sqrt(of_all[worst] * or_zero(ratio[worst])) / limit, 0.0)
    column = SHAPES[worst].removeprefix("log ")
    was, came = window[column][-3], window[column][-2]
    share = float((strength >= 1.0)[part].mean())
    return rule_result(
        strength,
        2,
        NAMES[worst],
        came,
        lambda i: (
            f"{NAMES[worst]} {between(was[i], came[i], window.steps[-3])} and stayed there: {ratio[worst, i]:.2g} times as far "
            f"as this matrix ever moved in such a time, before or after. {100 * share:.0f} % of the matrices jumped like this in "
            "the same interval: something wrote to the weights, and training went on from there. Check first whether weights "
            "were loaded, merged, averaged, pruned or stored in fewer bits. If it was not you, go back to the last checkpoint "
            f"before step {window.steps[-2]}."
        ),
        z=ratio[worst],
    )


def common_jump(window: SampleWindow) -> tuple[Floats, Floats]:
    """How many times as far the model moved in the interval before the last as in those around it, (…, columns).

    By the medians over its matrices; 0 where there are too few intervals to tell. Also by how much more is asked for, (…, 1).
    """
    together = window["together"][-LOOKBACK - 2 :]  # (intervals, …, 6)
    if len(together) < MIN_ALIKE + 3:
        return np.zeros(len(SHAPES)), np.ones(1)
    with quiet():
        moved, work, count = together[..., :-2], together[..., -2], together[..., -1]
        longer = work[-2] / work[:-2]  # (past, …)
        known = (count[:-2] == count[-2]) & (longer == longer)
        longer = np.where(known, np.where(longer > 1.0, longer, np.sqrt(longer)), 0.0)
        past = np.fmax.reduce(moved[:-2] * longer[..., None], axis=0)
        after = moved[-1] * np.fmax(1.0, work[-2] / work[-1])[..., None]
        alike = (known & (work[:-2] >= ALIKE * work[-2])).sum(axis=0) >= MIN_ALIKE
        start = np.reshape(window.steps[-3], np.shape(alike))
        judged = (start > FIRST_STEPS) & (alike | (start >= EARLY))
        judged &= known.sum(axis=0) >= MIN_INTERVALS
        judged &= (count[-1] == count[-2]) & (work[-1] >= NEXT * work[-2])
        ratio = np.where(judged[..., None], or_zero(moved[-2] / np.fmax(past, after)), 0.0)
        return ratio, np.where(alike, 1.0, UNLIKE)[..., None]


def _growth(window: SampleWindow, part: Bools, work: Floats) -> float:
    """ln of the factor by which steps in random directions, of an RMS of η, make the median RMS grow in such an interval."""
    steps = max(window.steps[-2] - window.steps[-3], 1)
    bound = np.fmin(window.before("update_max"), 1.0)  # not known, as of LAMB: nothing is allowed
    grown = np.log1p((bound * work) ** 2 / steps / window["rms"][-3] ** 2) / 2.0
    return float(or_zero(median_along(grown[..., part]))[0])
