"""Alerts as text for people."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence

from weibull_monitor.history.alert import SEVERITIES, Alert

WIDTH = 118


def render(alerts: Sequence[Alert]) -> str:
    """What was found, a paragraph an alert, and how many of each severity.

    >>> from weibull_monitor.alerts import Alert, Finding
    >>> finding = Finding("dead", "error", 40, "h.1.attn", ("h.1.attn",), 1, "zeros", 0.5, (None, 0.01), None, "Look there.")
    >>> print(render([Alert("begins", 40, 40, finding), Alert("ends", 40, 90, finding)]))
    step 40  error  dead  begins
      h.1.attn: zeros 0.5, expected at most 0.01. Look there.
    step 90  error  dead  ends
      h.1.attn: no longer found; it began at step 40.
    <BLANKLINE>
    2 alerts: 1 error that began, 1 that ended
    """
    lines: list[str] = []
    for alert in alerts:
        finding = alert.finding
        lines.append(f"step {alert.step}  {finding.severity}  {finding.rule}  {alert.phase}")
        text = alert.text.removeprefix(f"step {alert.step}: ")
        lines += textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="  ", break_long_words=False)
    return "\n".join([*lines, "", summary(alerts)] if alerts else [summary(alerts)])


def summary(alerts: Sequence[Alert]) -> str:
    """How many there are, in one line."""
    if not alerts:
        return "no alerts"
    begun = Counter(alert.finding.severity for alert in alerts if alert.phase != "ends")
    plural = {"info": "infos", "warning": "warnings", "error": "errors"}
    parts = [f"{begun[s]} {s if begun[s] == 1 else plural[s]}" for s in reversed(SEVERITIES) if begun[s]]
    ended = sum(alert.phase == "ends" for alert in alerts)
    told = f"{', '.join(parts)} that began" if parts else "none that began"
    return f"{len(alerts)} alerts: {told}" + (f", {ended} that ended" if ended else "")
