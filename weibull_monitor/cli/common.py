"""What the commands share: how a run is named and read, and how help shows examples."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from weibull_monitor.errors import ConfigurationError

if TYPE_CHECKING:
    from weibull_monitor.history.record import History

Commands = argparse._SubParsersAction
"""What a command's ``add`` registers itself with."""

OK, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130
"""Exit codes: done; cannot be done; the command line is wrong; interrupted by Ctrl-C."""

EXIT_CODES = (
    "exit codes: 0 done; 1 it cannot be done, standard error says why; 2 the command line is wrong; 130 interrupted"
)


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with a command line, and where its help is."""

    def error(self, message: str) -> NoReturn:
        """Ends the program."""
        self.exit(WRONG, f"{self.prog}: {message}; see {self.prog} --help\n")


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
    lines = [f"  {f'weibull-monitor {name} {words}'.rstrip()}\n      {what}" for words, what in examples]
    return commands.add_parser(
        name,
        help=help,
        description=description,
        epilog="\n".join(["examples:", *lines, "", EXIT_CODES]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_run(command: argparse.ArgumentParser, several: bool = False) -> None:
    """Adds the argument ``run``, or ``runs`` for one or several."""
    if several:
        command.add_argument("runs", nargs="+", metavar="RUN", help="directories of runs, or their history.jsonl")
    else:
        command.add_argument("run", metavar="RUN", help="a run's directory, or its history.jsonl")


def open_run(path: str | Path) -> History:
    """The history of a run that a user named, which has at least one sample.

    Raises:
        ConfigurationError: If there is none, or it cannot be read.
    """
    from weibull_monitor.history.reader import read_history

    try:
        history = read_history(path)
    except FileNotFoundError as error:
        raise ConfigurationError(f"{error}; name a directory that a monitored run has written to") from error
    except OSError as error:
        raise ConfigurationError(
            f"{error.filename or path} cannot be read: {error.strerror}; name one that can"
        ) from error
    if not history.runs:
        raise ConfigurationError(f"{history.path} holds no run; name a history.jsonl that a monitored run has written")
    if not history.snapshots:
        raise ConfigurationError(
            f"{history.path} holds no samples yet; wait for the first, which is taken before the first step"
        )
    return history


def positive(text: str) -> int:
    """An integer of at least 1, for ``type=`` of an option."""
    return _at_least(1, text)


def natural(text: str) -> int:
    """An integer of at least 0, for ``type=`` of an option."""
    return _at_least(0, text)


def _at_least(least: int, text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least {least}")
    return value


def pattern_and_kind(text: str) -> tuple[str, str]:
    """The two halves of ``PATTERN=KIND``.

    Raises:
        ConfigurationError: If it is not of that form.
    """
    pattern, separator, kind = text.rpartition("=")
    if not separator or not pattern:
        raise ConfigurationError(f"--kind {text!r} is not of the form PATTERN=KIND, as in 'my_mixer=mixer'")
    return pattern, kind
