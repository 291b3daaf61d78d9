"""Builds the view with the library `wandb-workspaces`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from weibull_monitor.errors import ConfigurationError, MissingDependencyError
from weibull_monitor.trackers.wandb_workspace.spec import Section, WorkspacePanel

COLUMNS: Final = 24
"""Width of W&B's grid of panels."""
HEIGHT: Final = {"media": 14, "table": 14, "runs": 14}
"""Heights in the grid of panels that need more than eight rows."""
NAME: Final = "Weibull monitor"


def build(entity: str, project: str, sections: Sequence[Section], name: str = NAME) -> Any:
    """The view as a `wandb_workspaces.workspaces.Workspace`, which is not saved yet. Needs no network.

    Args:
        entity: The W&B user or team.
        project: The project.
        sections: Its sections.
        name: The view's name.

    Raises:
        MissingDependencyError: If wandb-workspaces is not installed.
    """
    try:
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        raise MissingDependencyError("wandb_workspaces", "workspaces") from error
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[
            ws.Section(
                name=section.title,
                panels=[_panel(panel, place, section.columns) for place, panel in enumerate(section.panels)],
                is_open=section.is_open,
                layout_settings=ws.SectionLayoutSettings(columns=section.columns, rows=_rows(section)),
            )
            for section in sections
        ],
        settings=ws.WorkspaceSettings(max_runs=20),
    )


def spec_of(workspace: Any) -> dict[str, Any]:
    """The view as JSON values, as it would be sent to W&B."""
    view = workspace._to_model()
    spec: dict[str, Any] = json.loads(view.spec.model_dump_json(by_alias=True, exclude_none=True))
    return {"entity": view.entity, "project": view.project, "displayName": view.display_name, "spec": spec}


def save(workspace: Any) -> str:
    """Saves the view on the W&B site, and returns its address.

    Raises:
        ConfigurationError: If W&B does not accept it: no login, no such project, no network.
    """
    try:
        return str(workspace.save().url)
    except Exception as error:  # from wandb, requests or the library; the first line has the reason
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ConfigurationError(
            f"W&B did not take the view ({reason}); run `wandb login`, check the name of the project, or see it with --dry-run"
        ) from error


def _rows(section: Section) -> int:
    return max(1, min(4, -(-len(section.panels) // section.columns)))


def _panel(panel: WorkspacePanel, place: int, columns: int) -> Any:
    import wandb_workspaces.reports.v2 as wr

    width, height = COLUMNS // columns, HEIGHT.get(panel.type, 8)
    layout = wr.Layout(x=place % columns * width, y=place // columns * height, w=width, h=height)
    if panel.type == "number":
        return wr.ScalarChart(title=panel.title, metric=panel.y[0], layout=layout)
    if panel.type == "media":
        return wr.MediaBrowser(title=panel.title, media_keys=list(panel.y), layout=layout)
    if panel.type == "table":
        return wr.WeavePanelSummaryTable(table_name=panel.y[0], layout=layout)
    if panel.type == "runs":
        return wr.RunComparer(diff_only="split", layout=layout)
    return wr.LinePlot(
        title=panel.title,
        x=panel.x,
        y=list(panel.y),
        metric_regex=panel.pattern or None,
        title_x=panel.x_title,
        title_y=panel.y_title or None,
        layout=layout,
    )
