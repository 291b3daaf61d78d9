"""TensorBoard: scalars, charts, pictures and alerts, in an event file of our own or through a writer that is already open."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weibull_monitor.errors import MissingDependencyError
from weibull_monitor.trackers.bands import bands_of
from weibull_monitor.trackers.heatmap import heatmap_of, image
from weibull_monitor.trackers.tensorboard_layout import METRICS, hyperparameters_of, layout_of

if TYPE_CHECKING:
    from weibull_monitor.history.alert import Alert
    from weibull_monitor.history.record import RunRecord
    from weibull_monitor.history.snapshot import Snapshot


PICTURES = "weibull_pictures"
"""What the tags of the heatmaps begin with: one of k, and one of its drift."""


class TensorBoardTracker:
    """Writes scalars for TensorBoard.

    Args:
        log_dir: Directory of the event file.
        writer: An open ``SummaryWriter`` to write through instead, which stays its owner's: TensorBoard's Python loader follows
            only one event file a directory, so a second one beside a host's would stop the host's curves.
        hyperparameters: Whether to write what the HParams page compares runs by; by default only into a file of our own, since
            hosts write theirs.

    Raises:
        MissingDependencyError: If tensorboard is not installed.
    """

    def __init__(self, log_dir: str | Path, writer: Any = None, hyperparameters: bool | None = None) -> None:
        self._hyperparameters = writer is None if hyperparameters is None else hyperparameters
        self._bands: dict[str, float] = {}
        self._owns = writer is None
        if writer is None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise MissingDependencyError("tensorboard", "tensorboard") from error
            writer = SummaryWriter(str(log_dir))
        self._writer = writer

    def begin(self, record: RunRecord) -> None:
        """Writes the layout of the Custom Scalars page, and the hyper-parameters."""
        self._bands = bands_of(record.components, record.attention)
        write_layout(self._writer, self._bands)
        if self._hyperparameters:
            write_hyperparameters(self._writer, record)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Writes each metric as a scalar, and the published bands beside them; flushes, so that a live page shows it."""
        for key, value in (*metrics.items(), *self._bands.items()):
            self._writer.add_scalar(key, value, step)
        self._writer.flush()

    def picture(self, snapshot: Snapshot) -> None:
        """Writes the heatmaps as images."""
        if (
            getattr(self._writer, "all_writers", True) is not None
        ):  # a writer that its owner has closed would open another file
            write_picture(self._writer, snapshot, snapshot.step)

    def alert(self, alert: Alert) -> None:
        """Writes the text and a marker of an alert."""
        write_alert(self._writer, alert, alert.step)

    def close(self) -> None:
        """Closes the event file if it is ours."""
        if self._owns:
            self._writer.close()


def write_layout(writer: Any, bands: Mapping[str, float]) -> None:
    """Writes the layout of the Custom Scalars page; the last one written to a directory counts.

    Args:
        writer: An open ``SummaryWriter``.
        bands: The published bands that there are, as `bands_of` has them.
    """
    if hasattr(writer, "add_custom_scalars"):
        writer.add_custom_scalars(layout_of(bands))


def write_hyperparameters(writer: Any, record: RunRecord) -> None:
    """Writes what the HParams page compares runs by into the writer's own file: `add_hparams` would open another directory.

    Args:
        writer: An open ``SummaryWriter``.
        record: The run's record.
    """
    from torch.utils.tensorboard.summary import hparams

    if hasattr(writer, "file_writer"):
        for summary in hparams(hyperparameters_of(record), dict.fromkeys(METRICS, 0.0)):
            writer.file_writer.add_summary(summary)


def write_picture(writer: Any, snapshot: Snapshot, step: int) -> None:
    """Writes the heatmaps of a sample.

    Args:
        writer: An open ``SummaryWriter``.
        snapshot: The sample.
        step: Its step.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
    """
    heatmap = heatmap_of(snapshot)
    for panel in heatmap.panels:
        writer.add_image(f"{PICTURES}/{panel.key}", image(heatmap, panel), step, dataformats="HWC")
    writer.flush()


def write_alert(writer: Any, alert: Alert, step: int) -> None:
    """Writes the text of an alert, and a marker: a curve of its rule, 1, 2 or 3 by severity where it begins, 0 where it ends.

    Args:
        writer: An open ``SummaryWriter``.
        alert: The alert.
        step: The step of both.
    """
    from weibull_monitor.history.alert import rank

    tag = f"weibull_alerts/{alert.finding.rule}"
    writer.add_text(tag, f"**{alert.title}**\n\n{alert.text}", step)
    writer.add_scalar(tag, 0 if alert.phase == "ends" else rank(alert.finding.severity), step)
    writer.flush()
