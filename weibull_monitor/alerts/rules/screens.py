"""Where a rule may find something: bounds, of a few operations each, that are never below what the rule itself says.

Nearly always no rule finds anything. But one that asks how a matrix usually moves takes medians over its past for that, and
that takes most of the time of a sample. Each of them asks for a movement, or a distance, of some size in itself, too. Where no
matrix moved that far, nothing can be found, and the rule is not asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from weibull_monitor.alerts.rules.alone import LEAST_MIXED, LEAST_OUTSIDE
from weibull_monitor.alerts.rules.attention import may_have_grown
from weibull_monitor.alerts.rules.groups import around, drifts_of_k, medians_at_start, medians_of_k
from weibull_monitor.alerts.rules.jump import LEAST_ALONE, moved_both
from weibull_monitor.alerts.rules.lately import LEAST_R2
from weibull_monitor.alerts.rules.layers import may_depart
from weibull_monitor.alerts.rules.maximum import DOUBLED
from weibull_monitor.alerts.rules.movement import MIN_INTERVALS
from weibull_monitor.alerts.rules.places import may_be_misplaced
from weibull_monitor.alerts.rules.scale import COMMON
from weibull_monitor.alerts.rules.selection import ranges_of_k, selects
from weibull_monitor.alerts.rules.shape import LOOKBACK
from weibull_monitor.alerts.rules.whole import common_jump
from weibull_monitor.alerts.rules.words import unstepped
from weibull_monitor.alerts.settings import (
    AllJumped,
    BodyBreak,
    ImpossibleChange,
    RuleSettings,
    ScaleShift,
    SelectionDrift,
    SelectionRange,
    SelectionShift,
    TransmissionExit,
)
from weibull_monitor.alerts.statistics import ON_GRIDS, Bools, Floats, quiet, resolution
from weibull_monitor.alerts.window import SHAPES, SampleWindow

NEARLY: Final = 1.0 - 1e-5
"""Share of a threshold from which on a rule is asked: a bound may be rounded in another way, and movements are kept in fp32."""


def may_find(rule: str, window: SampleWindow, settings: RuleSettings) -> Bools:
    """Whether a rule may find something at the latest sample, or at each of several, shape (…).

    Args:
        rule: Name of the rule.
        window: The window.
        settings: Its thresholds.
    """
    screen = SCREENS.get(rule)
    if screen is None:
        return np.ones((), dtype=bool)
    with quiet():
        return np.asarray(np.logical_or.reduce(screen(window, settings), axis=-1))


def _impossible_change(window: SampleWindow, settings: ImpossibleChange) -> Bools:
    if len(window.steps) < 2:
        return np.ones(1, dtype=bool)
    components = window.components
    rms, before, largest, was = (read(c) for c in ("rms", "largest") for read in (window.now, window.before))
    # Bounds are at least this, and what is not known is no bound; the rest of each is left out.
    step = [np.fmin(np.fmin(window.now(c), window.before(c)), 1.0) for c in ("update_max", "element_max")]
    least = window.path * np.fmin(*step) * min(settings.sustained, 1.0)
    noise = resolution(components.numel) * np.fmax(rms, before)
    found = (np.abs(rms - before) >= NEARLY * (least + noise)) | (np.abs(largest - was) >= NEARLY * least)
    found &= components.trainable
    found |= (largest >= NEARLY * DOUBLED * was) & (was > 0.0)
    idle = (window.now("eta") == 0.0) | unstepped(window) | ~components.trainable
    if idle.any():
        moved = np.fmax(np.abs(window.log_change("rms")), np.abs(window.log_change("lambda")))
        found |= idle & (moved >= NEARLY * ON_GRIDS)
    return found


def _scale_shift(window: SampleWindow, settings: ScaleShift) -> Bools:
    if len(window.steps) < MIN_INTERVALS + 2:
        return np.ones(1, dtype=bool)
    rates = window["weight_decay"][-settings.lookback - 1 :]  # (samples, components)
    least, now = np.fmin.reduce(rates, axis=0), rates[-1]
    driven = window.jumped | (least < 0.0) | (now > least)  # then less is enough
    by_scale, rose = window.log_change("lambda"), window.log_change("rms")  # (components,), as all that follows
    decay = np.fmax(np.fmax.reduce(rates, axis=0) * window.now("work"), 0.0)
    far = np.abs(by_scale) >= NEARLY * COMMON * settings.fall
    far |= _beside_centre(window, "log lambda", settings.lookback) >= NEARLY * settings.change
    by_rms = min(settings.change, settings.fall, settings.far, LEAST_ALONE)
    far |= np.fmax(np.abs(rose), rose + decay) >= NEARLY * by_rms
    far |= moved_both(window, 2) >= NEARLY * LEAST_ALONE
    found: Bools = driven | far
    return found


def _selection_shift(window: SampleWindow, settings: SelectionShift) -> Bools:
    if len(window.steps) < MIN_INTERVALS + 2:
        return np.ones(1, dtype=bool)
    least = min(settings.change, settings.far, LEAST_MIXED[0])
    far = _beside_centre(window, "k", settings.lookback) >= NEARLY * least
    return far & window.components.selection


def _body_break(window: SampleWindow, settings: BodyBreak) -> Bools:
    least = min(settings.change, settings.far, LEAST_MIXED[0], LEAST_OUTSIDE[0])
    far = _beside_centre(window, "k", LOOKBACK) >= NEARLY * least
    far |= _beside_centre(window, "r2", LOOKBACK) >= NEARLY * min(settings.fall, LEAST_R2)
    low = 1.0 - window.now("r2") >= NEARLY * (1.0 - settings.r2)
    return far | low & window.components.body


def _beside_centre(window: SampleWindow, column: str, lookback: int) -> Floats:
    """The most that the last movement can differ from the median of those before, as `usual_movement` has it, (components,)."""
    kept = window["moved"][-lookback - 1 :][..., 0, SHAPES.index(column), :]  # |movements|, (intervals, components)
    past, work = kept[:-1], window["work"][-lookback - 1 :]
    if not len(past):
        return np.full(kept.shape[1:], np.inf)
    longer = work[-1] / np.fmin.reduce(work[:-1], axis=0)
    most = np.maximum.reduce(past, axis=0)
    name = column.removeprefix("log ")
    last = window.log_change(name) if name != column else window.now(name) - window.before(name)
    return np.abs(last) + np.where(most > 0.0, most * np.fmax(longer, 1.0), 0.0)


def _outside_write(window: SampleWindow, settings: RuleSettings) -> Bools:
    writes = np.fmax(window["written"][-2:], window["state_written"][-2:])  # (samples, components)
    found: Bools = np.logical_or.reduce(writes > 0.0, axis=0)
    return found


def _all_jumped(window: SampleWindow, settings: AllJumped) -> Bools:
    jump, asked = common_jump(window)
    found: Bools = jump >= NEARLY * settings.ratio * asked
    return found


def _selection_range(window: SampleWindow, settings: SelectionRange) -> Bools:
    low, high = ranges_of_k(window, settings)
    now = medians_of_k(window)  # (groups,), as all in these three
    return (now < low) | (now > high)


def _selection_drift(window: SampleWindow, settings: SelectionDrift) -> Bools:
    judged = np.array([selects(group) for group in window.components.groups], dtype=bool)
    return judged & (np.abs(drifts_of_k(window)) >= NEARLY * settings.mild)


def _transmission_exit(window: SampleWindow, settings: TransmissionExit) -> Bools:
    judged = np.array([group.component_class == "transmission" for group in window.components.groups], dtype=bool)
    now = medians_of_k(window)
    low, high = around(settings.low, medians_at_start(window), settings.high)
    return judged & ((now < low) | (now > high))


SCREENS: Final[Mapping[str, Callable[[SampleWindow, Any], Bools]]] = {
    "impossible_change": _impossible_change,
    "misplaced": lambda window, _: may_be_misplaced(window),
    "outside_write": _outside_write,
    "scale_shift": _scale_shift,
    "selection_shift": _selection_shift,
    "all_jumped": _all_jumped,
    "attention_scale": may_have_grown,
    "body_break": _body_break,
    "unchanged": lambda window, _: window.now("rms") == window.before("rms"),
    "layer_outlier": may_depart,
    "selection_range": _selection_range,
    "selection_drift": _selection_drift,
    "transmission_exit": _transmission_exit,
}
"""The bounds by rule, shape (…, n) each for any n. A rule without one looks at little, or returns at once."""
