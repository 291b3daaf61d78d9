"""``weibull-monitor report RUN [RUN...]``: one or several runs as an HTML page."""

from __future__ import annotations

import argparse
from pathlib import Path

from weibull_monitor.cli.common import OK, Commands, add_command, add_run, needs, open_run
from weibull_monitor.errors import visible


def add(commands: Commands) -> None:
    """Registers the command."""
    command = add_command(
        commands,
        "report",
        _execute,
        help="a run, or several side by side, as one HTML page",
        description="Writes one HTML file that needs no network: alerts, k over the steps with the published ranges, a heatmap "
        "by block and kind, the scaling law and its forecast, the probability plot of every matrix, and facts about the run. "
        "With --serve the page is served to this machine only and follows the run; Ctrl-C ends that, with exit code 0. Needs "
        "the extra 'report'.",
        examples=[
            ("runs/x", "write report.html"),
            ("runs/a runs/b runs/c -o three.html", "three runs side by side"),
            ("runs/x --serve", "follow a run; prints the address of the page"),
            ("runs/x --serve 8000", "the same at a port of your choice"),
        ],
    )
    add_run(command, several=True)
    command.add_argument(
        "-o", "--output", metavar="FILE", default="report.html", help="the file to write (default: report.html)"
    )
    command.add_argument(
        "--serve",
        metavar="PORT",
        type=int,
        nargs="?",
        const=0,
        help="serve the page on 127.0.0.1 instead of writing a file; without a port, a free one is chosen",
    )


def _execute(options: argparse.Namespace) -> int:
    needs("plotly", "report")
    names = [Path(run).resolve().name if Path(run).is_dir() else str(run) for run in options.runs]
    histories = [(visible(name), open_run(run)) for name, run in zip(names, options.runs, strict=True)]
    if options.serve is not None:
        return _serve([(name, history.path) for name, history in histories], options.serve)
    from weibull_monitor.report.html import write

    path = write(histories, options.output)
    print(f"{visible(str(path))} ({path.stat().st_size / 1e6:.1f} MB): open it in a browser")
    return OK


def _serve(runs: list[tuple[str, Path]], port: int) -> int:
    from weibull_monitor.report.html.server import ReportServer

    with ReportServer(runs, port) as server:
        try:
            print(f"the report is at {server.address} and follows the run; Ctrl-C ends it", flush=True)
            server.serve_forever()
        except KeyboardInterrupt:
            print()
    return OK
