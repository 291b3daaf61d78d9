"""Shared by the commands: the argument that names a run, reading it, and examples in help."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeAlias

from weibull_monitor.errors import ConfigurationError, MissingDependencyError

if TYPE_CHECKING:
    from weibull_monitor.history.record import History

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""The subparsers that a command adds itself to."""

OK, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130
"""Exit codes: done; failed; wrong command line; interrupted by Ctrl-C."""

EXIT_CODES = "exit codes: 0 done; 1 failed, with the reason on standard error; 2 wrong command line; 130 interrupted"


class Parser(argparse.ArgumentParser):
    """Reports a wrong command line in one line that also names its help."""

    def error(self, message: str) -> NoReturn:
        """Prints the message and exits."""
        self.exit(WRONG, f"{self.prog}: {message}; see {self.prog} --help\n")


def add_command(
    commands: Commands,
    name: str,
    execute: Callable[[argparse.Namespace], int],
    help: str,
    description: str,
    examples: Sequence[tuple[str, str]],
) -> argparse.ArgumentParser:
    """Adds a command to the grammar.

    ``execute`` returns the exit code; ``help`` is its line in the list of commands; ``examples`` are command lines without the
    program's name, each with what it does, for the end of the help.
    """
    lines = [f"  {f'weibull-monitor {name} {words}'.rstrip()}\n      {what}" for words, what in examples]
    command = commands.add_parser(
        name,
        help=help,
        description=description,
        epilog="\n".join(["examples:", *lines, "", EXIT_CODES]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(execute=execute)
    return command


def needs(module: str, extra: str) -> None:
    """Raises `MissingDependencyError`, which names the command that installs it, before any work begins; imports nothing."""
    from importlib.util import find_spec

    if find_spec(module) is None:
        raise MissingDependencyError(module, extra)


def add_run(command: argparse.ArgumentParser, several: bool = False) -> None:
    """Adds the argument ``run``, or ``runs`` for one or several."""
    if several:
        command.add_argument("runs", nargs="+", metavar="RUN", help="directories of runs, or their history.jsonl files")
    else:
        command.add_argument("run", metavar="RUN", help="a run's directory, or its history.jsonl")


def add_neighbours(command: argparse.ArgumentParser) -> None:
    """Adds the option ``--neighbours``."""
    command.add_argument(
        "--neighbours", type=natural, default=5, metavar="N", help="published models to show (default: 5)"
    )


def add_kind(command: argparse.ArgumentParser) -> None:
    """Adds the option ``--kind``, which `kinds_of` reads."""
    command.add_argument(
        "--kind",
        action="append",
        default=[],
        metavar="PATTERN=KIND",
        help=r"kind of the matrices whose names match a pattern, such as 'my_mixer\.w=mixer'; may be repeated",
    )


def open_run(path: str | Path) -> History:
    """Reads the history of a run, which has to hold at least one sample.

    Raises:
        ConfigurationError: If there is no history or no sample, or it cannot be read.
    """
    from weibull_monitor.history.reader import read_history

    try:
        history = read_history(path)
    except FileNotFoundError as error:
        raise ConfigurationError(f"{error}; name a directory that a monitored run has written to") from error
    except OSError as error:
        raise ConfigurationError(
            f"{error.filename or path} cannot be read: {error.strerror}; name another file"
        ) from error
    if not history.runs:
        raise ConfigurationError(f"{history.path} holds no run; name a history.jsonl that a monitored run has written")
    if not history.snapshots and history.runs[-1].trial:
        raise ConfigurationError(
            f"{history.path} lists trials, but their histories are missing; name the directory of one trial"
        )
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


def kinds_of(options: argparse.Namespace) -> dict[str, str]:
    """The kinds of ``--kind``, by pattern.

    Raises:
        ConfigurationError: If one is not of the form ``PATTERN=KIND``.
    """
    kinds: dict[str, str] = {}
    for text in options.kind:
        pattern, _, kind = text.rpartition("=")
        if not pattern:
            raise ConfigurationError(f"--kind {text!r} is not of the form PATTERN=KIND, as in 'my_mixer=mixer'")
        kinds[pattern] = kind
    return kinds
