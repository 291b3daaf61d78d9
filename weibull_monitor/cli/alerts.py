"""``weibull-monitor alerts RUN``: what the rules say of a recorded run."""

from __future__ import annotations

import argparse

from weibull_monitor.cli.common import OK, Commands, add_command, add_run, open_run


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    """Registers the command."""
    command = add_command(
        commands,
        "alerts",
        help="what the rules say of a recorded run, with other thresholds if wanted",
        description="Replays the rules over the history of a run and prints the alerts: the way to tune thresholds.",
        examples=[
            ("runs/x", "what the default thresholds say of a run"),
            ("runs/x --config thresholds.toml --severity warning", "what others would have said"),
            ("runs/x --recorded", "what was told while the run ran"),
        ],
    )
    add_run(command)
    command.add_argument(
        "--config", metavar="FILE", help="a TOML file of thresholds (docs/alerts.md); default thresholds without"
    )
    command.add_argument(
        "--severity", choices=("info", "warning", "error"), default="info", help="from which (default: info)"
    )
    command.add_argument("--recorded", action="store_true", help="what was told while the run ran, instead of a replay")
    command.set_defaults(execute=_execute)


def _execute(options: argparse.Namespace) -> int:
    from weibull_monitor.alerts import AlertSettings, replay
    from weibull_monitor.history.alert import rank
    from weibull_monitor.report.text.alerts import render as as_text

    settings = AlertSettings.of(options.config) if options.config else AlertSettings()
    history = open_run(options.run)
    attention = history.runs[-1].attention if history.runs else ()
    alerts = history.alerts if options.recorded else replay(history.snapshots, settings, attention)
    print(as_text([alert for alert in alerts if rank(alert.finding.severity) >= rank(options.severity)]))
    print(f"{len(history.snapshots)} samples of {len(history.components)} matrices and parts in {history.path}")
    return OK
