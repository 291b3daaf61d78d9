"""Runs commands and functions on hostile files, in this process, and says what went wrong."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from weibull_monitor.cli.main import main
from weibull_monitor.errors import WeibullMonitorError

SECONDS = 10
"""Time of the processor after which a run counts as one that hangs."""
CONTACTS = ("socket.connect", "socket.getaddrinfo", "socket.gethostby", "urllib.Request")
PROGRAMS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_watched: list[str] = []
_others: set[int | None] = set()


class TooLongError(BaseException):
    """A run that takes too long. Nothing catches it by mistake."""


@dataclass
class Tally:
    """What a number of runs came to.

    Attributes:
        tried: Runs.
        read: Runs that gave a result.
        refused: Runs that were refused in a sentence.
        faults: What went wrong otherwise, with the input's number.
    """

    tried: int = 0
    read: int = 0
    refused: int = 0
    faults: list[str] = field(default_factory=list)

    def __iadd__(self, other: Tally) -> Tally:
        self.tried, self.read, self.refused = (
            self.tried + other.tried,
            self.read + other.read,
            self.refused + other.refused,
        )
        self.faults += other.faults
        return self


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event.startswith((*CONTACTS, *PROGRAMS)) and threading.get_ident() not in _others:
        own = event == "subprocess.Popen" and "weibull_monitor.checkpoint.child" in str(arguments[1])
        if not own:
            _watched.append(f"{event} {arguments!r:.200}")


_hooked = False


def _watch() -> None:
    """Begins anew. Threads that are there already belong to trackers of other tests, whose servers they ask now and then."""
    _watched.clear()
    _others.clear()
    _others.update({thread.ident for thread in threading.enumerate()} - {threading.get_ident()})


def watch_for_contacts() -> None:
    """From here on, connections and programs that are started in this process count as faults."""
    global _hooked
    if not _hooked:
        _hooked = True
        sys.addaudithook(_hook)


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Raises `TooLongError` after `SECONDS` of this process's time."""

    def stop(*_: object) -> None:
        raise TooLongError

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def run_command(arguments: list[str], label: str, tally: Tally) -> str:
    """Runs a command of ``weibull-monitor``; a fault is anything but a result, or a line that says what is wrong."""
    out, err = io.StringIO(), io.StringIO()
    _watch()
    tally.tried += 1
    fault = ""
    code: object = None
    root = logging.getLogger("weibull_monitor")
    handler = logging.StreamHandler(err)
    root.addHandler(handler)
    try:
        with bounded(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(arguments)
    except TooLongError:
        fault = "takes too long: " + traceback.format_exc().strip().splitlines()[-4].strip()
    except SystemExit as error:
        code = error.code
    except BaseException as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        fault = f"{type(error).__name__} {str(error)[:100]} at {at.filename.rpartition('weibull')[2]}:{at.lineno}"
    finally:
        root.removeHandler(handler)
    text, said = out.getvalue(), err.getvalue()
    if not fault and code not in (0, 1):
        fault = f"exit code {code}"
    if not fault and code == 1 and len(said.strip().splitlines()) > 2:
        fault = f"more than a line: {said[:200]!r}"
    if not fault and code == 1 and not said.strip():
        fault = "fails without a word"
    if not fault and ("Traceback" in said or _CONTROL.search(text.replace("\t", "")) or _CONTROL.search(said)):
        fault = f"control characters or a traceback: {(said + text)[:100]!r}"
    fault = fault or "; ".join(_watched)
    _count(tally, fault, code == 0, f"{label}: {' '.join(arguments[:1])}")
    return text + said


def call(function: Callable[[], object], label: str, tally: Tally) -> None:
    """Calls a function of the library; a fault is any exception but one of ours."""
    _watch()
    tally.tried += 1
    fault, read = "", False
    try:
        with bounded():
            function()
        read = True
    except WeibullMonitorError:
        pass
    except TooLongError:
        fault = "takes too long"
    except BaseException as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        fault = f"{type(error).__name__} {str(error)[:100]} at {at.filename.rpartition('weibull')[2]}:{at.lineno}"
    _count(tally, fault or "; ".join(_watched), read, label)


def _count(tally: Tally, fault: str, read: bool, label: str) -> None:
    if fault:
        tally.faults.append(f"{label}: {fault}")
    elif read:
        tally.read += 1
    else:
        tally.refused += 1


def most_memory() -> int:
    """MB that this process and its largest child have had at most."""
    return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) // 1000
