"""λ against what the same learning rates give the other matrices: `scale_runaway`."""

from __future__ import annotations

from typing import Final

import numpy as np

from weibull_monitor.alerts.rules.movement import MIN_INTERVALS
from weibull_monitor.alerts.rules.result import RuleResult, rule_result
from weibull_monitor.alerts.rules.words import between
from weibull_monitor.alerts.settings import ScaleRunaway
from weibull_monitor.alerts.statistics import median_along, quiet
from weibull_monitor.alerts.window import SampleWindow

AS_ATTENTION: Final = 2.1
"""How much further W_q and W_k have to be pushed than others: where attention begins to work they go up to eight times as far as
the rest with the same η, and `attention_scale` warns from 21 times on."""


def scale_runaway(window: SampleWindow, settings: ScaleRunaway) -> RuleResult | None:
    """λ is far above what the same learning rates give the other matrices.

    c = √(λ² - λ₀²·exp(-2S))/√I (`weibull_monitor.scaling.budget`) is similar in all matrices of a model whose steps have the
    size η. A matrix whose c is ``ratio`` times the median was pushed in one direction, or rescaled. The premise is that λ is
    mostly what this training has made it: of trained weights that move a little, c says nothing. Nor does it without Σ η.
    """
    components = window.components
    body = components.body & components.trainable
    if len(window.steps) < MIN_INTERVALS + 2 or body.sum() <= MIN_INTERVALS:
        return None
    with quiet():
        kept = window.baseline["lambda"] ** 2 * np.exp(-2.0 * window.now("decay"))
        grown = window.now("lambda") ** 2 - kept
        budget = window.now("budget")
        known = np.isfinite(window.now("update_max")) & np.isfinite(window.now("eta_sum")) & (budget > 0.0)
        c = np.where(known, np.sqrt(grown / budget), np.nan)  # (components,)
        ratio = settings.ratio * np.where(components.wakes, AS_ATTENTION, 1.0)
        middle = median_along(c[..., body])  # (1,)
        usual = ratio * middle  # (components,)
        strength = c / usual
    return rule_result(
        strength=np.where(body & window.warm & (c > 1.0) & (grown > kept), strength, 0.0),
        severity=2,
        quantity="budget ratio c",
        value=c,
        high=usual,
        meaning=lambda i: (
            f"λ {between(window.baseline['lambda'][i], window.now('lambda')[i], 0)}, {c[i] / middle[0]:.2g} times as far as in "
            "the other matrices for the same steps. Check first the learning rate of its parameter group against that of the "
            "others. If it is the same, something rescaled this matrix, or its gradients all point one way"
            + (": lower the rate of W_q and W_k." if components.wakes[i] else ": go back to the last checkpoint.")
        ),
    )
