"""The last update of each matrix: `update_growth`, `update_excess`. They need ``updates=True``.

Both are about optimizers that normalise their updates (those with a bound); the steps of others have the size of the gradient,
which healthy runs change at will. docs/early-warning.md says why there are these two, and how far ahead of the loss they are.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from weibull_monitor.alerts.rules.result import RuleResult, rule_result
from weibull_monitor.alerts.rules.steps import began_at_nothing
from weibull_monitor.alerts.settings import UpdateExcess, UpdateGrowth
from weibull_monitor.alerts.statistics import Bools, Floats, quiet
from weibull_monitor.alerts.window import SampleWindow

FIRST_STEPS: Final = 30
"""The first updates of Adam have an RMS of 1, and say nothing of later ones."""
MIN_SAMPLES: Final = 4
"""Earlier samples of a matrix that are needed to say what is usual for it."""
MIN_SPAN: Final = 100
"""Steps that these have to cover: ten times the memory of m. In younger runs, updates of single matrices still come and go."""
RECENT: Final = 4
"""The last samples before the latest are left out of what is usual, so that slow growth does not become usual."""
MIN_ELEMENTS: Final = 1024
"""Smaller matrices have updates that are large by chance."""


def update_growth(window: SampleWindow, settings: UpdateGrowth) -> RuleResult | None:
    """A step moves a matrix much further, in units of its size, than it should at the η that followed the warm-up.

    The limit is the highest RMS(u)/RMS(w) of the earlier samples (of the last 32, without the latest few), times that η, times
    ``factor``. So a schedule that comes back to a rate that it had, as with restarts, does not reach it; a rate that grows, and
    updates that grow, do.
    """
    ratio = window.now("update_ratio")
    if not np.isfinite(ratio).any():
        return None
    with quiet():
        steps = np.array(window.steps[: -1 - RECENT])
        old = steps >= FIRST_STEPS
        if old.sum() < MIN_SAMPLES or np.ptp(steps[old]) < MIN_SPAN:
            return None
        past = (window["update_ratio"] / window["eta"])[: -1 - RECENT][old]  # RMS(u)/RMS(w), (samples, components)
        usual = np.fmax.reduce(past, axis=0) * window.plateau
        enough = np.isfinite(past).sum(axis=0) >= MIN_SAMPLES
        strength = np.where(_judged(window) & enough, ratio / (settings.factor * usual), 0.0)
        rate = window.now("eta") / window.plateau
    return rule_result(
        strength=strength,
        severity=2,
        quantity="RMS(u)·η/RMS(w)",
        value=ratio,
        high=settings.factor * usual,
        meaning=lambda i: (
            f"The last step moved this matrix by {100 * ratio[i]:.2g} % of its size; steps up to step {int(steps[-1])} moved it "
            f"by {100 * usual[i]:.2g} % at most"
            + (
                f". η is {rate[i]:.2g} times what it was after the warm-up: check first the learning rate of this parameter "
                "group, and lower it if you did not mean it."
                if rate[i] > 1.1
                else ", and η is no higher. Check first the gradient norm, then the last batches; lower β₂ if it stays so."
            )
        ),
    )


def update_excess(window: SampleWindow, settings: UpdateExcess) -> RuleResult | None:
    """The RMS of u is above 1: the gradient has grown faster than v follows.

    By E[m]² ≤ E[m²] the RMS of m̂/√v̂ is at most 1 for gradients of a steady size, whatever their direction and noise. Where a
    matrix of the block began at nothing, the others' gradients grow with it: see `_grown`.
    """
    ratio = window.now("update_ratio")
    if not np.isfinite(ratio).any() or window.steps[-1] < FIRST_STEPS:
        return None
    with quiet():
        rms = ratio * window.now("rms") / window.now("eta")
        limit = settings.limit * _grown(window)
        strength = np.where(_judged(window), rms / limit, 0.0)
    return rule_result(
        strength=strength,
        severity=2,
        quantity="RMS of u",
        value=rms,
        high=limit,
        meaning=lambda i: (
            f"At step {window.steps[-1]} the RMS of this matrix's update is {rms[i]:.4g}, and gradients of a steady size keep it "
            "at 1 or below: its gradient has grown faster than the optimizer's second moment follows. Check first the gradient "
            "norm, then the last batches; lower β₂ if it stays so."
        ),
    )


def _grown(window: SampleWindow) -> Floats:
    """How many times as large as before gradients are because of what began at nothing in their block, shape (components,).

    The gradient of a matrix is proportional to those that its product is multiplied with. The B of LoRA, or an output matrix that
    begins at zero, grows by orders of magnitude, and the gradients of its block grow with it: by √3 over the root of their mean
    square if it grows by as much at each step, and by more where learning speeds up.
    """
    components, rms = window.components, window["rms"]  # (samples, components)
    begun = began_at_nothing(window) & components.trainable
    factors = np.ones(len(components))
    steps = np.array(window.steps, dtype=float)
    if not begun.any() or len(steps) < 2:
        return factors  # nearly always
    squares = (rms[1:] ** 2 + rms[:-1] ** 2) / 2.0 * np.diff(steps)[:, None]  # trapezoids
    usual = np.sqrt(np.nansum(squares, axis=0) / (steps[-1] - steps[0]))
    growth = np.where(begun & (usual > 0.0), rms[-1] / usual, 1.0)
    blocks = [*zip(components.towers, components.blocks.tolist(), strict=True)]
    for block in {blocks[i] for i in np.flatnonzero(begun)}:
        here = np.array([one == block for one in blocks])
        factors[here] = np.fmax(1.0, np.fmax.reduce(growth[here]))
    return factors


def _judged(window: SampleWindow) -> Bools:
    """Trainable matrices whose optimizer normalises its updates, past their first samples, shape (components,)."""
    bounded: Floats = window.now("update_max")
    components = window.components
    return np.asarray(components.trainable & (components.numel >= MIN_ELEMENTS) & np.isfinite(bounded), dtype=bool)
