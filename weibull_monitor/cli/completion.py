"""``weibull-monitor completion SHELL``: the script with which a shell completes commands, options and paths."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from weibull_monitor.cli.common import OK, Commands, add_command
from weibull_monitor.errors import ConfigurationError, MissingDependencyError

SHELLS = ("bash", "zsh", "tcsh", "fish")
PATHS = {"RUN": "FILE", "FILE": "FILE", "PATH": "FILE", "CHECKPOINT": "FILE", "SOURCE": "FILE", "DIR": "DIRECTORY"}
"""How shtab completes the arguments with these metavars; ``FILE`` includes directories."""


def add(commands: Commands) -> None:
    """Registers the command."""
    command = add_command(
        commands,
        "completion",
        _execute,
        help="print the completion script for a shell",
        description="Prints a script that makes a shell complete commands, options and paths.",
        examples=[
            ("bash > ~/.local/share/bash-completion/completions/weibull-monitor", "bash, from the next shell on"),
            ("zsh > ~/.zfunc/_weibull-monitor", "zsh, with ~/.zfunc in fpath before compinit"),
            ("tcsh > ~/.weibull-monitor.csh", "tcsh, with 'source ~/.weibull-monitor.csh' in ~/.tcshrc"),
            ("fish > ~/.config/fish/completions/weibull-monitor.fish", "fish, from the next shell on"),
        ],
    )
    command.add_argument("shell", choices=SHELLS, help="the shell")


def _execute(options: argparse.Namespace) -> int:
    try:
        import shtab
    except ImportError as error:
        raise MissingDependencyError("shtab", "completion") from error
    for action in _arguments(options.grammar):
        name = str(action.metavar or action.dest).upper()
        if name in PATHS and not action.choices:
            action.complete = getattr(shtab, PATHS[name])  # type: ignore[attr-defined]
    try:
        print(shtab.complete(options.grammar, options.shell))
    except NotImplementedError as error:
        raise ConfigurationError(
            f"shtab {shtab.__version__} does not support {options.shell}; upgrade shtab"
        ) from error
    return OK


def _arguments(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Every argument of a parser and of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _arguments(command)
