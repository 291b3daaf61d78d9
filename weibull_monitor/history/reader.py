"""Reads a history: one JSON object per line.

Types of lines: ``run`` (a run or its resumption begins: what is measured and how), ``snapshot`` (one sample, in columns that are
aligned with the components of the last ``run`` line), ``plot`` (the quantiles of some of the samples) and ``alert`` (an alert is
raised, gets worse or is cleared).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from weibull_monitor.errors import ConfigurationError, counted, say
from weibull_monitor.history.alert import Alert
from weibull_monitor.history.form import (
    NotARunError,
    alerts_from_json,
    plot_from_json,
    run_from_json,
    snapshot_from_json,
)
from weibull_monitor.history.lines import parsed, raw_lines
from weibull_monitor.history.places import models_in, trial_history
from weibull_monitor.history.record import FILE, History, RecordedPlot, RecordedSnapshot, RunRecord


def read_history(path: str | Path) -> History:
    """Reads the history of a run.

    Args:
        path: The run's directory, or the ``history.jsonl`` itself.

    Returns:
        The last run in the file, with its resumptions. Lines that cannot be read, such as torn ones, and samples that do not
        fit their run are left out, and a warning says how many they are. Of a list of trials, the record of each trial in
        `History.runs`, and the samples of the last one.

    Raises:
        FileNotFoundError: If there is no history there.
        ConfigurationError: If it was written by a newer version, or is not a history.
    """
    return _read(path)


def _read(path: str | Path, in_list: bool = False) -> History:
    file, models = find_history(path), models_in(path)
    if file is None and len(models) == 1:
        file = find_history(models[0])
    if file is None:
        if models:
            raise FileNotFoundError(f"there are several histories in {path}: name one of {', '.join(map(str, models))}")
        raise FileNotFoundError(f"no history at {path}: it is not a file, and there is no {Path(path) / FILE}")
    reading = _Reading(file, in_list)
    with file.open("rb") as lines:
        for line in raw_lines(lines):
            reading.add(line)
    return reading.result()


class _Reading:
    """Takes the lines of a file one after another."""

    def __init__(self, file: Path, in_list: bool) -> None:
        self._file, self._in_list = file, in_list  # a list of trials lists no lists
        self._trials: dict[str, RunRecord] = {}
        self._unreadable = 0
        self._problem = ""
        self._known = False  # whether the last ``run`` line could be read, without which samples mean nothing
        self._begin()

    def _begin(self) -> None:
        self._runs: list[RunRecord] = []
        self._snapshots: dict[int, RecordedSnapshot] = {}
        self._plots: dict[int, RecordedPlot] = {}
        self._alerts: list[Alert] = []

    def add(self, line: bytes | None) -> None:
        """Takes a line; None for one that is too long."""
        value = None if line is None else parsed(line)
        if value is None:
            self._unreadable += line is None or (line.endswith(b"\n") and not line.isspace())
        elif not self._taken(value):
            self._unreadable += 1

    def _taken(self, line: Mapping[str, Any]) -> bool:
        kind = line.get("type")
        if kind == "run":
            return self._run(line)
        if kind not in ("snapshot", "plot", "alert"):  # of a later version
            return isinstance(kind, str)
        if not self._known:
            return False
        if kind == "snapshot":
            snapshot = snapshot_from_json(line, self._runs[-1])
            if snapshot is not None:
                self._snapshots[snapshot.step] = snapshot
            return snapshot is not None
        if kind == "plot":
            plot = plot_from_json(line, self._runs[-1].components)
            if plot is not None:
                self._plots[plot.step] = plot
            return plot is not None
        found = alerts_from_json(line)
        self._alerts += found
        return bool(found)

    def _run(self, line: Mapping[str, Any]) -> bool:
        try:
            run = run_from_json(line, self._file)
        except NotARunError as error:
            self._problem, self._known = str(error), False
            return False
        if run.trial is not None:
            self._trials.pop(run.trial, None)
            self._trials[run.trial] = run
            return True
        self._trials, self._known = {}, True
        if run.resumed_from is None:
            self._begin()
        else:  # samples from after the checkpoint belong to a branch that was abandoned
            until = run.resumed_from
            self._snapshots = {step: s for step, s in self._snapshots.items() if step <= until}
            self._plots = {step: p for step, p in self._plots.items() if step <= until}
            self._alerts = [alert for alert in self._alerts if alert.step <= until]
        self._runs.append(run)
        return True

    def result(self) -> History:
        """The history.

        Raises:
            ConfigurationError: If no ``run`` line could be read.
        """
        if not self._runs and not self._trials and self._unreadable:
            why = self._problem or "none of its lines begins a run"
            raise ConfigurationError(f"{self._file} is not a history ({why}); name one that a monitored run wrote")
        if self._unreadable:
            lines = counted(self._unreadable, "line")
            say(logging.WARNING, f"weibull_monitor: {lines} of {self._file} cannot be read")
        if self._trials:
            trials = tuple(self._trials.values())
            return History(self._file, trials, ()) if self._in_list else _of_trials(self._file, trials)
        sampled = tuple(self._snapshots[step] for step in sorted(self._snapshots))
        plotted = tuple(self._plots[step] for step in sorted(self._plots))
        return History(self._file, tuple(self._runs), sampled, tuple(self._alerts), plotted, self._unreadable)


def _of_trials(file: Path, trials: tuple[RunRecord, ...]) -> History:
    """The trials in a list of trials, with the samples of the last one whose history exists."""
    places = {run.trial: trial_history(file, run) for run in trials}
    present = [run for run in trials if places[run.trial].is_file() and places[run.trial] != file]
    if not present:
        return History(file, trials, ())
    last = present[-1]
    names = ", ".join(str(file.parent.parent / (run.trial or "")) for run in present)
    say(
        logging.WARNING,
        f"weibull_monitor: {file} lists {len(trials)} trials of a search; this is the last, {last.trial}. To read another, "
        f"name one of {names}",
    )
    read = _read(places[last.trial], in_list=True)
    ends = [replace(run, trial=last.trial, history=last.history) for run in read.runs[-1:]]
    others = tuple(run for run in trials if run is not last)
    return replace(read, runs=(*others, *(ends or [last])))


def find_history(path: str | Path) -> Path | None:
    """The history file at a path: the file itself, or that of a run's directory or of its ``weibull`` folder; None if none."""
    given = Path(path)
    return next((file for file in (given, given / FILE, given / FILE.name) if file.is_file()), None)
