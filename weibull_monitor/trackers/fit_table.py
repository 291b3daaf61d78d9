"""A sample as a table: one row per component."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from weibull_monitor.history.snapshot import Snapshot
from weibull_monitor.model.components import Component

ROWS: Final = 2000
"""Most rows for a tracker: W&B accepts 10,000, but then needs more than a second to render them."""

_RECORDED: Final = {
    "k": "k",
    "k_se": "k_se",
    "lambda": "lambda",
    "r2": "r2",
    "rms": "rms",
    "zeros": "zeros",
    "nonfinite": "nonfinite",
    "effective_sqrt_eta_over_wd": "effective",
    "lambda_forecast": "lambda_forecast",
}
"""Columns of the table that are columns of the history."""
COLUMNS: Final = (
    *("name", "kind", "class", "block", "expert"),
    *("k", "k_se", "drift_pct", "lambda", "growth", "r2", "rms", "elements", "zeros", "nonfinite"),
    *("effective_sqrt_eta_over_wd", "lambda_forecast"),
)

Cell = str | int | float | None


@dataclass(frozen=True)
class FitTable:
    """The latest fits.

    Attributes:
        rows: One row per component that has a fit, in the model's order, with one cell for each of `COLUMNS`.
        left_out: Number of components with a fit that are not in the table.
    """

    rows: tuple[tuple[Cell, ...], ...]
    left_out: int = 0


def table_of(snapshot: Snapshot, most: int = ROWS) -> FitTable:
    """The table of a sample.

    Args:
        snapshot: The sample.
        most: Most rows. If there are more fits, those whose k is furthest from the median of their kind are kept.
    """
    k = snapshot.values("k")
    fitted = [c for c in snapshot.components if c.name in k and snapshot.fits[c.name].available]
    kept = fitted if len(fitted) <= most else _furthest(fitted, k, most)
    recorded = {name: snapshot.values(column) for name, column in _RECORDED.items()}
    rows = []
    for c in kept:
        cells: dict[str, Cell] = {name: values.get(c.name) for name, values in recorded.items()}
        cells |= {"name": c.name, "kind": c.label, "class": c.component_class, "block": c.block, "expert": c.expert}
        cells["elements"] = snapshot.fits[c.name].n
        if start := snapshot.baseline.get(c.name):
            cells["drift_pct"] = 100.0 * (k[c.name] / start.k - 1.0)
            cells["growth"] = snapshot.fits[c.name].lambda_ / start.lambda_ if start.lambda_ else None
        rows.append(tuple(cells.get(column) for column in COLUMNS))
    return FitTable(tuple(rows), len(fitted) - len(kept))


def _furthest(fitted: Sequence[Component], k: Mapping[str, float], most: int) -> list[Component]:
    by_kind: dict[str, list[float]] = {}
    for c in fitted:
        by_kind.setdefault(c.label, []).append(k[c.name])
    centre = {kind: median(values) for kind, values in by_kind.items()}
    distance = {c.name: abs(math.log(k[c.name] / centre[c.label])) for c in fitted}
    chosen = set(sorted(distance, key=lambda name: -distance[name])[:most])
    return [c for c in fitted if c.name in chosen]
