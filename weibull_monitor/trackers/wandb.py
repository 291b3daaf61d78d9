"""Weights & Biases: one `run.log` a sample, never with ``step=``, so that no other data of the run is dropped."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from weibull_monitor.errors import MissingDependencyError
from weibull_monitor.trackers.bands import bands_of
from weibull_monitor.trackers.fit_table import COLUMNS, table_of
from weibull_monitor.trackers.heatmap import heatmap_of, plotly_figure

if TYPE_CHECKING:
    from weibull_monitor.history.alert import Alert
    from weibull_monitor.history.record import RunRecord
    from weibull_monitor.history.snapshot import Snapshot

logger = logging.getLogger("weibull_monitor")

SUMMARIES: Final = {
    "weibull_k_min/*": "min,last",
    "weibull_r2_min/*": "min,last",
    "weibull_health/nonfinite": "max",
    "weibull_health/zero_fraction_max": "max",
    "weibull_health/seconds": "mean",
    "weibull_alerts/*": "max,last",
}
"""What the table of runs shows of these keys; of all others, the last value."""
HIDDEN: Final = ("weibull_band/*", "weibull_health/components", "weibull_health/unchanged")
"""Keys that get no chart of their own."""
STEP: Final = "weibull_step"
"""Optimizer steps: in every row of ours, whatever the step metric of the run is."""
HEATMAP: Final = "weibull_pictures/heatmap"
TABLE: Final = "weibull_tables/fits"


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
        step_metric: str = STEP,
        ride_along: bool = False,
    ) -> None:
        try:
            import wandb
        except ImportError as error:
            raise MissingDependencyError("wandb", "wandb") from error
        self._step_metric = step_metric
        self._ride_along = ride_along
        self._waiting: list[dict[str, Any]] = []
        self._rode: Any = None
        self._bands: dict[str, float] = {}
        self._rode_at: int | None = None
        run = run or wandb.run
        self._owns = run is None
        if run is None:
            if directory:
                Path(directory).mkdir(parents=True, exist_ok=True)
            run = wandb.init(dir=str(directory) if directory else None)
        self._run = run
        define_metrics(run, step_metric)

    def begin(self, record: RunRecord) -> None:
        """Finds the published bands, which are logged beside the shapes."""
        self._bands = bands_of(record.components, record.attention)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Logs all metrics of a step, and the published bands, in one call."""
        row = {**metrics, **self._bands, STEP: step, self._step_metric: step}
        if not self._ride_along:
            self._run.log(row)
            return
        self._waiting.append(row)
        if self._run.step != self._rode_at:
            self._rode_at, self._rode = self._run.step, step
            self._run.log(self._waiting.pop(0), commit=False)

    def picture(self, snapshot: Snapshot) -> None:
        """Logs the heatmap and the table of fits; where rows are somebody else's, in the row that has the same sample."""
        row = {**media_of(snapshot), STEP: snapshot.step, self._step_metric: snapshot.step}
        if not self._ride_along:
            self._run.log(row)
        elif self._waiting:  # the sample is the last of those that wait
            self._waiting[-1] |= row
        elif self._run.step == self._rode_at and self._rode == snapshot.step:
            self._run.log(row, commit=False)
        else:
            self._waiting.append(row)

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


def define_metrics(run: Any, step_metric: str) -> None:
    """Says what is the x-axis of our keys, what the table of runs shows of them, and which get no chart.

    Args:
        run: The W&B run.
        step_metric: The metric that counts optimizer steps.
    """
    run.define_metric(STEP, hidden=True)
    for key, summary in SUMMARIES.items():
        run.define_metric(key, step_metric=step_metric, summary=summary)
    for key in HIDDEN:
        run.define_metric(key, step_metric=step_metric, hidden=True)
    groups = ("k", "lambda", "class", "scaling", "force", "health", "component", "pictures", "tables")
    for group in groups:  # names come before patterns, for W&B
        run.define_metric(f"weibull_{group}/*", step_metric=step_metric)


def media_of(snapshot: Snapshot) -> dict[str, Any]:
    """The heatmap as an interactive figure, and the latest fit of each component as a table, ready for ``run.log``.

    Args:
        snapshot: The sample.

    Returns:
        By key; without plotly the table alone, which is said once.
    """
    import wandb

    table = table_of(snapshot)
    if table.left_out:
        _say(
            f"W&B gets the {len(table.rows):,} matrices whose k lies furthest from its kind; {table.left_out:,} are left out"
        )
    media: dict[str, Any] = {TABLE: wandb.Table(columns=list(COLUMNS), data=[list(row) for row in table.rows])}
    try:
        media[HEATMAP] = wandb.Plotly(plotly_figure(heatmap_of(snapshot)))
    except MissingDependencyError as error:
        _say(f"W&B gets no heatmap: {error}")
    return media


_SAID: set[str] = set()


def _say(message: str) -> None:
    if message not in _SAID:
        _SAID.add(message)
        logger.warning("weibull_monitor: %s", message)


def send_alert(run: Any, alert: Alert) -> None:
    """Sends a W&B alert. W&B passes on one a title and minute; titles are the same for each rule and severity.

    Args:
        run: The W&B run.
        alert: The alert; that one ends is told at level INFO.
    """
    severity = "info" if alert.phase == "ends" else alert.finding.severity
    level = {"info": "INFO", "warning": "WARN", "error": "ERROR"}[severity]  # the values of wandb.AlertLevel
    run.alert(title=alert.title, text=alert.text, level=level)
