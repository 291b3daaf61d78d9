"""Reads a history: one JSON object per line.

Types of lines: ``run`` (a run or its resumption begins: what is measured and how), ``snapshot`` (one sample, in columns that are
aligned with the components of the last ``run`` line), ``plot`` (the quantiles of some of the samples) and ``alert`` (an alert is
raised, gets worse or is cleared).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from operator import index
from pathlib import Path
from typing import Any, Final

import torch

from weibull_monitor.errors import ConfigurationError
from weibull_monitor.history.alert import Alert, alert_from_json
from weibull_monitor.history.columns import COLUMNS, FIRST_COLUMNS
from weibull_monitor.history.places import models_in, trial_history
from weibull_monitor.history.record import FILE, SCHEMA, History, RecordedPlot, RecordedSnapshot, RunRecord
from weibull_monitor.model.components import Component, Part

logger = logging.getLogger("weibull_monitor")

_NUMBERS: Final = frozenset({int, float, type(None)})
"""Types of the values in a column."""
_MALFORMED: Final = (AttributeError, KeyError, OverflowError, TypeError, ValueError)
"""Exceptions from reading a line that is JSON but does not have the form of a history."""


def read_history(path: str | Path) -> History:
    """Reads the history of a run.

    Args:
        path: The run's directory, or the ``history.jsonl`` itself.

    Returns:
        The last run in the file, with its resumptions. Torn lines, lines of an unknown type, and samples that do not fit their
        run are skipped. Of a list of trials, the record of each trial in `History.runs`, and the samples of the last one.

    Raises:
        FileNotFoundError: If there is no history there.
        ConfigurationError: If it was written by a newer version, or is not a history.
    """
    file, models = find_history(path), models_in(path)
    if file is None and len(models) == 1:
        file = find_history(models[0])
    if file is None:
        if models:
            raise FileNotFoundError(f"no single history at {path}: name one of {', '.join(map(str, models))}")
        raise FileNotFoundError(f"no history at {path}: neither a file, nor {Path(path) / FILE}")
    trials: dict[str, RunRecord] = {}
    runs: list[RunRecord] = []
    snapshots: dict[int, RecordedSnapshot] = {}
    plots: dict[int, RecordedPlot] = {}
    alerts: list[Alert] = []
    for line in _lines(file):
        if line.get("type") == "run":
            run = run_from_json(line, file)
            if run.trial is not None:
                trials.pop(run.trial, None)
                trials[run.trial] = run
                continue
            trials = {}
            if run.resumed_from is None:
                runs, snapshots, plots, alerts = [], {}, {}, []
            else:  # samples from after the checkpoint belong to a branch that was abandoned
                snapshots = {step: s for step, s in snapshots.items() if step <= run.resumed_from}
                plots = {step: p for step, p in plots.items() if step <= run.resumed_from}
                alerts = [alert for alert in alerts if alert.step <= run.resumed_from]
            runs.append(run)
        elif line.get("type") == "snapshot" and runs:
            if (snapshot := snapshot_from_json(line, runs[-1])) is not None:
                snapshots[snapshot.step] = snapshot
        elif line.get("type") == "plot" and runs:
            if (plot := _plot_from_json(line, runs[-1].components)) is not None:
                plots[plot.step] = plot
        elif line.get("type") == "alert" and runs:
            alerts += alerts_from_json(line)
    if trials:
        return _of_trials(file, tuple(trials.values()))
    sampled = tuple(snapshots[step] for step in sorted(snapshots))
    plotted = tuple(plots[step] for step in sorted(plots))
    return History(file, tuple(runs), sampled, tuple(alerts), plotted)


def _of_trials(file: Path, trials: tuple[RunRecord, ...]) -> History:
    """The trials in a list of trials, with the samples of the last one whose history exists."""
    places = {run.trial: trial_history(file, run) for run in trials}
    present = [run for run in trials if places[run.trial].is_file() and places[run.trial] != file]
    if not present:
        return History(file, trials, ())
    last = present[-1]
    names = ", ".join(str(file.parent.parent / (run.trial or "")) for run in present)
    logger.warning(
        "weibull_monitor: %s lists %d trials of a search; this is the last, %s. To read another, name one of %s",
        file,
        len(trials),
        last.trial,
        names,
    )
    read = read_history(places[last.trial])
    ends = [replace(run, trial=last.trial, history=last.history) for run in read.runs[-1:]]
    others = tuple(run for run in trials if run is not last)
    return replace(read, runs=(*others, *(ends or [last])))


def find_history(path: str | Path) -> Path | None:
    """The history file at a path: the file itself, or that of a run's directory or of its ``weibull`` folder; None if none."""
    given = Path(path)
    return next((file for file in (given, given / FILE, given / FILE.name) if file.is_file()), None)


def _lines(file: Path) -> Iterable[dict[str, Any]]:
    with file.open("rb") as lines:
        for line in lines:
            try:
                value = json.loads(line)
            except ValueError:  # torn by a kill; UnicodeDecodeError is one too
                continue
            if isinstance(value, dict):
                yield value


def snapshot_from_json(line: Mapping[str, Any], run: RunRecord) -> RecordedSnapshot | None:
    """The sample of a ``snapshot`` line, with the components of the ``run`` line before it; None if they do not fit."""
    components = run.components
    absent = [None] * len(components)  # the line may be older than a column
    try:
        columns = {name: tuple(line[name] if name in FIRST_COLUMNS else line.get(name, absent)) for name in COLUMNS}
        step, time = index(line["step"]), float(line["time"])
    except _MALFORMED:
        return None
    if any(len(values) != len(components) or not _NUMBERS.issuperset(map(type, values)) for values in columns.values()):
        return None
    withheld, seconds = line.get("withheld", {}), line.get("seconds")
    return RecordedSnapshot(step, time, components, columns, withheld, seconds, run.model)


def _plot_from_json(line: Mapping[str, Any], components: tuple[Component, ...]) -> RecordedPlot | None:
    """The quantiles of a ``plot`` line, with the components of the ``run`` line before it; None if they do not fit."""
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
        file: The history, for messages.

    Raises:
        ConfigurationError: If it was written by a newer version, or does not have the form of a ``run`` line.
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
    except _MALFORMED as error:
        if isinstance(error, ConfigurationError):  # which is a ValueError too
            raise
        raise ConfigurationError(
            f"{file} is not a history ({type(error).__name__}: {error}); name one that a monitored run wrote"
        ) from error


def alerts_from_json(line: Mapping[str, Any]) -> list[Alert]:
    """The alert of an ``alert`` line, in a list; an empty list if the line lacks a field."""
    try:
        alert = alert_from_json(line)
        index(alert.step)  # it is compared with the steps of samples
    except _MALFORMED:
        return []
    return [alert]


def _component_from_json(value: Mapping[str, Any]) -> Component:
    known = {name: value[name] for name in Component.__dataclass_fields__ if name in value}
    if part := known.get("part"):
        ranges = tuple((start, stop) for start, stop in part["ranges"])
        known["part"] = Part(part["label"], tuple(part["view"]), ranges, part["within"])
    return Component(**known | {"shape": tuple(value["shape"]), "dtype": getattr(torch, value["dtype"])})
