"""``weibull-monitor compare RUN``: is what a run shows what published models show?"""

from __future__ import annotations

import argparse

from weibull_monitor.cli.common import OK, Commands, add_command, add_run, natural, open_run


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    """Registers the command."""
    command = add_command(
        commands,
        "compare",
        help="is what a run shows what published models show?",
        description="Compares a run's shapes with those of the published models: per kind the expected range, the drift and its "
        "severity, and the nearest models. See docs/published.md for what the words mean.",
        examples=[
            ("runs/x", "the last sample of a run"),
            ("runs/x --step 500 --list", "an earlier sample, every matrix by name"),
        ],
    )
    add_run(command)
    command.add_argument("--step", type=natural, help="the step whose sample is compared (default: the last)")
    command.add_argument(
        "--neighbours", type=natural, default=5, metavar="N", help="published models to show (default: 5)"
    )
    command.add_argument("--list", action="store_true", help="also list every matrix")
    command.set_defaults(execute=_execute)


def _execute(options: argparse.Namespace) -> int:
    from weibull_monitor.analysis.diagnosis import diagnose
    from weibull_monitor.report.text.diagnosis import render_diagnosis, render_matrices

    diagnosis = diagnose(open_run(options.run), step=options.step)
    print(render_diagnosis(diagnosis, options.neighbours))
    if options.list:
        print(f"\n{render_matrices(diagnosis)}")
    return OK
