"""Raises an exception in one call that the package makes to something outside of it, and looks whether training notices.

Every call of a function, method or class outside of ``weibull_monitor`` is a place; it is identified by the line that makes the
call and by what is called, so that each is tried at its first and at its last time in a training. Left out are the operations
of Python's own types and of `isinstance`, `len` and the like, which do not fail, and what happens before a monitor takes its
baseline: exceptions of that are the user's.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import weibull_monitor

PACKAGE = str(Path(weibull_monitor.__file__).parent)
INTEGRATIONS = str(Path(__file__).parents[2] / "integrations")
_PLAIN = (str, bytes, list, dict, set, frozenset, tuple, int, float, bool, type(None), types.GeneratorType)
_NEVER_FAIL = frozenset(
    {
        "__build_class__",
        "isinstance",
        "issubclass",
        "len",
        "getattr",
        "hasattr",
        "setattr",
        "iter",
        "next",
        "callable",
        "id",
    }
    | {
        "min",
        "max",
        "sum",
        "sorted",
        "any",
        "all",
        "range",
        "repr",
        "hash",
        "abs",
        "round",
        "print",
        "vars",
        "super",
        "globals",
    }
    | {"exec", "__import__", "__exit__", "__enter__"}
)
ENTRIES = frozenset(
    {
        "step",
        "finish",
        "close",
        "state_dict",
        "add_optimizer",
        "follow_optimizers",
        "optimizer_stepped",
        "_take_baseline",
    }
    | {
        "on_train_begin",
        "on_optimizer_step",
        "on_step_end",
        "on_epoch_end",
        "on_train_end",
        "on_train_start",
        "on_exception",
    }
    | {"on_train_batch_start", "on_train_batch_end", "_after_step", "stop_requested", "__exit__"}
)
"""Methods that training calls, and the baseline."""
Place = tuple[str, int, str]


class NoTextError(RuntimeError):
    """An exception whose text cannot be read."""

    def __str__(self) -> str:
        raise ValueError("no text")


EXCEPTIONS: dict[str, Callable[[], Exception]] = {
    "RuntimeError": lambda: RuntimeError("injected"),
    "OSError": lambda: OSError(28, "No space left on device"),
    "MemoryError": MemoryError,
    "no text": NoTextError,
    "surrogate": lambda: ValueError("\\ud800 \x1b[2J"),
    "KeyError": lambda: KeyError(None),
    "RecursionError": RecursionError,
}


INTERRUPTIONS: dict[str, type[BaseException]] = {
    "KeyboardInterrupt": KeyboardInterrupt,
    "SystemExit": SystemExit,
    "GeneratorExit": GeneratorExit,
    "CancelledError": asyncio.CancelledError,
}
"""What has to pass: somebody wants the program, or this task of it, to end."""


@dataclass
class Injector:
    """Counts the calls of a training by place, or raises in one of them.

    Attributes:
        at: The place and the number of the call in which to raise; None to count only.
        make: Makes the exception.
        counts: Calls so far, by place.
        raised: Whether the exception was raised.
    """

    at: tuple[Place, int] | None
    make: Callable[[], BaseException]
    counts: dict[Place, int]
    raised: bool = False

    def __call__(self, frame: types.FrameType, event: str, argument: Any) -> None:
        if (place := place_of(frame, event, argument)) is None:
            return
        number = self.counts[place] = self.counts.get(place, 0) + 1
        if self.at is not None and not self.raised and self.at == (place, number):
            self.raised = True
            sys.setprofile(None)
            raise self.make()


@dataclass
class Series:
    """Raises one exception after the other in one training, each the next time that its place is passed.

    Python takes a profiler away that raises, so it has to be put in place again by `arm`: at each step.

    Attributes:
        targets: The places that are left, and what makes their exceptions.
        patience: How often `arm` is called for a place that is not passed, before it is given up.
        raised: Those where it was raised.
    """

    targets: list[tuple[Place, Callable[[], BaseException]]]
    patience: int = 3
    raised: list[tuple[Place, Callable[[], BaseException]]] = field(default_factory=list)
    _waited: int = 0

    def arm(self) -> None:
        """Waits for the place of the first target from here on."""
        self._waited += 1
        if self._waited > self.patience:
            del self.targets[:1]
            self._waited = 0
        sys.setprofile(self if self.targets else None)

    def __call__(self, frame: types.FrameType, event: str, argument: Any) -> None:
        caller = frame if event == "c_call" else frame.f_back if event == "call" else None
        file, line, _ = self.targets[0][0]
        if caller is None or caller.f_code.co_filename != file or caller.f_lineno != line:
            return  # most calls
        if place_of(frame, event, argument) != self.targets[0][0]:
            return
        sys.setprofile(None)
        self._waited = 0
        self.raised.append(target := self.targets.pop(0))
        raise target[1]()


def place_of(frame: types.FrameType, event: str, argument: Any) -> Place | None:
    """The place of a call that a profiler hears of; None if it is not a call out of the package."""
    if event == "c_call":
        caller, name, owner = frame, argument.__name__, getattr(argument, "__self__", None)
        if not _inside(caller) or name in _NEVER_FAIL or type(owner) in _PLAIN or isinstance(owner, type):
            return None
    elif event == "call":
        above = frame.f_back
        if above is None or not _inside(above) or frame.f_code.co_filename.startswith((PACKAGE, INTEGRATIONS)):
            return None  # not a call out of the package: the shields of errors.py are within it
        if frame.f_code.co_filename.startswith("<") or "/contextlib.py" in frame.f_code.co_filename:
            return None  # made by a dataclass; leaving a suppression
        caller, name = above, frame.f_code.co_name
    else:
        return None
    return (caller.f_code.co_filename, caller.f_lineno, name)


def _inside(frame: types.FrameType) -> bool:
    file = frame.f_code.co_filename
    return file.startswith((PACKAGE, INTEGRATIONS)) and not file.endswith("/errors.py") and _in_training(frame)


def _in_training(frame: types.FrameType) -> bool:
    """Whether a call is made by a method that training calls."""
    above: types.FrameType | None = frame
    while above is not None:
        if above.f_code.co_name in ENTRIES and above.f_code.co_filename.startswith((PACKAGE, INTEGRATIONS)):
            return True
        above = above.f_back
    return False


def places(training: Callable[[], object]) -> dict[Place, int]:
    """How often each place is passed in a training."""
    counting = Injector(None, RuntimeError, {})
    sys.setprofile(counting)
    try:
        training()
    finally:
        sys.setprofile(None)
    return counting.counts


def inject(
    training: Callable[[], object], at: tuple[Place, int], make: Callable[[], BaseException]
) -> tuple[bool, str]:
    """Whether the exception was raised, and what came out of the training; empty if nothing did."""
    injector = Injector(at, make, {})
    logging.getLogger("weibull_monitor").setLevel(logging.DEBUG)
    sys.setprofile(injector)
    try:
        training()
    except BaseException as error:
        return injector.raised, f"{type(error).__name__} from {at[0][0].rpartition('/')[2]}:{at[0][1]} {at[0][2]}"
    finally:
        sys.setprofile(None)
        logging.getLogger("weibull_monitor").setLevel(logging.NOTSET)
    return injector.raised, ""
