"""``weibull-monitor compare RUN``: a run against the published models."""

from __future__ import annotations

import argparse

from weibull_monitor.cli.common import OK, Commands, add_command, add_neighbours, add_run, natural, open_run


def add(commands: Commands) -> None:
    """Registers the command."""
    command = add_command(
        commands,
        "compare",
        _execute,
        help="compare a run with published models",
        description="Compares k of a run with published models. For each kind it prints the published range, a verdict, the "
        "drift and its severity; then the nearest models. docs/published.md explains the terms.",
        examples=[
            ("runs/x", "the last sample of a run"),
            ("runs/x --step 500 --list", "an earlier sample, with every matrix by name"),
        ],
    )
    add_run(command)
    command.add_argument("--step", type=natural, help="step of the sample to compare (default: the last)")
    add_neighbours(command)
    command.add_argument("--list", action="store_true", help="also list every matrix")


def _execute(options: argparse.Namespace) -> int:
    from weibull_monitor.analysis.diagnosis import diagnose
    from weibull_monitor.report.text.deltas import delta_lines
    from weibull_monitor.report.text.diagnosis import render_diagnosis, render_matrices
    from weibull_monitor.report.text.table import plain

    run = open_run(options.run)
    diagnosis = diagnose(run, step=options.step)
    print(render_diagnosis(diagnosis, options.neighbours))
    shown = next(snapshot for snapshot in run.snapshots if snapshot.step == diagnosis.sample.step)
    if deltas := delta_lines(shown, shown.model.get("adapters") or {}):
        print(f"\n{plain(deltas)}")
    if options.list:
        print(f"\n{render_matrices(diagnosis)}")
    return OK
