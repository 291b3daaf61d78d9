"""``weibull-monitor sweep RUN...``: λ at the end of several runs against √(η/λ_wd)."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from weibull_monitor.cli.common import OK, Commands, add_command, add_run, needs, open_run
from weibull_monitor.errors import ConfigurationError, visible

ONE = (
    "This is only one run, which cannot show a law: name several that differ in learning rate or weight decay, as in "
    "weibull-monitor sweep runs/*. The intervals need at least three runs."
)


def add(commands: Commands) -> None:
    """Registers the command."""
    command = add_command(
        commands,
        "sweep",
        _execute,
        help="compare λ of several runs with √(η/λ_wd)",
        description="Compares λ at the end of several runs with √(η/λ_wd), and with the effective value that includes the "
        "schedule.",
        examples=[
            ("runs/*", "a table of all runs"),
            ("runs/* --plot sweep.png --kind ffn_down", "with a picture of one kind"),
            ("runs/* --json", "as JSON, for other programs"),
        ],
    )
    add_run(command, several=True)
    command.add_argument("--json", action="store_true", help="print JSON instead of the table")
    command.add_argument("--plot", metavar="FILE", help="also draw a picture: a .png, .svg or .pdf")
    command.add_argument(
        "--kind", action="append", default=[], help="draw this kind instead of the two classes; may be repeated"
    )


def _execute(options: argparse.Namespace) -> int:
    if options.plot:
        needs("matplotlib", "report")
    from weibull_monitor.analysis.sweep import compare_runs
    from weibull_monitor.report.text.sweep import render

    histories = [(visible(Path(run).name or str(run)), open_run(run)) for run in options.runs]
    sweep = compare_runs(histories)
    if not sweep.classes and not sweep.kinds:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in sweep.left_out.items())
        raise ConfigurationError(f"none of the {len(histories)} runs can be compared: {reasons}")
    if unknown := set(options.kind) - {group.name for group in (*sweep.classes, *sweep.kinds)}:
        known = ", ".join(group.name for group in (*sweep.classes, *sweep.kinds))
        raise ConfigurationError(f"no run has the kind {', '.join(sorted(unknown))}; there are {known}")
    if options.plot:
        from weibull_monitor.report.sweep_plot import draw

        draw(sweep, options.plot, options.kind)
    if options.json:
        print(json.dumps(asdict(sweep), indent=2, ensure_ascii=False))
    else:
        print(render(sweep))
        if len(histories) == 1:
            print(f"\n{ONE}")
        if options.plot:
            print(f"\nwritten: {visible(options.plot)}")
    return OK
