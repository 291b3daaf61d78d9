"""Alerts as text: one paragraph per alert, and their number."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from weibull_monitor.history.alert import SEVERITIES, Alert

WIDTH: Final = 118
PHASES: Final = {"begins": "raised", "worsens": "worse", "ends": "cleared"}
"""What people read for each phase of an alert."""


def render(alerts: Sequence[Alert]) -> str:
    """One paragraph per alert, and how many there are of each severity.

    >>> from weibull_monitor.alerts import Alert, Finding
    >>> finding = Finding("dead", "error", 40, "h.1.attn", ("h.1.attn",), 1, "zeros", 0.5, (None, 0.01), None, "Look there.")
    >>> print(render([Alert("begins", 40, 40, finding)]))
    step 40  error  dead  raised
      h.1.attn: zeros 0.5, expected at most 0.01. Look there.
    <BLANKLINE>
    1 alert: 1 error raised
    """
    lines: list[str] = []
    for alert in alerts:
        lines.append(f"step {alert.step}  {alert.finding.severity}  {alert.finding.rule}  {PHASES[alert.phase]}")
        text = alert.text.removeprefix(f"step {alert.step}: ")
        lines += textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="  ", break_long_words=False)
    return "\n".join([*lines, "", summary(alerts)] if alerts else [summary(alerts)])


def summary(alerts: Sequence[Alert]) -> str:
    """How many alerts there are, in one line."""
    if not alerts:
        return "no alerts were raised"
    cleared = sum(alert.phase == "ends" for alert in alerts)
    raised = severities(alert.finding.severity for alert in alerts if alert.phase != "ends")
    parts = [f"{raised} raised"] * bool(raised) + [f"{cleared} cleared"] * bool(cleared)
    return f"{len(alerts)} alert{'s' if len(alerts) > 1 else ''}: {', '.join(parts)}"


def severities(found: Iterable[str]) -> str:
    """How many there are of each severity, the gravest first.

    >>> severities(["warning", "error", "warning"])
    '1 error, 2 warnings'
    """
    counts = Counter(found)
    return ", ".join(
        f"{counts[s]} {s}{'s' if counts[s] > 1 and s != 'info' else ''}" for s in reversed(SEVERITIES) if counts[s]
    )
