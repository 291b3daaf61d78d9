"""A sample as a heatmap, blocks by kinds, of the shape k and of its drift: the values, and two ways to draw them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from weibull_monitor.errors import MissingDependencyError
from weibull_monitor.history.snapshot import Snapshot
from weibull_monitor.model.components.grid import OUTSIDE, grid_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_TICKS: Final = 25
"""Most labels of blocks. In deeper models every second block is labelled, or every third, …"""


@dataclass(frozen=True)
class HeatmapPanel:
    """One quantity of a heatmap.

    Attributes:
        key: Short name for keys and tags.
        name: Name for people, with the unit.
        values: One value per row (block) and column (kind), shape (blocks, kinds); None where there is no such matrix.
        limits: Values of the first and the last colour. Values beyond them get the colour of that end.
        diverging: Whether the middle of the limits is a reference value, such as no drift.
    """

    key: str
    name: str
    values: Sequence[Sequence[float | None]]
    limits: tuple[float, float]
    diverging: bool = False


@dataclass(frozen=True)
class Heatmap:
    """The heatmap of one sample.

    Attributes:
        title: Title of the figure.
        kinds: Labels of the columns.
        blocks: Labels of the rows.
        panels: The quantities, k first.
    """

    title: str
    kinds: tuple[str, ...]
    blocks: tuple[str, ...]
    panels: tuple[HeatmapPanel, ...]


def heatmap_of(snapshot: Snapshot) -> Heatmap:
    """The heatmap of k, and of its drift if there is an earlier baseline.

    Args:
        snapshot: The sample. The experts of a block share a cell, which shows their median.
    """
    grid = grid_of(snapshot.components)
    k = {name: fit.k for name, fit in snapshot.fits.items() if fit.available}
    values = grid.values(k)
    panels = [HeatmapPanel("k", "k", values, limits_of(values, grid.blocks))]
    if snapshot.step and snapshot.baseline:
        start = snapshot.baseline
        drift = {name: 100.0 * (value / start[name].k - 1.0) for name, value in k.items() if name in start}
        values = grid.values(drift)
        panels.append(
            HeatmapPanel("drift", "drift of k, %", values, limits_of(values, grid.blocks, about=0.0), diverging=True)
        )
    return Heatmap(f"Weibull shape of |w|, step {snapshot.step:,}", grid.kinds, grid.blocks, tuple(panels))


def limits_of(
    values: Sequence[Sequence[float | None]], blocks: Sequence[str], about: float | None = None
) -> tuple[float, float]:
    """The lowest and the highest value in the blocks, or in the whole model if it has no blocks; never two equal values.

    Embeddings and the output layer are left out: they move so much further that all blocks would have one colour.

    Args:
        values: One value per row and column, shape (blocks, kinds).
        blocks: Labels of the rows.
        about: The value for the middle of the limits, if it has to be a certain one.

    >>> limits_of([[1.0, 1.5], [None, 9.0]], ("0", "–")), limits_of([[1.0, -3.0]], ("0",), about=0.0)
    ((1.0, 1.5), (-3.0, 3.0))
    """
    inside = [row for row, block in zip(values, blocks, strict=True) if block != OUTSIDE]
    present = [value for row in inside or values for value in row if value is not None]
    if about is not None:
        reach = max((abs(value - about) for value in present), default=0.0) or 1.0
        return about - reach, about + reach
    low, high = min(present, default=0.0), max(present, default=1.0)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def plotly_figure(heatmap: Heatmap) -> Any:
    """An interactive figure, a `plotly.graph_objects.Figure`, with a button for each panel.

    Raises:
        MissingDependencyError: If plotly is not installed.
    """
    try:
        import plotly.graph_objects as go
    except ImportError as error:
        raise MissingDependencyError("plotly", "report") from error
    figure = go.Figure(layout={"template": "none"})  # the default template would be most of the file
    for place, panel in enumerate(heatmap.panels):
        low, high = panel.limits
        figure.add_trace(
            go.Heatmap(
                z=[list(row) for row in panel.values],
                x=list(heatmap.kinds),
                y=list(heatmap.blocks),
                zmin=low,
                zmax=high,
                colorscale="RdBu_r" if panel.diverging else "Viridis",
                colorbar={"title": {"text": panel.name}},
                hovertemplate="%{x}, block %{y}<br>" + panel.name + " %{z:.4f}<extra></extra>",
                visible=place == 0,
                xgap=1,
                ygap=1,
            )
        )
    buttons = [
        {"label": panel.name, "method": "update", "args": [{"visible": [other is panel for other in heatmap.panels]}]}
        for panel in heatmap.panels
    ]
    figure.update_layout(
        title={"text": heatmap.title, "x": 0.02},
        xaxis={"type": "category", "title": {"text": "kind"}, "tickangle": -40, "automargin": True},
        yaxis={"type": "category", "title": {"text": "block"}, "autorange": "reversed", "automargin": True},
        margin={"l": 60, "r": 20, "t": 70, "b": 60},
        updatemenus=[
            {"buttons": buttons, "type": "buttons", "direction": "right", "x": 1.0, "y": 1.02, "xanchor": "right"}
            | {"yanchor": "bottom"}
        ]
        if len(buttons) > 1
        else [],
    )
    return figure


def image(heatmap: Heatmap, panel: HeatmapPanel) -> NDArray[np.uint8]:
    """One panel as pixels, uint8 of shape (height, width, 3). Does not import pyplot, and changes no global state of matplotlib.

    Args:
        heatmap: The heatmap.
        panel: One of its panels.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("matplotlib", "report") from error
    import numpy as np

    blocks, kinds = ([_shortened(label) for label in labels] for labels in (heatmap.blocks, heatmap.kinds))
    rows, columns = len(blocks), len(kinds)
    # Margins in inches from the longest labels: matplotlib's own layout would take twice the time.
    left, bottom = (0.55 + 0.085 * max(map(len, labels)) for labels in (blocks, kinds))
    wide, tall = max(3.0, 0.45 * columns), min(10.0, max(2.0, 0.28 * rows))
    right, top = 0.95, 0.35
    width, height = left + wide + right, bottom * 0.75 + tall + top
    figure = Figure(figsize=(width, height), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((left / width, bottom * 0.75 / height, wide / width, tall / height))
    beside = figure.add_axes(((left + wide + 0.12) / width, bottom * 0.75 / height, 0.16 / width, tall / height))
    (low, high), every = panel.limits, -(-rows // MOST_TICKS)
    values = np.array(
        [[np.nan if v is None else v for v in row] for row in panel.values], dtype=float
    )  # (blocks, kinds)
    colours = "RdBu_r" if panel.diverging else "viridis"
    shown = axes.imshow(values, aspect="auto", interpolation="nearest", cmap=colours, vmin=low, vmax=high)
    axes.set_facecolor("0.9")  # where there is no such matrix
    # Names are no formulas, which matplotlib takes text between dollars for.
    axes.set_title(_shortened(f"{heatmap.title}: {panel.name}", 80), fontsize=10, parse_math=False)
    axes.set_xticks(range(columns), kinds, rotation=40, ha="right", rotation_mode="anchor", parse_math=False)
    axes.set_yticks(range(0, rows, every), blocks[::every], parse_math=False)
    axes.set_ylabel("block")
    figure.colorbar(shown, cax=beside, extend=_extend(panel))
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _shortened(label: str, most: int = 40) -> str:
    """A label with its middle left out if it is long: margins grow with labels."""
    return label if len(label) <= most else f"{label[: most // 2 - 1]}…{label[-(most // 2) :]}"


def _extend(panel: HeatmapPanel) -> Literal["neither", "both", "min", "max"]:
    present = [value for row in panel.values for value in row if value is not None]
    below, above = min(present, default=0.0) < panel.limits[0], max(present, default=0.0) > panel.limits[1]
    return "both" if below and above else "min" if below else "max" if above else "neither"
