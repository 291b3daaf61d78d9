"""Accelerate: the monitor for a loop that an `Accelerator` has prepared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.scheduler import AcceleratedScheduler
from torch import nn

from weibull_monitor.alerts.stop import StopRequest, agreed
from weibull_monitor.errors import Guard, shielded
from weibull_monitor.monitor.monitor import WeibullMonitor
from weibull_monitor.scaling.learning_rates import Rule, Ticks
from weibull_monitor.trackers import Tracker
from weibull_monitor.trackers.base import Host
from weibull_monitor.trackers.registry import named

HOST = Host(step_metric=None)
"""``accelerator.log`` passes ``step=`` to each tracker."""


class AccelerateMonitor:
    """A `WeibullMonitor` that uses the accelerator's trackers, and follows its gradient accumulation and its main process.

    Create it on every process, after ``accelerator.prepare`` and ``accelerator.init_trackers``. With
    ``accelerator.register_for_checkpointing(monitor)`` a resumed run continues its history and its baseline::

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
        scheduler: For a forecast of λ: the scheduler, prepared or not. Pass ``total_steps`` with it.
        options: Any other argument of `WeibullMonitor`.

    Attributes:
        monitor: The `WeibullMonitor` in use.

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
        self._accelerator, self._guard = accelerator, Guard()
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

    @shielded("a step of the monitor")
    def step(self, step: int | None = None, last: bool = False) -> None:
        """Call this after each ``optimizer.step()``. Micro-batches, and steps that were skipped for an overflow, do not count.

        Args:
            step: Optimizer steps taken since training began, if you count yourself.
            last: Whether this is the last step of training.
        """
        if self.monitor.over:
            return
        if self._accelerator.sync_gradients and not self._accelerator.optimizer_step_was_skipped:
            self.monitor.step(step, last)

    @property
    @shielded("asking whether to stop", lambda _: StopRequest.CONTINUE)
    def stop_requested(self) -> StopRequest:
        """`WeibullMonitor.stop_requested`, the same on all processes. Read it on each of them, at the same steps."""
        return self.monitor.stop_requested if self.monitor.over else agreed(self.monitor.stop_requested)

    def close(self) -> None:
        """Samples the last step if it was not sampled, and closes the history. The accelerator's trackers stay open."""
        self.monitor.close()

    def __getstate__(self) -> dict[str, Any]:
        """A copy is closed, as that of a `WeibullMonitor`, and has no accelerator."""
        return {"monitor": self.monitor, "_accelerator": None, "_guard": Guard()}

    def __enter__(self) -> AccelerateMonitor:
        return self

    def __exit__(self, *raised: Any) -> None:
        self.monitor.__exit__(*raised)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, as ``accelerator.save_state`` saves it."""
        return self.monitor.state_dict()

    @shielded("continuing from the state of a checkpoint")
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state_dict`; ``accelerator.load_state`` calls this, before the first `step`."""
        if state:
            self.monitor.load_state_dict(state)


class AccelerateTracker:
    """Writes through an ``accelerate.tracking.GeneralTracker`` of any other library, which the accelerator closes."""

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


def _tracker_of(tracker: Any) -> Tracker:
    ours = named(tracker.name)
    return (ours and ours.of_run(tracker.tracker, HOST)) or AccelerateTracker(tracker)


def _rule_of(scheduler: AcceleratedScheduler, processes: int) -> Rule:
    """Where batches are not split, Accelerate steps the scheduler once for each process."""
    times = 1 if scheduler.split_batches or not scheduler.step_with_optimizer else processes
    return Rule(scheduler.scheduler, Ticks(times))
