"""Several runs: their differences at equal steps, and λ against √(η/λ_wd) across them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from statistics import median
from typing import Any, Final

from weibull_monitor.analysis.sweep import compare_runs
from weibull_monitor.history.record import History, RecordedSnapshot
from weibull_monitor.model.components import distinct
from weibull_monitor.report.kinds import by_kind

Named = Sequence[tuple[str, History]]
SWEEP: Final = 3
"""The fewest runs for which λ is compared with √(η/λ_wd)."""


def differences(histories: Named) -> dict[str, Any] | None:
    """Medians of k and λ per class and kind, at the last step that all runs have reached; None for a single run.

    Returns:
        ``step``; ``steps``, for each run the step of its last sample at or before that; and ``rows``, one per class and kind:
        the medians of k and λ in every run, and the largest distance of k from the first run's.
    """
    sampled = [(name, history) for name, history in histories if history.snapshots]
    if len(sampled) < 2:
        return None
    step = min(history.snapshots[-1].step for _, history in sampled)
    at = [_until(history, step) for _, history in sampled]
    groups = [_groups(snapshot) for snapshot in at]
    labels = list(dict.fromkeys(label for group in groups for label in group))
    rows: list[dict[str, Any]] = []
    for label in labels:
        k, scale = (
            [_median(group.get(label, []), snapshot, column) for group, snapshot in zip(groups, at, strict=True)]
            for column in ("k", "lambda")
        )
        apart = [abs(other - k[0]) for other in k[1:] if other is not None and k[0] is not None]
        rows.append({"of": label, "k": k, "lambda": scale, "apart": max(apart, default=None)})
    rows.sort(key=lambda row: (row["of"] not in ("selection", "transmission"), -(row["apart"] or 0.0)))
    return {"runs": [name for name, _ in sampled], "step": step, "steps": [s.step for s in at], "rows": rows}


def sweep(histories: Named) -> dict[str, Any] | None:
    """λ at the end of each run against √(η/λ_wd), plain and effective; None for fewer than three runs."""
    if len(histories) < SWEEP:
        return None
    found = compare_runs(histories)
    groups = [asdict(group) for group in (*found.classes, *found.kinds)]
    return {"groups": groups, "left_out": dict(found.left_out)}


def _until(history: History, step: int) -> RecordedSnapshot:
    """The last sample at or before a step; the first of a scan that begins later."""
    return next((s for s in reversed(history.snapshots) if s.step <= step), history.snapshots[0])


def _groups(snapshot: RecordedSnapshot) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for component in distinct(snapshot.components):
        if component.component_class in ("selection", "transmission"):
            found.setdefault(component.component_class, []).append(component.name)
    return found | {kind: [c.name for c in members] for kind, members in by_kind(snapshot.components).items()}


def _median(names: Sequence[str], snapshot: RecordedSnapshot, column: str) -> float | None:
    values = snapshot.values(column)
    present = [values[name] for name in names if name in values]
    return median(present) if present else None
