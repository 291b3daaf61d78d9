"""When trackers draw pictures: at a few samples, and at the end. Trackers draw with a method ``picture(snapshot)``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from weibull_monitor.errors import ConfigurationError, Guard
from weibull_monitor.history.snapshot import Snapshot

EVERY: Final = 20
"""Samples between two pictures, by default."""
GROWTH: Final = 0.1
"""Least growth of the number of samples between two pictures, as a share: a long run must not fill the disk."""


def is_due(samples: int, drawn_at: int, every: int) -> bool:
    """Whether to draw the sample that was just taken.

    Args:
        samples: Samples so far, this one included.
        drawn_at: Number of samples at the last picture; 0 if there was none.
        every: Least distance between two pictures, in samples; 0 for no pictures.

    >>> drawn = [0]
    >>> for samples in range(1, 1001):
    ...     if is_due(samples, drawn[-1], every=20):
    ...         drawn.append(samples)
    >>> drawn[:4], len(drawn) - 1
    ([0, 20, 40, 60], 25)
    """
    return every > 0 and samples - drawn_at >= max(every, GROWTH * samples)


def check_every(every: int) -> int:
    """Returns ``every`` if it is a number of samples.

    Raises:
        ConfigurationError: If it is not.
    """
    if isinstance(every, bool) or not isinstance(every, int) or every < 0:
        raise ConfigurationError(f"pictures_every is {every!r}; pass a number of samples, or 0 for no pictures")
    return every


class Pictures:
    """Lets trackers draw a sample now and then, and the last one.

    Args:
        trackers: All trackers; only those with a method ``picture`` draw.
        every: Samples between two pictures; 0 for no pictures.
        guard: Reports failures, once each.

    Raises:
        ConfigurationError: If ``every`` is not a number of samples.
    """

    def __init__(self, trackers: Iterable[Any], every: int, guard: Guard) -> None:
        self._trackers = [tracker for tracker in trackers if callable(getattr(tracker, "picture", None))]
        self._every, self._guard = check_every(every), guard
        self._samples = self._drawn_at = 0
        self._last: Snapshot | None = None

    def log(self, snapshot: Snapshot) -> None:
        """Takes a sample that was just logged, and draws it if it is due."""
        self._samples += 1
        self._last = snapshot
        if is_due(self._samples, self._drawn_at, self._every):
            self._draw(snapshot)

    def finish(self) -> None:
        """Draws the last sample, unless it was drawn already or no step was taken."""
        if self._every and self._last is not None and self._last.step > 0 and self._drawn_at != self._samples:
            self._draw(self._last)

    def _draw(self, snapshot: Snapshot) -> None:
        self._drawn_at = self._samples
        for tracker in self._trackers:
            self._guard(f"drawing for {type(tracker).__name__}", tracker.picture, snapshot)
