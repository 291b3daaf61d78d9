"""DVCLive: a table of each metric as a file, in ``<output_dir>/dvclive`` or where the user's own `Live` writes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weibull_monitor.trackers.names import plain_directory
from weibull_monitor.trackers.one_run import OneRunTracker, is_of


class DVCLiveTracker(OneRunTracker):
    """Logs to a ``dvclive.Live``, at the optimizer step; the step of a `Live` of the user's is left as it is.

    Without one, the tables go to ``<directory>/dvclive``, and nothing is added to DVC or Git.
    """

    name = extra = library = "dvclive"

    @classmethod
    def _is_run(cls, run: Any) -> bool:
        return is_of(run, "dvclive", "log_metric", "next_step")

    def _start(self, library: Any, directory: Path) -> Any:
        # `resume`: a resumed run continues its tables.
        return library.Live(
            str(plain_directory(directory, "DVCLive") / "dvclive"), resume=True, save_dvc_exp=False, dvcyaml=None
        )

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Adds a row to the table of each metric."""
        theirs = self._run._step  # None before the first step, which `step` shows as 0
        self._run.step = step
        try:
            for key, value in self._keys(metrics).items():
                self._run.log_metric(key, value)
            if self._owns:
                self._run.make_summary()
        finally:
            self._run.step = theirs

    def _end(self) -> None:
        self._run.end()
