"""ClearML: a plot for each group of keys, in the current task or in a new one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weibull_monitor.trackers.names import run_name
from weibull_monitor.trackers.one_run import PROJECT, OneRunTracker, is_of


class ClearMLTracker(OneRunTracker):
    """Logs to a ClearML task, at the optimizer step: ``weibull_k/attn_q`` is the series ``attn_q`` of the plot ``weibull_k``.

    ``CLEARML_OFFLINE_MODE=1`` keeps a new task on this machine, as for ClearML itself.
    """

    name = extra = library = "clearml"

    @classmethod
    def _is_run(cls, run: Any) -> bool:
        return is_of(run, "clearml", "get_logger", "close")

    @classmethod
    def _active(cls, library: Any) -> Any:
        return library.Task.current_task()

    def _start(self, library: Any, directory: Path) -> Any:
        silent = {"auto_connect_arg_parser": False, "auto_connect_frameworks": False, "auto_connect_streams": False}
        return library.Task.init(
            PROJECT, run_name(directory), reuse_last_task_id=False, auto_resource_monitoring=False, **silent
        )

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Reports each metric as a scalar; ClearML sends them in the background."""
        logger = self._run.get_logger()
        for key, value in self._keys(metrics).items():
            plot, _, series = key.rpartition("/")
            logger.report_scalar(plot or series, series, value, step)

    def _end(self) -> None:
        self._run.close()
