"""Accelerate: the monitor for a loop that an `Accelerator` has prepared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.scheduler import AcceleratedScheduler
from torch import nn

from weibull_monitor.alerts.stop import StopRequest, agreed
from weibull_monitor.monitor.monitor import WeibullMonitor
from weibull_monitor.scaling.learning_rates import Rule
from weibull_monitor.trackers import Tracker
from weibull_monitor.trackers.mlflow import MlflowTracker
from weibull_monitor.trackers.tensorboard import TensorBoardTracker
from weibull_monitor.trackers.trackio import TrackioTracker
from weibull_monitor.trackers.wandb import WandbTracker


class AccelerateMonitor:
    """A `WeibullMonitor` that knows the accelerator: its trackers, its accumulation, its main process.

    To be made on every process, after ``accelerator.prepare`` and ``accelerator.init_trackers``. With
    ``accelerator.register_for_checkpointing(monitor)`` a resumed run goes on with its history and baseline::

        with AccelerateMonitor(accelerator, model, optimizer, output_dir="runs/x") as monitor:
            for batch in loader:
                with accelerator.accumulate(model):
                    ...
                    optimizer.step()
                    monitor.step()
                    scheduler.step()

    Args:
        accelerator: The accelerator.
        model: The model, prepared or not.
        optimizer: The optimizer, prepared or not; or several.
        trackers: ``"auto"`` for ``accelerator.trackers``, or names and objects as `WeibullMonitor` takes them.
        output_dir: Where the history goes; by default ``accelerator.project_dir``, or else ``runs/<time>``.
        scheduler: For a forecast of λ: the scheduler, prepared or not; to be given together with ``total_steps``.
        options: Whatever else `WeibullMonitor` takes.

    Attributes:
        monitor: The `WeibullMonitor` at work.

    Raises:
        ConfigurationError: For arguments out of range, as `WeibullMonitor`.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None,
        *,
        trackers: Literal["auto"] | Iterable[str | Tracker] = "auto",
        output_dir: str | Path | None = None,
        scheduler: Any = None,
        **options: Any,
    ) -> None:
        self._accelerator = accelerator
        if isinstance(scheduler, AcceleratedScheduler):
            scheduler = _rule_of(scheduler, accelerator.num_processes)
        self.monitor = WeibullMonitor(
            model,
            optimizer,
            output_dir=output_dir or accelerator.project_dir,
            trackers=trackers_of(accelerator) if trackers == "auto" else trackers,
            scheduler=scheduler,
            **options,
        )

    def step(self, step: int | None = None, last: bool = False) -> None:
        """To be called after each ``optimizer.step()``; micro-batches, and steps that overflowed, do not count.

        Args:
            step: Optimizer steps taken since training began, if you count yourself.
            last: Whether this is the last step of training.
        """
        if self._accelerator.sync_gradients and not self._accelerator.optimizer_step_was_skipped:
            self.monitor.step(step, last)

    @property
    def stop_requested(self) -> StopRequest:
        """As `WeibullMonitor.stop_requested`, agreed among all processes: to be asked on each of them, at the same steps."""
        return agreed(self.monitor.stop_requested)

    def close(self) -> None:
        """Samples the last step, unless it was, and closes the history. Trackers of the accelerator stay open."""
        self.monitor.close()

    def __enter__(self) -> AccelerateMonitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.monitor.__exit__(kind, error, traceback)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, as ``accelerator.save_state`` saves it."""
        return self.monitor.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from `state_dict`, as ``accelerator.load_state`` asks for; to be called before the first `step`."""
        if state:
            self.monitor.load_state_dict(state)


class AccelerateTracker:
    """Writes through any other ``accelerate.tracking.GeneralTracker``, which stays the accelerator's."""

    def __init__(self, tracker: Any) -> None:
        self._tracker = tracker

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Logs all metrics of a step in one call."""
        self._tracker.log(dict(metrics), step=step)

    def close(self) -> None:
        """Leaves the tracker open."""


def trackers_of(accelerator: Accelerator) -> list[Tracker]:
    """The accelerator's trackers, after ``init_trackers``, as trackers of ours that write to the same runs."""
    return [_tracker_of(tracker) for tracker in accelerator.trackers if accelerator.is_main_process]


def _rule_of(scheduler: AcceleratedScheduler, processes: int) -> Rule:
    """Where batches are not split, Accelerate steps the scheduler once for each process."""
    times = 1 if scheduler.split_batches or not scheduler.step_with_optimizer else processes
    return Rule(scheduler.scheduler, lambda step: times)


def _tracker_of(tracker: Any) -> Tracker:
    if tracker.name == "tensorboard":
        return TensorBoardTracker(tracker.tracker.log_dir, writer=tracker.tracker)
    if tracker.name == "wandb":
        return WandbTracker(tracker.tracker, ride_along=True)  # accelerator.log takes a step
    if tracker.name == "mlflow":
        return MlflowTracker(tracker.tracker.info.run_id)
    if tracker.name == "trackio":
        return TrackioTracker(tracker.tracker)
    return AccelerateTracker(tracker)
