"""What the commands share: how a run is named and read, and how help shows examples."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from weibull_monitor.errors import ConfigurationError
from weibull_monitor.trackers.history import History, read_history

Commands = argparse._SubParsersAction
"""What a command's ``add`` registers itself with."""

OK, FAILED, INTERRUPTED = 0, 1, 130
"""Exit codes; 2 is argparse's, for a command line that is wrong."""


def add_command(
    commands: Commands[argparse.ArgumentParser],
    name: str,
    help: str,
    description: str,
    examples: Sequence[tuple[str, str]],
) -> argparse.ArgumentParser:
    """Adds a command to the grammar.

    Args:
        commands: What to add it to.
        name: Its name.
        help: A line for the list of commands.
        description: What it does, in a sentence or two.
        examples: Command lines without the program's name, and what each does: shown at the end of its help.
    """
    lines = [f"  weibull-monitor {name} {words}\n      {what}" for words, what in examples]
    return commands.add_parser(
        name,
        help=help,
        description=description,
        epilog="examples:\n" + "\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_run(command: argparse.ArgumentParser, several: bool = False) -> None:
    """Adds the argument ``run``, or ``runs`` for one or several."""
    if several:
        command.add_argument("runs", nargs="+", metavar="RUN", help="directories of runs, or their history.jsonl")
    else:
        command.add_argument("run", metavar="RUN", help="a run's directory, or its history.jsonl")


def open_run(path: str | Path) -> History:
    """The history of a run that a user named.

    Raises:
        ConfigurationError: If there is none.
    """
    try:
        return read_history(path)
    except FileNotFoundError as error:
        raise ConfigurationError(f"{error}; name a directory that a monitored run has written to") from error


def pattern_and_kind(text: str) -> tuple[str, str]:
    """The two halves of ``PATTERN=KIND``.

    Raises:
        ConfigurationError: If it is not of that form.
    """
    pattern, separator, kind = text.rpartition("=")
    if not separator or not pattern:
        raise ConfigurationError(f"--kind {text!r} is not of the form PATTERN=KIND, as in 'my_mixer=mixer'")
    return pattern, kind
