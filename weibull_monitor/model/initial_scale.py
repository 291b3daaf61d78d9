"""The distribution that a matrix is drawn from, as a value."""

from __future__ import annotations

from typing import NamedTuple


class InitialScale(NamedTuple):
    """The distribution that a matrix is drawn from.

    Attributes:
        kind: ``normal``, ``truncated`` or ``uniform``.
        scale: Its σ (before truncation), or the end of its interval ±b.
        cut: Where a truncated distribution ends, in σ; 0 for the others.
    """

    kind: str
    scale: float
    cut: float = 0.0
