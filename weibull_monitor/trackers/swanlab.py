"""SwanLab: one row per sample, in the active run or in a new one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weibull_monitor.trackers.names import run_name
from weibull_monitor.trackers.one_run import PROJECT, OneRunTracker, is_of


class SwanLabTracker(OneRunTracker):
    """Logs to a SwanLab run, at the optimizer step. ``SWANLAB_MODE`` chooses online, offline or local, as for SwanLab itself."""

    name = extra = library = "swanlab"

    @classmethod
    def _is_run(cls, run: Any) -> bool:
        return is_of(run, "swanlab", "log", "finish")

    @classmethod
    def _active(cls, library: Any) -> Any:
        return library.get_run() if library.has_run() else None

    def _start(self, library: Any, directory: Path) -> Any:
        return library.init(project=PROJECT, name=run_name(directory))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Logs all metrics of a step in one call."""
        self._run.log(self._keys(metrics), step=step)

    def _end(self) -> None:
        self._run.finish()
