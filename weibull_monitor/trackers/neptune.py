"""Neptune: one value per metric and sample, in a run that is passed or in a new one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weibull_monitor.trackers.names import run_name
from weibull_monitor.trackers.one_run import OneRunTracker, is_of


class NeptuneTracker(OneRunTracker):
    """Logs to a ``neptune.Run``, at the optimizer step. ``NEPTUNE_MODE=offline`` keeps a new one on this machine."""

    name = extra = library = "neptune"

    @classmethod
    def _is_run(cls, run: Any) -> bool:
        return is_of(run, "neptune", "stop", "__getitem__")

    def _start(self, library: Any, directory: Path) -> Any:
        silent = dict.fromkeys(
            ("capture_stdout", "capture_stderr", "capture_traceback", "capture_hardware_metrics"), False
        )
        return library.init_run(name=run_name(directory), source_files=[], **silent)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Appends to the series of each metric; Neptune sends them in the background."""
        for key, value in self._keys(metrics).items():
            self._run[key].append(value, step=step)

    def _end(self) -> None:
        self._run.stop()
