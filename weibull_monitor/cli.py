"""``weibull-monitor``: the command line. Every command prints its result and says in one sentence what was wrong.

Exit codes: 0 done; 1 something that was asked for cannot be done, with the reason on standard error; 2 the command line itself is
wrong (as argparse has it); 130 interrupted (Ctrl-C), with nothing left half written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from weibull_monitor.commands import alerts, compare, components, report, sweep
from weibull_monitor.commands.common import FAILED, INTERRUPTED, OK
from weibull_monitor.errors import WeibullMonitorError

COMMANDS = (components, compare, report, sweep, alerts)
"""In the order that help lists them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: The words of the command line; those of this process by default.

    Returns:
        The exit code.
    """
    options = parser().parse_args(arguments)
    try:
        code: int = options.execute(options)
        return code
    except WeibullMonitorError as error:
        print(f"weibull-monitor: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader has seen enough
        sys.stderr.close()
        return OK


def parser() -> argparse.ArgumentParser:
    """The command line's grammar: each command adds its own."""
    top = argparse.ArgumentParser(
        prog="weibull-monitor",
        description="A thermometer for weight matrices.",
        epilog="exit codes: 0 done, 1 it cannot be done (standard error says why), 2 the command line is wrong, "
        "130 interrupted",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="command")
    for command in COMMANDS:
        command.add(commands)
    return top


if __name__ == "__main__":
    sys.exit(main())
