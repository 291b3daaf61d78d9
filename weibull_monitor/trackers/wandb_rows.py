"""Rows in a W&B run whose owner also logs: every row of the owner is kept, and samples do not wait for the owner's next row.

W&B numbers the rows of a run by its own step. A call of ``run.log`` with ``step=`` adds to the row of that step, ends the row
before it, and is ignored if the step has passed. Other calls add to the row that is open, and end it unless ``commit=False``.
So values can always be added to the open row, and ending it is safe only if the owner logs nothing with this step any more.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from weakref import WeakKeyDictionary

from weibull_monitor.errors import say

PATIENCE: Final = 3
"""Samples that wait for a row of the owner before rows are made for them."""
SETTLED: Final = 16
"""Optimizer steps before which nothing is concluded from an owner who has not logged."""
COUNTED: Final = 4
"""Optimizer steps from which the owner's ``step=`` shows whether it counts optimizer steps."""


class SharedRows:
    """Puts samples into the rows of a run that its owner logs to as well.

    A sample goes into the open row if its keys are free there. If not, the open row is ended where that cannot cost a row of
    the owner:

    - The owner never passes ``step=``.
    - The owner counts optimizer steps, from 0 or from 1, and the open row belongs to an earlier one.
    - The owner is about to log with a later step.

    An owner who counts more slowly (``step=epoch``) is waited for during a few samples. Then rows are made, and the owner's
    rows get later steps of W&B, in the same order, instead of being ignored by W&B.

    Args:
        run: The `wandb.Run`.
        patient: Whether to make no rows before `close`, however long samples wait.
    """

    def __init__(self, run: Any, patient: bool = False) -> None:
        self._run, self._patient = run, patient
        self._users = 0
        self._waiting: list[dict[str, Any]] = []
        self._ours: dict[str, Any] = {}  # our values in the open row
        self._ours_at = -1  # the step of W&B of that row
        self._taken = 0  # optimizer step of the latest sample
        self._silent = 0  # samples since the owner logged
        self._logged = self._counts = False  # whether the owner has logged; whether its steps are optimizer steps
        self._owner: int | None = None  # the last step= of the owner
        self._given = -1  # the step of W&B that its row got
        self._floor = 0  # W&B ignores rows below it, because of rows that were ended here
        self._moved = False  # whether a row of the owner got another step than the owner's
        self._thread: int | None = None  # the thread that is logging for us
        self._log = getattr(run, "_log", None)  # `run.log` and `wandb.log` both call it
        if self._log is None:
            self._patient = True
        else:
            run._log = self._observe

    @classmethod
    def of(cls, run: Any, patient: bool = False) -> SharedRows:
        """The rows of a run: one object for all trackers that write to it. Each of them calls `close`."""
        rows = _SHARED.get(run)
        if rows is None:
            rows = _SHARED[run] = cls(run, patient)
        rows._users += 1
        return rows

    def add(self, row: Mapping[str, Any], step: int) -> None:
        """Adds values of the sample of an optimizer step."""
        if step != self._taken or not self._ours:
            self._silent += 1
        self._taken = step
        self._waiting.append(dict(row))
        self._place()

    def settle(self) -> None:
        """Ends the row of the latest sample, unless the owner logs often enough to end it soon."""
        if self._silent > 1 and self._ours and self._ours_at == (now := self._now()) and self._may_end(now):
            self._end()

    def close(self) -> None:
        """Logs what still waits, once every tracker has closed the rows."""
        self._users -= 1
        if self._users > 0:
            return
        while self._waiting:
            self._place()
            if self._waiting:
                self._end()
        if self._log is not None:
            del self._run._log
        _SHARED.pop(self._run, None)

    def _place(self) -> None:
        while self._waiting:
            if (now := self._now()) != self._ours_at:
                self._ours, self._ours_at = {}, now
            row = self._waiting[0]
            if all(key not in self._ours or self._ours[key] is v or self._ours[key] == v for key, v in row.items()):
                with self._logging():
                    self._run.log(row, commit=False)
                self._ours |= self._waiting.pop(0)
            elif self._may_end(now):
                self._end()
            else:
                return

    def _may_end(self, now: int) -> bool:
        if self._patient:
            return False
        if self._logged and self._owner is None:
            return True
        settled = self._silent > PATIENCE and self._taken >= SETTLED
        return (self._counts or settled) and now + 1 < self._taken  # its next step is at least that of the sample - 1

    def _end(self) -> None:
        with self._logging():
            self._run.log({})
        self._floor = self._now()

    def _now(self) -> int:
        return max(int(self._run.step), int(self._run.starting_step))

    @contextmanager
    def _logging(self) -> Iterator[None]:
        before, self._thread = self._thread, threading.get_ident()
        try:
            yield
        finally:
            self._thread = before

    def _observe(self, data: Any, step: int | None = None, commit: bool | None = None) -> None:
        """Stands for ``run._log``: passes on what the owner logs."""
        assert self._log is not None
        if self._thread == threading.get_ident():
            self._log(data, step, commit)
            return
        given = step
        try:
            given = self._step_for(step)
        except Exception as error:
            say(logging.WARNING, f"weibull_monitor: making room for a row of W&B failed ({type(error).__name__})")
        self._log(data, given, commit)
        self._logged, self._silent = True, 0

    def _step_for(self, step: int | None) -> int | None:
        """Makes room before a row of the owner, and returns the step that it gets."""
        if step is None:
            return None
        new = self._owner is None or step > self._owner
        if not new and step != self._owner:
            return step  # W&B ignores it, whatever was logged here
        self._owner = step
        self._counts = self._taken >= COUNTED and step >= self._taken - 1
        if not self._patient:
            while self._waiting and self._now() < step:
                self._place()
                if self._waiting and self._now() < step:
                    self._end()
        lowest = max(self._floor, self._given + new)
        if step < lowest:
            if not self._moved:
                self._moved = True
                say(
                    logging.WARNING,
                    f"weibull_monitor: this run logs to W&B with step={step} after {self._taken} optimizer steps, when W&B "
                    f"already has rows of samples; its rows get later steps from here on ({lowest} for {step}), and none is lost",
                )
            self._given = lowest
            return lowest
        self._given = step
        return step


_SHARED: WeakKeyDictionary[Any, SharedRows] = WeakKeyDictionary()
