"""Weights & Biases: one `run.log` a sample, never with ``step=``, so that no other data of the run is dropped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weibull_monitor.errors import MissingDependencyError

if TYPE_CHECKING:
    from weibull_monitor.alerts import Alert


class WandbTracker:
    """Logs to the active W&B run, or to one of its own if there is none.

    Args:
        run: The run to log to; by default the active one.
        directory: Where a run of its own keeps its files.
        step_metric: The metric that counts optimizer steps and is the x-axis; it is logged beside ours. Inside a run that
            somebody else started, pass theirs (``train/global_step`` under the HF Trainer).
        ride_along: Whether to add our values to rows of the run's owner instead of making rows, one sample a row; what finds
            none waits until `close`. For owners who log with ``step=``: a row of ours moves W&B's own step on, and W&B drops
            what is then logged below it.

    Raises:
        MissingDependencyError: If wandb is not installed.
    """

    def __init__(
        self,
        run: Any = None,
        directory: str | Path | None = None,
        step_metric: str = "weibull_step",
        ride_along: bool = False,
    ) -> None:
        try:
            import wandb
        except ImportError as error:
            raise MissingDependencyError("wandb", "wandb") from error
        self._step_metric = step_metric
        self._ride_along = ride_along
        self._waiting: list[dict[str, float]] = []
        self._rode_at: int | None = None
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
        row = {**metrics, self._step_metric: step}
        if not self._ride_along:
            self._run.log(row)
            return
        self._waiting.append(row)
        if self._run.step != self._rode_at:
            self._rode_at = self._run.step
            self._run.log(self._waiting.pop(0), commit=False)

    def alert(self, alert: Alert) -> None:
        """Sends a W&B alert."""
        send_alert(self._run, alert)

    def close(self) -> None:
        """Logs what still waits for a row, and finishes the run if it is ours."""
        if self._waiting and self._run.step == self._rode_at:
            self._run.log({})  # ends the row that holds a sample of ours
        for row in self._waiting:
            self._run.log(row)
        self._waiting.clear()
        if self._owns:
            self._run.finish()


def send_alert(run: Any, alert: Alert) -> None:
    """Sends a W&B alert. W&B passes on one a title and minute; titles are the same for each rule and severity.

    Args:
        run: The W&B run.
        alert: The alert; that one ends is told at level INFO.
    """
    severity = "info" if alert.phase == "ends" else alert.finding.severity
    level = {"info": "INFO", "warning": "WARN", "error": "ERROR"}[severity]  # the values of wandb.AlertLevel
    run.alert(title=alert.title, text=alert.text, level=level)
