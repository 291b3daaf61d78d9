"""Steps that have the size of the gradient, as under SGD: what they can make of a matrix, and what says little then."""

from __future__ import annotations

from typing import Final

import numpy as np

from weibull_monitor.alerts.component_arrays import JudgedGroup
from weibull_monitor.alerts.rules.movement import caution
from weibull_monitor.alerts.rules.steps import NEAR, began_at_nothing
from weibull_monitor.alerts.statistics import Bools, Floats, median_along
from weibull_monitor.alerts.window import SampleWindow

ORDERS: Final = 30.0
"""How many times its largest past movement a rise is that no gradient of a model that has learned makes."""
SHARE: Final = 0.5
"""Share of a kind that has to be made of steps, for the kind to be."""

GRADIENT_GREW: Final = (
    "The steps of this optimizer are as large as the gradient, which grows by orders of magnitude when a matrix begins to "
    "learn. If the matrix keeps growing, nothing has to be done; if it stops, a warning follows at the next sample."
)
"""What an info says of a rise that one matrix makes alone."""
OF_STEPS: Final = (
    "These matrices began at zero or close to it, so their k is that of the steps since then, and may be far from that of "
    "trained models. Nothing has to be done."
)
"""What an info says of a kind that is made of steps."""


def gradient_sized(window: SampleWindow) -> Bools:
    """Matrices with a known η whose steps have another size than that, and no bound, shape (components,)."""
    found: Bools = (window.withheld.not_eta > 0) & np.isnan(window.now("update_max")) & np.isfinite(window.now("eta"))
    return found


def may_grow(window: SampleWindow, rise: Floats, ever: Floats) -> Bools:
    """Rises that a gradient which grows explains as well as a fault does, until the next sample, shape (components,).

    A matrix that learns goes on to grow, and what was written to stays as it is (`jump`). In a young run gradients grow by any
    factor.

    Args:
        window: The window.
        rise: ln of what the RMS grew by, shape (components,).
        ever: The largest past movement of it, shape (components,).
    """
    found: Bools = gradient_sized(window) & ((caution(window) > 1.0) | ~(rise >= ORDERS * ever))
    return found


def made_of_steps(window: SampleWindow, group: JudgedGroup) -> Bools:
    """Whether at least half of a group began at zero, or next to it, so that they consist of steps, (1,)."""
    start = window.baseline["rms"]
    usual = median_along(np.where(window.components.trainable, start, np.nan))
    begun = began_at_nothing(window) | gradient_sized(window) & (start <= NEAR * usual)
    share: Bools = begun[..., group.members].mean(axis=-1, keepdims=True) >= SHARE
    return share
