"""`outside_write`: something other than the optimizer wrote to a matrix, or to what the optimizer keeps of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np

from weibull_monitor.alerts.rules.lately import moved_lately
from weibull_monitor.alerts.rules.result import RuleResult, rule_result
from weibull_monitor.alerts.rules.words import R2_NOISE, SE_LAMBDA, between, decimal, multiplied, same_as, what_wrote
from weibull_monitor.alerts.rules.writes import BEGINS, HABIT, alike, begins, most_of
from weibull_monitor.alerts.settings import OutsideWrite
from weibull_monitor.alerts.statistics import Floats, or_zero, quiet
from weibull_monitor.alerts.window import SHAPES, SampleWindow

MIN_INTERVALS: Final = 3
"""Intervals without a write, from which on one is not a habit of the training."""
LONGER: Final = 3.0
"""How many times as large as ever steps are from which on a write to the optimizer's state of the whole model does harm, whoever
meant it."""
WITHOUT: Final = 0.5
"""Share of the trained matrices that are written to by no habit, at least, for what is done to all of these to be one write."""


def outside_write(window: SampleWindow, settings: OutsideWrite) -> RuleResult:
    """A matrix was written to between two steps for the first time: a warning.

    The difference is measured on a few elements, so nothing is judged by what is usual: it has to be more than rounding, and more
    than a few steps of the optimizer. Where those elements did not change, or little, the write counts if λ, the RMS, k or R²
    moved further than of late. A write in place to what the optimizer keeps has no such measure. Trainings that write to a matrix
    again and again (a projection after each step, a clip, weights that are stored elsewhere) have done so before.

    Not of matrices that no step moves: `maximum.changed_while_frozen` judges those. An info where the whole model was written to,
    unless it is the optimizer's state, and steps are `LONGER` times as large as ever.
    """
    written = or_zero(window.now("written"))  # (components,), as all that follows
    of_state = or_zero(window.now("state_written"))
    levels: dict[str, Any] = {
        "levels": window.now("lambda")[None],
        "before": window.before("lambda")[None],
        "level_names": ("λ",),
    }
    once = written_once(window, settings)
    if once is not None:
        return replace(once, **levels)
    if not ((written > 0.0) | (of_state > 0.0)).any() or len(window.steps) < MIN_INTERVALS + 2:
        return rule_result(np.zeros(written.shape), 1, "", written, "", **levels)  # nearly always
    with quiet():
        steps = window["step_rms"][:-1]  # (intervals, components); NaN where it was not watched
        judged = window.components.trainable & (np.isfinite(steps[-1]) | np.isfinite(window.now("step_rms")))
        judged &= np.isfinite(steps).sum(axis=0) >= MIN_INTERVALS
        often = (or_zero(window["written"][:-1]) > 0.0).any(axis=0)
        first_state = judged & ~(or_zero(window["state_written"][:-1]) > 0.0).any(axis=0)
        step = np.fmax(window.now("step_rms"), steps[-1])
        size = or_zero(window.now("written_rms"))
        by_values = np.minimum(size / (settings.steps * step), size / (settings.share * window.before("rms")))
        # An average that was evaluated and taken out again has written to all, and left no difference.
        swapped = most_of(window, judged, judged & (written > 0.0))
        few = np.where(swapped, 0.0, _moved(window) / settings.moved)
        usual = np.fmax.reduce(or_zero(window["written_rms"][:-1]), axis=0)
        unusual = size >= HABIT * usual
        strength = np.fmax(np.where(unusual, by_values, 0.0), np.where(often, 0.0, few))
        strength = np.where(judged & (written > 0.0), strength, 0.0)
        most = np.fmax.reduce(steps, axis=0)
        grew = or_zero(window.now("step_rms") / most)
        state = first_state & (of_state > 0.0) & (strength < 1.0)
        strength = np.where(state, np.fmax(grew, 1.0), strength)
        free = judged & (unusual | ~often)  # of no habit, or more than it
        whole = most_of(window, free, free & unusual & alike(window, judged)) and free[judged].mean() >= WITHOUT
        whole_state = most_of(window, judged, judged & (of_state > 0.0))
    of_whole = np.where(state, whole_state & ~(grew >= LONGER), whole)

    def meaning(i: int) -> str:
        wrote = what_wrote(window, i, bool(state[i]))
        if state[i]:
            return (
                f"{wrote}. "
                + (f"A step is {decimal(grew[i])} times as large as it ever was. " if grew[i] >= settings.moved else "")
                + "If you did not set them, load the optimizer's state from the last checkpoint."
            )
        far = (
            f": its values changed by {decimal(size[i])} (RMS), and a step changes them by {decimal(step[i])}. "
            if by_values[i] >= 1.0
            else ": few of its values changed. "
        )
        return f"{wrote}{far}{_cause(window, i, whole)}"

    return rule_result(
        strength,
        np.where(of_whole, 1, 2).astype(np.int8),
        lambda i: "RMS of a step" if state[i] else "RMS of the change",
        np.where(state, window.now("step_rms"), size),
        meaning,
        high=np.where(
            state, np.where(grew >= 1.0, most, np.nan), np.where(by_values >= 1.0, settings.steps * step, np.nan)
        ),
        **levels,
    )


def written_once(window: SampleWindow, settings: OutsideWrite) -> RuleResult | None:
    """What looked like the first write of a habit at the sample before (`writes.may_be_habit`), and was not repeated."""
    if len(window.steps) < 3 or window.steps[-3] > BEGINS:
        return None
    written, after = or_zero(window["written"]) > 0.0, window["written_after"][-2]  # (samples, …), (components,)
    once = begins(window, -2) & ~written[-1] & ~written[:-2].any(axis=0)
    if not once.any():
        return None  # nearly always
    with quiet():
        size, step = window["written_rms"][-2], np.fmax(window.now("step_rms"), window.before("step_rms"))
        strength = np.minimum(size / (settings.steps * step), size / (settings.share * window["rms"][-3]))
    return rule_result(
        np.where(once & window.components.trainable, strength, 0.0),
        2,
        "RMS of the change",
        size,
        lambda i: (
            f"Something other than the optimizer wrote to this matrix after step {after[i]:.0f}, and not again: its values "
            f"changed by {decimal(size[i])} (RMS), and a step changes them by {decimal(step[i])}. If you did not do that, find "
            "out what set these weights when training began, and start again."
        ),
        high=settings.steps * step,
    )


def _moved(window: SampleWindow) -> Floats:
    """How many times as far as in its last intervals a matrix moved, in the column in which that is most, (components,)."""
    most = np.zeros(window.now("rms").shape)
    k_se = window.now("k_se")
    noise = dict.fromkeys(("log lambda", "log rms"), SE_LAMBDA * k_se / window.now("k"))
    noise |= {"k": k_se, "r2": R2_NOISE / np.sqrt(window.components.numel)}
    for column in SHAPES:
        name = column.removeprefix("log ")
        by = np.abs(window.log_change(name) if name != column else window.now(name) - window.before(name))
        ratio = or_zero(by / np.hypot(window.lately(column), noise[column]))
        most = np.fmax(most, np.where(moved_lately(window, column), ratio, 0.0))
    return most


def _cause(window: SampleWindow, i: int, whole: bool) -> str:
    """What was written, as far as k and λ tell, and what to do."""
    if whole:
        return (
            "So did it to most others: weights were loaded, averaged or merged. If you did not do that, go back to the last "
            "checkpoint."
        )
    if same_as(window, i, "baseline"):
        what = "k and λ are back where they began at step 0: it was initialised anew. "
    elif same_as(window, i, "before"):
        what = (
            "k and λ stayed, so its values were replaced by others of the same distribution (another layer, an earlier state, "
            "other rows or columns, other signs), or few of them changed. "
        )
    elif not (what := multiplied(window, i)):
        what = f"k {between(window.before('k')[i], window.now('k')[i], window.steps[-2])}. "
    return what + "If you did not do that, go back to the last checkpoint."
