"""The history: the embedded record of a run, one JSON object a line, appended and never rewritten.

Line types: ``run`` (a run or its resumption begins: what is measured and how), ``snapshot`` (one sample, in columns aligned
with the components of the last ``run`` line), ``plot`` (what the probability plots are drawn from, at a few of the samples) and
``alert`` (something begins, gets worse or ends). Each line goes out in one
write, so a killed process leaves at most one torn line at the end, which readers skip and the next writer closes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from weibull_monitor.errors import ConfigurationError
from weibull_monitor.history.record import (
    COLUMNS,
    FILE,
    FIRST_COLUMNS,
    SCHEMA,
    History,
    RecordedPlot,
    RecordedSnapshot,
    RunRecord,
)
from weibull_monitor.model.components import Component, Part

if TYPE_CHECKING:
    from weibull_monitor.history.alert import Alert

_NUMBERS: Final = frozenset({int, float, type(None)})
"""What a column may hold."""
_MALFORMED: Final = (AttributeError, KeyError, OverflowError, TypeError, ValueError)
"""What reading a line raises that is JSON and not a line of a history."""


def read_history(path: str | Path) -> History:
    """Reads the history of a run.

    Args:
        path: The run's directory, or the ``history.jsonl`` itself.

    Returns:
        The last run in the file, with its resumptions. Lines that are torn, of a type unknown here, or samples that do not fit
        their run are passed over.

    Raises:
        FileNotFoundError: If there is no history there.
        ConfigurationError: If it was written by a newer version, or is something else than a history.
    """
    given = Path(path)
    file = next((f for f in (given, given / FILE, given / FILE.name) if f.is_file()), None)
    if file is None:
        raise FileNotFoundError(f"no history at {given}: neither a file, nor {given / FILE}")
    runs: list[RunRecord] = []
    snapshots: dict[int, RecordedSnapshot] = {}
    plots: dict[int, RecordedPlot] = {}
    alerts: list[Alert] = []
    for line in _lines(file):
        if line.get("type") == "run":
            run = run_from_json(line, file)
            if run.resumed_from is None:
                runs, snapshots, plots, alerts = [], {}, {}, []
            else:  # what was sampled after the checkpoint that is resumed from belongs to a branch that was given up
                snapshots = {step: s for step, s in snapshots.items() if step <= run.resumed_from}
                plots = {step: p for step, p in plots.items() if step <= run.resumed_from}
                alerts = [alert for alert in alerts if alert.step <= run.resumed_from]
            runs.append(run)
        elif line.get("type") == "snapshot" and runs:
            if (snapshot := snapshot_from_json(line, runs[-1].components)) is not None:
                snapshots[snapshot.step] = snapshot
        elif line.get("type") == "plot" and runs:
            if (plot := _plot_from_json(line, runs[-1].components)) is not None:
                plots[plot.step] = plot
        elif line.get("type") == "alert" and runs:
            alerts += alerts_from_json(line)
    sampled, plotted = (tuple(by_step[step] for step in sorted(by_step)) for by_step in (snapshots, plots))
    return History(file, tuple(runs), sampled, tuple(alerts), plotted)  # type: ignore[arg-type]


def _lines(file: Path) -> Iterable[dict[str, Any]]:
    with file.open("rb") as lines:
        for line in lines:
            try:
                value = json.loads(line)
            except ValueError:  # torn by a kill; UnicodeDecodeError is one too
                continue
            if isinstance(value, dict):
                yield value


def snapshot_from_json(line: Mapping[str, Any], components: tuple[Component, ...]) -> RecordedSnapshot | None:
    """The sample of a ``snapshot`` line, given the components of the ``run`` line before it; None if they do not fit."""
    absent = [None] * len(components)  # of a line that was written before a column was added
    try:
        columns = {name: tuple(line[name] if name in FIRST_COLUMNS else line.get(name, absent)) for name in COLUMNS}
        step, time = index(line["step"]), float(line["time"])
    except _MALFORMED:
        return None
    if any(len(values) != len(components) or not _NUMBERS.issuperset(map(type, values)) for values in columns.values()):
        return None
    withheld, seconds = line.get("withheld", {}), line.get("seconds")
    return RecordedSnapshot(step, time, components, columns, withheld, seconds)


def _plot_from_json(line: Mapping[str, Any], components: tuple[Component, ...]) -> RecordedPlot | None:
    """What a ``plot`` line draws from, given the components of the ``run`` line before it; None if they do not fit."""
    try:
        quantiles = tuple(None if row is None else tuple(row) for row in line["quantiles"])
        plot = RecordedPlot(index(line["step"]), components, tuple(line["levels"]), quantiles)
    except _MALFORMED:
        return None
    return plot if len(quantiles) == len(components) else None


def run_from_json(line: Mapping[str, Any], file: Path) -> RunRecord:
    """The record of a ``run`` line.

    Args:
        line: The line.
        file: The history, for what is said of it.

    Raises:
        ConfigurationError: If it was written by a newer version, or is not the line of a history.
    """
    try:
        if line["schema"] > SCHEMA:
            raise ConfigurationError(
                f"{file} has schema {line['schema']}, this version reads up to {SCHEMA}; upgrade weibull-monitor"
            )
        known = {name: line[name] for name in RunRecord.__dataclass_fields__ if name in line}
        resumed = None if line["resumed_from"] is None else index(line["resumed_from"])
        components = tuple(_component_from_json(component) for component in line["components"])
        return RunRecord(**known | {"resumed_from": resumed, "components": components})
    except ConfigurationError:
        raise
    except _MALFORMED as error:
        raise ConfigurationError(
            f"{file} is no history ({type(error).__name__}: {error}); name one that a monitored run wrote"
        ) from error


def alerts_from_json(line: Mapping[str, Any]) -> list[Alert]:
    """The alert of a line; none if it lacks what this version knows of an alert."""
    from weibull_monitor.history.alert import alert_from_json

    try:
        alert = alert_from_json(line)
        index(alert.step)  # whose place is among the samples
    except _MALFORMED:
        return []
    return [alert]


def _component_from_json(value: Mapping[str, Any]) -> Component:
    known = {name: value[name] for name in Component.__dataclass_fields__ if name in value}
    if part := known.get("part"):
        ranges = tuple((start, stop) for start, stop in part["ranges"])
        known["part"] = Part(part["label"], tuple(part["view"]), ranges, part["within"])
    return Component(**known | {"shape": tuple(value["shape"]), "dtype": getattr(torch, value["dtype"])})
