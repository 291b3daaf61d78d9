"""Movements many times as far as any of late: what a matrix did in none of its last `LATELY` intervals.

How a matrix moves changes in a run by and by, so that its latest movements tell more than its largest one ever. Rises of the
scale do not count here: learning begins with them.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from weibull_monitor.alerts.rules.decay import in_gradient, lost_most
from weibull_monitor.alerts.rules.gradient_sized import gradient_sized
from weibull_monitor.alerts.rules.movement import MIN_INTERVALS, MORE, caution, median_if_many
from weibull_monitor.alerts.rules.steps import unwinds
from weibull_monitor.alerts.rules.words import R2_NOISE, SE_LAMBDA
from weibull_monitor.alerts.statistics import Bools, Floats, or_zero
from weibull_monitor.alerts.window import EARLY, LATELY, SCALES, SHAPES, SampleWindow

MIN_ELEMENTS: Final = 512
"""Smaller matrices are not judged: with few values, one of them moves the fit."""
FELL: Final = (3.3, 5.0)
"""How many times as far as of late the scale of attention and feed-forward matrices, and of others, falls beyond weight decay.
Healthy ones reach 2.3 and 3.7, in 324 runs at three cadences; a head that is drawn anew 10 to 250."""
LEAST_FALL: Final = 0.08
"""|Δ ln λ| and |Δ ln RMS| of such a fall, at least."""
UNLIKE: Final = 2.0
"""How many times the median movement of the attention and feed-forward matrices it is."""
K: Final = (5.0, 8.0)
"""The same for k, of W_q and W_k the second: 3.9 and 5.9."""
LEAST_K: Final = 0.05
"""|Δk|, at least."""
R2: Final = 5.0
"""The same for a fall of R²: 4.2."""
LEAST_R2: Final = 0.02
"""Fall of R², at least."""


def fell_lately(window: SampleWindow) -> Floats:
    """Strength of falls of λ and the RMS beyond weight decay, far beyond their movements of late, shape (components,).

    The one that fell less counts. Not what most matrices do, too, nor what takes back what an earlier interval had added, nor
    what a larger gradient or steps of one size explain.
    """
    judged = _judged(window) & ~gradient_sized(window)
    change = [window.log_change(column) for column in SCALES]
    judged &= np.maximum(*change) <= -LEAST_FALL
    if not judged.any():
        return np.zeros(judged.shape)  # nearly always
    components = window.components
    body = components.body & components.trainable
    spent = or_zero(window.now("decay") - window.before("decay"))
    judged &= (-change[0] > MORE * window.furthest("log lambda")) | lost_most(window, change[0], spent)
    judged &= moved_lately(window, "log lambda") & ~components.expert & ~unwinds(window)
    noise = SE_LAMBDA * window.now("k_se") / window.now("k")
    units = []
    for column, by in zip(SCALES, change, strict=True):
        fell = np.fmax(-spent - by, 0.0)
        unlike = fell >= UNLIKE * median_if_many(np.abs(by[..., body]))
        units.append(np.where(unlike, fell / np.hypot(window.lately(f"log {column}"), noise), 0.0))
    return or_zero(np.where(judged, np.minimum(*units) / np.where(components.body, *FELL), 0.0))


def k_lately(window: SampleWindow) -> Floats:
    """Strength of changes of k far beyond those of late, shape (components,).

    Not of embeddings, heads and mixers in a young run; rules ask for more of others then.
    """
    moved = np.abs(window.now("k") - window.before("k"))
    judged = _judged(window) & (moved >= LEAST_K)
    if not judged.any():
        return np.zeros(moved.shape)  # nearly always
    judged &= moved_lately(window, "k")
    usual = np.hypot(window.lately("k"), window.now("k_se"))
    far = moved / (usual * np.where(window.components.selection, K[1], K[0]))
    return or_zero(np.where(judged & (window.components.body | (caution(window) <= 1.0)), far, 0.0))


def r2_lately(window: SampleWindow) -> Floats:
    """Strength of falls of R² far beyond its movements of late, shape (components,)."""
    fell = window.before("r2") - window.now("r2")
    judged = _judged(window) & (fell >= LEAST_R2)
    if not judged.any():
        return np.zeros(fell.shape)  # nearly always
    judged &= moved_lately(window, "r2")
    usual = np.hypot(window.lately("r2"), R2_NOISE / np.sqrt(window.components.numel))
    return or_zero(np.where(judged, fell / (R2 * usual), 0.0))


def moved_lately(window: SampleWindow, column: str, until: int = -1) -> Bools:
    """Matrices that moved in enough of the intervals before the one that ends with sample ``until``, shape (components,).

    One that was frozen has no past to jump from.
    """
    latest = window["moved"][:until][-LATELY:][..., 0, SHAPES.index(column), :]  # (intervals, components)
    found: Bools = (latest > 0.0).sum(axis=0) >= MIN_INTERVALS
    return found


def _judged(window: SampleWindow) -> Bools:
    """Matrices with enough intervals, of which neither an η that jumped nor decay in the gradient explains what they do."""
    if len(window.steps) < MIN_INTERVALS + 2:
        return np.zeros(window.now("rms").shape, dtype=bool)
    components = window.components
    judged: Bools = components.trainable & (components.numel >= MIN_ELEMENTS) & (np.asarray(window.steps[-1]) > EARLY)
    return judged & ~window.jumped & ~in_gradient(window)
