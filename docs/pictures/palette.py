"""The colours of the classes, the same in every picture and page, on white and on dark ground.

They are distinguishable with every kind of colour vision (M. Okabe, K. Ito, "Color Universal Design", 2008).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Palette:
    """Colours on one ground, as ``#rrggbb``.

    Attributes:
        selection: W_q and W_k.
        transmission: Attention outputs and feed-forward matrices.
        none: Matrices without a class, and mixed ones.
        alert: Alerts and errors.
        ink: Text and axes.
        faint: Grids and background marks.
        ground: The page itself.
    """

    selection: str
    transmission: str
    none: str
    alert: str
    ink: str
    faint: str
    ground: str

    def of(self, component_class: str) -> str:
        """The colour of a class.

        >>> LIGHT.of("selection") == LIGHT.selection, LIGHT.of("mixed") == LIGHT.none
        (True, True)
        """
        return {"selection": self.selection, "transmission": self.transmission}.get(component_class, self.none)


LIGHT: Final = Palette("#0072B2", "#D55E00", "#7A7A7A", "#B3003C", "#222222", "#DDDDDD", "#FFFFFF")
"""On a light page."""
DARK: Final = Palette("#56B4E9", "#F0883E", "#9AA0A6", "#FF7B9C", "#E6E6E6", "#3A3F47", "#1E2129")
"""On a dark page: the same hues, lighter."""
