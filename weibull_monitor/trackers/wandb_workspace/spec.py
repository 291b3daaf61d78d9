"""The contents of the saved view as values: sections of panels, each with keys that a run logs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from weibull_monitor.errors import ConfigurationError
from weibull_monitor.history.record import History
from weibull_monitor.model.components import CLASS_OF_KIND
from weibull_monitor.trackers.bands import CLASSES, PREFIX, bands_of
from weibull_monitor.trackers.wandb import HEATMAP, STEP, TABLE

MOST_KINDS: Final = 16
"""Most kinds that get a panel of their own: nobody reads a view with hundreds of panels."""
EFFECTIVE: Final = "weibull_scaling/effective_sqrt_eta_over_wd"

PanelType = Literal["lines", "number", "media", "table", "runs"]


@dataclass(frozen=True)
class WorkspacePanel:
    """One chart.

    Attributes:
        title: Its title.
        y: Keys that it shows.
        pattern: A regular expression instead of keys.
        x: Key of the x-axis; the optimizer step by default.
        type: Curves, one number, media, a table, or the comparison of runs.
        x_title: Label of the x-axis.
        y_title: Label of the y-axis.
    """

    title: str
    y: tuple[str, ...] = ()
    pattern: str = ""
    x: str = STEP
    type: PanelType = "lines"
    x_title: str = "optimizer steps"
    y_title: str = ""


@dataclass(frozen=True)
class Section:
    """Panels under one heading.

    Attributes:
        title: The heading.
        panels: The panels, row by row.
        columns: Number of panels in a row.
        is_open: Whether the section is open at first.
    """

    title: str
    panels: tuple[WorkspacePanel, ...]
    columns: int = 3
    is_open: bool = True


@dataclass(frozen=True)
class Subject:
    """The run or the runs that the view is for.

    Attributes:
        kinds: The kinds, as in keys; empty to show all kinds that are logged, by patterns.
        bands: The classes with a published band.
        classes: The classes that the model has.
        forces: Whether forces are measured.
        law: Whether there are values of the scaling law.
    """

    kinds: tuple[str, ...] = ()
    bands: tuple[str, ...] = CLASSES
    classes: tuple[str, ...] = CLASSES
    forces: bool = False
    law: bool = True


def subject_of(history: History) -> Subject:
    """The subject of a view for one recorded run.

    Raises:
        ConfigurationError: If it holds no run.
    """
    if not history.runs:
        raise ConfigurationError(f"{history.path} holds no run")
    components, edges = history.components, bands_of(history.components, history.runs[-1].attention)
    last = history.snapshots[-1] if history.snapshots else None
    return Subject(
        kinds=tuple(dict.fromkeys(c.label for c in components)),
        bands=tuple(name for name in CLASSES if f"{PREFIX}/{name}_low" in edges),
        classes=tuple(name for name in CLASSES if any(c.component_class == name for c in components)),
        forces=last is not None and bool(last.values("force_net")),
        law=last is None or bool(last.values("effective")),
    )


def subject_of_kinds(kinds: Sequence[str], forces: bool) -> Subject:
    """The subject of a view for the kinds that a user names.

    Raises:
        ConfigurationError: For a name that is not a kind.
    """
    unknown = [kind for kind in kinds if kind.removeprefix("cross_") not in CLASS_OF_KIND]
    if unknown:
        raise ConfigurationError(f"{', '.join(unknown)} is not a kind; the kinds are {', '.join(CLASS_OF_KIND)}")
    found = {CLASS_OF_KIND[kind.removeprefix("cross_")] for kind in kinds}
    classes = tuple(name for name in CLASSES if name in found) if kinds else CLASSES
    return Subject(kinds=tuple(dict.fromkeys(kinds)), bands=classes, classes=classes, forces=forces)


def sections_of(subject: Subject) -> tuple[Section, ...]:
    """The sections of the view, the most important first.

    >>> [section.title for section in sections_of(Subject())]
    ['Classes', 'Scale', 'Shape per kind', 'Pictures', 'Alerts', 'Fit quality', 'Health', 'Runs']
    """
    sections = [_classes(subject), _scale(subject), _shape(subject)]
    sections += [
        Section(
            "Pictures",
            (
                WorkspacePanel("k and its drift, block by kind", (HEATMAP,), type="media"),
                WorkspacePanel("the latest fit of each matrix", (TABLE,), type="table"),
            ),
            columns=2,
        ),
        Section(
            "Alerts",
            (
                WorkspacePanel("active alerts", ("weibull_alerts/active",), y_title="alerts"),
                WorkspacePanel("active alerts now", ("weibull_alerts/active",), type="number"),
            ),
            columns=2,
        ),
        Section(
            "Fit quality",
            (
                _per_kind(subject, "R² of the worst block", "r2_min", "R²"),
                WorkspacePanel("share of zeros, worst matrix", ("weibull_health/zero_fraction_max",)),
                WorkspacePanel("Inf and NaN", ("weibull_health/nonfinite",), y_title="values"),
            ),
        ),
        Section(
            "Health",
            (
                WorkspacePanel("cost of a sample", ("weibull_health/seconds",), y_title="seconds"),
                WorkspacePanel("matrices with a fit", ("weibull_health/components",)),
                WorkspacePanel("matrices that did not change", ("weibull_health/unchanged",)),
            ),
            is_open=False,
        ),
    ]
    if subject.forces:
        sections.append(_forces(subject))
    runs = Section("Runs", (WorkspacePanel("what the runs differ in", type="runs"),), columns=1, is_open=False)
    return (*[section for section in sections if section.panels], runs)


def _classes(subject: Subject) -> Section:
    panels = []
    for name in subject.classes:
        band = (f"{PREFIX}/{name}_low", f"{PREFIX}/{name}_high") if name in subject.bands else ()
        title = f"{name}: k" + (" and the published band" if band else "")
        panels.append(WorkspacePanel(title, (f"weibull_class/{name}_k", *band), y_title="k"))
    drifts = tuple(f"weibull_class/{name}_drift_pct" for name in subject.classes)
    if drifts:
        panels.append(WorkspacePanel("drift since the start", drifts, y_title="%"))
    return Section("Classes", tuple(panels))


def _scale(subject: Subject) -> Section:
    over_steps = _per_kind(subject, "λ over steps", "lambda", "λ")
    if not subject.law:
        return Section("Scale", (over_steps, _per_kind(subject, "λ of the highest block", "lambda_max", "λ")))
    law = replace(over_steps, title="λ against effective √(η/λ_wd)", x=EFFECTIVE, x_title="effective √(η/λ_wd)")
    rates = ("weibull_scaling/sqrt_eta_over_wd", EFFECTIVE)
    return Section(
        "Scale",
        (
            law,
            over_steps,
            _per_kind(subject, "λ of the highest block", "lambda_max", "λ"),
            _per_kind(subject, "λ at the end of the run, as forecast", "scaling/lambda_forecast", "λ"),
            _per_kind(subject, "budget ratio c", "scaling/budget_ratio", "c"),
            WorkspacePanel("√(η/λ_wd), plain and effective", rates),
            WorkspacePanel("training time, T/τ", ("weibull_scaling/t_over_tau",)),
        ),
    )


def _shape(subject: Subject) -> Section:
    each = [
        WorkspacePanel(kind, (f"weibull_k/{kind}", f"weibull_k_min/{kind}"), y_title="k")
        for kind in subject.kinds[:MOST_KINDS]
    ]
    together = (
        _per_kind(subject, "k, median over the blocks", "k", "k"),
        _per_kind(subject, "k of the lowest block", "k_min", "k"),
    )
    return Section("Shape per kind", (*together, *each))


def _forces(subject: Subject) -> Section:
    names = ("alignment", "injection", "decay", "net", "closure")
    return Section("Forces", tuple(_per_kind(subject, name, f"force/{name}", "") for name in names), is_open=False)


def _per_kind(subject: Subject, title: str, group: str, unit: str) -> WorkspacePanel:
    """One panel with one curve per kind: for the kinds that are known, or else for all that are logged."""
    if subject.kinds:
        return WorkspacePanel(title, tuple(f"weibull_{group}/{kind}" for kind in subject.kinds), y_title=unit)
    return WorkspacePanel(title, pattern=f"^weibull_{group}/.*$", y_title=unit)
