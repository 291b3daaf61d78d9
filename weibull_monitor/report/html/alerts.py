"""Alerts as intervals: one entry from the step where an alert is raised to the step where it is cleared."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from weibull_monitor.history.alert import Alert, expectation, measured, rank


def intervals(alerts: Iterable[Alert]) -> list[dict[str, Any]]:
    """One entry per alert that was raised, in order.

    Returns:
        The fields of the gravest `Finding` with ``expected`` in words, ``found``, its quantity and value in words, ``rank`` (of
        its severity), ``since`` and ``until`` (None while the alert is active).
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


def three(value: float, *others: float | None) -> str:
    """A number with three digits, or as many as tell it from the others.

    >>> three(0.026281), three(1.19612, 1.19583), three(0.5, None, 0.5)
    ('0.0263', '1.1961', '0.5')
    """
    return f"{value:.{_digits(value, *others)}g}"


def _digits(value: float, *others: float | None) -> int:
    edges = [other for other in others if other is not None and other != value]
    return next((n for n in range(3, 9) if all(f"{value:.{n}g}" != f"{edge:.{n}g}" for edge in edges)), 9)


def _entry(alert: Alert) -> dict[str, Any]:
    finding = alert.finding
    fields = {name: value for name, value in vars(finding).items() if name != "step"}
    digits = 3 if finding.value is None else _digits(finding.value, *finding.expected)
    fields["found"] = measured(finding, digits)
    expected = expectation(finding.expected, digits, finding.quantity).removeprefix(", expected ")
    return fields | {"rank": rank(finding.severity), "since": alert.since, "expected": expected}
