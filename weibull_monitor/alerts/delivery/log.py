"""Alerts on the log ``weibull_monitor``, at the level of their severity; cleared alerts at level INFO."""

from __future__ import annotations

import logging
from typing import Final

from weibull_monitor.errors import say
from weibull_monitor.history.alert import Alert

LEVELS: Final = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def log(alert: Alert) -> None:
    """Logs one line."""
    level = logging.INFO if alert.phase == "ends" else LEVELS[alert.finding.severity]
    say(level, f"{alert.title}: {alert.text}")
