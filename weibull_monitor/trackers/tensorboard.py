"""TensorBoard: scalars, in an event file of our own or through a writer that is already open."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weibull_monitor.errors import MissingDependencyError

if TYPE_CHECKING:
    from weibull_monitor.alerts import Alert


class TensorBoardTracker:
    """Writes scalars for TensorBoard.

    Args:
        log_dir: Directory of the event file.
        writer: An open ``SummaryWriter`` to write through instead, which stays its owner's: TensorBoard's Python loader follows
            only one event file a directory, so a second one beside a host's would stop the host's curves.

    Raises:
        MissingDependencyError: If tensorboard is not installed.
    """

    def __init__(self, log_dir: str | Path, writer: Any = None) -> None:
        self._owns = writer is None
        if writer is None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise MissingDependencyError("tensorboard", "tensorboard") from error
            writer = SummaryWriter(str(log_dir))
        self._writer = writer

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Writes each metric as a scalar and flushes, so that a live page shows it."""
        for key, value in metrics.items():
            self._writer.add_scalar(key, value, step)
        self._writer.flush()

    def alert(self, alert: Alert) -> None:
        """Writes the text and a marker of an alert."""
        write_alert(self._writer, alert, alert.step)

    def close(self) -> None:
        """Closes the event file if it is ours."""
        if self._owns:
            self._writer.close()


def write_alert(writer: Any, alert: Alert, step: int) -> None:
    """Writes the text of an alert, and a marker: a curve of its rule, 1, 2 or 3 by severity where it begins, 0 where it ends.

    Args:
        writer: An open ``SummaryWriter``.
        alert: The alert.
        step: The step of both.
    """
    from weibull_monitor.alerts.finding import rank

    tag = f"weibull_alerts/{alert.finding.rule}"
    writer.add_text(tag, f"**{alert.title}**\n\n{alert.text}", step)
    writer.add_scalar(tag, 0 if alert.phase == "ends" else rank(alert.finding.severity), step)
    writer.flush()
