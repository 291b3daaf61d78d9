"""A tracker that keeps everything in a list."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from weibull_monitor.trackers.base import NamedTracker


class MemoryTracker(NamedTracker):
    """Keeps everything in a list: for tests and notebooks.

    >>> tracker = MemoryTracker()
    >>> tracker.log({"weibull_k/attn_q": 1.2}, step=3)
    >>> tracker.records
    [(3, {'weibull_k/attn_q': 1.2})]
    """

    name = "memory"

    def __init__(self) -> None:
        self.records: list[tuple[int, dict[str, float]]] = []
        self.closed = False

    @classmethod
    def in_directory(cls, directory: Path) -> MemoryTracker:
        """A new tracker; the directory is not used."""
        return cls()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Appends (step, metrics)."""
        self.records.append((step, dict(metrics)))

    def close(self) -> None:
        """Sets ``closed``."""
        self.closed = True
