"""Weights & Biases: one row per sample, never with ``step=``; `wandb_rows` keeps the rows of a run's owner."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from weibull_monitor.errors import MissingDependencyError, say
from weibull_monitor.history.snapshot import prefix_of
from weibull_monitor.trackers.bands import bands_of
from weibull_monitor.trackers.base import Host, NamedTracker, prefixed
from weibull_monitor.trackers.class_figure import ClassCurves
from weibull_monitor.trackers.fit_table import COLUMNS, table_of
from weibull_monitor.trackers.heatmap import heatmap_of, plotly_figure
from weibull_monitor.trackers.names import plain_directory
from weibull_monitor.trackers.wandb_rows import SharedRows

if TYPE_CHECKING:
    from weibull_monitor.history.alert import Alert
    from weibull_monitor.history.record import RunRecord
    from weibull_monitor.history.snapshot import Snapshot

SUMMARIES: Final = {
    "weibull_k_min/*": "min,last",
    "weibull_lambda_max/*": "max,last",
    "weibull_r2_min/*": "min,last",
    "weibull_selection/attention_scale_max": "max,last",
    "weibull_health/nonfinite": "max",
    "weibull_health/zero_fraction_max": "max",
    "weibull_health/seconds": "mean",
    "weibull_alerts/*": "max,last",
}
"""What the table of runs shows of these keys; of all others, the last value."""
HIDDEN: Final = ("weibull_band/*", "weibull_health/components", "weibull_health/unchanged")
"""Keys that get no chart of their own."""
GROUPS: Final = (
    "k",
    "lambda",
    "class",
    "selection",
    "tail",
    "scaling",
    "force",
    "update",
    "health",
    "component",
    "pictures",
    "tables",
)
"""Keys that have nothing but the x-axis in common."""
STEP: Final = "weibull_step"
"""The optimizer step. Every row from here has it, whatever the step metric of the run is."""
HEATMAP: Final = "weibull_pictures/heatmap"
CLASS_FIGURE: Final = "weibull_pictures/classes"
TABLE: Final = "weibull_tables/fits"
LEVELS: Final = {"info": "INFO", "warning": "WARN", "error": "ERROR"}
"""Severities as `wandb.AlertLevel` spells them."""


class WandbTracker(NamedTracker):
    """Logs to the active W&B run, or to a new one.

    Args:
        run: The run to log to, which stays open; by default the active one. If there is none, a run is started, and finished by
            `close`.
        directory: Where a run that is started keeps its files.
        step_metric: The metric that counts optimizer steps and is the x-axis; it is logged in each row. For a run that a training
            framework started, pass the framework's (``train/global_step`` under the HF Trainer).
        ride_along: How to share the run. False makes a row for each sample; for owners who never log with ``step=``. True only
            adds values to the rows of the owner, one sample per row; samples that find no row wait until `close`. By default
            samples go into the owner's rows where they find one soon, and else into rows of their own
            (`weibull_monitor.trackers.wandb_rows.SharedRows`); runs that are started here, or that have a step metric of
            their own, get rows of their own.

    Raises:
        MissingDependencyError: If wandb is not installed.
    """

    name = extra = library = "wandb"

    def __init__(
        self,
        run: Any = None,
        directory: str | Path | None = None,
        step_metric: str = STEP,
        ride_along: bool | None = None,
    ) -> None:
        wandb = self._library("wandb")
        self._step_metric = step_metric
        self._bands: dict[str, float] = {}
        self._curves = ClassCurves()
        run = run or wandb.run
        self._owns = run is None
        if run is None:
            place = plain_directory(directory, "W&B") if directory else None
            if place is not None:
                place.mkdir(parents=True, exist_ok=True)
            run = wandb.init(dir=str(place) if place else None)
        self._run = run
        shares = ride_along or (ride_along is None and not self._owns and step_metric == STEP)
        self._rows = SharedRows.of(run, patient=bool(ride_along)) if shares and _has_steps(run) else None
        run.define_metric(STEP, hidden=True)
        self._define("")

    def _define(self, prefix: str) -> None:
        """Says how W&B shows the keys that begin with the prefix of a model."""
        run, step_metric = self._run, self._step_metric
        for key, summary in SUMMARIES.items():
            run.define_metric(prefix + key, step_metric=step_metric, summary=summary)
        for key in HIDDEN:
            run.define_metric(prefix + key, step_metric=step_metric, hidden=True)
        for group in GROUPS:  # W&B wants names before patterns
            run.define_metric(f"{prefix}weibull_{group}/*", step_metric=step_metric)

    @classmethod
    def of_active_run(cls, host: Host) -> WandbTracker | None:
        """Logs to the active run, if there is one."""
        return cls.of_run(cls._library("wandb").run, host)

    @classmethod
    def of_run(cls, run: Any, host: Host) -> WandbTracker | None:
        """Logs to a ``wandb.Run``."""
        if not (hasattr(run, "alert") and hasattr(run, "define_metric")):
            return None
        return cls(run, step_metric=host.step_metric or STEP)

    def begin(self, record: RunRecord) -> None:
        """Finds the published bands, which are logged beside the shapes."""
        self._bands = prefixed(bands_of(record.components, record.attention), record.name)
        self._curves = ClassCurves(prefix_of(record.name))
        if record.name:
            self._define(prefix_of(record.name))

    def extra_values(self, step: int) -> Mapping[str, float]:
        """The published bands, and the optimizer step."""
        return {**self._bands, STEP: step}

    def remember(self, metrics: Mapping[str, float], step: int) -> None:
        """Keeps what the picture of the classes shows; for a framework's logger that logs the metrics itself."""
        self._curves.add(metrics, step)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Logs all metrics of a step, and the published bands, in one call."""
        self.remember(metrics, step)
        self._add({**metrics, **self.extra_values(step), self._step_metric: step}, step)

    def picture(self, snapshot: Snapshot, step: int | None = None) -> None:
        """Logs the heatmaps, the classes in their bands and the table of fits; in a shared run, in the row of the same sample.

        Args:
            snapshot: The sample.
            step: The value of the step metric; by default the optimizer step.
        """
        at = {STEP: snapshot.step, self._step_metric: snapshot.step if step is None else step}
        media = {prefix_of(snapshot.name) + key: value for key, value in media_of(snapshot).items()}
        with suppress(MissingDependencyError):  # plotly, which `media_of` has named
            if (figure := self._curves.figure(self._bands)) is not None:
                media[prefix_of(snapshot.name) + CLASS_FIGURE] = self._library("wandb").Plotly(figure)
        self._add(media | at, snapshot.step)

    def _add(self, row: dict[str, Any], step: int) -> None:
        if self._rows is None:
            self._run.log(row)
        else:
            self._rows.add(row, step)

    def settle(self) -> None:
        """Called when everything about a sample was logged: its row is ended now if the run's owner seldom logs."""
        if self._rows is not None:
            self._rows.settle()

    def alert(self, alert: Alert, step: int | None = None) -> None:
        """Sends a W&B alert, of level INFO for one that is cleared. W&B passes on one alert per title and minute."""
        level = LEVELS["info" if alert.phase == "ends" else alert.finding.severity]
        self._run.alert(title=f"{prefix_of(alert.name)}{alert.title}"[:63], text=alert.text, level=level)

    def close(self) -> None:
        """Logs what still waits, and finishes the run if it was started here."""
        rows, self._rows = self._rows, None
        if rows is not None:
            rows.close()
        if self._owns:
            self._run.finish()


def _has_steps(run: Any) -> bool:
    """Whether W&B numbers the rows of the run here: not in shared mode, and not if it is disabled."""
    try:
        return isinstance(run.step, int) and run.settings.mode != "disabled"
    except Exception:
        return False


def media_of(snapshot: Snapshot) -> dict[str, Any]:
    """The heatmap as an interactive figure and the latest fit of each component as a table, by key, for ``run.log``.

    Without plotly there is no figure, and one warning.
    """
    import wandb

    table = table_of(snapshot)
    if table.left_out:
        _warn_once(
            f"W&B gets the {len(table.rows):,} matrices whose k is furthest from the median of their kind; "
            f"{table.left_out:,} are left out"
        )
    prefix = prefix_of(snapshot.name)
    media: dict[str, Any] = {prefix + TABLE: wandb.Table(columns=list(COLUMNS), data=[list(row) for row in table.rows])}
    try:
        media[prefix + HEATMAP] = wandb.Plotly(plotly_figure(heatmap_of(snapshot)))
    except MissingDependencyError as error:
        _warn_once(f"W&B gets no heatmap: {error}")
    return media


@cache
def _warn_once(message: str) -> None:
    say(logging.WARNING, f"weibull_monitor: {message}")
