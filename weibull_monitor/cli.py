"""``weibull-monitor``: the command line. Every command prints its result and says in one sentence what was wrong.

Exit codes: 0 done; 1 something that was asked for cannot be done, with the reason on standard error; 2 the command line itself is
wrong (as argparse has it).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from weibull_monitor.commands import sweep
from weibull_monitor.compare import add_compare
from weibull_monitor.components import attention_types, discover, render
from weibull_monitor.errors import ConfigurationError, WeibullMonitorError

OK, FAILED = 0, 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: The words of the command line; those of this process by default.

    Returns:
        The exit code.
    """
    options = parser().parse_args(arguments)
    try:
        code: int = options.run(options)
        return code
    except WeibullMonitorError as error:
        print(f"weibull-monitor: {error}", file=sys.stderr)
        return FAILED
    except BrokenPipeError:  # the reader has seen enough
        sys.stderr.close()
        return OK


def parser() -> argparse.ArgumentParser:
    """The command line's grammar: one function for each command adds its own."""
    top = argparse.ArgumentParser(
        prog="weibull-monitor",
        description="A thermometer for weight matrices.",
        epilog="exit codes: 0 done, 1 it cannot be done (standard error says why), 2 the command line is wrong",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="command")
    _add_components(commands)
    add_compare(commands)
    sweep.add(commands)
    _add_alerts(commands)
    return top


Commands = argparse._SubParsersAction


def _add_components(commands: Commands[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "components",
        help="which matrices a model has, and what each is",
        description="Prints which matrices a model has, what each is, what is not recognised and why. Reads no weights.",
    )
    command.add_argument(
        "source", help="a directory that holds a config.json, such a file, or a model type such as 'llama'"
    )
    command.add_argument("--list", action="store_true", help="also list every matrix by name")
    command.add_argument(
        "--resolution",
        choices=("parameter", "matrix", "head"),
        default="matrix",
        help="stored matrices only; their parts too (default); every attention head too",
    )
    command.add_argument(
        "--kind",
        action="append",
        default=[],
        metavar="PATTERN=KIND",
        help=r"call what a pattern matches so, as in 'my_mixer\.w=mixer'; may be repeated",
    )
    command.set_defaults(run=_components)


def _components(options: argparse.Namespace) -> int:
    from weibull_monitor.meta import build

    kinds = dict(_pattern_and_kind(text) for text in options.kind)
    model = build(options.source)
    found = discover(model, kinds=kinds, resolution=options.resolution)
    if options.list:
        for component in found.components:
            shape = "×".join(str(n) for n in component.shape)
            print(f"{component.label:18} {shape:>18}  {component.name}")
        print()
    print(render(found))
    for one in attention_types(model, found.components):
        print(f"attention: {one.tower or 'outside of blocks'}: {one}")
    return OK


def _add_alerts(commands: Commands[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "alerts",
        help="what the rules say of a recorded run, with other thresholds if wanted",
        description="Replays the rules over the history of a run and prints the alerts: the way to tune thresholds.",
    )
    command.add_argument("run_directory", metavar="RUN", help="a run's directory, or its history.jsonl")
    command.add_argument(
        "--config", metavar="FILE", help="a TOML file of thresholds (docs/alerts.md); default thresholds without"
    )
    command.add_argument(
        "--severity", choices=("info", "warning", "error"), default="info", help="from which (default: info)"
    )
    command.add_argument("--recorded", action="store_true", help="what was told while the run ran, instead of a replay")
    command.set_defaults(run=_alerts)


def _alerts(options: argparse.Namespace) -> int:
    from weibull_monitor.alerts import AlertSettings, replay
    from weibull_monitor.alerts.finding import rank
    from weibull_monitor.alerts.table import render as as_text
    from weibull_monitor.trackers import read_history

    settings = AlertSettings.of(options.config) if options.config else AlertSettings()
    try:
        history = read_history(options.run_directory)
    except FileNotFoundError as error:
        raise ConfigurationError(str(error)) from None
    attention = history.runs[-1].attention if history.runs else ()
    alerts = history.alerts if options.recorded else replay(history.snapshots, settings, attention)
    print(as_text([alert for alert in alerts if rank(alert.finding.severity) >= rank(options.severity)]))
    print(f"{len(history.snapshots)} samples of {len(history.components)} matrices and parts in {history.path}")
    return OK


def _pattern_and_kind(text: str) -> tuple[str, str]:
    pattern, separator, kind = text.rpartition("=")
    if not separator or not pattern:
        raise ConfigurationError(f"--kind {text!r} is not of the form PATTERN=KIND, as in 'my_mixer=mixer'")
    return pattern, kind


if __name__ == "__main__":
    sys.exit(main())
