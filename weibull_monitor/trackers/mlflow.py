"""MLflow: one batch of metrics per sample, sent in the background to the active run or to a new one."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from weibull_monitor.trackers.base import Host, NamedTracker
from weibull_monitor.trackers.names import CleanKeys, run_name

_FORBIDDEN: Final = re.compile(r"[^0-9A-Za-z_\-. :/]")
_BATCH: Final = 1000
"""Metrics that MLflow takes in one call."""
_IN_FLIGHT: Final = 16
"""Calls that may be on their way. The oldest of more than these has long arrived; waiting for it shows whether it failed."""


class MlflowTracker(NamedTracker):
    """Logs to an MLflow run, at the optimizer step.

    Characters that MLflow does not allow in a name, such as the brackets of ``…weight[q]``, become underscores, and long names
    are shortened (`CleanKeys`).

    Args:
        run_id: The run to log to, which stays open; by default the active one. If there is none, a run is started where
            ``MLFLOW_TRACKING_URI`` and ``MLFLOW_EXPERIMENT_NAME`` say, and ended by `close`.
        directory: The directory of the monitored run; its name becomes that of a run that is started.

    Raises:
        MissingDependencyError: If mlflow is not installed.
    """

    name = extra = library = "mlflow"

    def __init__(self, run_id: str | None = None, directory: str | Path | None = None) -> None:
        self._mlflow = self._library("mlflow")
        self._pending: list[Any] = []
        self._keys = CleanKeys("MLflow", _FORBIDDEN)
        self._owns = False
        if run_id is None:
            run = self._mlflow.active_run()
            name = run_name(directory) if directory else None  # a name of MLflow's own
            self._owns = run is None
            run_id = (run or self._mlflow.start_run(run_name=name)).info.run_id
        self._run_id = run_id
        self._client = self._mlflow.MlflowClient()

    @classmethod
    def of_active_run(cls, host: Host) -> MlflowTracker | None:
        """Logs to the active run, if there is one."""
        return cls.of_run(cls._library("mlflow").active_run(), host)

    @classmethod
    def of_run(cls, run: Any, host: Host) -> MlflowTracker | None:
        """Logs to an ``mlflow.ActiveRun``."""
        run_id = getattr(getattr(run, "info", None), "run_id", None)
        return cls(run_id) if isinstance(run_id, str) else None

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Sends all metrics of a step without waiting."""
        now, metric = int(time.time() * 1000), self._mlflow.entities.Metric
        entries = [metric(key, value, now, step) for key, value in self._keys(metrics).items()]
        for start in range(0, len(entries), _BATCH):
            batch = entries[start : start + _BATCH]
            self._pending.append(self._client.log_batch(self._run_id, metrics=batch, synchronous=False))
        while len(self._pending) > _IN_FLIGHT:
            self._pending.pop(0).wait()

    def close(self) -> None:
        """Waits until everything is sent, and ends the run if it was started here."""
        pending, self._pending = self._pending, []
        try:
            for operation in pending:
                operation.wait()
        finally:
            active = self._mlflow.active_run()
            if self._owns and active is not None and active.info.run_id == self._run_id:
                self._mlflow.end_run()
