"""What a tracker is, and how names become trackers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

from weibull_monitor.errors import ConfigurationError


@runtime_checkable
class Tracker(Protocol):
    """Where flat metrics go. Anything with these two methods is one.

    It may have three more, which are called if they are there: ``begin(record)`` with the `RunRecord` before the first sample of
    a run or of its resumption, ``picture(snapshot)`` with the `Snapshot` now and then and at the end, after `log` of the same
    sample, and ``alert(alert)``.
    """

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Takes the metrics of one optimizer step."""

    def close(self) -> None:
        """Writes out what is still held. Called once, when training ends."""


class MemoryTracker:
    """Keeps everything in a list: for tests and notebooks.

    >>> tracker = MemoryTracker()
    >>> tracker.log({"weibull_k/attn_q": 1.2}, step=3)
    >>> tracker.records
    [(3, {'weibull_k/attn_q': 1.2})]
    """

    def __init__(self) -> None:
        self.records: list[tuple[int, dict[str, float]]] = []
        self.closed = False

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Appends (step, metrics)."""
        self.records.append((step, dict(metrics)))

    def close(self) -> None:
        """Remembers that it was closed."""
        self.closed = True


NAMES = ("tensorboard", "wandb", "mlflow", "trackio", "memory")


def as_trackers(trackers: Iterable[str | Tracker], output_dir: Path) -> list[Tracker]:
    """Trackers from names and trackers.

    Args:
        trackers: Names out of `NAMES`, or objects with ``log(metrics, step)`` and ``close()``.
        output_dir: The run's directory, for trackers that write files.

    Raises:
        ConfigurationError: For anything else.
        MissingDependencyError: If a named tracker's library is not installed.
    """
    if isinstance(trackers, str):
        raise ConfigurationError(f"trackers is the string {trackers!r}; pass a list: trackers=[{trackers!r}]")
    return [tracker if isinstance(tracker, Tracker) else _named(tracker, output_dir) for tracker in trackers]


def check_trackers(trackers: Iterable[str | Tracker]) -> None:
    """Raises what `as_trackers` would raise for unknown names and unfit objects, without opening anything."""
    for tracker in [trackers] if isinstance(trackers, str) else trackers:
        if not isinstance(tracker, Tracker) and tracker not in NAMES:
            raise ConfigurationError(
                f"{tracker!r} is not a tracker; pass one of {', '.join(NAMES)}, or an object with log(metrics, step) and close()"
            )


def _named(name: str, output_dir: Path) -> Tracker:
    check_trackers([name])
    if name == "tensorboard":
        from weibull_monitor.trackers.tensorboard import TensorBoardTracker

        return TensorBoardTracker(output_dir)
    if name == "wandb":
        from weibull_monitor.trackers.wandb import WandbTracker

        return WandbTracker(directory=output_dir)
    if name == "mlflow":
        from weibull_monitor.trackers.mlflow import MlflowTracker

        return MlflowTracker(directory=output_dir)
    if name == "trackio":
        from weibull_monitor.trackers.trackio import TrackioTracker

        return TrackioTracker(directory=output_dir)
    return MemoryTracker()
