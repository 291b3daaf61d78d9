"""Aim: one value per metric and sample, in the user's run or in a new one of the local repository."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weibull_monitor.trackers.names import run_name
from weibull_monitor.trackers.one_run import PROJECT, OneRunTracker, is_of


class AimTracker(OneRunTracker):
    """Logs to an ``aim.Run``, at the optimizer step. A new one goes to the repository that Aim chooses (``.aim``)."""

    name = extra = library = "aim"

    @classmethod
    def _is_run(cls, run: Any) -> bool:
        return is_of(run, "aim", "track", "close")

    def _start(self, library: Any, directory: Path) -> Any:
        run = library.Run(experiment=PROJECT, system_tracking_interval=None, capture_terminal_logs=False)
        run.name = run_name(directory)
        return run

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Tracks each metric."""
        for key, value in self._keys(metrics).items():
            self._run.track(value, name=key, step=step)

    def _end(self) -> None:
        self._run.close()
