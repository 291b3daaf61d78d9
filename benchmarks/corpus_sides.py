"""Which families thresholds were chosen with, and which are evaluated only.

The division was written down before a training of the second side was replayed. A family belongs to one side only.
"""

from __future__ import annotations

from typing import Final, Literal

Side = Literal["chosen with", "evaluated"]
SIDES: Final[tuple[Side, ...]] = ("chosen with", "evaluated")
EVALUATED: Final = frozenset(
    (  # noqa: SIM905
        # Decoders.
        "mistral gemma phi olmo olmo3 flex_olmo arcee apertus doge diffllama helium ministral minimax qwen2_moe qwen3_next "
        "dots1 glm4_moe deepseek_v2 seed_oss bitnet falcon_h1 zamba2 granitemoehybrid nemotron_h gpt1 ctrl "
        "modernbert_decoder neox_japanese "
        # Encoders, and encoders with decoders.
        "mobilebert rembert xlm big_bird nystromformer funnel deberta_v1 longformer esm eurobert prelayernorm "
        "led mvp plbart switch longt5 fsmt pegasus_x "
        # Images, sound, series.
        "registers cvt focalnet mobilevit hiera regnet resnet convnextv2 swiftformer deit dinov3 siglip_vision levit vivit "
        "videomae timesformer vit_mae spectra wavlm sew unispeech conformer speech_to_text moonshine informer autoformer "
        "time_series patchtsmixer siglip decisions "
        # Written by us.
        "fused_gated sequences retention recurrent squeezed wide_convolutions mixer perceiver unet preferences distilled "
        "taught coded"
    ).split()
)
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
    )
)
"""Faults that write to no matrix, rate or state of an optimizer: they change what is learned from."""
UNSEEN: Final = frozenset(("transposed", "signs flipped", "rows permuted", "sign bit lost", "shifted by an element"))
"""Faults that leave the distribution of |w| exactly as it was."""


def side(family: str) -> Side:
    return "evaluated" if family in EVALUATED else "chosen with"
