"""Writes the samples of a run to its history and its trackers. Only the main process has a recorder."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from weibull_monitor.errors import Guard, say
from weibull_monitor.history import HistoryWriter, RecordedSnapshot, RunRecord, read_history
from weibull_monitor.history.places import add_trial
from weibull_monitor.history.record import FILE
from weibull_monitor.history.snapshot import Reference, References, Snapshot
from weibull_monitor.model.components import Discovery, by_reason, differs, render
from weibull_monitor.monitor.options import MonitorOptions
from weibull_monitor.trackers import as_trackers
from weibull_monitor.trackers.base import prefixed
from weibull_monitor.trackers.pictures import Pictures

if TYPE_CHECKING:
    from weibull_monitor.alerts.stop import StopRequest

_OPEN: WeakValueDictionary[Path, Recorder] = WeakValueDictionary()
"""The open recorder of each history file; two of them would log everything twice."""


class Recorder:
    """Writes samples to the history and to trackers. If one of them fails, it is reported once and the others go on.

    If another process writes to the history, this one writes to ``weibull/2/history.jsonl`` beside it (or 3, 4, …).

    Args:
        output_dir: The directory of the run, or of the search that it is a trial of.
        options: The options of the monitor.
        guard: Catches and reports failures.

    Attributes:
        path: The file of the history.
        closed: Whether it is closed; later samples are dropped.
        raised: Number of alerts that were raised or got worse.

    Raises:
        ConfigurationError: If the history cannot be written there.
        MissingDependencyError: If the library of a named tracker is not installed.
    """

    def __init__(self, output_dir: Path, options: MonitorOptions, guard: Guard) -> None:
        from weibull_monitor.alerts.dispatch import Dispatcher  # takes 20 ms

        self._name, self._trial, self._search = options.name, options.trial, output_dir
        output_dir = output_dir / (options.trial or "")
        self._history = _history_of(output_dir, options, guard)
        shared = (
            self._history.path == output_dir / FILE
        )  # a directory with several histories needs a folder for each one's trackers
        try:
            self._trackers = as_trackers(options.trackers, output_dir if shared else self._history.path.parent)
        except BaseException:
            self._history.close()
            raise
        given = () if isinstance(options.trackers, str) else options.trackers
        self._made = [made for name, made in zip(given, self._trackers, strict=True) if made is not name]
        self._detail, self._guard = options.detail, guard
        self._pictures = Pictures(self._trackers, options.pictures_every, guard)
        self._plotted: int | None = None
        self._last: Snapshot | None = None
        self._alerts = Dispatcher(options.alert_options, self._history, self._trackers, str(output_dir), guard)
        self.path = self._history.path
        self.closed = False
        self.raised = 0

    def take_over(self) -> None:
        """Closes another open recorder of this history: the monitor was attached twice, or a notebook cell was run again."""
        path = self.path.resolve()
        if (before := _OPEN.get(path)) is not None:
            self._guard.once(f"another monitor writes to {path}; it is closed and this one continues alone")
            before.close()
            self._history.lock()
        _OPEN[path] = self

    def abandon(self) -> None:
        """Closes what was opened here, after the monitor could not be set up. Trackers that the user has made stay open."""
        self.closed = True
        for tracker in self._made:
            self._guard(f"closing {type(tracker).__name__}", tracker.close)
        self._guard("closing the history", self._history.close)

    def prepare_alerts(self, attention: Iterable[Mapping[str, Any]], initial: float | None) -> None:
        """Starts the alert rules, which depend on the model's kinds of attention and on its initialisation."""
        self._guard("preparing the alerts", self._alerts.begin, attention, initial)

    def recall(self, alerts: object, until: int) -> tuple[Sequence[RecordedSnapshot], Mapping[str, Reference]]:
        """Continues from ``alerts``, taken at step ``until`` of the run in the history.

        Returns:
            The samples of the history, and k and λ of each component before the first step; empty if it does not have them.
        """
        history = read_history(self.path)
        self._plotted = max((plot.step for plot in history.plots if plot.step <= until), default=None)
        samples = [sample for sample in history.snapshots if sample.step <= until]
        self._guard("restoring the alerts", self._alerts.resume, alerts, samples)
        if history.baseline is None:
            self._guard.once(
                f"{history.path} has no sample of step 0 of this run, which is at step {until}: there will be no drift and no "
                "budget ratio. To have them, resume in the directory of the earlier run",
                key="no baseline",
            )
            return history.snapshots, {}
        scales, tails, largest, rms = map(history.baseline.values, ("lambda", "p999_p50", "largest", "rms"))
        found = {
            n: Reference(k, scales[n], tails.get(n), largest[n] / rms[n] if n in largest and rms.get(n) else None)
            for n, k in history.baseline.values("k").items()
        }
        return history.snapshots, References.of(found)

    def alerts(self) -> dict[str, Any] | None:
        """What the alert rules of a resumed run need besides the history."""
        return self._guard("keeping the alerts", self._alerts.state_dict)

    @property
    def stop_request(self) -> StopRequest:
        """Whether an alert has asked for training to stop."""
        return self._alerts.stop_request

    def begin(self, record: RunRecord) -> None:
        """Records the start of a run, of its resumption, or of another set of components."""
        if self.closed:
            return
        self._guard("writing the history", self._history.write_run, record)
        if self._trial is not None:
            self._guard("listing the trial", add_trial, self._search, record, self._trial)
        for tracker in self._trackers:
            if callable(begin := getattr(tracker, "begin", None)):
                self._guard(f"beginning with {type(tracker).__name__}", begin, record)

    def log(self, snapshot: Snapshot) -> None:
        """Writes one sample to the history and all trackers, and delivers its alerts."""
        if self.closed:
            return
        self._guard("writing the history", self._history.write_snapshot, snapshot)
        self._last = snapshot
        if self._plotted is None or snapshot.step >= 2 * self._plotted:
            self._plot(snapshot)
        alerts = [replace(alert, name=self._name) for alert in self._alerts.observe(snapshot)]
        self.raised += sum(alert.phase != "ends" for alert in alerts)
        if self._trackers:
            metrics = snapshot.metrics(self._detail) | prefixed(self._alerts.metrics(), snapshot.name)
        for tracker in self._trackers:
            self._guard(f"logging to {type(tracker).__name__}", tracker.log, metrics, snapshot.step)
        self._alerts.deliver(alerts)
        self._pictures.log(snapshot)
        for tracker in self._trackers:
            if callable(settle := getattr(tracker, "settle", None)):
                self._guard(f"logging to {type(tracker).__name__}", settle)

    def finish(self) -> None:
        """Draws the last sample while the host still has its trackers open."""
        if not self.closed:
            self._pictures.finish()

    def _plot(self, snapshot: Snapshot) -> None:
        """Writes the data of the probability plots: at the first and last sample, and whenever the step has doubled."""
        self._plotted = snapshot.step
        self._guard("writing the history", self._history.write_plot, snapshot)

    def close(self) -> None:
        """Closes history and trackers. May be called again."""
        if self.closed:
            return
        self.closed = True
        for path in [path for path, recorder in _OPEN.items() if recorder is self]:
            del _OPEN[path]
        self._guard("drawing the last sample", self._pictures.finish)
        if self._last is not None and self._last.step != self._plotted:
            self._plot(self._last)
        for tracker in self._trackers:
            self._guard(f"closing {type(tracker).__name__}", tracker.close)
        self._guard("closing the alerts", self._alerts.close)
        self._guard("closing the history", self._history.close)


def _history_of(output_dir: Path, options: MonitorOptions, guard: Guard) -> HistoryWriter:
    """The history of a run; one beside it if another process writes to it."""
    history = HistoryWriter(output_dir, options.name, guard.once)
    if history.lock() or history.path.resolve() in _OPEN:  # an open recorder of this process will be replaced
        return history
    history.close()
    for number in count(2):
        named = f"{options.name}/{number}" if options.name else str(number)
        beside = HistoryWriter(output_dir, named, guard.once)
        if beside.lock():
            break
        beside.close()
    if options.resume is not None:
        guard("copying the history of the resumed run", shutil.copyfile, history.path, beside.path)
    guard.once(f"another process writes to {history.path}; the history of this one is {beside.path}")
    return beside


def log_components(discovery: Discovery, different: Sequence[str], again: bool = False) -> None:
    """Logs what is measured, and what is not and why.

    Args:
        discovery: The components.
        different: Parameters whose values are not the same on all ranks.
        again: Whether this was logged before, and the first batch has shown more since: then no warnings are logged.
    """
    since = ", now that the first batch has shown what each matrix does" if again else ""
    say(logging.INFO, f"weibull_monitor measures{since}\n{render(discovery)}")
    if again:
        return
    for message in by_reason({s.name: s.reason for s in discovery.skipped}, "cannot be measured").values():
        say(logging.WARNING, f"weibull_monitor: {message}")
    if different:
        say(logging.WARNING, f"weibull_monitor: {differs(different)}")
