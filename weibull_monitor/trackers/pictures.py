"""When trackers draw: seldom, and at the end. A tracker draws if it has a method ``picture(snapshot)``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from weibull_monitor.errors import ConfigurationError, Guard
from weibull_monitor.history.snapshot import Snapshot

EVERY: Final = 20
"""Samples between two pictures, by default."""
GROWTH: Final = 0.1
"""… and no sooner than the number of samples has grown by this share, so that a long run does not fill a disk."""


def is_due(samples: int, drawn_at: int, every: int) -> bool:
    """Whether the sample that was just taken is to be drawn.

    Args:
        samples: Samples so far, this one included.
        drawn_at: How many there were when it was drawn last; 0 if never.
        every: Least distance between two pictures, in samples; 0 for none.

    >>> drawn = [0]
    >>> for samples in range(1, 1001):
    ...     if is_due(samples, drawn[-1], every=20):
    ...         drawn.append(samples)
    >>> drawn[:4], len(drawn) - 1
    ([0, 20, 40, 60], 25)
    """
    return every > 0 and samples - drawn_at >= max(every, GROWTH * samples)


def check_every(every: int) -> int:
    """The distance, if it is one.

    Raises:
        ConfigurationError: If it is no number of samples.
    """
    if isinstance(every, bool) or not isinstance(every, int) or every < 0:
        raise ConfigurationError(f"pictures_every is {every!r}; pass a number of samples, or 0 for no pictures")
    return every


class Pictures:
    """Has trackers draw a sample now and then, and the last one.

    Args:
        trackers: All trackers; those that draw are asked.
        every: Samples between two pictures; 0 for none at all.
        guard: Reports once what fails.

    Raises:
        ConfigurationError: If ``every`` is no number of samples.
    """

    def __init__(self, trackers: Iterable[Any], every: int, guard: Guard) -> None:
        self._trackers = [tracker for tracker in trackers if callable(getattr(tracker, "picture", None))]
        self._every, self._guard = check_every(every), guard
        self._samples = self._drawn_at = 0
        self._last: Snapshot | None = None

    def log(self, snapshot: Snapshot) -> None:
        """Takes a sample that was just logged, and draws it if it is time to."""
        self._samples += 1
        self._last = snapshot
        if is_due(self._samples, self._drawn_at, self._every):
            self._draw(snapshot)

    def finish(self) -> None:
        """Draws the last sample, unless it was, or nothing was trained."""
        if self._every and self._last is not None and self._last.step > 0 and self._drawn_at != self._samples:
            self._draw(self._last)

    def _draw(self, snapshot: Snapshot) -> None:
        self._drawn_at = self._samples
        for tracker in self._trackers:
            self._guard(f"drawing for {type(tracker).__name__}", tracker.picture, snapshot)
