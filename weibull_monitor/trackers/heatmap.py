"""A sample as a heatmap, blocks by kinds: the shape k, and its drift. Values first; plotly and matplotlib draw them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from weibull_monitor.errors import MissingDependencyError
from weibull_monitor.grid import grid_of
from weibull_monitor.snapshot import Snapshot

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_TICKS: Final = 40
"""Blocks that are labelled; of deeper models, every second one, or third, …"""


@dataclass(frozen=True)
class Panel:
    """One quantity.

    Attributes:
        name: What it is, with its unit.
        values: A value for each row (block) and column (kind); None where there is none.
        about: The value in the middle of the colours; None where there is no such value.
    """

    name: str
    values: Sequence[Sequence[float | None]]
    about: float | None = None

    @property
    def limits(self) -> tuple[float, float]:
        """Lowest and highest colour: symmetrical if there is a middle, and never the same."""
        present = [value for row in self.values for value in row if value is not None]
        if self.about is None:
            low, high = min(present, default=0.0), max(present, default=1.0)
            return (low, high) if high > low else (low - 0.5, high + 0.5)
        reach = max((abs(value - self.about) for value in present), default=0.0) or 1.0
        return self.about - reach, self.about + reach


@dataclass(frozen=True)
class Heatmap:
    """What is drawn of one sample.

    Attributes:
        title: A line above it.
        kinds: The columns.
        blocks: The rows.
        panels: The quantities, k first.
    """

    title: str
    kinds: tuple[str, ...]
    blocks: tuple[str, ...]
    panels: tuple[Panel, ...]


def heatmap_of(snapshot: Snapshot) -> Heatmap:
    """Lays k out, and its drift where there is a baseline that is not this sample itself.

    Args:
        snapshot: The sample; of the experts of a block the median is shown.
    """
    grid = grid_of(snapshot.components)
    k = {name: fit.k for name, fit in snapshot.fits.items() if fit.available}
    panels = [Panel("k", grid.values(k))]
    if snapshot.step and snapshot.baseline:
        start = snapshot.baseline
        drift = {name: 100.0 * (value / start[name].k - 1.0) for name, value in k.items() if name in start}
        panels.append(Panel("drift of k, %", grid.values(drift), about=0.0))
    return Heatmap(f"Weibull shape of |w|, step {snapshot.step:,}", grid.kinds, grid.blocks, tuple(panels))


def plotly_figure(heatmap: Heatmap) -> Any:
    """An interactive figure (`plotly.graph_objects.Figure`); buttons choose the panel.

    Raises:
        MissingDependencyError: If plotly is not installed.
    """
    try:
        import plotly.graph_objects as go
    except ImportError as error:
        raise MissingDependencyError("plotly", "report") from error
    figure = go.Figure(layout={"template": "none"})  # the default one would be most of the file
    for place, panel in enumerate(heatmap.panels):
        low, high = panel.limits
        figure.add_trace(
            go.Heatmap(
                z=[list(row) for row in panel.values],
                x=list(heatmap.kinds),
                y=list(heatmap.blocks),
                zmin=low,
                zmax=high,
                colorscale="Viridis" if panel.about is None else "RdBu_r",
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


def image(heatmap: Heatmap) -> NDArray[np.uint8]:
    """The panels side by side, as pixels: height × width × 3. Nothing global of matplotlib is touched, pyplot not loaded.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("matplotlib", "report") from error
    import numpy as np

    rows, columns, panels = len(heatmap.blocks), len(heatmap.kinds), len(heatmap.panels)
    size = (1.0 + panels * max(3.2, 0.5 * columns + 1.2), min(14.0, max(3.2, 0.28 * rows + 1.9)))
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(heatmap.title)
    every = -(-rows // MOST_TICKS)
    for panel, axes in zip(heatmap.panels, figure.subplots(1, panels, sharey=True, squeeze=False)[0], strict=True):
        low, high = panel.limits
        values = np.array([[np.nan if v is None else v for v in row] for row in panel.values], dtype=float)
        shown = axes.imshow(
            values,
            aspect="auto",
            interpolation="nearest",
            cmap="viridis" if panel.about is None else "RdBu_r",
            vmin=low,
            vmax=high,
        )
        axes.set_facecolor("0.9")  # where there is no such matrix
        axes.set_xticks(range(columns), heatmap.kinds, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(0, rows, every), heatmap.blocks[::every])
        figure.colorbar(shown, ax=axes, label=panel.name)
    figure.axes[0].set_ylabel("block")
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
