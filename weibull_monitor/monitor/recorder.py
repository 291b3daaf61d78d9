"""Writes the samples of a run to its history and its trackers. Only the main process has a recorder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from weibull_monitor.errors import Guard
from weibull_monitor.history import HistoryWriter, RunRecord
from weibull_monitor.history.record import History
from weibull_monitor.history.snapshot import Snapshot
from weibull_monitor.monitor.options import MonitorOptions
from weibull_monitor.trackers import as_trackers
from weibull_monitor.trackers.pictures import Pictures

if TYPE_CHECKING:
    from weibull_monitor.alerts.stop import StopRequest

_OPEN: WeakValueDictionary[Path, Recorder] = WeakValueDictionary()
"""The open recorder of each history file; two of them would log everything twice."""


class Recorder:
    """Writes samples to the history and to trackers. If one of them fails, it is reported once and the others go on.

    Args:
        output_dir: The directory of the run.
        options: The options of the monitor.
        guard: Catches and reports failures.

    Attributes:
        path: The file of the history.
        closed: Whether it is closed; later samples are dropped.

    Raises:
        ConfigurationError: If the history cannot be written there.
        MissingDependencyError: If the library of a named tracker is not installed.
    """

    def __init__(self, output_dir: Path, options: MonitorOptions, guard: Guard) -> None:
        from weibull_monitor.alerts.dispatch import Dispatcher  # takes 20 ms

        self._history = HistoryWriter(output_dir)
        self._trackers = as_trackers(options.trackers, output_dir)
        self._detail, self._guard = options.detail, guard
        self._pictures = Pictures(self._trackers, options.pictures_every, guard)
        self._plotted: int | None = None
        self._last: Snapshot | None = None
        self._alerts = Dispatcher(options.alert_options, self._history, self._trackers, str(output_dir), guard)
        self.path = self._history.path
        self.closed = False

    def take_over(self) -> None:
        """Closes another open recorder of this history: the monitor was attached twice, or a notebook cell was run again."""
        path = self.path.resolve()
        if (before := _OPEN.get(path)) is not None:
            self._guard.once(f"another monitor writes to {path}; it is closed and this one continues alone")
            before.close()
        _OPEN[path] = self

    def prepare_alerts(self, attention: Iterable[Mapping[str, Any]]) -> None:
        """Starts the alert rules, which depend on the kinds of attention in the model."""
        self._guard("preparing the alerts", self._alerts.begin, attention)

    def recall(self, alerts: Mapping[str, Any], history: History, until: int) -> None:
        """Continues from `alerts`, taken at step ``until`` of the run in the history."""
        self._plotted = max((plot.step for plot in history.plots if plot.step <= until), default=None)
        self._alerts.resume(alerts, [sample for sample in history.snapshots if sample.step <= until])

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
        alerts = self._alerts.observe(snapshot)
        metrics = snapshot.metrics(self._detail) | self._alerts.metrics()
        for tracker in self._trackers:
            self._guard(f"logging to {type(tracker).__name__}", tracker.log, metrics, snapshot.step)
        self._alerts.deliver(alerts)
        self._pictures.log(snapshot)

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
        if _OPEN.get(self.path.resolve()) is self:
            del _OPEN[self.path.resolve()]
        self._pictures.finish()
        if self._last is not None and self._last.step != self._plotted:
            self._plot(self._last)
        for tracker in self._trackers:
            self._guard(f"closing {type(tracker).__name__}", tracker.close)
        self._alerts.close()
        self._guard("closing the history", self._history.close)
