"""How every picture looks: one palette, labelled axes, an SVG for light pages and one for dark ones."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from pictures.palette import DARK, LIGHT, Palette

FIGURES = Path(__file__).parents[1] / "figures"
Draw = Callable[[Figure, Palette], None]


def save(name: str, size: tuple[float, float], draw: Draw) -> None:
    """Writes ``<name>.svg`` and ``<name>-dark.svg``.

    Args:
        name: Of the picture.
        size: Width and height in inches; a page is about 8 wide.
        draw: Draws onto a figure, in the colours of a palette.
    """
    for suffix, palette in (("", LIGHT), ("-dark", DARK)):
        with matplotlib.rc_context(_settings(name, palette)):
            figure = Figure(figsize=size, layout="constrained", facecolor=palette.ground)
            draw(figure, palette)
            for axes in figure.axes:
                axes.spines[["top", "right"]].set_visible(False)
                axes.set_axisbelow(True)
            text = io.StringIO()
            figure.savefig(text, format="svg", metadata={"Date": None})
        drawn = re.sub(r'"[^"]*"', _rounded, text.getvalue())
        (FIGURES / f"{name}{suffix}.svg").write_text(drawn, encoding="utf-8")


def _rounded(attribute: re.Match[str]) -> str:
    """Coordinates to a hundredth of a point; what is written in the picture is not an attribute, and stays."""
    return re.sub(r"(\d\.\d\d)\d+", r"\1", attribute[0])


def _settings(name: str, palette: Palette) -> dict[str, Any]:
    ink = ("text.color", "axes.labelcolor", "axes.titlecolor", "axes.edgecolor", "xtick.color", "ytick.color")
    return dict.fromkeys(ink, palette.ink) | {
        "axes.facecolor": palette.ground,
        "axes.grid": True,
        "axes.titlelocation": "left",
        "axes.titlesize": 11,
        "font.size": 10,
        "grid.color": palette.faint,
        "grid.linewidth": 0.7,
        "legend.frameon": False,
        "legend.fontsize": 9,
        "lines.linewidth": 1.6,
        "svg.fonttype": "none",
        "svg.hashsalt": name,
    }
