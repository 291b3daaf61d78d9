"""``weibull-monitor alerts RUN``: the alerts of a recorded run."""

from __future__ import annotations

import argparse

from weibull_monitor.cli.common import OK, Commands, add_command, add_run, open_run


def add(commands: Commands) -> None:
    """Registers the command."""
    command = add_command(
        commands,
        "alerts",
        _execute,
        help="the alerts of a recorded run, with the default or other thresholds",
        description="Applies the alert rules to the history of a run and prints the alerts. Use it to choose thresholds.",
        examples=[
            ("runs/x", "alerts with the default thresholds"),
            ("runs/x --config thresholds.toml --severity warning", "warnings and errors with other thresholds"),
            ("runs/x --recorded", "the alerts that were raised during the run"),
        ],
    )
    add_run(command)
    command.add_argument(
        "--config",
        metavar="FILE",
        help="a TOML file with thresholds (docs/alerts.md); the default thresholds otherwise",
    )
    command.add_argument(
        "--severity",
        choices=("info", "warning", "error"),
        default="info",
        help="lowest severity to show (default: info)",
    )
    command.add_argument(
        "--recorded", action="store_true", help="show the alerts that were raised during the run, instead of a replay"
    )


def _execute(options: argparse.Namespace) -> int:
    from weibull_monitor.alerts import AlertSettings, replay
    from weibull_monitor.errors import counted, visible
    from weibull_monitor.history.alert import rank
    from weibull_monitor.report.text.alerts import render as as_text

    settings = AlertSettings.of(options.config) if options.config else AlertSettings()
    history = open_run(options.run)
    attention = history.runs[-1].attention if history.runs else ()
    initial = history.runs[-1].model.get("initializer_range") if history.runs else None
    alerts = history.alerts if options.recorded else replay(history.snapshots, settings, attention, initial)
    print(as_text([alert for alert in alerts if rank(alert.finding.severity) >= rank(options.severity)]))
    print(
        f"{counted(len(history.snapshots), 'sample')} of {counted(len(history.components), 'matrix', 'matrices and parts')} "
        f"in {visible(str(history.path))}"
    )
    return OK
