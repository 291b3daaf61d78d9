"""An alert as a chat message: which matrix, what was found, what it means, and the command to look at it."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlsplit

from weibull_monitor.errors import visible
from weibull_monitor.history.alert import Alert, short_name

ICONS: Final = {"info": "ℹ️", "warning": "⚠️", "error": "🛑"}
PHASES: Final = {"begins": "", "worsens": " has got worse", "ends": " is over"}
NAMES: Final = 5
"""Components that a message lists."""
LONGEST: Final = 1900
"""Characters of a message; Discord takes 2,000."""
DISCORD: Final = ("discord.com", "discordapp.com")


def payload(alert: Alert, run: str, url: str) -> dict[str, Any]:
    """The JSON body for a webhook.

    Args:
        alert: The alert.
        run: The run's directory.
        url: Of the webhook. Discord's own take ``content``; all others, and Discord's that end in ``/slack``, what Slack takes.
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").removeprefix("canary.").removeprefix("ptb.")
    if host in DISCORD and not parts.path.rstrip("/").endswith("/slack"):
        return {"content": text_of(alert, run, bold="**"), "allowed_mentions": {"parse": []}}
    return {"text": _escaped(text_of(alert, run))}


def text_of(alert: Alert, run: str, bold: str = "*") -> str:
    """The message, a line for each thing that one wants to know.

    >>> from weibull_monitor.history.alert import Finding
    >>> finding = Finding("nonfinite", "error", 40, "a.weight", ("a.weight",), 1, "NaN", 3.0, (0.0, 0.0), None, "Look.")
    >>> print(text_of(Alert("begins", 40, 40, finding), "runs/x"))
    🛑 *a: nonfinite* · step 40 of runs/x
    NaN 3, expected 0
    Look.
    error · since step 40 · `weibull-monitor report runs/x`
    """
    finding = alert.finding
    icon = "✅" if alert.phase == "ends" else ICONS[finding.severity]
    more = f" and {finding.count - 1:,} more" if finding.count > 1 else ""
    of = f"{run} ({alert.name})" if alert.name else run
    rule = finding.rule.replace("_", " ")
    lines = [
        f"{icon} {bold}{short_name(finding.component)}{more}: {rule}{PHASES[alert.phase]}{bold} · step {alert.step:,} of {of}"
    ]
    if alert.phase == "ends":
        ending = alert.ending or "it is no longer found."
        lines.append(ending[0].upper() + ending[1:])
    else:
        lines += [alert.numbers] if alert.numbers else []
        if len(finding.components) > 1:
            left = finding.count - 1 - len(finding.components[1:NAMES])
            others = ", ".join(map(short_name, finding.components[1:NAMES]))
            lines.append(f"also {others}" + (f" and {left:,} more" if left > 0 else ""))
        lines.append(finding.meaning)
    command = f"`weibull-monitor report {run}`".replace("\n", " ")
    stood = f"since step {alert.since:,}" if alert.phase != "ends" else f"from step {alert.since:,} to {alert.step:,}"
    last = f"{finding.severity} · {stood} · {command}"
    body = "\n".join(visible(line) for line in lines)
    return f"{body[: LONGEST - len(last)]}\n{visible(last)}"


def _escaped(text: str) -> str:
    """The text without what Slack takes for a mention or a link."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
