"""Which families thresholds were chosen with, and which are evaluated only.

The division was written down before a training of the second side was replayed. A family belongs to one side only.
"""

from __future__ import annotations

from typing import Final, Literal

from corpus_fresh import FRESH
from corpus_fresh_faults import FRESH_INDIRECT, FRESH_UNSEEN

Side = Literal["chosen with", "evaluated"]
SIDES: Final[tuple[Side, ...]] = ("chosen with", "evaluated")
EVALUATED: Final = frozenset(FRESH)
"""Families that are evaluated only. Thresholds were chosen with all others."""
INDIRECT: Final = frozenset(
    (
        "labels all one token",
        "label noise",
        "scrambled tokens",
        "LayerNorm gains × 10",
        "gradient of q × 50",
        "loss scale left in",
        "a bucket summed over 8 ranks",
        "gradients of two layers exchanged",
        "targets one too late",
        *FRESH_INDIRECT,
    )
)
"""Faults that write to no matrix, rate or state of an optimizer: they change what is learned from."""
UNSEEN: Final = frozenset(
    ("transposed", "signs flipped", "rows permuted", "sign bit lost", "shifted by an element", *FRESH_UNSEEN)
)
"""Faults that leave the distribution of |w| exactly as it was."""


def side(family: str) -> Side:
    return "evaluated" if family in EVALUATED else "chosen with"
