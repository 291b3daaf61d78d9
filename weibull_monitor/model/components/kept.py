"""What is made of the components of a model, once for all of its samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from weibull_monitor.model.components.component import Component

Made = TypeVar("Made")
_MOST = 8
"""How many sets of components are remembered."""


class Kept(Generic[Made]):
    """Makes something of a tuple of components, and gives the same again for the same tuple.

    Tuples are compared by identity: comparing thousands of components would take longer than what is saved.

    Args:
        make: Makes it.

    >>> count = Kept(len)
    >>> count(())
    0
    """

    def __init__(self, make: Callable[[tuple[Component, ...]], Made]) -> None:
        self._make = make
        self._made: tuple[tuple[tuple[Component, ...], Made], ...] = ()

    def __call__(self, components: tuple[Component, ...]) -> Made:
        """What is made of these components."""
        for known, made in self._made:
            if known is components:
                return made
        made = self._make(components)
        if isinstance(components, tuple):  # a list may change
            self._made = ((components, made), *self._made[: _MOST - 1])
        return made


@Kept
def names_of(components: tuple[Component, ...]) -> tuple[str, ...]:
    """The names of components."""
    return tuple(component.name for component in components)
