"""Alerts as intervals: one entry from where something begins to where it ends."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from weibull_monitor.history.alert import Alert, expectation, rank


def intervals(alerts: Iterable[Alert]) -> list[dict[str, Any]]:
    """What was told, one entry for each thing that began, in order.

    Returns:
        Of each: ``rule``, ``severity`` (the gravest), ``since``, ``until`` (None while it stands), the steps at which it got
        worse, the components (the worst first; 20 at most) and their number, what was measured, and the meaning.
    """
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for alert in alerts:
        key = (alert.finding.rule, alert.since)
        entry = found.setdefault(key, {"until": None, "worsened": []} | _told(alert))
        if alert.phase == "ends":
            entry["until"] = alert.step
        elif alert.phase == "worsens":
            entry["worsened"].append(alert.step)
            if rank(alert.finding.severity) >= rank(entry["severity"]):
                entry |= _told(alert)
    return list(found.values())


def _told(alert: Alert) -> dict[str, Any]:
    finding = alert.finding
    expected = expectation(finding.expected).removeprefix(", expected ")
    return {
        "rule": finding.rule,
        "severity": finding.severity,
        "rank": rank(finding.severity),
        "since": alert.since,
        "component": finding.component,
        "components": list(finding.components),
        "count": finding.count,
        "quantity": finding.quantity,
        "value": finding.value,
        "expected": expected,
        "z": finding.z,
        "meaning": finding.meaning,
    }
