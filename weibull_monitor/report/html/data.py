"""Histories as plain data: everything that a page shows, ready for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from weibull_monitor.errors import ConfigurationError
from weibull_monitor.history.record import History
from weibull_monitor.report.html.comparison import differences, sweep
from weibull_monitor.report.html.run import run_data
from weibull_monitor.version import installed_version


def page_data(histories: Sequence[tuple[str, History]]) -> dict[str, Any]:
    """Everything that the page of some runs shows.

    Args:
        histories: Names and histories; where names are equal, the later ones get a number.

    Returns:
        ``runs`` (see `weibull_monitor.report.html.run.run_data`), ``differences`` and ``sweep`` (None where there are too
        few runs), ``version`` and ``made``. Holds no NaN.

    Raises:
        ConfigurationError: If there is no history.
    """
    if not histories:
        raise ConfigurationError("there is no run to report; pass at least one history")

    named = list(zip(unique([name for name, _ in histories]), (history for _, history in histories), strict=True))
    share = 1.0 / max(1, len(named))
    return {
        "version": installed_version(),
        "made": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "runs": [run_data(name, history, share) for name, history in named],
        "differences": differences(named),
        "sweep": sweep([(name, history) for name, history in named if history.snapshots]),
    }


def unique(names: Sequence[str]) -> list[str]:
    """Names that differ.

    >>> unique(["x", "x", "y"])
    ['x', 'x (2)', 'y']
    """
    found: list[str] = []
    for name in names:
        n, candidate = 1, name
        while candidate in found:
            n += 1
            candidate = f"{name} ({n})"
        found.append(candidate)
    return found
