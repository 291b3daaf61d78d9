"""MLflow: one batch a sample, sent in the background, to the active run or to one of its own."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weibull_monitor.errors import MissingDependencyError

_FORBIDDEN = re.compile(r"[^0-9A-Za-z_\-. :/]")
_BATCH = 1000
"""Metrics that MLflow takes in one call."""
_IN_FLIGHT = 16
"""Calls that are on their way at most; the oldest has long arrived, and waiting for it shows whether it failed."""


class MlflowTracker:
    """Logs to an MLflow run, at the optimizer step.

    Characters that MLflow does not allow in a name, such as the brackets of ``…weight[q]``, become underscores.

    Args:
        run_id: The run to log to, which stays its owner's; by default the active one, or else one of its own, which is begun
            where ``MLFLOW_TRACKING_URI`` and ``MLFLOW_EXPERIMENT_NAME`` say.
        directory: The run's directory; its name is that of a run of its own.

    Raises:
        MissingDependencyError: If mlflow is not installed.
    """

    def __init__(self, run_id: str | None = None, directory: str | Path | None = None) -> None:
        try:
            import mlflow
        except ImportError as error:
            raise MissingDependencyError("mlflow", "mlflow") from error
        self._mlflow: Any = mlflow
        self._pending: list[Any] = []
        self._owns = False
        if run_id is None:
            run = mlflow.active_run()
            self._owns = run is None
            run_id = (run or mlflow.start_run(run_name=Path(directory).name if directory else None)).info.run_id
        self._run_id = run_id
        self._client = mlflow.MlflowClient()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Sends all metrics of a step; nothing waits for it."""
        now = int(time.time() * 1000)
        entries = [
            self._mlflow.entities.Metric(_FORBIDDEN.sub("_", key), value, now, step) for key, value in metrics.items()
        ]
        for start in range(0, len(entries), _BATCH):
            batch = entries[start : start + _BATCH]
            self._pending.append(self._client.log_batch(self._run_id, metrics=batch, synchronous=False))
        while len(self._pending) > _IN_FLIGHT:
            self._pending.pop(0).wait()

    def close(self) -> None:
        """Waits until all is sent, and ends the run if it is ours."""
        pending, self._pending = self._pending, []
        try:
            for operation in pending:
                operation.wait()
        finally:
            active = self._mlflow.active_run()
            if self._owns and active is not None and active.info.run_id == self._run_id:
                self._mlflow.end_run()
