"""A matrix that has nearly stopped moving: `scale_stall`."""

from __future__ import annotations

from typing import Final

import numpy as np

from weibull_monitor.alerts.rules.decay import IN_GRADIENT, faded
from weibull_monitor.alerts.rules.result import RuleResult, rule_result
from weibull_monitor.alerts.rules.words import SE_LAMBDA
from weibull_monitor.alerts.settings import ScaleStall
from weibull_monitor.alerts.statistics import lengths_of, median_of, or_zero, quiet
from weibull_monitor.alerts.window import SHAPES, SampleWindow

SPEED_SAMPLES: Final = 15
"""Samples that `scale_stall` looks at."""
STEPS: Final = 0.02
"""Share of their usual size, for its η, from which on the steps of a matrix go on: k and λ are in balance then."""


def scale_stall(window: SampleWindow, settings: ScaleStall) -> RuleResult | None:
    """A matrix that has nearly stopped moving though its η is not low; `unchanged` is the exact case.

    Speed is the movement of k and ln λ in standard errors, over Σ η in units of the RMS. The larger speed of the last two
    intervals is compared with the median of the twelve before. Where writes are watched, the size of single steps is known, too:
    if they go on, the matrix has not stopped.
    """
    if len(window.steps) < settings.history + 3:
        return None
    with quiet():
        intervals = min(SPEED_SAMPLES, len(window.steps)) - 1
        moved = window["moved"][-intervals:]  # (intervals, …, components), as all that follows but one row
        k, error, rms, work = (window[c][-intervals:] for c in ("k", "k_se", "rms", "work"))
        by_shape, by_scale = (moved[..., 0, SHAPES.index(column), :] for column in ("k", "log lambda"))
        speed = np.hypot(by_shape, by_scale * k / SE_LAMBDA) / error * rms / work
        now = np.fmax(speed[-1], speed[-2])
        if not ((now > 0.0) & (now < settings.share * np.fmax.reduce(speed[:-2], axis=0))).any():
            return rule_result(np.zeros(now.shape), 1, "", now, "")  # nearly always
        usual = median_of(speed[:-2])
        share = now / usual
        strength = settings.share / np.maximum(share, 1e-3 * settings.share)
        # The size of one step, in units of η.
        size = window["step_rms"][-intervals:] * lengths_of(window.steps)[-intervals:] / work
        goes_on = np.fmin(size[-1], size[-2]) > STEPS * median_of(size[:-2])  # NaN, where it is not watched, is not
        written = or_zero(window["written"][-intervals:]) > 0.0
        goes_on &= ~(written[-2:].any(axis=0) & ~written[:-2].any(axis=0))  # or else something takes the steps back
    fading = faded(window)  # what decay has emptied swings about zero, and its speed means nothing
    return rule_result(
        strength=np.where(window.moving & window.warm & window.components.body & (now > 0) & ~goes_on, strength, 0.0),
        severity=np.where(fading, 1, 2).astype(np.int8),
        quantity="share of the usual speed",
        value=share,
        low=settings.share,
        meaning=lambda i: (
            f"Since step {window.steps[-3]}, k and λ have moved at {_of_speed(share[i])} of the speed that they had before, "
            f"although η is {window.now('eta')[i]:.3g}. "
            + (
                IN_GRADIENT
                if fading[i]
                else "Check first whether updates are lost in rounding: keep a master copy in fp32."
                if window.components.coarse[i]
                else "Check first the learning rate of its parameter group; then whether its gradient has vanished."
            )
        ),
    )


def _of_speed(share: float) -> str:
    return f"{100 * share:.2g} %" if share >= 1e-4 else "less than 0.01 %"
