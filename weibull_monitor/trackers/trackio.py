"""Trackio: one `run.log` a sample, to the active run or to one of its own, in a local database."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weibull_monitor.errors import MissingDependencyError

PROJECT = "weibull-monitor"
"""The Trackio project of runs of our own."""


class TrackioTracker:
    """Logs to a Trackio run.

    Args:
        run: The run to log to, which stays its owner's; by default the active one, or else one of its own in the project
            ``weibull-monitor``.
        directory: The run's directory; its name is that of a run of its own.
        step_metric: Inside a run whose owner counts steps in a metric and leaves Trackio's own count alone, the name of
            that metric (``train/global_step`` under the HF Trainer); by default the step is Trackio's.

    Raises:
        MissingDependencyError: If trackio is not installed.
    """

    def __init__(self, run: Any = None, directory: str | Path | None = None, step_metric: str | None = None) -> None:
        try:
            import trackio
        except ImportError as error:
            raise MissingDependencyError("trackio", "trackio") from error
        run = run or active_run()
        self._owns = run is None
        if run is None:
            name = Path(directory).name if directory else None
            run = trackio.init(PROJECT, name=name, embed=False, auto_log_gpu=False, auto_log_cpu=False)
        self._run = run
        self._step_metric = step_metric

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Logs all metrics of a step in one call; Trackio writes them in the background."""
        if self._step_metric is None:
            self._run.log(dict(metrics), step=step)
        else:
            self._run.log({**metrics, self._step_metric: step})

    def close(self) -> None:
        """Finishes the run if it is ours."""
        if self._owns:
            from trackio import context_vars

            self._run.finish()
            if context_vars.current_run.get() is self._run:
                context_vars.current_run.set(None)


def active_run() -> Any:
    """The run that `trackio.init` began in this context and that is not finished, or None."""
    from trackio import context_vars

    run = context_vars.current_run.get()
    finished = getattr(run, "_stop_flag", None)  # `run.finish`, unlike `trackio.finish`, leaves it in the context
    return None if finished is not None and finished.is_set() else run
