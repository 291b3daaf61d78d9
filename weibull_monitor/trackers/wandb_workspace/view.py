"""The saved view: sections of panels, each with keys that a run logs, built with the library `wandb-workspaces`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from weibull_monitor.errors import ConfigurationError, MissingDependencyError, text_of
from weibull_monitor.history.metrics import ATTENTION_SCALE, OUTSIDE_OF_BLOCKS
from weibull_monitor.trackers.bands import PREFIX
from weibull_monitor.trackers.wandb import CLASS_FIGURE, HEATMAP, STEP, TABLE
from weibull_monitor.trackers.wandb_workspace.subject import Subject

NAME: Final = "Weibull monitor"
MOST_KINDS: Final = 16
"""Most kinds that get a panel of their own: nobody reads a view with hundreds of panels."""
ONLY_IN_BLOCKS: Final = ("k_min", "lambda_max")
"""Keys that embeddings and the output layer do not have."""
EFFECTIVE: Final = "weibull_scaling/effective_sqrt_eta_over_wd"
ACTIVE: Final = "weibull_alerts/active"
GRID: Final = 24
"""Width of W&B's grid of panels."""
COLUMNS: Final = {"Pictures": 2, "Alerts": 2, "Runs": 1}
"""Panels in a row, where there are not three."""
LOSS: Final = r"^(train/|train_|training_)?loss(_step|_epoch)?$"
"""The keys under which training frameworks and own loops log the loss."""
CLOSED: Final = ("Health", "Forces", "Updates", "Runs")
"""Sections that are closed at first."""

Panel = tuple[str, dict[str, Any]]
"""A class of `wandb_workspaces.reports.v2`, and its arguments."""


def build(entity: str, project: str, subject: Subject, name: str = NAME) -> Any:
    """The view as a `wandb_workspaces.workspaces.Workspace`, which is not saved yet. Needs no network.

    Raises:
        MissingDependencyError: If wandb-workspaces is not installed.
    """
    try:
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        raise MissingDependencyError("wandb_workspaces", "workspaces") from error
    sections = []
    for title, panels in sections_of(subject).items():
        columns = COLUMNS.get(title, 3)
        layout = ws.SectionLayoutSettings(columns=columns, rows=max(1, min(4, -(-len(panels) // columns))))
        placed = _placed(panels, columns)
        sections.append(ws.Section(name=title, panels=placed, is_open=title not in CLOSED, layout_settings=layout))
    settings = ws.WorkspaceSettings(max_runs=20)
    return ws.Workspace(entity=entity, project=project, name=name, sections=sections, settings=settings)


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
        reason = (text_of(error) or type(error).__name__).splitlines()[0]
        raise ConfigurationError(
            f"W&B did not accept the view ({reason}); run `wandb login`, check the name of the project, or see it with --dry-run"
        ) from error


def sections_of(subject: Subject) -> dict[str, list[Panel]]:
    """The panels of each section, row by row, the most important section first.

    >>> list(sections_of(Subject()))
    ['Classes', 'Scale', 'Shape per kind', 'Pictures', 'Alerts', 'Fit quality', 'Health', 'Runs']
    """
    sections: dict[str, list[Panel]] = {
        "Classes": _classes(subject),
        "Scale": _scale(subject),
        "Shape per kind": [
            _per_kind(subject, "k, median over the blocks", "k", "k"),
            _per_kind(subject, "k of the lowest block", "k_min", "k"),
            *(_lines(kind, *_shapes(kind), y="k") for kind in subject.kinds[:MOST_KINDS]),
        ],
        "Pictures": [
            ("MediaBrowser", {"title": "k, λ within its kind, and drift, block by kind", "media_keys": [HEATMAP]}),
            ("MediaBrowser", {"title": "the classes in the published band", "media_keys": [CLASS_FIGURE]}),
            ("WeavePanelSummaryTable", {"table_name": TABLE}),
        ],
        "Alerts": [
            _lines("active alerts", ACTIVE, y="alerts"),
            ("ScalarChart", {"title": "active alerts now", "metric": ACTIVE}),
        ],
        "Fit quality": [
            _per_kind(subject, "R² of the worst block", "r2_min", "R²"),
            *(() if subject.kinds else (_lines("extreme tails that have moved", pattern="^weibull_tail/.*$"),)),
            _lines("share of zeros, worst matrix", "weibull_health/zero_fraction_max"),
            _lines("Inf and NaN", "weibull_health/nonfinite", y="values"),
        ],
        "Health": [
            _lines("cost of a sample", "weibull_health/seconds", y="seconds"),
            _lines("matrices with a fit", "weibull_health/components"),
            _lines("matrices that did not change", "weibull_health/unchanged"),
        ],
        "Forces": [
            _per_kind(subject, name, f"force/{name}")
            for name in ("alignment", "injection", "decay", "net", "closure")
            if subject.forces
        ],
        "Updates": _updates(subject),
        "Runs": [("RunComparer", {"diff_only": "split"})],
    }
    return {title: panels for title, panels in sections.items() if panels}


def _classes(subject: Subject) -> list[Panel]:
    panels = [_lines("training loss", pattern=LOSS, x=None)]
    for name in subject.classes:
        band = (f"{PREFIX}/{name}_low", f"{PREFIX}/{name}_high") if name in subject.bands else ()
        title = f"{name}: k" + (" and the published band" if band else "")
        panels.append(_lines(title, f"weibull_class/{name}_k", *band, y="k"))
    drifts = [f"weibull_class/{name}_drift_pct" for name in subject.classes]
    panels.append(_per_kind(subject, "λ of the highest block", "lambda_max", "λ"))
    if "selection" in subject.classes:
        panels.append(_lines("scale of attention", ATTENTION_SCALE, f"{ATTENTION_SCALE}_max"))
    return [*panels, _lines("drift since the start", *drifts, y="%")] if drifts else panels


def _updates(subject: Subject) -> list[Panel]:
    """The last update of each class: how far it goes, its RMS in units of η, and its k."""
    if not subject.updates:
        return []
    titles = {"ratio": "last step, RMS(u)·η/RMS(w)", "ratio_max": "the same, of the matrix that goes furthest"}
    titles |= {"rms": "RMS of the last update", "k": "k of the last update"}
    return [_lines(t, *(f"weibull_update/{name}_{key}" for name in subject.classes)) for key, t in titles.items()]


def _scale(subject: Subject) -> list[Panel]:
    over_steps = _per_kind(subject, "λ over steps", "lambda", "λ")
    if not subject.law:
        return [over_steps]
    effective = {"title": "λ against effective √(η/λ_wd)", "x": EFFECTIVE, "title_x": "effective √(η/λ_wd)"}
    return [
        ("LinePlot", over_steps[1] | effective),
        over_steps,
        _per_kind(subject, "λ at the end of the run, as forecast", "scaling/lambda_forecast", "λ"),
        _per_kind(subject, "budget ratio c", "scaling/budget_ratio", "c"),
        _lines("√(η/λ_wd), plain and effective", "weibull_scaling/sqrt_eta_over_wd", EFFECTIVE),
        _lines("training time, T/τ", "weibull_scaling/t_over_tau"),
    ]


def _shapes(kind: str) -> list[str]:
    return [f"weibull_k/{kind}"] + ([] if kind in OUTSIDE_OF_BLOCKS else [f"weibull_k_min/{kind}"])


def _per_kind(subject: Subject, title: str, group: str, y: str = "") -> Panel:
    """One panel with one curve per kind: for the kinds that are known, or else for all that are logged."""
    pattern = None if subject.kinds else f"^weibull_{group}/.*$"
    shown = [kind for kind in subject.kinds if not (group in ONLY_IN_BLOCKS and kind in OUTSIDE_OF_BLOCKS)]
    return _lines(title, *(f"weibull_{group}/{kind}" for kind in shown), y=y, pattern=pattern)


def _lines(title: str, *keys: str, y: str = "", pattern: str | None = None, x: str | None = STEP) -> Panel:
    """Curves of some keys, or of all that match a regular expression.

    Over the optimizer steps of our rows; with ``x=None`` over what the run itself counts by, for curves of its owner.
    """
    axes = {"x": x, "title_x": "optimizer steps" if x else None, "title_y": y or None}
    return "LinePlot", {"title": title, "y": list(keys), "metric_regex": pattern} | axes


def _placed(panels: Sequence[Panel], columns: int) -> list[Any]:
    """The panels of a section as objects of the library, in rows of so many."""
    import wandb_workspaces.reports.v2 as wr

    placed = []
    for place, (kind, arguments) in enumerate(panels):
        width, height = GRID // columns, 8 if kind in ("LinePlot", "ScalarChart") else 14
        layout = wr.Layout(x=place % columns * width, y=place // columns * height, w=width, h=height)
        placed.append(getattr(wr, kind)(**arguments, layout=layout))
    return placed
