"""Where the samples of a run go: its history and its trackers. Only the main rank has one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from weibull_monitor.errors import Guard
from weibull_monitor.history import HistoryWriter, RunRecord
from weibull_monitor.history.record import History
from weibull_monitor.history.snapshot import Detail, Snapshot
from weibull_monitor.trackers import Tracker, as_trackers
from weibull_monitor.trackers.pictures import EVERY, Pictures

if TYPE_CHECKING:
    from weibull_monitor.alerts.dispatch import AlertOptions

_AT_WORK: WeakValueDictionary[Path, Recorder] = WeakValueDictionary()
"""The recorder that writes to each history now: two would log everything twice."""


class Recorder:
    """Writes samples to the history of a run's directory and to trackers. What fails is reported once, and the rest goes on.

    Args:
        output_dir: The run's directory.
        trackers: Names and objects, as `WeibullMonitor` takes them.
        detail: Which metrics trackers get.
        told: What the user passed about alerts.
        guard: What catches and reports failures.
        pictures_every: Samples between two pictures for trackers that draw; 0 for none.

    Attributes:
        path: The history's file.
        closed: Whether it is closed; what is written after that is dropped.

    Raises:
        ConfigurationError: If the history cannot be written there.
        MissingDependencyError: For a named tracker whose library is not installed.
    """

    def __init__(
        self,
        output_dir: Path,
        trackers: Iterable[str | Tracker],
        detail: Detail,
        told: AlertOptions,
        guard: Guard,
        pictures_every: int = EVERY,
    ) -> None:
        from weibull_monitor.alerts.dispatch import Dispatcher  # not before it is needed: 20 ms

        self._history = HistoryWriter(output_dir)
        self._trackers = as_trackers(trackers, output_dir)
        self._detail, self._guard = detail, guard
        self._pictures = Pictures(self._trackers, pictures_every, guard)
        self._plotted: int | None = None
        self._last: Snapshot | None = None
        self._watch = Dispatcher(told, self._history, self._trackers, str(output_dir), guard)
        self.path = self._history.path
        self.closed = False

    def take_over(self) -> None:
        """Closes the recorder that still writes to this history: a monitor attached twice, or a cell that was run again."""
        path = self.path.resolve()
        if (before := _AT_WORK.get(path)) is not None:
            self._guard.once(f"another monitor writes to {path}; it is closed, and this one goes on alone")
            before.close()
        _AT_WORK[path] = self

    def expect(self, attention: Iterable[Mapping[str, Any]]) -> None:
        """Says what kinds of attention the model has: what alerts expect of it depends on them."""
        self._guard("preparing the alerts", lambda: self._watch.begin(attention))

    def recall(self, alerts: Mapping[str, Any], history: History, until: int) -> None:
        """Goes on where `alerts` was taken, ``until`` steps into the run that the history holds."""
        self._plotted = max((plot.step for plot in history.plots if plot.step <= until), default=None)
        self._watch.resume(alerts, [sample for sample in history.snapshots if sample.step <= until])

    def alerts(self) -> dict[str, Any] | None:
        """What judging a resumed run needs beside its history."""
        return self._guard("keeping the alerts", self._watch.state_dict)

    @property
    def decision(self) -> int:
        """Whether alerts ask for training to stop, as `weibull_monitor.alerts.dispatch` has it."""
        return self._watch.decision

    def begin(self, record: RunRecord) -> None:
        """Writes the beginning of a run, of its resumption, or of another set of components."""
        if self.closed:
            return
        self._guard("writing the history", lambda: self._history.write_run(record))
        for tracker in self._trackers:
            if callable(begin := getattr(tracker, "begin", None)):
                self._guard(f"beginning with {type(tracker).__name__}", lambda begin=begin: begin(record))  # type: ignore[misc]

    def log(self, snapshot: Snapshot) -> None:
        """Writes one sample everywhere."""
        if self.closed:
            return
        self._guard("writing the history", lambda: self._history.write_snapshot(snapshot))
        self._last = snapshot
        if self._plotted is None or snapshot.step >= 2 * self._plotted:
            self._plot(snapshot)
        alerts = self._watch.observe(snapshot)
        metrics = snapshot.metrics(self._detail) | self._watch.metrics()
        for tracker in self._trackers:
            self._guard(
                f"logging to {type(tracker).__name__}",
                lambda tracker=tracker: tracker.log(metrics, snapshot.step),  # type: ignore[misc]
            )
        self._watch.tell(alerts)
        self._pictures.log(snapshot)

    def finish(self) -> None:
        """Draws the last sample, while a host still has its trackers open."""
        if not self.closed:
            self._pictures.finish()

    def _plot(self, snapshot: Snapshot) -> None:
        """Writes what probability plots are drawn from: at the first sample, each doubling of the step and the last sample."""
        self._plotted = snapshot.step
        self._guard("writing the history", lambda: self._history.write_plot(snapshot))

    def close(self) -> None:
        """Closes history and trackers. May be called again."""
        if self.closed:
            return
        self.closed = True
        if _AT_WORK.get(self.path.resolve()) is self:
            del _AT_WORK[self.path.resolve()]
        self._pictures.finish()
        if self._last is not None and self._last.step != self._plotted:
            self._plot(self._last)
        for tracker in self._trackers:
            self._guard(f"closing {type(tracker).__name__}", tracker.close)
        self._watch.close()
        self._guard("closing the history", self._history.close)
