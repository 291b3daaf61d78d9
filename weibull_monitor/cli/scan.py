"""``weibull-monitor scan PATH...``: measures checkpoints on disk."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from weibull_monitor.cli.common import OK, Commands, add_command, add_kind, add_neighbours, kinds_of, needs
from weibull_monitor.errors import ConfigurationError, visible

STANDARD_OUTPUT = "-"


def add(commands: Commands) -> None:
    """Registers the command."""
    command = add_command(
        commands,
        "scan",
        _execute,
        help="measure checkpoints on disk",
        description="Measures a checkpoint as a monitor measures a model, but without loading it. It is read once, with little "
        "memory, and none of its code runs. Several checkpoints form a trajectory. See docs/scan.md.",
        examples=[
            ("path/to/model", "a model folder, with or without shards"),
            ("model.safetensors --csv fits.csv", "one file, with every matrix in a table"),
            ("runs/x/checkpoint-* --output scans/x", "a trajectory, kept for compare and report"),
            ("lightning_logs/version_0/checkpoints --html x.html", "Lightning's checkpoints, as a page"),
        ],
    )
    command.add_argument("paths", nargs="+", metavar="PATH", help="checkpoints: files, folders, or folders of several")
    command.add_argument(
        "--config",
        metavar="SOURCE",
        help="a config.json, a folder with one, or a model type (default: the config.json beside the weights)",
    )
    command.add_argument(
        "--resolution",
        choices=("auto", "parameter", "matrix", "head"),
        default="auto",
        help="parameter: stored matrices only; matrix: also their parts; head: also every attention head; auto: matrix, "
        "for up to 2,000 parts (default)",
    )
    add_kind(command)
    command.add_argument(
        "--include", action="append", default=[], metavar="PATTERN", help="only names that match; may be repeated"
    )
    command.add_argument(
        "--exclude", action="append", default=[], metavar="PATTERN", help="leave out names that match; may be repeated"
    )
    add_neighbours(command)
    command.add_argument(
        "--weight-decay",
        type=_not_negative,
        metavar="λ_wd",
        help="weight decay of the run: also show the alignment force along a trajectory",
    )
    command.add_argument(
        "--learning-rate",
        type=_not_negative,
        metavar="η",
        help="learning rate for --weight-decay, if it was constant (default: from trainer_state.json)",
    )
    command.add_argument(
        "--output", metavar="DIR", help="also write the scan as the history of a run, for the other commands"
    )
    command.add_argument("--json", metavar="FILE", help="also write JSON; - for standard output instead of the text")
    command.add_argument(
        "--csv",
        metavar="FILE",
        help="also write a CSV table of all matrices; - for standard output instead of the text",
    )
    command.add_argument("--html", metavar="FILE", help="also write the report as an HTML page")


def _execute(options: argparse.Namespace) -> int:
    if options.html:
        needs("plotly", "report")
    from weibull_monitor.checkpoint.as_history import check_output, write_history
    from weibull_monitor.checkpoint.export import as_csv, as_json
    from weibull_monitor.checkpoint.scan import scan_all
    from weibull_monitor.history.files import check_writable, write_text
    from weibull_monitor.history.record import FILE
    from weibull_monitor.report.html.page import write

    if options.json == options.csv == STANDARD_OUTPUT:
        raise ConfigurationError(
            "--json and --csv go to standard output one at a time, not both; name a file for one of them"
        )
    if options.output:
        check_writable(Path(options.output) / FILE)
        check_output(Path(options.output))
    for file in (options.json, options.csv, options.html):
        if file and file != STANDARD_OUTPUT:
            check_writable(Path(file))
    with _progress() as progress:
        found = scan_all(
            options.paths,
            config=options.config,
            kinds=kinds_of(options),
            include=options.include or None,
            exclude=options.exclude or None,
            resolution=options.resolution,
            progress=progress,
        )
    written = []
    if options.output:
        written.append(write_history(found.samples, Path(options.output)))
    for file, make in ((options.json, as_json), (options.csv, as_csv)):
        if file and file != STANDARD_OUTPUT:
            write_text(Path(file), make(found))
            written.append(Path(file))
    if options.html:
        name = Path(str(options.paths[0])).name or str(options.paths[0])
        written.append(write([(visible(name), found.history)], options.html))
    if options.json == STANDARD_OUTPUT:
        print(as_json(found))
    elif options.csv == STANDARD_OUTPUT:
        print(as_csv(found), end="")
    else:
        _show(found, options)
        if written:
            print("\n" + "\n".join(f"written: {visible(str(path))}" for path in written))
    return OK


def _not_negative(text: str) -> float:
    value = float(text)
    if not 0.0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 on")
    return value


def _show(found: Any, options: argparse.Namespace) -> None:
    from weibull_monitor.report.text.checkpoint import render, styled
    from weibull_monitor.report.text.table import plain

    lines = render(found, options.neighbours, options.weight_decay, options.learning_rate)
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        try:
            from rich.console import Console
        except ImportError:  # an extra: the text is the same without colours
            pass
        else:
            Console(highlight=False, soft_wrap=True).print(styled(lines))
            return
    print(plain(lines))


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None] | None]:
    """A progress bar on standard error; None if that is not a terminal, or without rich."""
    if not sys.stderr.isatty():
        yield None
        return
    try:
        from rich import progress as rich
        from rich.console import Console
    except ImportError:
        yield None
        return
    columns = (rich.BarColumn(), rich.DownloadColumn(), rich.TransferSpeedColumn(), rich.TimeRemainingColumn())
    label = rich.TextColumn("{task.description}")
    with rich.Progress(label, *columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def show(label: str, done: int, total: int) -> None:
            if label not in tasks:
                for task in tasks.values():
                    bar.update(task, visible=False)
                tasks[label] = bar.add_task(label[-40:], total=total)
            bar.update(tasks[label], completed=done)

        yield show
