"""Which families and faults thresholds may be chosen with, which are evaluated, and which are held out.

The division was made before any of them was run. A family belongs to one side only, and so does a fault for calibration.
"""

from __future__ import annotations

from typing import Final

CALIBRATED: Final = frozenset(
    [
        "llama",
        "llama_gqa",
        "llama_deep",
        "llama_tied",
        "qwen3",
        "neox",
        "gpt2",
        "opt",
        "mixtral",
        "deepseek",
        "mamba",
        "bert",
        "t5",
        "vit",
        "whisper",
        "wav2vec2",
        "nanogpt_tied",
        "nanogpt_zero",
        "plain",
        "gan",
        "clip",
        "blenderbot",
        "umt5",
    ]
)
"""Families that thresholds may be chosen with."""
HELD_OUT: Final = frozenset(
    [
        *(
            "deberta",
            "swin",
            "dinov2",
            "beit",
            "segformer",
            "convnext",
            "hubert",
            "patchtst",
            "nanogpt",
            "dit",
            "rl",
            "minilm",
        ),
        *("rwkv", "gpt_bigcode", "phimoe", "granitemoe", "persimmon", "glm", "codegen", "gpt_neo", "cohere2", "biogpt"),
        *(
            "xglm",
            "exaone4",
            "hunyuan",
            "ernie4_5",
            "recurrent_gemma",
            "roformer",
            "data2vec",
            "mpnet",
            "fnet",
            "convbert",
        ),
        *("squeezebert", "megatron", "mbart", "pegasus", "m2m", "prophetnet", "pvt", "poolformer", "ijepa", "vit_msn"),
        *("data2vec_vision", "swinv2"),
    ]
)
"""Families that were first looked at when the rules were finished. All others are evaluated, and have been looked at."""
OLD: Final = (
    "η × 30 for q and k",
    "η × 30 for all",
    "W_q × 8",
    "W_k re-initialised",
    "block re-initialised",
    "head zeroed",
    "frozen by rounding",
    "λ_wd × 100",
    "Inf in a gradient",
    "random bytes",
    "zero bytes",
    "optimizer state lost",
    "gradient of q × 50",
    "LayerNorm gains × 10",
    "no gradient",
    "labels all one token",
    "label noise",
)
"""Faults that thresholds may be chosen with."""
OLD_TOO: Final = (
    "η × 15 for a matrix",
    "columns zeroed",
    "rows × 4",
    "low rank added",
    "five steps at η × 30",
    "second moment × 0.001",
    "matrix × 1.5",
    "matrix × 0.6",
    "normal instead of trained",
    "decay × −30",
    "half of the values noise",
    "3-bit rounding",
    "clipped at 1.2 σ",
    "a quarter from the start",
)
"""Those that were added to them later."""
NEW: Final = (
    "flipped exponent bit",
    "transposed",
    "η × 10 for a matrix",
    "momentum × 100",
    "rows zeroed",
    "feed-forward re-initialised",
    "stale weights",
    "another layer's weights",
    "cast to fp8",
    "NaN in a matrix",
    "dead layer",
    "noise added",
    "summed over ranks",
    "embedding corrupted",
    "matrix halved",
    "half of the columns × 3",
    "decay with the wrong sign",
    "one step at η × 100",
    "second moment lost",
    "4-bit rounding",
    "adapter merged twice",
    "clamped",
    "uniform instead of normal",
    "η is 0",
    "scrambled tokens",
    "wrong shard",
    "signs flipped",
    "rows permuted",
    "sparsified",
    "outliers in a matrix",
)
"""Faults that are evaluated only."""
LAST: Final = (
    "rows × 2",
    "a third from the start",
    "weights dropped out",
    "ternary",
    "one row × 100",
    "powers of 1.4",
    "matrix × 0.7",
    "merged with another layer",
    "gradient upside down",
    "one gradient × 1000",
)
"""Faults that were added last, and are tried in families that are held out only."""


INDIRECT: Final = frozenset(
    ("labels all one token", "label noise", "scrambled tokens", "LayerNorm gains × 10", "gradient of q × 50")
)
"""Faults that write to no matrix, rate or state of an optimizer: they change what is learned from."""
UNSEEN: Final = frozenset(("transposed", "signs flipped", "rows permuted"))
"""Faults that leave the distribution of |w| exactly as it was."""
