"""What explains that the shape or the scale of a healthy matrix changes suddenly, in every rule that judges such changes."""

from __future__ import annotations

from typing import Final

from weibull_monitor.alerts.component_arrays import JudgedGroup
from weibull_monitor.alerts.rules.decay import IN_GRADIENT, MOST, faded
from weibull_monitor.alerts.rules.movement import from_nothing
from weibull_monitor.alerts.rules.words import UNSTEPPED, unstepped
from weibull_monitor.alerts.statistics import Bools
from weibull_monitor.alerts.window import SampleWindow

FROM_NOTHING: Final = (
    "It began at zero, or so near to it that its values are what the steps since then have made, and takes their shape. If it "
    "is meant to begin so, as the B of LoRA and some projections are, nothing has to be done."
)
"""What an info says of a matrix that grows from nothing."""


def excused(window: SampleWindow) -> Bools:
    """Matrices whose k and R² may change for a reason that is no fault, shape (components,): faded, begun at next to nothing, or
    stepped by no known optimizer.
    """
    return window.once("excused", lambda: faded(window) | from_nothing(window) | unstepped(window))


def reason(window: SampleWindow, i: int) -> str | None:
    """Why the matrix with this index is `excused`, as an alert says it; None if it is not."""
    if unstepped(window)[i]:
        return UNSTEPPED
    if from_nothing(window)[i]:
        return FROM_NOTHING
    return IN_GRADIENT if faded(window)[i] else None


def group_excused(window: SampleWindow, group: JudgedGroup) -> Bools:
    """Whether at least half of a group are `excused`, (1,)."""
    share: Bools = excused(window)[..., group.members].mean(axis=-1, keepdims=True) >= MOST
    return share
