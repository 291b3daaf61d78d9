"""Follows a history while it is being written. Each line is read once, and only the medians of each sample are kept."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import numpy as np

from weibull_monitor.errors import ConfigurationError
from weibull_monitor.history.alert import Alert
from weibull_monitor.history.form import NotARunError, alerts_from_json, run_from_json, snapshot_from_json
from weibull_monitor.history.lines import MAX_LINE, parsed
from weibull_monitor.history.places import last_trial
from weibull_monitor.history.reader import find_history
from weibull_monitor.history.record import FILE, History, RecordedSnapshot, RunRecord, as_array
from weibull_monitor.model.components import AttentionPair, Component, attention_pairs, distinct, representatives

CLASSES = ("selection", "transmission")
HEAD = 64
"""Bytes at the beginning of a file that identify it: they hold the time at which the run started."""
MANY: Final = 1000
"""Of more samples than this, every second, fourth, … is looked into."""
_SAMPLE: Final = re.compile(
    rb'\{"type":"snapshot","step":(\d{1,15}),"time":(\d{1,11}(?:\.\d{1,9})?),"seconds":(\d[\d.e-]{0,20}|null),'
)
"""How a line begins that holds a sample, as `HistoryWriter` writes it."""


@dataclass(frozen=True)
class FollowedSample:
    """The part of a sample that is kept.

    Attributes:
        step: Optimizer steps taken.
        time: Unix time, in seconds.
        seconds: Wall time of the measurement, in seconds; None if it was not recorded.
        classes: Median k of each class that the model has.
        kinds: Median k of each kind.
        attention: Median and highest scale of attention over the blocks; None if no block has one.
        place: Offset of its line in the file, in bytes.
        run: Index of its record in `HistoryTail.runs`.
    """

    step: int
    time: float
    seconds: float | None
    classes: Mapping[str, float]
    kinds: Mapping[str, float]
    attention: tuple[float, float] | None
    place: int
    run: int


class HistoryTail:
    """Follows the history of a run that may still be running. Its attributes are those at the last `poll`.

    A line without an end is read once it is complete, and a torn line is skipped. A file that is replaced or truncated is read
    from its beginning. If a new run begins in the file, the run before it is forgotten.
    If the file lists the trials of a search, the last trial is followed.

    Args:
        path: The run's directory, or its ``history.jsonl``; it does not have to exist yet.

    Attributes:
        path: The path that was passed.
        file: The history; None while there is none.
        runs: The record of the run's beginning and of its resumptions.
        alerts: The alerts of the run.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._forget()

    @property
    def points(self) -> tuple[FollowedSample, ...]:
        """The samples, by rising step. Of more than `MANY` some, evenly spread, with the first and the last."""
        steps = sorted(self._lines)
        apart = 1
        while len(steps) > MANY * apart:  # so that samples are looked into once, though there are more and more
            apart *= 2
        chosen = [*steps[::apart], *([steps[-1]] if (len(steps) - 1) % apart else [])] if steps else []
        if missing := [step for step in chosen if step not in self._points]:
            self._look_into(missing)
        found = (self._points.get(step) for step in chosen)
        return tuple(point for point in found if point is not None)

    @property
    def samples(self) -> int:
        """The number of samples."""
        return len(self._lines) - sum(point is None for point in self._points.values())

    @property
    def seconds(self) -> float | None:
        """Wall time of all measurements after the first sample; None if it was not recorded."""
        first = min(self._lines, default=0)
        spent = [line.seconds for step, line in self._lines.items() if step != first and line.seconds is not None]
        return sum(spent) if spent else None

    @property
    def waits_for(self) -> Path:
        """The file that is expected while there is none."""
        return self.path if self.path.suffix == ".jsonl" else self.path / FILE

    def poll(self) -> bool:
        """Reads the new lines, and returns whether there were any.

        Raises:
            ConfigurationError: If the history was written by a newer version, or cannot be read.
        """
        found = find_history(self.path)
        if found is None:
            had = self.file is not None
            self._forget()
            return had
        found = last_trial(found)
        try:
            with found.open("rb") as lines:
                return self._read(found, lines)
        except OSError as error:
            raise ConfigurationError(
                f"{found} cannot be read: {error.strerror}; pass a file that you can read"
            ) from error

    def history(self) -> History:
        """The run with only its first and its last sample, which are read in full.

        A summary of the run from these two is the same as from all samples, except for a peak of η between them.
        """
        points = self.points
        ends = [points[0], points[-1]] if len(points) > 1 else list(points)
        try:
            with (self.file or self.waits_for).open("rb") as lines:
                samples = tuple(s for point in ends if (s := self._full(lines, point)) is not None)
        except OSError:  # it was just replaced: the next poll sees that
            samples = ()
        return History(self.file or self.waits_for, tuple(self.runs), samples, tuple(self.alerts))

    def _forget(self) -> None:
        self.file: Path | None = None
        self.runs: list[RunRecord] = []
        self.alerts: list[Alert] = []
        self._points: dict[int, FollowedSample | None] = {}  # by step; None if the line cannot be read
        self._lines: dict[int, _Line] = {}  # by step, in the order of the file
        self._offset, self._identity, self._head = 0, (0, 0), b""
        self._groups: dict[int, _Groups] = {}
        self._known = False  # whether the last ``run`` line could be read

    def _read(self, file: Path, lines: Any) -> bool:
        status = os.fstat(lines.fileno())
        identity, head = (status.st_dev, status.st_ino), lines.read(HEAD)
        replaced = identity != self._identity or not head.startswith(self._head) or status.st_size < self._offset
        if self.file is None or replaced:
            self._forget()
        new = self.file is None
        self.file, self._identity, self._head = file, identity, head
        lines.seek(self._offset)
        while line := lines.readline(MAX_LINE):
            size, whole = len(line), line.endswith(b"\n")
            if not whole and size < MAX_LINE:
                break  # being written
            place, self._offset = self._offset, self._offset + size
            begins = _SAMPLE.match(line) if self._known and line.endswith(b"}\n") else None
            if begins is not None and int(begins[1]) not in self._lines:
                new = self._noted(int(begins[1]), float(begins[2]), begins[3], place)
            # What is longer is read and left out in pieces, of which none is an object of JSON.
            elif whole and (value := parsed(line)) is not None:
                new = self._take(value, place) or new
        return new

    def _take(self, line: Mapping[str, Any], place: int) -> bool:
        kind = line.get("type")
        if kind == "run":
            return self._begin(line)
        if kind == "snapshot" and self._known:
            if (snapshot := snapshot_from_json(line, self.runs[-1])) is not None:
                seconds = None if snapshot.seconds is None else str(snapshot.seconds).encode()
                self._noted(snapshot.step, snapshot.time, seconds, place)
        elif kind == "alert" and self._known:
            self.alerts += alerts_from_json(line)
        else:
            return False
        return True

    def _begin(self, line: Mapping[str, Any]) -> bool:
        try:
            run = run_from_json(line, self.file or self.path)
        except NotARunError:
            self._known = False  # the samples that follow mean nothing
            return False
        self._known = True
        if run.resumed_from is None:
            self.runs, self._points, self._lines, self.alerts, self._groups = [], {}, {}, [], {}
        else:
            self._points = {step: point for step, point in self._points.items() if step <= run.resumed_from}
            self._lines = {step: line for step, line in self._lines.items() if step <= run.resumed_from}
            self.alerts = [alert for alert in self.alerts if alert.step <= run.resumed_from]
        self.runs.append(run)
        return True

    def _noted(self, step: int, time: float, seconds: bytes | None, place: int) -> bool:
        self._points.pop(step, None)  # the later line for a step counts
        try:
            spent = None if seconds in (None, b"null") else float(seconds)
        except ValueError:
            spent = None
        self._lines[step] = _Line(time, spent, place, len(self.runs) - 1)
        return True

    def _look_into(self, steps: list[int]) -> None:
        """Reads the samples of these steps."""
        with suppress(OSError), (self.file or self.waits_for).open("rb") as lines:
            for step in steps:
                of = self._lines[step]
                snapshot = self._full(lines, of)
                self._points[step] = None if snapshot is None else self._point(snapshot, of.place, of.run)

    def _point(self, snapshot: RecordedSnapshot, place: int, run: int) -> FollowedSample:
        if run not in self._groups:
            self._groups[run] = _Groups.of(
                snapshot.components, attention_pairs(snapshot.components, self.runs[run].attention)
            )
        k = as_array(snapshot.columns, ("k",))[0]  # (components,)
        groups = self._groups[run]
        classes, kinds = _medians(k, groups.classes), _medians(k, groups.kinds)
        rms = snapshot.columns["rms"]
        scales = [f * rms[q] * rms[k] for q, k, f in groups.pairs if rms[q] is not None and rms[k] is not None]  # type: ignore[operator]
        attention = (float(np.median(scales)), max(scales)) if scales else None
        return FollowedSample(snapshot.step, snapshot.time, snapshot.seconds, classes, kinds, attention, place, run)

    def _full(self, lines: IO[bytes], of: FollowedSample | _Line) -> RecordedSnapshot | None:
        lines.seek(of.place)
        line = parsed(lines.readline(MAX_LINE))
        return None if line is None or line.get("type") != "snapshot" else snapshot_from_json(line, self.runs[of.run])


class _Line(NamedTuple):
    """A line that holds a sample, and what its beginning says; ``place`` and ``run`` as in `FollowedSample`."""

    time: float
    seconds: float | None
    place: int
    run: int


@dataclass(frozen=True)
class _Groups:
    """Indices into the columns for each class and kind; the same components as in the flat metrics.

    ``pairs`` has the indices of W_q and W_k, and the factor of their scale.
    """

    classes: Mapping[str, list[int]]
    kinds: Mapping[str, list[int]]
    pairs: tuple[tuple[int, int, float], ...]

    @staticmethod
    def of(components: tuple[Component, ...], pairs: tuple[AttentionPair, ...]) -> _Groups:
        place = {c.name: i for i, c in enumerate(components)}
        once, shown = distinct(components), representatives(components)
        return _Groups(
            {name: [place[c.name] for c in once if c.component_class == name] for name in CLASSES},
            {kind: [place[c.name] for c in shown if c.label == kind] for kind in dict.fromkeys(c.label for c in shown)},
            tuple((place[p.query], place[p.key], p.factor) for p in pairs if p.head is None),
        )


def _medians(values: np.ndarray[Any, np.dtype[np.float64]], groups: Mapping[str, list[int]]) -> dict[str, float]:
    # A component without a fit has no k, and must not make its group's median NaN.
    present = {name: values[places][~np.isnan(values[places])] for name, places in groups.items()}
    return {name: float(np.median(found)) for name, found in present.items() if found.size}
