"""Matrices that came back to where they began, in one interval: `back_at_start`."""

from __future__ import annotations

from typing import Final

import numpy as np

from weibull_monitor.alerts.rules.decay import in_gradient
from weibull_monitor.alerts.rules.result import RuleResult, rule_result
from weibull_monitor.alerts.rules.words import SAME_ERRORS, between, unstepped
from weibull_monitor.alerts.statistics import Floats, or_zero, quiet
from weibull_monitor.alerts.window import SCALES, SampleWindow

FAR: Final = 0.2
"""|Δ ln λ| and |Δ ln RMS| between the start and the sample before, at least: training had changed the matrix."""
LEFT: Final = 0.1
"""Share of both that is left now, at most. Healthy matrices whose k is that of the start, too, leave 0.13."""
LEFT_BY_DECAY: Final = 0.04
"""The same where weight decay is in the gradient, which takes back as much at once as it likes."""
LEAST: Final = 0.01
"""Share that counts as nothing."""
MIN_ELEMENTS: Final = 512
"""Smaller matrices are not judged: their k says little."""


def back_at_start(window: SampleWindow, sure: float) -> RuleResult | None:
    """λ, the RMS and k came back to their values at the baseline in one interval, from far away: something wrote them.

    Training may take back what it has added, but not as a whole, and least of all so that the shape is that of the start, too.
    What is initialised anew, or loaded from the start, is there, however many matrices that are: so neither the others nor what
    explains a fall of most matrices matters.

    Args:
        window: The window.
        sure: Strength from which on it is a warning.
    """
    with quiet():
        strength = _nearness(window)
    if not strength.any():
        return None  # nearly always
    rms = window.now("rms")

    with quiet():
        by_factor = np.abs(window.now("k") - window.before("k")) <= SAME_ERRORS * window.now("k_se")
        factor = rms / window.before("rms")

    def meaning(i: int) -> str:
        start, now = window.baseline["rms"][i], f"{window.now('k')[i]:.4g} and {window.now('lambda')[i]:.4g}"
        return (
            f"RMS {between(window.before('rms')[i], rms[i], window.steps[-2])}; at step 0 it was {start:.4g}. k and λ are back "
            f"where they began, too, at {now}. Training does not take back all that it has made: most likely this matrix was "
            "initialised anew, or has the weights of the start"
            + (f", or it was multiplied by {factor[i]:.3g}" if by_factor[i] else "")
            + ". Check first what wrote to it; if it was not you, load its weights from the last checkpoint."
        )

    return rule_result(sure * strength, np.where(unstepped(window), 1, 2).astype(np.int8), "RMS", rms, meaning)


def _nearness(window: SampleWindow) -> Floats:
    """How much nearer to the start than `LEFT` a matrix came in the last interval, shape (components,); 0 where it did not."""
    components, start = window.components, window.baseline
    came = components.trainable & (components.numel >= MIN_ELEMENTS)
    came = came & (np.abs(window.log_change("rms")) >= FAR * (1.0 - LEFT))
    if not came.any():
        return np.zeros(came.shape)  # nearly always
    left = np.zeros(came.shape)
    for column in SCALES:
        was, now = (np.abs(np.log(read(column) / start[column])) for read in (window.before, window.now))
        came &= was >= FAR
        left = np.fmax(left, now / was)
    came &= np.abs(window.now("k") - start["k"]) <= SAME_ERRORS * np.hypot(window.now("k_se"), start["k_se"])
    most = np.where(in_gradient(window), LEFT_BY_DECAY, LEFT)
    return or_zero(np.where(came & (left <= most), most / np.fmax(left, LEAST), 0.0))
