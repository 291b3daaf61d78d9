"""What explains that the shape or the scale of a healthy matrix changes suddenly, in every rule that judges such changes."""

from __future__ import annotations

from typing import Final

from weibull_monitor.alerts.component_arrays import JudgedGroup
from weibull_monitor.alerts.rules.alone import beyond_others
from weibull_monitor.alerts.rules.decay import IN_GRADIENT, MOST, faded
from weibull_monitor.alerts.rules.movement import caution
from weibull_monitor.alerts.rules.steps import from_nothing, unwinds
from weibull_monitor.alerts.rules.words import UNSTEPPED, unstepped
from weibull_monitor.alerts.statistics import Bools
from weibull_monitor.alerts.window import SampleWindow

MIN_ELEMENTS: Final = 1_000_000
"""Elements of the matrices of a model from which on it is held against published ones, which have 70 M or more. Healthy models of
0.2 M leave their bands in some hundred steps: under Muon, k of feed-forward matrices came down to 0.92."""
FROM_NOTHING: Final = (
    "It began at zero, or so close to it that its values are the sum of the steps since then, and takes their shape. If it is "
    "meant to begin there, like the B of LoRA and some projections, nothing has to be done."
)
"""What an info says of a matrix that grows from nothing."""


UNWINDS: Final = (
    "All of its values had come to one size, and the optimizer is undoing that: some have returned and others have not yet. "
    "Only the optimizer wrote to it."
)
"""What an info says of such a matrix."""
STRAIGHTENS: Final = (
    "Its k came nearer to that of a normal distribution, and its fit is as good as before. Values do so when learning adds to "
    "some that did not begin as normal ones, such as uniform ones. Nothing has to be done."
)
"""What an info says of such a matrix."""


RISING: Final = (
    "The optimizer chooses η by itself, and raises it by orders of magnitude in the first steps. All matrices take the shape of "
    "these steps; nothing has to be done if the loss falls."
)
"""What an info says of a matrix in the first steps of such an optimizer."""


def excused(window: SampleWindow) -> Bools:
    """Matrices whose k and R² may change without a fault, shape (components,): faded, begun at next to nothing,
    stepped by no known optimizer, coming back from values of one size, or in a young run whose optimizer raises η by itself.
    What only one of the faded ones does is not excused.
    """
    return window.once("excused", lambda: _excused(window))


def _excused(window: SampleWindow) -> Bools:
    fading = faded(window)
    if fading.any():
        fading = fading & ~beyond_others(window)
    return fading | from_nothing(window) | unstepped(window) | unwinds(window) | _rising(window)


def _rising(window: SampleWindow) -> Bools:
    found: Bools = (caution(window) > 1.0) & (window.withheld.own_rate > 0)
    return found


def reason(window: SampleWindow, i: int) -> str | None:
    """Why the matrix with this index is `excused`, as an alert says it; None if it is not."""
    if unstepped(window)[i]:
        return UNSTEPPED
    if from_nothing(window)[i]:
        return FROM_NOTHING
    if faded(window)[i] and excused(window)[i]:
        return IN_GRADIENT
    if _rising(window)[i]:
        return RISING
    return UNWINDS if unwinds(window)[i] else None


def group_excused(window: SampleWindow, group: JudgedGroup) -> Bools:
    """Whether at least half of a group are `excused`, (1,)."""
    return mostly(excused(window), group)


def comparable(window: SampleWindow) -> bool:
    """Whether a model is large enough for the published ones to say anything of it, `MIN_ELEMENTS`."""
    return window.components.elements >= MIN_ELEMENTS


def mostly(found: Bools, group: JudgedGroup) -> Bools:
    """Whether something holds for at least half of a group, (1,)."""
    share: Bools = found[..., group.members].mean(axis=-1, keepdims=True) >= MOST
    return share
