"""``weibull-monitor``: the command line. Every command prints its result, or one sentence that says what is wrong.

Exit codes: 0 done; 1 failed, with the reason on standard error; 2 wrong command line; 130 interrupted (Ctrl-C), with no file
half written. Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from weibull_monitor.cli import (
    alerts,
    compare,
    completion,
    components,
    demo,
    paper,
    report,
    run,
    scan,
    sweep,
    wandb_workspace,
    watch,
)
from weibull_monitor.cli.common import EXIT_CODES, FAILED, INTERRUPTED, OK, Parser
from weibull_monitor.cli.output import safe_output
from weibull_monitor.errors import WeibullMonitorError, text_of, visible
from weibull_monitor.version import installed_version

COMMANDS = (demo, run, components, scan, watch, report, compare, paper, sweep, alerts, wandb_workspace, completion)
"""In the order of the help."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: The words of the command line; by default those of this process.

    Returns:
        The exit code.
    """
    with safe_output():
        words = sys.argv[1:] if arguments is None else arguments
        return _run(parser().parse_args(words or ["--help"]))


def _run(options: argparse.Namespace) -> int:
    try:
        code: int = options.execute(options)
        return code
    except WeibullMonitorError as error:
        print(f"weibull-monitor: {visible(text_of(error))}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader has seen enough
        sys.stderr.close()
        return OK
    except OSError as error:
        print(
            visible(f"weibull-monitor: {error.filename or 'a file'}: {error.strerror or error}; try another path"),
            file=sys.stderr,
        )
        return FAILED


class _Version(argparse.Action):
    """Prints the version of the installed package."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest=argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"weibull-monitor {installed_version()}")
        parser.exit(OK)


def parser() -> argparse.ArgumentParser:
    """The grammar of the command line, to which every command adds its part."""
    top = Parser(
        prog="weibull-monitor",
        description="A thermometer for weight matrices: the Weibull shape k and scale λ of |w|, as a run has recorded them.",
        epilog="\n".join(
            [
                "examples:",
                "  weibull-monitor demo\n      train a small model and look at its measurements",
                "  weibull-monitor compare runs/x\n      compare a run with published models",
                "  weibull-monitor compare --help\n      the options of a command, with examples",
                "",
                EXIT_CODES,
            ]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action=_Version, help="show the version and exit")
    top.set_defaults(grammar=top)
    commands = top.add_subparsers(dest="command", required=True, metavar="command")
    for command in COMMANDS:
        command.add(commands)
    return top


if __name__ == "__main__":
    sys.exit(main())
