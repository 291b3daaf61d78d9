"""Which trainings thresholds were chosen with, and which are evaluated only."""

from __future__ import annotations

from typing import Final, Literal

from corpus_fresh_faults import FRESH_INDIRECT, FRESH_UNSEEN
from corpus_unseen_faults import UNSEEN_INDIRECT, UNSEEN_SAME

Side = Literal["chosen with", "evaluated"]
SIDES: Final[tuple[Side, ...]] = ("chosen with", "evaluated")
EVALUATED: Final = ("drawn unseen 13 ", "drawn unseen 14 ")
"""How the names of cases begin that are evaluated only. Thresholds were chosen with all others."""
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
        *UNSEEN_INDIRECT,
    )
)
"""Faults that write to no matrix, rate or state of an optimizer: they change what is learned from."""
UNSEEN: Final = frozenset(
    (
        "transposed",
        "signs flipped",
        "rows permuted",
        "sign bit lost",
        "shifted by an element",
        *FRESH_UNSEEN,
        *UNSEEN_SAME,
    )
)
"""Faults that leave the distribution of |w| exactly as it was."""


def side(name: str) -> Side:
    """The side of a case, by its name."""
    return "evaluated" if name.startswith(EVALUATED) else "chosen with"
