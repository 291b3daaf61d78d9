"""A sample as heatmaps, blocks by kinds: k, λ against its kind, and the drift of k; and two ways to draw them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, Final, Literal

from weibull_monitor.errors import MissingDependencyError
from weibull_monitor.history.snapshot import Snapshot
from weibull_monitor.model.components import Component, representatives
from weibull_monitor.model.components.grid import OUTSIDE, BlockGrid, grid_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_TICKS: Final = 25
"""Most labels of blocks. In deeper models every second block is labelled, or every third, …"""
LEAST_FACTOR: Final = 1.25
"""The factor that has the last colour at least: blocks that differ by a few percent are to look alike."""
TICKS: Final = 5
"""Labels on the scale of factors."""


@dataclass(frozen=True)
class HeatmapPanel:
    """One quantity of a heatmap.

    Attributes:
        key: Short name for keys and tags.
        name: Name for people, with the unit.
        values: One value per row (block) and column (kind), shape (blocks, kinds); None where there is no such matrix.
        limits: Values of the first and the last colour. Values beyond them get the colour of that end.
        diverging: Whether the middle of the limits is a reference value, such as no drift.
        factors: Whether the values are factors: × 4 is as far from × 1 as × 0.25 is.
    """

    key: str
    name: str
    values: Sequence[Sequence[float | None]]
    limits: tuple[float, float]
    diverging: bool = False
    factors: bool = False

    def drawn(self, value: float) -> float:
        """Where a value lies on the scale of colours: itself, or the logarithm of a factor to base 2."""
        return math.log2(value) if self.factors else value

    @property
    def ticks(self) -> tuple[list[float], list[str]]:
        """Places on the scale of colours, and their labels, of a panel of factors.

        >>> HeatmapPanel("lambda", "λ", [[4.0]], (0.25, 4.0), factors=True).ticks
        ([-2.0, -1.0, 0.0, 1.0, 2.0], ['× 0.25', '× 0.5', '× 1', '× 2', '× 4'])
        """
        low, high = map(self.drawn, self.limits)
        places = [low + (high - low) * i / (TICKS - 1) for i in range(TICKS)]
        return places, [f"× {2.0**place:.3g}" for place in places]


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
    """The heatmap of k, of λ over the median of its kind, and of the drift of k if there is an earlier baseline.

    Args:
        snapshot: The sample. The experts of a block share a cell, which shows their median, and of λ the one furthest from its
            kind.
    """
    fits = {name: fit for name, fit in snapshot.fits.items() if fit.available}
    start = {name: fit.k for name, fit in snapshot.baseline.items()} if snapshot.baseline and snapshot.step else {}
    k, scale = {name: fit.k for name, fit in fits.items()}, {name: fit.lambda_ for name, fit in fits.items()}
    return heatmap_from(snapshot.step, snapshot.components, k, scale, start)


def heatmap_from(
    step: int,
    components: Sequence[Component],
    k: Mapping[str, float],
    scale: Mapping[str, float],
    start: Mapping[str, float],
) -> Heatmap:
    """The same of a sample that was read back from a history.

    Args:
        step: Optimizer step.
        components: The components of the sample.
        k: k of each component, by name, where it has a fit.
        scale: λ, likewise.
        start: k at the baseline; empty without an earlier baseline.
    """
    grid = grid_of(components)
    values = grid.values(k)
    panels = [HeatmapPanel("k", "k", values, limits_of(values, grid.blocks))]
    factors = furthest(grid, against_kind(components, scale))
    reach = max((max(v, 1.0 / v) for row in factors for v in row if v), default=1.0)
    limits = (1.0 / max(reach, LEAST_FACTOR), max(reach, LEAST_FACTOR))
    panels.append(
        HeatmapPanel("lambda", "λ over the median of its kind", factors, limits, diverging=True, factors=True)
    )
    if start:
        drift = grid.values({name: 100.0 * (value / start[name] - 1.0) for name, value in k.items() if name in start})
        ends = limits_of(drift, grid.blocks, about=0.0)
        panels.append(HeatmapPanel("drift", "drift of k, %", drift, ends, diverging=True))
    return Heatmap(f"Weights at step {step:,}", grid.kinds, grid.blocks, tuple(panels))


def against_kind(components: Sequence[Component], scale: Mapping[str, float]) -> dict[str, float]:
    """λ of each matrix over the median λ of its kind, in its own tower: a vision tower has other widths than the language model.

    >>> from torch import nn
    >>> from weibull_monitor.model.components import discover_components
    >>> members = discover_components(nn.ModuleList(nn.ModuleDict({"q_proj": nn.Linear(4, 4)}) for _ in range(3)))
    >>> against_kind(members, dict(zip([c.name for c in members], [0.02, 0.02, 0.08])))
    {'0.q_proj.weight': 1.0, '1.q_proj.weight': 1.0, '2.q_proj.weight': 4.0}
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for component in representatives(tuple(components)):
        if scale.get(component.name, 0.0) > 0.0:
            groups.setdefault((component.tower, component.label), []).append(component.name)
    found: dict[str, float] = {}
    for names in groups.values():
        usual = median(scale[name] for name in names)
        found |= {name: scale[name] / usual for name in names}
    return found


def furthest(grid: BlockGrid, factors: Mapping[str, float]) -> list[list[float | None]]:
    """The factor of each cell; of the experts of a block that which is furthest from 1, since a median would hide it."""
    return [
        [
            max((factors[name] for name in names if name in factors), key=lambda f: abs(math.log(f)), default=None)
            for names in row
        ]
        for row in grid.cells
    ]


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
        low, high = map(panel.drawn, panel.limits)
        places, labels = panel.ticks if panel.factors else (None, None)
        figure.add_trace(
            go.Heatmap(
                z=[[None if v is None else panel.drawn(v) for v in row] for row in panel.values],
                customdata=[list(row) for row in panel.values],
                x=list(heatmap.kinds),
                y=list(heatmap.blocks),
                zmin=low,
                zmax=high,
                colorscale="RdBu_r" if panel.diverging else "Viridis",
                colorbar={"title": {"text": panel.name}, "tickvals": places, "ticktext": labels},
                hovertemplate="%{x}, block %{y}<br>" + panel.name + " %{customdata:.4f}<extra></extra>",
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
    (low, high), every = map(panel.drawn, panel.limits), -(-rows // MOST_TICKS)
    values = np.array(
        [[np.nan if v is None else panel.drawn(v) for v in row] for row in panel.values], dtype=float
    )  # (blocks, kinds)
    colours = "RdBu_r" if panel.diverging else "viridis"
    shown = axes.imshow(values, aspect="auto", interpolation="nearest", cmap=colours, vmin=low, vmax=high)
    axes.set_facecolor("0.9")  # where there is no such matrix
    # Names are not formulas, which matplotlib takes text between dollars for.
    axes.set_title(_shortened(f"{heatmap.title}: {panel.name}", 80), fontsize=10, parse_math=False)
    axes.set_xticks(range(columns), kinds, rotation=40, ha="right", rotation_mode="anchor", parse_math=False)
    axes.set_yticks(range(0, rows, every), blocks[::every], parse_math=False)
    axes.set_ylabel("block")
    scale = figure.colorbar(shown, cax=beside, extend=_extend(panel))
    if panel.factors:
        places, labels = panel.ticks
        scale.set_ticks(places, labels=labels)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _shortened(label: str, most: int = 40) -> str:
    """A label with its middle left out if it is long: margins grow with labels."""
    return label if len(label) <= most else f"{label[: most // 2 - 1]}…{label[-(most // 2) :]}"


def _extend(panel: HeatmapPanel) -> Literal["neither", "both", "min", "max"]:
    present = [value for row in panel.values for value in row if value is not None]
    below, above = min(present, default=0.0) < panel.limits[0], max(present, default=0.0) > panel.limits[1]
    return "both" if below and above else "min" if below else "max" if above else "neither"
