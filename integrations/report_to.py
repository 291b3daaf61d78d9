"""The Hugging Face Trainer as the callback sees it: its ``report_to`` as trackers, and the trial of a search."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from transformers.trainer_callback import CallbackHandler, TrainerState
from transformers.training_args import TrainingArguments

from weibull_monitor.errors import Guard
from weibull_monitor.trackers import Tracker
from weibull_monitor.trackers.base import Host, NamedTracker
from weibull_monitor.trackers.registry import choices, named

STEP_METRIC = "train/global_step"
"""The metric in which the Trainer's own callbacks count optimizer steps."""


def trackers_of(args: TrainingArguments, guard: Guard) -> list[Tracker]:
    """The trackers that serve ``args.report_to``. Call this in ``on_train_begin``, after the Trainer's own callbacks.

    Args:
        args: The Trainer's arguments.
        guard: Reports each entry that cannot be served, once.
    """
    found: list[Tracker] = []
    for name in args.report_to or ():
        if name == "none":
            continue
        if (ours := named(name)) is None:
            guard.once(
                f"weibull_monitor has no tracker for report_to={name!r}; pass trackers=[...] with {choices()}. "
                "The history is written in any case."
            )
        elif tracker := guard(f"finding the run of report_to={name!r}", _tracker_of, ours, args):
            found.append(tracker)
        else:
            guard.once(f"report_to has {name!r}, but it has no active run: weibull_monitor does not log to it")
    return found


def _tracker_of(ours: type[NamedTracker], args: TrainingArguments) -> Tracker | None:
    # The writer must be that of the Trainer's own callback: TensorBoard's Python loader follows only one event file per
    # directory, so a second one would stop the Trainer's curves.
    held = _held()
    writer = next((value for name, value in held if name == "tb_writer" and value is not None), None)
    return ours.of_active_run(Host(STEP_METRIC, writer, _log_dir(args), [value for _, value in held]))


def _held() -> list[tuple[str, Any]]:
    """The attributes of the Trainer's callbacks, with their names: among them are the runs that these log to.

    Callbacks do not get the Trainer, so this looks for its handler among the callers of ``on_train_begin``.
    """
    handler = next((found for found in _callers() if isinstance(found, CallbackHandler)), None)
    callbacks = handler.callbacks if handler is not None else ()
    return [held for callback in callbacks for held in getattr(callback, "__dict__", {}).items()]


def trial_of(args: TrainingArguments, state: TrainerState) -> str:
    """The folder of the current trial of a search in ``args.output_dir``, where the Trainer puts its checkpoints.

    Callbacks do not get the Trainer, so this looks for it among the callers of ``on_train_begin``.
    """
    trainer = next(
        (found for found in _callers() if hasattr(found, "_trial") and hasattr(found, "_get_output_dir")), None
    )
    if trainer is not None:
        place = Path(trainer._get_output_dir(trainer._trial))
        return place.relative_to(str(args.output_dir)).as_posix()
    first = [str(state.trial_name)] if state.trial_name else []
    names: Iterator[str] = itertools.chain(first, map("run-{}".format, itertools.count()))
    return next(name for name in names if not Path(str(args.output_dir), name, "weibull").exists())


def _callers() -> Iterator[Any]:
    """The objects whose methods are being called, the innermost first."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if "self" in frame.f_locals:
            yield frame.f_locals["self"]
        frame = frame.f_back


def _log_dir(args: TrainingArguments) -> str:
    """Where event files go if the Trainer's writer cannot be found."""
    given = os.getenv("TENSORBOARD_LOGGING_DIR") or getattr(args, "logging_dir", None)
    return os.path.expanduser(given) if given else str(Path(str(args.output_dir)) / "runs" / "weibull")
