"""Trackio: one row per sample, in the active run or in a new one, in a local database."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from weibull_monitor.trackers.base import Host, NamedTracker
from weibull_monitor.trackers.names import run_name

PROJECT: Final = "weibull-monitor"
"""The Trackio project of runs that are started here."""


class TrackioTracker(NamedTracker):
    """Logs to a Trackio run.

    Args:
        run: The run to log to, which stays open; by default the active one. If there is none, a run is started in the project
            ``weibull-monitor``, and finished by `close`.
        directory: The directory of the monitored run; its name becomes that of a run that is started.
        step_metric: The metric in which the run's owner counts optimizer steps (``train/global_step`` under the HF Trainer);
            Trackio's own step is then left to the owner. By default the step is passed to Trackio.

    Raises:
        MissingDependencyError: If trackio is not installed.
    """

    name = extra = library = "trackio"

    def __init__(self, run: Any = None, directory: str | Path | None = None, step_metric: str | None = None) -> None:
        trackio = self._library("trackio")
        run = run or active_run()
        self._owns = run is None
        if run is None:
            name = run_name(directory) if directory else None  # one of Trackio's own
            run = trackio.init(PROJECT, name=name, embed=False, auto_log_gpu=False, auto_log_cpu=False)
        self._run = run
        self._step_metric = step_metric

    @classmethod
    def of_active_run(cls, host: Host) -> TrackioTracker | None:
        """Logs to the active run, if there is one."""
        cls._library("trackio")
        return cls.of_run(active_run(), host)

    @classmethod
    def of_run(cls, run: Any, host: Host) -> TrackioTracker | None:
        """Logs to a ``trackio.Run``."""
        ours = type(run).__module__.partition(".")[0] == "trackio"
        return cls(run, step_metric=host.step_metric) if ours else None

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Logs all metrics of a step in one call; Trackio writes them in the background."""
        if self._step_metric is None:
            self._run.log(dict(metrics), step=step)
        else:
            self._run.log({**metrics, self._step_metric: step})

    def close(self) -> None:
        """Finishes the run if it was started here."""
        if self._owns:
            from trackio import context_vars

            self._run.finish()
            if context_vars.current_run.get() is self._run:
                context_vars.current_run.set(None)


def active_run() -> Any:
    """The run that `trackio.init` started in this context and that is not finished, or None."""
    from trackio import context_vars

    run = context_vars.current_run.get()
    finished = getattr(run, "_stop_flag", None)  # `run.finish`, unlike `trackio.finish`, leaves the run in the context
    return None if finished is not None and finished.is_set() else run
