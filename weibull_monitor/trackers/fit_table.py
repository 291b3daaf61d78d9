"""A sample as a table: one row a component."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from weibull_monitor.history.snapshot import NO_SCALING, Snapshot
from weibull_monitor.measure import WeibullFit
from weibull_monitor.model.components import Component

ROWS: Final = 2000
"""Rows that a tracker gets: W&B takes 10,000, but needs more than a second to look through so many."""

COLUMNS: Final = (
    "name",
    "kind",
    "class",
    "block",
    "expert",
    "k",
    "k_se",
    "drift_pct",
    "lambda",
    "growth",
    "r2",
    "rms",
    "elements",
    "zeros",
    "nonfinite",
    "effective_sqrt_eta_over_wd",
    "lambda_forecast",
)

Cell = str | int | float | None


@dataclass(frozen=True)
class FitTable:
    """The latest fits.

    Attributes:
        rows: One for each component that has a fit, in the model's order, a cell for each of `COLUMNS`.
        left_out: Components that had no place.
    """

    rows: tuple[tuple[Cell, ...], ...]
    left_out: int = 0


def table_of(snapshot: Snapshot, most: int = ROWS) -> FitTable:
    """The table of a sample.

    Args:
        snapshot: The sample.
        most: Rows to keep. If there are more, those whose k lies furthest from the median of their kind are kept.
    """
    fitted = [c for c in snapshot.components if c.name in snapshot.fits and snapshot.fits[c.name].available]
    kept = fitted if len(fitted) <= most else _furthest(fitted, snapshot, most)
    return FitTable(
        tuple(_row(c, snapshot.fits[c.name], snapshot) for c in kept),
        len(fitted) - len(kept),
    )


def _furthest(fitted: Sequence[Component], snapshot: Snapshot, most: int) -> list[Component]:
    by_kind: dict[str, list[float]] = {}
    for c in fitted:
        by_kind.setdefault(c.label, []).append(snapshot.fits[c.name].k)
    centre = {kind: median(values) for kind, values in by_kind.items()}
    away = {c.name: abs(math.log(snapshot.fits[c.name].k / centre[c.label])) for c in fitted}
    chosen = set(sorted(away, key=lambda name: -away[name])[:most])
    return [c for c in fitted if c.name in chosen]


def _row(component: Component, fit: WeibullFit, snapshot: Snapshot) -> tuple[Cell, ...]:
    start = snapshot.baseline.get(component.name)
    scaling = snapshot.scaling.get(component.name, NO_SCALING)
    values: dict[str, Cell] = {
        "name": component.name,
        "kind": component.label,
        "class": component.component_class,
        "block": component.block,
        "expert": component.expert,
        "k": fit.k,
        "k_se": fit.k_se,
        "drift_pct": 100.0 * (fit.k / start.k - 1.0) if start else None,
        "lambda": fit.lambda_,
        "growth": fit.lambda_ / start.lambda_ if start and start.lambda_ else None,
        "r2": fit.r2,
        "rms": fit.rms,
        "elements": fit.n,
        "zeros": fit.zeros,
        "nonfinite": fit.nonfinite,
        "effective_sqrt_eta_over_wd": scaling.effective,
        "lambda_forecast": scaling.forecast.value if scaling.forecast else None,
    }
    return tuple(_finite(values[column]) for column in COLUMNS)


def _finite(value: Cell) -> Cell:
    return None if isinstance(value, float) and not math.isfinite(value) else value
