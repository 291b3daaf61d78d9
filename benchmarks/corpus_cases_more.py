"""Trainings that were added to those of `corpus_cases` later; thresholds were chosen with them, too."""

from __future__ import annotations

from dataclasses import replace

from corpus_case import Case
from corpus_faults import LAST, NEW


def healthy_too() -> list[Case]:
    """Healthy ones."""
    return [
        # Of the kind that stands still for a while and then learns.
        Case("plain", "blenderbot"),
        Case("constant", "blenderbot", schedule="constant", eta=1e-3),
        Case("long warm-up", "blenderbot", warmup=120, eta=3e-3, steps=420),
        Case("plain", "umt5", schedule="constant"),
        Case("stable, then decay", "plain", schedule="stable, then decay", eta=1e-3, steps=420),
        Case("late", "whisper", eta=1e-3, schedule="constant", steps=420),
        # Others.
        Case("plain", "mbart"),
        Case("plain", "gpt_bigcode"),
        Case("linear", "glm", schedule="linear", warmup=10),
        Case("plain", "prophetnet"),
        Case("plain", "ijepa"),
        Case("adamw95", "persimmon", "adamw95", eta=3e-3, schedule="stable, then decay"),
        Case("plain", "data2vec"),
        Case("jump", "cohere2", schedule="jump"),
        Case("constant", "codegen", schedule="constant"),
        Case("plain", "phimoe"),
        Case("lion", "vit_msn", "lion", eta=2e-4),
        Case("plain", "roformer"),
        Case("plain", "gpt_neo"),
        Case("plain", "pegasus", schedule="constant"),
        Case("resumed", "ernie4_5", event="resumed"),
        Case("moonlight", "hunyuan", "moonlight"),
        Case("plain", "mpnet", schedule="linear"),
        Case("plain", "data2vec_vision"),
        Case("unfreezing", "xglm", event="unfreezing"),
        Case("plain", "recurrent_gemma", steps=200),
        Case("no warm-up", "biogpt", warmup=1, clip=0.0),
        Case("plain", "swinv2"),
        Case("plain", "fnet"),
        Case("restarts", "exaone4", schedule="restarts", warmup=10),
        Case("long warm-up", "m2m", warmup=150, eta=3e-3),
        Case("plain", "convbert"),
        Case("plain", "pvt"),
        Case("plain", "granitemoe", schedule="linear"),
        Case("bf16", "ernie4_5", dtype="bfloat16"),
        Case("batch 1", "persimmon", batch=1),
        Case("plain", "squeezebert"),
        Case("plain", "poolformer"),
        Case("dropout", "megatron", dropout=True),
        Case("rates by layer", "ijepa", layout="by layer"),
        Case("lora", "codegen", event="lora", eta=4e-3),
        Case("accumulation", "gpt_neo", event="accumulation"),
        Case("embeddings apart", "biogpt", layout="embeddings apart"),
        Case("muon", "gpt_bigcode", "muon"),
        Case("high rate", "glm", eta=6e-3),
        Case("inverse root", "mbart", schedule="inverse root", warmup=80),
        Case("strong decay", "exaone4", weight_decay=1.0, schedule="constant"),
    ]


def faulty_too() -> list[Case]:
    """Faulty ones."""
    chosen = (
        Case("faults", "persimmon"),
        Case("faults", "vit_msn", schedule="constant"),
        Case("faults", "glm", schedule="linear"),
        Case("faults", "data2vec", eta=1e-3),
        Case("faults", "mbart"),
        Case("faults", "gpt_neo", schedule="stable, then decay"),
        Case("faults", "ernie4_5", "adamw95"),
    )
    new = list(NEW)
    names = [name for pair in zip(new[::3], LAST, strict=True) for name in pair] + [*new[1::3], *new[2::3]]
    return [
        replace(
            case,
            strikes=(113, 167, 97, 233, 141)[n % 5],
            steps=400,
            faults=tuple(names[(n * 8 + j) % len(names)] for j in range(8)),
        )
        for n, case in enumerate(chosen)
    ]
