"""Weights & Biases: one `run.log` a sample, never with ``step=``, so that no other data of the run is dropped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weibull_monitor.errors import MissingDependencyError


class WandbTracker:
    """Logs to the active W&B run, or to one of its own if there is none.

    Args:
        run: The run to log to; by default the active one.
        directory: Where a run of its own keeps its files.
        step_metric: The metric that counts optimizer steps and is the x-axis; it is logged beside ours. Inside a run that
            somebody else started, pass theirs (``train/global_step`` under the HF Trainer).

    Raises:
        MissingDependencyError: If wandb is not installed.
    """

    def __init__(self, run: Any = None, directory: str | Path | None = None, step_metric: str = "weibull_step") -> None:
        try:
            import wandb
        except ImportError as error:
            raise MissingDependencyError("wandb", "wandb") from error
        self._step_metric = step_metric
        run = run or wandb.run
        self._owns = run is None
        if run is None:
            if directory:
                Path(directory).mkdir(parents=True, exist_ok=True)
            run = wandb.init(dir=str(directory) if directory else None)
        self._run = run
        for group in ("k", "lambda", "k_min", "r2_min", "class", "scaling", "health", "alerts", "component"):
            run.define_metric(f"weibull_{group}/*", step_metric=step_metric)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Logs all metrics of a step in one call."""
        self._run.log({**metrics, self._step_metric: step})

    def close(self) -> None:
        """Finishes the run if it is ours."""
        if self._owns:
            self._run.finish()
