"""``weibull-monitor wandb-workspace ENTITY/PROJECT``: a saved view for a W&B project."""

from __future__ import annotations

import argparse
import json

from weibull_monitor.cli.common import OK, Commands, add_command, needs, open_run


def add(commands: Commands) -> None:
    """Registers the command."""
    command = add_command(
        commands,
        "wandb-workspace",
        _execute,
        help="save a view of the charts in a W&B project",
        description="Builds a saved view on the W&B site: the classes with the published ranges, λ against effective √(η/λ_wd), "
        "the shape of each kind, fit quality, alerts, health, and the runs side by side. Needs the extra 'workspaces' and a "
        "login.",
        examples=[
            ("my-team/my-project", "save the view"),
            ("my-team/my-project --run runs/x", "with a panel for each kind of this run"),
            ("my-team/my-project --dry-run", "print the view, without network or login"),
        ],
    )
    command.add_argument(
        "project", type=_project, metavar="ENTITY/PROJECT", help="the W&B user or team, and the project"
    )
    command.add_argument("--name", help="the view's name (default: Weibull monitor)")
    which = command.add_mutually_exclusive_group()
    which.add_argument("--kinds", metavar="KIND,…", help="only these kinds, with a panel for each (default: all)")
    which.add_argument("--run", metavar="RUN", help="a run's directory or history.jsonl: show the kinds that it has")
    command.add_argument("--forces", action="store_true", help="also show the forces (default: if --run has them)")
    command.add_argument("--dry-run", action="store_true", help="print the view as JSON; nothing is sent")


def _project(text: str) -> tuple[str, str]:
    entity, slash, project = text.partition("/")
    if not (entity and slash and project) or "/" in project:
        raise argparse.ArgumentTypeError(f"{text} is not of the form ENTITY/PROJECT")
    return entity, project


def _execute(options: argparse.Namespace) -> int:
    needs("wandb_workspaces", "workspaces")
    from dataclasses import replace

    from weibull_monitor.trackers.wandb_workspace.subject import subject_of, subject_of_kinds
    from weibull_monitor.trackers.wandb_workspace.view import NAME, build, save, spec_of

    if options.run:
        subject = subject_of(open_run(options.run))
        subject = replace(subject, forces=subject.forces or options.forces)
    else:
        kinds = [kind.strip() for kind in (options.kinds or "").split(",") if kind.strip()]
        subject = subject_of_kinds(kinds, options.forces)
    entity, project = options.project
    workspace = build(entity, project, subject, options.name or NAME)
    if options.dry_run:
        print(json.dumps(spec_of(workspace), indent=2, ensure_ascii=False))
    else:
        print(f"saved: {save(workspace)}")
    return OK
