"""Comet: one batch of metrics per sample, in the running experiment or in a new one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weibull_monitor.trackers.names import run_name
from weibull_monitor.trackers.one_run import PROJECT, OneRunTracker, is_of


class CometTracker(OneRunTracker):
    """Logs to a Comet experiment, at the optimizer step.

    ``COMET_START_ONLINE=0`` and ``COMET_OFFLINE_DIRECTORY`` keep a new one on this machine, as for Comet itself.
    """

    name = extra = library = "comet_ml"

    @classmethod
    def _is_run(cls, run: Any) -> bool:
        return is_of(run, "comet_ml", "log_metrics", "end")

    @classmethod
    def _active(cls, library: Any) -> Any:
        return library.get_running_experiment()

    def _start(self, library: Any, directory: Path) -> Any:
        named = library.ExperimentConfig(name=run_name(directory), auto_metric_logging=False, log_code=False)
        return library.start(project_name=PROJECT, experiment_config=named)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Logs all metrics of a step in one call."""
        self._run.log_metrics(self._keys(metrics), step=step)

    def _end(self) -> None:
        self._run.end()
