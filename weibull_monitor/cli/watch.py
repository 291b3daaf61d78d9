"""``weibull-monitor watch RUN``: follows a run in the terminal."""

from __future__ import annotations

import argparse
import math

from weibull_monitor.cli.common import OK, Commands, add_command, add_run, needs


def add(commands: Commands) -> None:
    """Registers the command."""
    command = add_command(
        commands,
        "watch",
        _execute,
        help="follow a run in the terminal",
        description="Shows a run in the terminal and refreshes it during training: alerts, the worst matrices, the classes with "
        "the published ranges, and every kind with its drift and forecast. If the run has not begun, it waits. Ctrl-C ends it. "
        "Needs the extra 'report'.",
        examples=[
            ("runs/x", "follow a run"),
            ("runs/x --every 10", "look for new samples every ten seconds"),
            ("runs/x --once", "print one frame and exit, also into a pipe"),
        ],
    )
    add_run(command)
    command.add_argument("--once", action="store_true", help="print one frame and exit")
    command.add_argument(
        "--every", type=_seconds, default=2.0, metavar="SECONDS", help="time between two reads (default: 2)"
    )


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0.1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds of at least 0.1")
    return value


def _execute(options: argparse.Namespace) -> int:
    needs("rich", "report")
    from weibull_monitor.report.terminal.screen import show_once, watch

    if options.once:
        show_once(options.run)
    else:
        watch(options.run, options.every)
    return OK
