"""The Hugging Face Trainer's ``report_to`` as trackers that write beside the Trainer's own curves."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from transformers.trainer_callback import CallbackHandler
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
                f"report_to={name!r} is not served by weibull_monitor; pass trackers=[...] with {choices()}. "
                "The history is written in any case."
            )
        elif tracker := guard(f"finding the run of report_to={name!r}", _tracker_of, ours, args):
            found.append(tracker)
        else:
            guard.once(f"report_to has {name!r}, but it has no active run: weibull_monitor does not log to it")
    return found


def _tracker_of(ours: type[NamedTracker], args: TrainingArguments) -> Tracker | None:
    return ours.of_active_run(Host(STEP_METRIC, _summary_writer(), _log_dir(args)))


def _summary_writer() -> Any:
    """The open writer of the Trainer's own `TensorBoardCallback`, or None.

    Callbacks do not get the Trainer, so this looks for its handler among the callers of ``on_train_begin``. The file must be the
    same: TensorBoard's Python loader follows only one event file per directory, so a second one would stop the Trainer's curves.
    """
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        handler = frame.f_locals.get("self")
        if isinstance(handler, CallbackHandler):
            writers = (getattr(callback, "tb_writer", None) for callback in handler.callbacks)
            return next((writer for writer in writers if writer is not None), None)
    return None


def _log_dir(args: TrainingArguments) -> str:
    """Where event files go if the Trainer's writer cannot be found."""
    given = os.getenv("TENSORBOARD_LOGGING_DIR") or getattr(args, "logging_dir", None)
    return os.path.expanduser(given) if given else str(Path(str(args.output_dir)) / "runs" / "weibull")
