"""Which families thresholds were chosen with, and which are evaluated only.

The division was written down before a training of the second side was replayed. A family belongs to one side only.
"""

from __future__ import annotations

from typing import Final, Literal

from corpus_fresh_faults import FRESH_INDIRECT, FRESH_UNSEEN

Side = Literal["chosen with", "evaluated"]
SIDES: Final[tuple[Side, ...]] = ("chosen with", "evaluated")
EVALUATED: Final = frozenset(
    (  # noqa: SIM905
        "minimax ministral mistral mixer mobilebert mobilevit modernbert_decoder moonshine mvp nemotron_h neox_japanese "
        "nystromformer olmo olmo3 patchtsmixer pegasus_x perceiver phi plbart preferences prelayernorm qwen2_moe "
        "qwen3_next recurrent registers regnet rembert resnet retention seed_oss sequences sew siglip siglip_vision "
        "spectra speech_to_text squeezed swiftformer switch taught time_series timesformer unet unispeech videomae "
        "vit_mae vivit wavlm wide_convolutions xlm zamba2"
    ).split()
)
"""Families that are evaluated only. Thresholds were chosen with all others.

The families from a to l of `corpus_evaluated_cases` stood here, too, until the first look.
"""
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
