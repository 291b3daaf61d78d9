"""``weibull-monitor run -- COMMAND``: a program that is not yours, with a monitor in each Trainer that it makes."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from weibull_monitor.cli.common import WRONG, Commands, add_command, add_kind, kinds_of, positive
from weibull_monitor.errors import visible

LOG = "weibull-monitor.log"
NOT_FOUND, NOT_EXECUTABLE = 127, 126
"""What shells return for a command that is not there, and for one that cannot be executed."""


def add(commands: Commands) -> None:
    """Registers the command."""
    command = add_command(
        commands,
        "run",
        _execute,
        help="run a training program with a monitor, without changing its code",
        description="Runs a program and gives each Hugging Face Trainer and each Lightning Trainer that it makes, in any of its "
        "Python processes, a monitor with these options. The program replaces this process: its output, exit code and signals "
        "are its own. The history is in the Trainer's output directory. See docs/zero-code.md.",
        examples=[
            ("-- trl sft --config sft.yaml", "TRL's command line"),
            ("--every-n-steps 50 -- accelerate launch train.py", "a sample every 50 steps, in each process"),
            ("--trackers tensorboard --alerts limits.toml -- python train.py", "with a tracker and other thresholds"),
        ],
    )
    option = command.add_argument
    option("--every-n-steps", type=positive, metavar="N", help="optimizer steps between samples (default: 100)")
    option(
        "--adaptive",
        action=argparse.BooleanOptionalAction,
        help="take more samples after alerts too (default: after jumps of the learning rate), or none",
    )
    option("--output-dir", metavar="DIR", help="directory of the run (default: that of the Trainer)")
    option("--name", help="name of the model, which all logged keys begin with")
    option("--trackers", metavar="NAME,…", help="trackers, such as tensorboard,wandb (default: those of the Trainer)")
    option("--pictures-every", type=int, metavar="N", help="samples between two heatmaps; 0 for none")
    option("--detail", choices=("kind", "component"), help="component: also log three metrics for each matrix")
    add_kind(command)
    option("--include", action="append", metavar="PATTERN", help="only parameters that match; may be repeated")
    option("--exclude", action="append", metavar="PATTERN", help="leave out parameters that match; may be repeated")
    option(
        "--resolution",
        choices=("auto", "parameter", "matrix", "head"),
        help="which parts of fused matrices are measured",
    )
    option("--frozen", choices=("read", "once"), help="how often frozen matrices are read (default: read)")
    option("--forces", action="store_true", default=None, help="also measure the forces on each matrix (AdamW)")
    option("--updates", action="store_true", default=None, help="also fit the last update of each matrix")
    option(
        "--writes",
        action=argparse.BooleanOptionalAction,
        help="watch what is written to weights between steps (default), or not",
    )
    option("--alerts", metavar="FILE", help="a TOML file with alert thresholds, or off for no alerts")
    option("--webhook", metavar="URL", help="post alerts to this address")
    option("--stop-on", choices=("error", "warning"), help="end training on alerts of this severity, with a checkpoint")
    option(
        "--log",
        metavar="FILE",
        default=LOG,
        help=f"file for the monitor's messages (default: {LOG}, which the first message creates); - for the log of the "
        "program, which prints warnings on standard error",
    )
    option("program", nargs=argparse.REMAINDER, metavar="COMMAND", help="the program and its arguments, after --")


NOT_OPTIONS = {"execute", "grammar", "command", "program", "log", "kind"}


def options_of(given: argparse.Namespace) -> dict[str, Any]:
    """The options of the callbacks, as JSON can hold them; those that were not given are left out."""
    options = {name: value for name, value in vars(given).items() if name not in NOT_OPTIONS and value is not None}
    if kinds := kinds_of(given):
        options["kinds"] = kinds
    if "trackers" in options:
        options["trackers"] = [name.strip() for name in options["trackers"].split(",") if name.strip()]
    if options.get("alerts") == "off":
        options["alerts"] = False
    for name in ("output_dir", "alerts"):  # the program may change its directory before they are used
        if isinstance(options.get(name), str):
            options[name] = str(Path(options[name]).absolute())
    return options


def environment(options: dict[str, Any], log: str) -> dict[str, str]:
    """The environment of this process, with what each Python process of the program needs."""
    from weibull_monitor.integrations import startup

    passed = {"options": options, "log": None if log == "-" else str(Path(log).absolute())}
    place = startup.__path__[0]
    before = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PYTHONPATH": place + os.pathsep + before if before else place,
        "WEIBULL_MONITOR_AUTOLOG": json.dumps(passed),
    }


def _execute(given: argparse.Namespace) -> int:
    program = given.program[1:] if given.program[:1] == ["--"] else given.program
    if not program:
        print("weibull-monitor run: name a program after --, as in: weibull-monitor run -- trl sft …", file=sys.stderr)
        return WRONG
    options = options_of(given)
    if options:
        from weibull_monitor.integrations.options import checked

        checked("run", options)
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execvpe(program[0], program, environment(options, given.log))
    except FileNotFoundError:
        print(f"weibull-monitor run: {visible(program[0])} was not found", file=sys.stderr)
        return NOT_FOUND
    except PermissionError:
        print(
            f"weibull-monitor run: {visible(program[0])} cannot be executed; try python {visible(program[0])}",
            file=sys.stderr,
        )
        return NOT_EXECUTABLE
