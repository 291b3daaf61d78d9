"""The trainings that are evaluated only: chosen, like the faults on them, before one of them was replayed."""

from __future__ import annotations

from dataclasses import replace

from corpus_case import Case
from corpus_evaluated_faults import EVALUATED_FAULTS

ALSO = (
    "W_k re-initialised",
    "block re-initialised",
    "flipped exponent bit",
    "η × 30 for q and k",
    "matrix × 1.5",
    "NaN in a matrix",
)
"""Faults that thresholds were chosen with, on other families."""


def evaluated() -> list[Case]:
    """All of them, those with faulty branches first."""
    return [*_faulty(), *_healthy()]


def _faulty() -> list[Case]:
    """Each fault is put into two of them, three faults into each."""
    chosen = (
        Case("faults", "gpt1", schedule="linear"),
        Case("faults", "mistral", "adamw95", eta=3e-3),
        Case("faults", "arcee", schedule="stable, then root"),
        Case("faults", "olmo", eta=1e-3),
        Case("faults", "apertus", schedule="constant", eta=1e-3),
        Case("faults", "gemma", schedule="one cycle", warmup=100),
        Case("faults", "seed_oss", "muon"),
        Case("faults", "helium", weight_decay=0.0),
        Case("faults", "ctrl", schedule="exponential"),
        Case("faults, sgd", "registers", "nesterov", eta=0.03, clip=0.0),
        Case("faults", "doge", schedule="constant", eta=1.5e-3),
        Case("faults", "phi", "nadam", eta=1e-3),
        Case("faults", "ministral", schedule="inverse root", warmup=50),
        Case("faults", "flex_olmo"),
        Case("faults", "deepseek_v2", schedule="stable, then decay"),
        Case("faults", "fused_gated", schedule="constant", eta=1e-3),
        Case("faults", "deit"),
        Case("faults", "xlm", schedule="linear", eta=1e-3),
        Case("faults", "eurobert", eta=3e-3),
        Case("faults", "mvp", schedule="constant"),
        Case("faults", "plbart", schedule="linear"),
        Case("faults", "spectra", eta=1e-3),
        Case("faults", "dinov3", "lion", eta=2e-4, weight_decay=0.5),
        Case("faults", "vivit", schedule="cosine to a tenth"),
        Case("faults", "diffllama", "adan", eta=1e-3),
        Case("faults", "longt5", weight_decay=0.3),
        Case("faults", "esm", schedule="halvings"),
        Case("faults", "led", eta=1e-3),
        Case("faults", "sequences", schedule="one cycle", warmup=80, eta=3e-3),
        Case("faults", "siglip"),
    )
    names = (*EVALUATED_FAULTS, *ALSO)
    return [
        replace(
            case,
            strikes=(87, 123, 181, 149, 111)[n % 5],
            steps=400,
            faults=tuple(names[(3 * n + j) % len(names)] for j in range(3)),
        )
        for n, case in enumerate(chosen)
    ]


def _healthy() -> list[Case]:
    return [
        # Decoders.
        Case("plain", "olmo3"),
        Case("moonlight", "qwen2_moe", "moonlight", eta=2e-3),
        Case("plain", "qwen3_next", steps=250),
        Case("linear", "minimax", schedule="linear", warmup=10),
        Case("one cycle", "dots1", schedule="one cycle", warmup=90, eta=4e-3),
        Case("plain", "glm4_moe", eta=1e-3),
        Case("constant", "bitnet", schedule="constant", eta=1e-3),
        Case("plain", "falcon_h1"),
        Case("plain", "zamba2", steps=250),
        Case("plain", "granitemoehybrid", schedule="stable, then root", steps=250),
        Case("adamw95", "nemotron_h", "adamw95"),
        Case("restarts", "modernbert_decoder", schedule="restarts", warmup=10),
        Case("no warm-up", "neox_japanese", warmup=1, clip=0.0),
        Case("adafactor", "arcee", "adafactor", eta=1e-2, weight_decay=0.0),
        Case("schedule-free", "gemma", "schedule-free", schedule="constant", eta=4e-3),
        Case("lion", "olmo", "lion", eta=3e-4, weight_decay=0.3),
        Case("long", "mistral", steps=700, schedule="cosine to a tenth"),
        # Encoders, and encoders with decoders.
        Case("plain", "mobilebert"),
        Case("lamb", "rembert", "lamb", eta=1e-2, weight_decay=0.01),
        Case("tri-stage", "big_bird", schedule="tri-stage", warmup=60, steps=420),
        Case("plain", "nystromformer", schedule="linear"),
        Case("plain", "funnel", eta=1e-3),
        Case("plain", "deberta_v1"),
        Case("plain", "longformer", schedule="square"),
        Case("high rate", "prelayernorm", eta=6e-3, warmup=60),
        Case("own rate", "switch", "transformers adafactor", schedule="constant", weight_decay=0.0),
        Case("long warm-up", "fsmt", warmup=200, steps=420),
        Case("plain", "pegasus_x"),
        # Images; models with batch norm are in training mode, as they have to be.
        Case("plain", "cvt", dropout=True),
        Case("plain", "focalnet"),
        Case("rmsprop", "mobilevit", "rmsprop", eta=1e-3, dropout=True),
        Case("plain", "hiera", schedule="halvings"),
        Case("nesterov", "regnet", "nesterov", eta=0.1, schedule="drops", warmup=5, dropout=True),
        Case("plain sgd", "resnet", "plain sgd", eta=0.2, dropout=True),
        Case("plain", "convnextv2", eta=4e-3),
        Case("plain", "swiftformer", dropout=True),
        Case("plain", "siglip_vision"),
        Case("plain", "levit", dropout=True, schedule="linear"),
        Case("adan", "videomae", "adan", eta=1e-3),
        Case("plain", "timesformer", steps=250),
        Case("plain", "vit_mae"),
        # Sound and series.
        Case("tri-stage", "wavlm", schedule="tri-stage", warmup=60),
        Case("plain", "sew"),
        Case("exponential", "unispeech", schedule="exponential", eta=1e-3),
        Case("plain", "conformer", eta=1e-3),
        Case("plain", "speech_to_text"),
        Case("ademamix", "moonshine", "ademamix", eta=1e-3),
        Case("plain", "informer", eta=1e-3),
        Case("plain", "autoformer", eta=1e-3, steps=250),
        Case("radam", "time_series", "radam", eta=1e-3),
        Case("plain", "patchtsmixer"),
        Case("plain", "decisions", schedule="constant", eta=1e-3),
        # Written by us.
        Case("plain", "retention"),
        Case("plain", "recurrent", schedule="constant"),
        Case("plain", "squeezed", eta=4e-3),
        Case("nesterov", "wide_convolutions", "nesterov", eta=0.05),
        Case("plain", "mixer"),
        Case("plain", "perceiver"),
        Case("plain", "unet", eta=1e-3),
        Case("plain", "preferences", eta=5e-4),
        Case("plain", "distilled"),
        Case("plain", "taught"),
        Case("plain", "coded", eta=1e-3),
        # Ordinary events.
        Case("trained before", "helium", event="trained before", eta=3e-4, schedule="linear", warmup=20),
        Case("trained before", "deit", event="trained before", eta=1e-3, schedule="constant"),
        Case("trained before, lion", "eurobert", "lion", event="trained before", eta=1e-4),
        Case("adapters", "seed_oss", event="adapters", eta=3e-3),
        Case("adapters", "mvp", event="adapters", eta=1e-3, schedule="linear"),
        Case("unfreezing", "esm", event="unfreezing"),
        Case("unfreezing", "dinov3", event="unfreezing", schedule="constant", eta=1e-3),
        Case("bf16", "ministral", dtype="bfloat16", eta=1e-3),
        Case("autocast", "phi", event="autocast"),
        Case("batch 1", "diffllama", batch=1),
        Case("larger batches", "apertus", event="larger batches", batch=4),
        Case("micro-batches", "doge", event="micro-batches", batch=4),
        Case("accumulation", "flex_olmo", event="accumulation"),
        Case("small clip", "gpt1", clip=0.05),
        Case("curriculum", "ctrl", event="curriculum", schedule="constant", eta=1e-3),
        Case("other inputs", "spectra", event="other inputs", schedule="constant", eta=1e-3),
        Case("other inputs", "speech_to_text", event="other inputs"),
        Case("resumed", "deepseek_v2", event="resumed"),
        Case("restored", "longt5", event="restored", schedule="constant", eta=1e-3),
        Case("jump", "led", schedule="jump"),
        Case("stairs", "plbart", schedule="stairs", warmup=5),
        Case("cyclic", "vivit", schedule="cyclic"),
        Case("re-warmed", "fused_gated", schedule="re-warmed"),
        Case("rates by layer", "registers", layout="by layer"),
        Case("embeddings apart", "sequences", layout="embeddings apart", weight_decay=0.3),
        Case("dropout", "xlm", dropout=True),
        Case("frozen embeddings", "olmo3", event="frozen embeddings"),
    ]
