"""A model that is back where it was at an earlier sample."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from weibull_monitor.alerts.common_movement import MANY, judged_together
from weibull_monitor.alerts.statistics import Bools, Floats, median_along, or_zero
from weibull_monitor.alerts.window import SampleWindow

COLUMNS: Final = ("lambda", "rms", "k")
"""What has to be back; in the order of the first columns of `window.SHAPES`."""
LOOKBACK: Final = 8
"""Past intervals that the movement of the model is compared with."""
MIN_INTERVALS: Final = 3
"""How many of them there have to be."""
FURTHER: Final = 1.2
"""How many times as far as in any of them the model moved, at least, in each column."""
YOUNG: Final = 40
"""Up to this step all that a model did is little, and its states are alike."""
NEARER: Final = 2.0
"""How many times as near to the earlier sample as to the last one a model is that is back there, in each column. In 3,300 replays
of healthy runs it came to 1.6 where the model had moved that far."""
EXACT: Final = 1e-5
"""Distance within which nothing is said to be nearer."""


class Return(NamedTuple):
    """A model that is nearer to an earlier sample than to the last one.

    Attributes:
        step: The step of that sample.
        nearer: How many times as near it is, by the medians over its matrices, in the column in which it is least so.
        of_each: The same of each matrix by itself, in λ and the RMS, shape (components,).
    """

    step: int
    nearer: float
    of_each: Floats


def came_back(window: SampleWindow) -> Return | None:
    """To which earlier sample the model went back in the last interval, if it did.

    Training leads on: a healthy model is nearer to its last sample than to any before. Where the medians over its matrices of
    |Δ ln λ|, |Δ ln RMS| and |Δk| are all far smaller to an earlier sample, and the model moved further in this interval than it
    does, the weights of that time were loaded.
    """
    return window.once("came back", lambda: _came_back(window))


def moved_far(window: SampleWindow) -> Bools:
    """Whether the model moved further in the last interval than in those before, in all of `COLUMNS`, shape (…, 1).

    Of several samples together, those at which no η is known count as such.
    """
    return window.once("moved far", lambda: _moved_far(window))


def _moved_far(window: SampleWindow) -> Bools:
    if len(window.steps) < MIN_INTERVALS + 2:
        return np.zeros(1, dtype=bool)
    together = window["together"][-LOOKBACK - 1 :]  # (intervals, …, 6)
    moved, work, count = together[..., : len(COLUMNS)], together[..., -2], together[..., -1]
    unknown = np.isnan(count[-1])  # as of optimizers that step copies of the weights
    if not unknown.ndim and unknown:
        part = _judged(window)
        if not part.any():
            return np.zeros(1, dtype=bool)
        moved = median_along(window["moved"][-LOOKBACK - 1 :, 0, : len(COLUMNS)][..., part])[..., 0]
        work, count = window["work"][-LOOKBACK - 1 :, np.argmax(part)], np.zeros(len(moved))
    longer = work[-1] / work[:-1]  # (past, …)
    known = (count[:-1] == count[-1]) & (longer == longer)
    past = np.fmax.reduce(moved[:-1] * np.where(known, np.fmax(longer, 1.0), 0.0)[..., None], axis=0)
    enough = (known.sum(axis=0) >= MIN_INTERVALS) & (np.reshape(window.steps[-1], known.shape[1:]) > YOUNG)
    found: Bools = enough[..., None] & (moved[-1] >= FURTHER * past).all(axis=-1, keepdims=True)
    return found | (unknown[..., None] if unknown.ndim else False)


def _judged(window: SampleWindow) -> Bools:
    """The matrices whose medians count, shape (components,); none if they are fewer than `MANY`."""
    known: Bools = np.isfinite(window.now("eta"))
    part = judged_together(window.components, known if known.any() else ~known)
    return part & (np.count_nonzero(part) >= MANY)


def _came_back(window: SampleWindow) -> Return | None:
    if not moved_far(window).any():
        return None  # nearly always
    levels = np.stack([window[c] if c == "k" else np.log(window[c]) for c in COLUMNS])  # (columns, samples, components)
    distances = np.fmax(np.abs(levels[:, :-1] - levels[:, -1:]), EXACT)  # to now
    middle = median_along(distances[..., _judged(window)])[..., 0]  # (columns, samples)
    nearer = or_zero(middle[:, -1:] / middle[:, :-1]).min(axis=0)  # (samples,)
    then = int(np.argmax(nearer))
    of_each = or_zero((distances[:2, -1] / distances[:2, then]).min(axis=0))
    return Return(window.steps[then], float(nearer[then]), of_each)


def where_back(window: SampleWindow) -> str:
    """What an alert says of a model that went back; empty if it did not."""
    back = came_back(window)
    if back is None or back.nearer < NEARER:
        return ""
    if back.step == 0:
        return (
            "Most matrices are back where they began at step 0: the model was initialised anew. Load its weights from the last "
            "checkpoint."
        )
    return (
        f"Most matrices are back where they were at about step {back.step}: an earlier state was loaded. Check first what loads "
        f"weights after step {window.steps[-2]}: a checkpoint, or the optimizer's own copies of the weights (fp32 masters), "
        "which have to be of the same step. If it was not you, go back to the last checkpoint."
    )
