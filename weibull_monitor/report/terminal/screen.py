"""The loop behind `weibull-monitor watch`: read what is new, draw it, wait."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from weibull_monitor.errors import ConfigurationError, MissingDependencyError
from weibull_monitor.history.follower import HistoryTail
from weibull_monitor.report.terminal.draw import draw, waiting
from weibull_monitor.report.terminal.view import view_of


def show_once(path: str | Path, console: Any = None) -> None:
    """Prints one frame.

    Args:
        path: The run's directory, or its history.
        console: A console of rich; that of standard output by default.

    Raises:
        ConfigurationError: If there is no history, or no sample in it.
        MissingDependencyError: If rich is not installed.
    """
    console = console or _console()
    tail = HistoryTail(path)
    tail.poll()
    if tail.file is None:
        raise ConfigurationError(
            f"no history at {tail.path}: no file, nor {tail.waits_for}; name a directory that a monitored run has written to"
        )
    if (view := view_of(tail)) is None:
        raise ConfigurationError(
            f"{tail.file} holds no samples yet; wait for the first, or name a history that a monitored run writes"
        )
    console.print(draw(view, console.width), soft_wrap=False)


def watch(path: str | Path, every: float, console: Any = None) -> None:
    """Shows a run in the terminal and refreshes it until it is interrupted; then restores the terminal.

    Args:
        path: The run's directory, or its history; neither has to exist yet.
        every: Seconds between two reads.
        console: A console of rich; that of standard output by default.

    Raises:
        ConfigurationError: If standard output is not a terminal, or the history was written by a newer version.
        MissingDependencyError: If rich is not installed.
    """
    console = console or _console()
    if not console.is_terminal:
        raise ConfigurationError("standard output is not a terminal and cannot be refreshed; add --once for one frame")
    from rich.live import Live

    tail, view = HistoryTail(path), None
    with Live(waiting(str(tail.waits_for), console.width), console=console, screen=True, auto_refresh=False) as live:
        while True:
            if tail.poll():
                view = view_of(tail)
            width, height = console.size
            live.update(draw(view, width, height) if view else waiting(str(tail.waits_for), width), refresh=True)
            time.sleep(every)


def _console() -> Any:
    try:
        from rich.console import Console
    except ImportError as error:
        raise MissingDependencyError("rich", "report") from error
    return Console(highlight=False)
