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
from weibull_monitor.trackers.mlflow import MlflowTracker
from weibull_monitor.trackers.tensorboard import TensorBoardTracker
from weibull_monitor.trackers.trackio import TrackioTracker, active_run
from weibull_monitor.trackers.wandb import WandbTracker

STEP_METRIC = "train/global_step"
"""What the Trainer's own callbacks count optimizer steps in."""


def trackers_of(args: TrainingArguments, guard: Guard) -> list[Tracker]:
    """The trackers that serve ``args.report_to``; to be called in ``on_train_begin``, after the Trainer's own callbacks.

    Args:
        args: The Trainer's arguments.
        guard: Told once of each entry that cannot be served.
    """
    found: list[Tracker] = []
    for name in args.report_to or ():
        if name == "none":
            continue
        if name not in _SERVED:
            guard.once(
                f"report_to={name!r} is not served by weibull_monitor; pass trackers=[...] with an object that has "
                "log(metrics, step) and close(). The history is written in any case."
            )
        elif tracker := guard(f"finding the run of report_to={name!r}", lambda name=name: _SERVED[name](args)):  # type: ignore[misc]
            found.append(tracker)
        else:
            guard.once(f"report_to has {name!r}, but no run of it is active: weibull_monitor does not log to it")
    return found


def _tensorboard(args: TrainingArguments) -> Tracker | None:
    # The Trainer writes no hyper-parameters that the HParams page understands.
    return TensorBoardTracker(_tensorboard_directory(args), writer=_tensorboard_writer(), hyperparameters=True)


def _wandb(args: TrainingArguments) -> Tracker | None:
    import wandb

    return WandbTracker(wandb.run, step_metric=STEP_METRIC) if wandb.run is not None else None


def _mlflow(args: TrainingArguments) -> Tracker | None:
    import mlflow

    run = mlflow.active_run()
    return MlflowTracker(run.info.run_id) if run is not None else None


def _trackio(args: TrainingArguments) -> Tracker | None:
    run = active_run()
    return TrackioTracker(run, step_metric=STEP_METRIC) if run is not None else None


_SERVED = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow, "trackio": _trackio}


def _tensorboard_writer() -> Any:
    """The open writer of the Trainer's own `TensorBoardCallback`, or None.

    Callbacks are not given the Trainer, so its handler is looked for among the callers of ``on_train_begin``. Writing through
    the same file matters: TensorBoard's Python loader follows only one event file a directory, so a second one would
    stop the Trainer's own curves.
    """
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        handler = frame.f_locals.get("self")
        if isinstance(handler, CallbackHandler):
            writers = (getattr(callback, "tb_writer", None) for callback in handler.callbacks)
            return next((writer for writer in writers if writer is not None), None)
    return None


def _tensorboard_directory(args: TrainingArguments) -> str:
    """Where to write if the Trainer's writer cannot be found."""
    given = os.getenv("TENSORBOARD_LOGGING_DIR") or getattr(args, "logging_dir", None)
    return os.path.expanduser(given) if given else str(Path(str(args.output_dir)) / "runs" / "weibull")
