"""k of the two classes over the steps with the published band, as one figure: W&B draws a chart of its own for every key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from weibull_monitor.errors import MissingDependencyError
from weibull_monitor.trackers.bands import CLASSES, PREFIX

COLOURS: Final = {"selection": "#0072B2", "transmission": "#D55E00"}
"""As in the report: distinguishable with every kind of colour vision."""
BAND: Final = "rgba(0, 158, 115, 0.2)"
MOST: Final = 500
"""Points of a curve: a long run is thinned out."""


class ClassCurves:
    """k of both classes at every sample so far, for one figure.

    Args:
        prefix: What the keys of a named model begin with.
    """

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        self._points: dict[str, list[tuple[int, float]]] = {name: [] for name in CLASSES}

    def add(self, metrics: Mapping[str, float], step: int) -> None:
        """Takes the metrics of a sample."""
        for name, points in self._points.items():
            value = metrics.get(f"{self._prefix}weibull_class/{name}_k")
            if value is not None:
                points.append((step, value))
                if len(points) > 2 * MOST:
                    del points[1:-1:2]

    def figure(self, bands: Mapping[str, float]) -> Any:
        """A `plotly.graph_objects.Figure` with a panel per class; None if no class has a value.

        Args:
            bands: The published bands, as `weibull_monitor.trackers.bands.bands_of` returns them, with the prefix.

        Raises:
            MissingDependencyError: If plotly is not installed.
        """
        shown = [name for name, points in self._points.items() if points]
        if not shown:
            return None
        try:
            import plotly.graph_objects as go
        except ImportError as error:
            raise MissingDependencyError("plotly", "report") from error
        figure = go.Figure(
            layout={"template": "none", "showlegend": False, "margin": {"l": 60, "r": 20, "t": 40, "b": 50}}
        )
        for place, name in enumerate(shown):
            suffix, (steps, values) = str(place + 1) if place else "", zip(*self._points[name], strict=True)
            axes = {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}"}
            low, high = (bands.get(f"{self._prefix}{PREFIX}/{name}_{end}") for end in ("low", "high"))
            if low is not None and high is not None:
                corners = {"x": [steps[0], steps[-1], steps[-1], steps[0]], "y": [low, low, high, high]}
                shade = {
                    "fill": "toself",
                    "fillcolor": BAND,
                    "line": {"width": 0},
                    "mode": "lines",
                    "hoverinfo": "skip",
                }
                figure.add_trace(go.Scatter(**corners, **shade, name="published", **axes))
            line = {"color": COLOURS[name], "width": 2}
            figure.add_trace(go.Scatter(x=steps, y=values, mode="lines+markers", line=line, name=name, **axes))
            domain = [
                place / len(shown) + 0.06 * bool(place),
                (place + 1) / len(shown) - 0.06 * (place + 1 < len(shown)),
            ]
            title = f"{name}: k" + (f", published {low:.3f}–{high:.3f}" if low is not None and high is not None else "")
            figure.update_layout(
                {
                    f"xaxis{suffix}": {"domain": domain, "anchor": f"y{suffix}", "title": {"text": "optimizer step"}},
                    f"yaxis{suffix}": {"anchor": f"x{suffix}"},
                }
            )
            figure.add_annotation(
                {"text": title, "xref": "paper", "yref": "paper", "x": domain[0], "y": 1.0, "xanchor": "left"}
                | {"yanchor": "bottom", "showarrow": False}
            )
        return figure
