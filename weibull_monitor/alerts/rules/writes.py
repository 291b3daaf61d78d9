"""What the watch of writes says of a movement: the steps made it, or a habit of the training, or an average of weights."""

from __future__ import annotations

from typing import Final

import numpy as np

from weibull_monitor.alerts.statistics import Bools, or_zero
from weibull_monitor.alerts.window import LATELY, SampleWindow

ALL: Final = 0.9
"""Share of the trained matrices from which on a write was one to the whole model: a checkpoint, or an average of weights."""
MANY: Final = 2
"""Trained matrices from which on such a share means something."""
HABIT: Final = 3.0
"""How many times as far as before a write changes values, at least, not to be a habit."""
OFTEN: Final = 0.5
"""Share of the steps of an interval, two or more, after which there were writes, from which on they are a habit …"""
AGAIN: Final = 2
"""… and so are those of an interval if there were as large ones in so many intervals before."""
BEGINS: Final = 2
"""Up to this step, a first write may be the first of a habit: nothing before it says otherwise."""
LIKE: Final = 1.0 / 300.0
"""Share of the largest write of a sample, in units of the RMS, that one of the same kind has: rounding is another kind."""
REACHES: Final = 2.0
"""How far the RMS moves by writes of some size, in units of their sum if all go one way, with the error of measuring it …"""
REACHES_ONE: Final = 16.0
"""… and the largest value, which a clip or noise moves further than others, in units of the root of their sum of squares."""


def unwritten(window: SampleWindow) -> Bools:
    """Matrices that are watched, without a write in the last two intervals, to them or to their moments; shape (components,).

    Whatever became of such a matrix, the optimizer's steps did it.
    """
    return window.once("unwritten", lambda: _unwritten(window))


def _unwritten(window: SampleWindow) -> Bools:
    if len(window.steps) < 3:
        return np.zeros(window.now("rms").shape, dtype=bool)
    watched = np.isfinite(window["step_rms"][-2:])  # (2, components)
    written = (or_zero(window["written"][-2:]) > 0.0) | (or_zero(window["state_written"][-2:]) > 0.0)
    found: Bools = np.all(watched & ~written, axis=0)
    return found


def of_habit(window: SampleWindow) -> Bools:
    """Matrices that something writes to again and again, as it did in the last interval; shape (components,).

    A projection or a clip after each step, noise, an average that is put in now and then. The latest writes are no larger than
    those before: a fault beside a habit is not of it.
    """
    times = or_zero(window["written"])  # (samples, components)
    size = or_zero(window["written_rms"]) / np.sqrt(np.fmax(times, 1.0))  # of one write
    if len(times) < 2 or not times[-1].any():
        return np.zeros(times.shape[1:], dtype=bool)  # nearly always
    before = np.where(times[:-1] > 0.0, size[:-1], np.nan)  # (intervals, components)
    again = (before >= size[-1] / HABIT).sum(axis=0) >= AGAIN
    larger = size[-1] > HABIT * np.fmax.reduce(before[-LATELY:], axis=0)
    often = (times[-1] >= np.fmax(OFTEN * (window.steps[-1] - window.steps[-2]), 2.0)) & ~larger
    found: Bools = (times[-1] > 0.0) & (again | often)
    return found


def made_by_habit(window: SampleWindow) -> Bools:
    """Matrices whose RMS and largest value moved no further than such writes can have moved them, shape (components,)."""
    size = or_zero(window.now("written_rms"))
    reaches = REACHES * np.sqrt(or_zero(window.now("written"))) * size, REACHES_ONE * size
    moved = (np.abs(window.now(column) - window.before(column)) for column in ("rms", "largest"))
    found: Bools = of_habit(window) & np.all([by <= most for by, most in zip(moved, reaches, strict=True)], axis=0)
    return found


def may_be_habit(window: SampleWindow) -> Bools:
    """Matrices that were written to after each step so far, as the first step or two tell, shape (components,).

    Whether it was a habit is known at the next sample (`written.written_once`).
    """
    each = or_zero(window.now("written")) >= np.maximum(window.steps[-1] - window.steps[-2], 1)
    found: Bools = each & begins(window)
    return found


def begins(window: SampleWindow, at: int = -1) -> Bools:
    """Matrices that were written to before a sample, after step 1 or `BEGINS`, shape (components,).

    What was written before the first step begins no habit.
    """
    after = window["written_after"][at]
    found: Bools = (or_zero(window["written"][at]) > 0.0) & (after >= 1.0) & (after <= BEGINS)
    return found


def averaged(window: SampleWindow) -> Bools:
    """Matrices whose sizes lie between earlier ones after a write to the whole model: of an average, or of earlier weights."""
    inside = alike(window, or_zero(window.now("written")) > 0.0)  # (components,)
    inside &= most_of(window, window.components.trainable, inside)
    for column in ("rms", "largest") if inside.any() else ():
        now, past = window.now(column), window[column][:-1]  # (components,), (intervals, components)
        inside &= (np.fmin.reduce(past, axis=0) <= now) & (now <= np.fmax.reduce(past, axis=0))
    return inside


def alike(window: SampleWindow, among: Bools) -> Bools:
    """Matrices whose values the last writes changed about as much as those ``among`` others, both (components,)."""
    share = or_zero(window.now("written_rms") / window.before("rms"))
    found: Bools = share > LIKE * share[among].max(initial=0.0)
    return found


def most_of(window: SampleWindow, judged: Bools, found: Bools) -> bool:
    """Whether most of the ``judged`` matrices are ``found`` ones, both (components,); a fused matrix counts once."""
    owners = window.components.owners
    trained = np.unique(owners[judged])
    return len(trained) >= MANY and len(np.unique(owners[found])) >= ALL * len(trained)
