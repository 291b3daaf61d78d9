"""Alerts as intervals: one entry from the step where an alert is raised to the step where it is cleared."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from weibull_monitor.history.alert import Alert, expectation, rank


def intervals(alerts: Iterable[Alert]) -> list[dict[str, Any]]:
    """One entry per alert that was raised, in order.

    Returns:
        The fields of the gravest `Finding` with ``expected`` in words, and ``rank`` (of its severity), ``since`` and
        ``until`` (None while the alert is active).
    """
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for alert in alerts:
        key = (alert.finding.rule, alert.since)
        entry = found.setdefault(key, {"until": None} | _entry(alert))
        if alert.phase == "ends":
            entry["until"] = alert.step
        elif rank(alert.finding.severity) >= entry["rank"]:
            entry |= _entry(alert)
    return list(found.values())


def _entry(alert: Alert) -> dict[str, Any]:
    finding = alert.finding
    fields = {name: value for name, value in vars(finding).items() if name != "step"}
    expected = expectation(finding.expected).removeprefix(", expected ")
    return fields | {"rank": rank(finding.severity), "since": alert.since, "expected": expected}
