"""TensorBoard: scalars, charts, pictures and alerts, in an event file of our own or through a writer that is already open."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from weakref import finalize

from weibull_monitor.history.alert import rank
from weibull_monitor.history.snapshot import prefix_of
from weibull_monitor.trackers.bands import bands_of
from weibull_monitor.trackers.base import Host, NamedTracker, prefixed
from weibull_monitor.trackers.heatmap import heatmap_of, image
from weibull_monitor.trackers.names import plain_directory
from weibull_monitor.trackers.tensorboard_layout import METRICS, hyperparameters_of, layout_of

if TYPE_CHECKING:
    from weibull_monitor.history.alert import Alert
    from weibull_monitor.history.record import RunRecord
    from weibull_monitor.history.snapshot import Snapshot

SUFFIX: Final = ".weibull"
"""The end of the names of event files that are written here."""
PICTURES: Final = "weibull_pictures"
"""Prefix of the tags of the heatmaps: one of k, and one of its drift."""


class TensorBoardTracker(NamedTracker):
    """Writes scalars for TensorBoard.

    Args:
        log_dir: Directory of the event file; not used with a ``writer``.
        writer: An open ``SummaryWriter`` to write through, which stays open. TensorBoard's Python loader follows only one event
            file per directory, so a second file beside that of a training framework would stop the framework's curves.
        hyperparameters: Whether to write what the HParams page compares runs by. By default only into a file of our own, because
            training frameworks write theirs.

    Raises:
        MissingDependencyError: If tensorboard is not installed.
    """

    name = extra = library = "tensorboard"

    def __init__(self, log_dir: str | Path, writer: Any = None, hyperparameters: bool | None = None) -> None:
        self._owns = writer is None
        self._hyperparameters = self._owns if hyperparameters is None else hyperparameters
        self._bands: dict[str, float] = {}
        if writer is None:
            where = (
                str(log_dir) if "://" in str(log_dir) else str(plain_directory(os.path.abspath(log_dir), "TensorBoard"))
            )
            writer = self._library("torch.utils.tensorboard").SummaryWriter(where, filename_suffix=SUFFIX)
            finalize(self, writer.close).atexit = False  # ends its thread if the tracker is dropped without `close`
        self._writer = writer

    @classmethod
    def in_directory(cls, directory: Path) -> TensorBoardTracker:
        """Writes an event file in this directory."""
        return cls(directory)

    @classmethod
    def of_active_run(cls, host: Host) -> TensorBoardTracker:
        """Writes through the framework's open writer, or into its directory; hyper-parameters too."""
        return cls(host.log_dir, host.writer, hyperparameters=True)

    @classmethod
    def of_run(cls, run: Any, host: Host) -> TensorBoardTracker | None:
        """Writes through a ``SummaryWriter`` of torch or tensorboardX."""
        return cls(host.log_dir, run) if hasattr(run, "add_text") else None

    def begin(self, record: RunRecord) -> None:
        """Writes the layout of the Custom Scalars page (the last one in a directory counts), and the hyper-parameters.

        Where a run is resumed, the samples after its checkpoint are taken out of TensorBoard first: they come again.
        """
        if record.resumed_from is not None and self._owns:
            self._purge(record.resumed_from + 1)
        bands = bands_of(record.components, record.attention)
        self._bands = prefixed(bands, record.name)
        if hasattr(self._writer, "add_custom_scalars"):
            self._writer.add_custom_scalars(layout_of(bands, prefix_of(record.name)))
        if self._hyperparameters and hasattr(self._writer, "file_writer"):
            from torch.utils.tensorboard.summary import hparams

            # Into the writer's own file: its `add_hparams` would open another directory.
            for summary in hparams(hyperparameters_of(record), prefixed(dict.fromkeys(METRICS, 0.0), record.name)):
                self._writer.file_writer.add_summary(summary)

    def _purge(self, step: int) -> None:
        """Lets TensorBoard forget everything from a step on, as ``SummaryWriter(purge_step=...)`` does.

        It would forget the curves of other writers too, so this is done only where all event files are from here.
        """
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        if all(SUFFIX in file.name for file in Path(self._writer.log_dir).glob("*tfevents*")):
            self._writer.file_writer.add_event(Event(step=step, file_version="brain.Event:2"))
            self._writer.file_writer.add_event(Event(step=step, session_log=SessionLog(status=SessionLog.START)))

    def extra_values(self, step: int) -> Mapping[str, float]:
        """The published bands: a Margin chart needs them at the same steps as k."""
        return self._bands

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Writes each metric and the published bands as scalars; flushes, so that a live page shows them."""
        for key, value in {**metrics, **self.extra_values(step)}.items():
            self._writer.add_scalar(key, value, step)
        self._writer.flush()

    def picture(self, snapshot: Snapshot, step: int | None = None) -> None:
        """Writes the heatmaps of a sample as images.

        Args:
            snapshot: The sample.
            step: The step that the framework logs it at; by default the optimizer step.

        Raises:
            MissingDependencyError: If matplotlib is not installed.
        """
        if getattr(self._writer, "all_writers", True) is None:  # closed by its owner: it would open another file
            return
        heatmap = heatmap_of(snapshot)
        for panel in heatmap.panels:
            at = snapshot.step if step is None else step
            self._writer.add_image(
                f"{prefix_of(snapshot.name)}{PICTURES}/{panel.key}", image(heatmap, panel), at, dataformats="HWC"
            )
        self._writer.flush()

    def alert(self, alert: Alert, step: int | None = None) -> None:
        """Writes the text of an alert, and a curve for its rule: 1, 2 or 3 by severity when it is raised, 0 when it is cleared.

        Args:
            alert: The alert.
            step: The step that the framework logs its sample at; by default the optimizer step.
        """
        tag, at = f"{prefix_of(alert.name)}weibull_alerts/{alert.finding.rule}", alert.step if step is None else step
        self._writer.add_text(tag, f"**{alert.title}**\n\n{alert.text}", at)
        self._writer.add_scalar(tag, 0 if alert.phase == "ends" else rank(alert.finding.severity), at)
        self._writer.flush()

    def close(self) -> None:
        """Closes the event file if it was opened here."""
        if self._owns:
            self._writer.close()
