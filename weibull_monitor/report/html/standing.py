"""What is wrong now: the alerts that stand, in one sentence, and which measure shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from weibull_monitor.history.alert import short_name
from weibull_monitor.report.html.alerts import three
from weibull_monitor.report.html.encoding import Columns

COLUMN: Final[Mapping[str, str]] = {
    "k": "k",
    "R²": "r2",
    "λ": "lambda",
    "RMS": "lambda",
    "largest |w|": "lambda",
    "budget ratio c": "lambda",
    "attention scale": "lambda",
    "share of the usual speed": "lambda",
    "RMS(u)·η/RMS(w)": "lambda",
}
"""The column of the history that shows what an alert's quantity is about."""
NAMES: Final = {"k": "k", "r2": "R²", "lambda": "λ"}
MOVED: Final = 0.05
"""The least change of λ that a sentence names as a factor; else it names the quantity of the alert."""
SEVERE: Final = 2
"""Rank from which a matrix counts as wrong: that of a warning."""


def standing(columns: Columns, alerts: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The alerts that stand, from warnings on; None if there are none.

    Args:
        columns: The run.
        alerts: The result of `weibull_monitor.report.html.alerts.intervals`.

    Returns:
        ``sentence``; ``component`` of the gravest alert and its ``column`` (k, lambda or r2); ``colour``, the measure of the
        heatmap that shows it; and the places of the ``alerts``, the gravest first.
    """
    active = [i for i, alert in enumerate(alerts) if alert["until"] is None and alert["rank"] >= SEVERE]
    if not active:
        return None
    active.sort(key=lambda i: (-alerts[i]["rank"], alerts[i]["since"]))
    gravest = alerts[active[0]]
    named = {name for i in active for name in alerts[i]["components"]}
    count = max(len(named), *(alerts[i]["count"] for i in active))
    column = COLUMN.get(gravest["quantity"], "k")
    everywhere = 2 * gravest["count"] > len(columns.components)
    scale = "growth" if everywhere and columns.history.baseline is not None else "within"
    return {
        "sentence": _sentence(columns, gravest, column, count),
        "component": gravest["component"],
        "column": column,
        "colour": scale if column == "lambda" else column,
        "alerts": active,
    }


def _sentence(columns: Columns, gravest: Mapping[str, Any], column: str, count: int) -> str:
    others = f" and {count - 1:,} more" if count > 1 else ""
    wrong = "1 matrix is wrong" if count == 1 else f"{count:,} matrices are wrong"
    what = _change(columns, gravest, column)
    return f"{wrong}: {short_name(gravest['component'])}{others}, {what} since step {gravest['since']:,}."


def _change(columns: Columns, alert: Mapping[str, Any], column: str) -> str:
    """What has become of the matrix since the sample before the alert."""
    place = next((i for i, c in enumerate(columns.components) if c.name == alert["component"]), None)
    plain = str(alert["found"])
    if place is None or alert["quantity"] not in COLUMN:
        return plain
    steps = np.array([snapshot.step for snapshot in columns.history.snapshots])
    values = columns[column][:, place]
    earlier, later = values[(steps < alert["since"]) & np.isfinite(values)], values[np.isfinite(values)]
    if not len(earlier) or not len(later):
        return plain
    before, now = float(earlier[-1]), float(later[-1])
    if column == "lambda":
        return f"λ × {three(now / before)}" if before > 0 and abs(now / before - 1.0) >= MOVED else plain
    return f"{NAMES[column]} {three(now, before)}, was {three(before, now)}," if now != before else plain
