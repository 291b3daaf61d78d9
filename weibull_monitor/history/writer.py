"""Writes a history: one JSON object per line, appended and never rewritten.

Each line is one write, so a killed process leaves at most one torn line at the end. Readers skip it, and the next writer ends it.
If the file is deleted, renamed, replaced or cut off while the run goes on, that is noticed before the next line: the run goes on
in a new file at the same place, which begins with the run's record and says what became of the one before.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final
from weakref import WeakSet, finalize

import numpy as np

from weibull_monitor.errors import ConfigurationError, say, text_of
from weibull_monitor.history.alert import Alert
from weibull_monitor.history.columns import COLUMNS, COUNTS, DELTAS, EXPECTED, FORCES, UPDATES, WRITES, WRITTEN
from weibull_monitor.history.form import MAX_TIME
from weibull_monitor.history.record import FILE, RunRecord
from weibull_monitor.history.snapshot import Snapshot
from weibull_monitor.measure import LEVELS
from weibull_monitor.measure.rows import Numbers
from weibull_monitor.model.components import Component

PLOTTED: Final = 2000
"""In models with more components than this, single experts get no probability plot."""
_OPEN: Final[WeakSet[HistoryWriter]] = WeakSet()
"""The writers of this process that are open."""


class HistoryWriter:
    """Appends to the history of a run's directory.

    A process that is forked while the file is open gets a descriptor of its own; if it writes too, it goes on in a file of its
    own, as long as the other one has the lock. A copy of a writer is closed.

    Args:
        output_dir: The run's directory; created if it does not exist.
        name: Name of the model among several in one run, whose history is in ``weibull/<name>``.
        report: Called with a message if the file is lost while it is written.

    Raises:
        ConfigurationError: If the file cannot be opened for appending, or is a pipe or a device.
    """

    def __init__(
        self, output_dir: str | Path, name: str | None = None, report: Callable[[str], object] | None = None
    ) -> None:
        self._owed: dict[str, Any] | None = None  # a run line that could not be written: samples are nothing without it
        self._run: dict[str, Any] | None = None  # the last run line, for a file that goes on where another was lost
        self._torn = False  # whether the last line in the file has no end
        self._end = 0  # bytes of the file after the last line
        self._step: int | None = None  # of the last sample
        self._gone = ""  # what became of the file, if it is gone
        self._forked = False  # whether this process is a fork of the one that opened the file
        self._closed = False
        self._report = report
        self._fd: int | None = None
        self._closing: finalize[..., Any] | None = None
        try:
            self.path = Path(output_dir).absolute() / FILE.parent / (name or "") / FILE.name
            self._open()
        except (OSError, ValueError) as error:  # ValueError: a name that the system cannot have
            why = error.strerror if isinstance(error, OSError) else text_of(error)
            raise ConfigurationError(
                f"the history cannot be written to {Path(output_dir) / FILE}: {why}; pass another output_dir"
            ) from error

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = _opened(self.path)
        self._closing = finalize(self, os.close, self._fd)  # if it is dropped without `close`
        self._closing.atexit = False
        _OPEN.add(self)
        self._end = os.fstat(self._fd).st_size
        # Ends the line that a killed process left torn.
        self._torn = self._end > 0 and _last_byte(self._fd, self._end) != b"\n"

    def lock(self) -> bool:
        """Takes the lock of the file, which ends with this process. False if another writer has it, here or elsewhere.

        True where the system or the disk has no locks.
        """
        try:
            import fcntl
        except ImportError:  # Windows
            return True
        try:
            if self._fd is not None:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
        return True

    def write_run(self, record: RunRecord) -> None:
        """Writes a ``run`` line."""
        line = asdict(replace(record, components=(), started=_moment(record.started))) | {
            "components": [_component_to_json(c) for c in record.components]
        }
        self._owed = self._run = {"type": "run"} | line
        self._pay()

    def write_snapshot(self, snapshot: Snapshot) -> None:
        """Writes a ``snapshot`` line: one array per column, aligned with the components; a value that does not exist is null."""
        absent = (() if snapshot.forces else FORCES) + (() if snapshot.updates else UPDATES)
        absent += (() if snapshot.deltas else DELTAS) + (() if snapshot.expected else EXPECTED)
        if not np.isfinite(snapshot.array("step_rms")).any():
            absent += WRITES
        elif not any((snapshot.array(name) > 0).any() for name in ("written", "state_written")):
            absent += WRITTEN
        line = {
            "type": "snapshot",
            "step": snapshot.step,
            "time": _moment(snapshot.time),
            "seconds": _rounded(snapshot.seconds),
            "withheld": snapshot.withheld,
        }
        text = _json(line)[:-1]
        for column in COLUMNS:
            if column not in absent:
                values = _json(snapshot.column(column)) if column in COUNTS else _numbers(snapshot.array(column))
                text += f',"{column}":{values}'
        self._pay()
        self._append_text(text + "}")
        self._step = snapshot.step

    def write_plot(self, snapshot: Snapshot) -> None:
        """Writes a ``plot`` line: the quantiles of each component, to five significant digits."""
        with_experts = len(snapshot.components) <= PLOTTED
        rows: list[list[float] | None] = []  # (components,) of (levels,)
        for component in snapshot.components:
            fit = snapshot.fits.get(component.name)
            shown = fit.quantiles if fit is not None and (with_experts or component.expert is None) else ()
            rows.append([float(f"{value:.5g}") for value in shown] or None)
        self._write({"type": "plot", "step": snapshot.step, "levels": LEVELS, "quantiles": rows})

    def write_alert(self, alert: Alert) -> None:
        """Writes an ``alert`` line."""
        self._write({"type": "alert"} | alert.to_json())

    def close(self) -> None:
        """Closes the file."""
        self._closed = True
        self._let_go()

    def _let_go(self) -> None:
        if self._closing is not None:
            self._closing()
        self._fd = self._closing = None
        _OPEN.discard(self)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_fd": None, "_closing": None, "_closed": True}

    def _pay(self) -> None:
        if not self._closed and (lost := self._gone or self._lost()):
            self._gone = lost  # until a file could be opened
            self._go_on(lost)
            self._gone = ""
        self._forked = False
        if (owed := self._owed) is not None:
            self._append(owed)
            self._owed = None

    def _write(self, line: Mapping[str, Any]) -> None:
        self._pay()
        self._append(line)

    def _lost(self) -> str:
        """What became of the file since the last line; empty if it is where and as it was."""
        if self._fd is None:
            return ""
        if self._forked and not self.lock():
            return "is written by the process that this one is a fork of"
        held = os.fstat(self._fd)
        try:
            there = os.stat(self.path)
        except OSError:
            return "was deleted or renamed"
        if (there.st_dev, there.st_ino) != (held.st_dev, held.st_ino):
            return "was replaced by another file"
        return f"was cut off, from {self._end:,} bytes to {held.st_size:,}" if held.st_size < self._end else ""

    def _go_on(self, lost: str) -> None:
        """Opens a file at the same place with the run's record; or beside it, if another process or something else is there."""
        self._let_go()
        first, number = self.path, 1
        try:
            while not self._is_open():
                number += 1
                self.path = first.parent / str(number) / first.name
        except OSError:
            self.path = first  # is tried again at the next line
            raise
        message = f"the history {first} {lost}; the run goes on in {self.path}"
        if self._run is not None:
            run = self._run | {"continues": f"{first} {lost}"}
            self._owed = run if self._step is None else run | {"resumed_from": self._step}
        if self._report is not None:
            self._report(message)
        else:
            say(logging.WARNING, message)

    def _is_open(self) -> bool:
        """Opens and locks the file; False if it is another writer's, or no file."""
        try:
            self._open()
        except OSError:
            if os.path.lexists(self.path) and not self.path.is_file():  # a pipe, a directory, a link to nowhere
                return False
            raise
        if not self.lock():
            self._let_go()
            return False
        return True

    def _append(self, line: Mapping[str, Any]) -> None:
        self._append_text(_json(line))

    def _append_text(self, text: str) -> None:
        if self._fd is None:
            raise ConfigurationError(f"the history {self.path} is closed")
        data = text.encode() + b"\n"
        if self._torn:  # ends what an earlier write left: this line must stand alone
            data = b"\n" + data
        try:
            while data:  # a regular file takes all of it, unless the disk is full: then the second write raises
                written = os.write(self._fd, data)
                data = data[written:]
                self._end += written
        finally:
            self._torn = bool(data)  # a write that raises may have written something, too
            if data:
                with suppress(OSError):
                    self._end = os.fstat(self._fd).st_size


def _opened(path: Path) -> int:
    """Opens a regular file: writing to a pipe that nobody reads would block training for ever."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
    fd = os.open(path, flags, 0o644)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is not a regular file")
    return fd


def _after_fork() -> None:
    """Gives a forked process, such as a worker of a DataLoader, other descriptors: else it would keep the lock of its parent."""
    for writer in list(_OPEN):
        with suppress(OSError):
            if writer._fd is not None:
                fresh = _opened(writer.path)
                os.dup2(fresh, writer._fd, inheritable=False)
                os.close(fresh)
                writer._forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _component_to_json(component: Component) -> dict[str, Any]:
    return asdict(component) | {"component_class": component.component_class, "dtype": component.dtype_name}


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _numbers(values: Numbers) -> str:
    """`_rounded` of each value as JSON has it, in a fourth of the time: training waits for tens of thousands of them.

    >>> _numbers(np.array([0.12345678949, 1e-5, 2.0, 1e10, np.nan]))
    '[0.123456789,1e-05,2.0,10000000000.0,null]'
    """
    if not len(values):
        return "[]"
    first = float(values[0])
    if (values == first).all() or np.isnan(values).all():  # rates are the same for all matrices, often
        return f"[{','.join([_json(_rounded(first))] * len(values))}]"
    text = ",".join(["%.9g"] * len(values)) % tuple(values.tolist())
    with np.errstate(invalid="ignore"):  # what is a whole number, or may become one by rounding, lacks its point
        odd = ~(np.abs(values - np.rint(values)) > np.maximum(1e-8 * np.abs(values), 1e-300))
    if odd.any():
        parts = text.split(",")
        for place in np.flatnonzero(odd).tolist():
            parts[place] = _json(_rounded(float(values[place])))
        text = ",".join(parts)
    return f"[{text}]"


def _rounded(value: float | None) -> float | None:
    """Nine significant digits, far below the sampling noise of the largest matrix; None for Inf and NaN, which JSON lacks."""
    if value is None or not math.isfinite(value):
        return None
    return value if isinstance(value, int) else float(f"{value:.9g}")


def _moment(time: float) -> float:
    """A Unix time as a line can hold it, also of a clock that goes astray."""
    return round(min(max(time, 0.0), MAX_TIME - 1.0), 3)


def _last_byte(fd: int, size: int) -> bytes:
    os.lseek(fd, size - 1, os.SEEK_SET)
    return os.read(fd, 1)
