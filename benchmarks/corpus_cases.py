"""The trainings that alerts are tried on, by name."""

from __future__ import annotations

from dataclasses import replace

from corpus_case import Case
from corpus_cases_more import faulty_too, healthy_too
from corpus_drawn import drawn
from corpus_evaluated_cases import evaluated
from corpus_evaluated_faults import EVALUATED_FAULTS
from corpus_faults import FAULTS, NEW, OLD, OLD_TOO
from corpus_fresh import again, fresh
from corpus_sides import UNSEEN


def _healthy() -> list[Case]:
    cases = [
        # The plain trainings of each family.
        *(
            Case("plain", family)
            for family in ("llama", "llama_gqa", "qwen3", "neox", "gpt2", "opt", "mixtral", "deepseek", "bert")
        ),
        *(
            Case("plain", family)
            for family in ("t5", "vit", "whisper", "wav2vec2", "nanogpt_tied", "nanogpt_zero", "plain", "clip")
        ),
        Case("plain", "gan", eta=3e-4, schedule="constant"),
        Case("plain", "mamba", steps=300),
        Case("plain", "llama_deep", eta=1e-3),
        *(
            Case("plain", family)
            for family in (
                "olmo2",
                "qwen2",
                "lfm2",
                "qwen3_moe",
                "gemma3",
                "gemma2",
                "falcon",
                "bloom",
                "phi3",
                "gptj",
                "stablelm",
                "cohere",
                "mpt",
                "starcoder2",
                "olmoe",
                "granite",
                "glm4",
                "mamba2",
                "smollm3",
                "nemotron",
                "gpt_oss",
                "jetmoe",
                "bamba",
                "roberta",
                "electra",
                "deberta",
                "albert",
                "distilbert",
                "modernbert",
                "t5_gated",
                "bart",
                "marian",
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
            )
        ),
        Case("fine-tuned", "minilm", eta=5e-5, schedule="linear", steps=120, batch=4, warmup=10, event="fine-tuning"),
        # Optimizers.
        Case("lion", "llama_tied", "lion", eta=3e-4, weight_decay=0.3),
        Case("lion", "vit", "lion", eta=2e-4),
        Case("muon", "llama", "muon", eta=2e-3),
        Case("moonlight", "llama_gqa", "moonlight", eta=2e-3),
        Case("moonlight", "gpt2", "moonlight", eta=4e-3, schedule="stable, then decay"),
        Case("adafactor", "t5", "adafactor", eta=1e-2, weight_decay=0.0),
        Case("own rate", "t5", "transformers adafactor", schedule="constant", weight_decay=0.0),
        Case("adafactor", "llama", "adafactor", eta=1e-2, weight_decay=0.0, schedule="constant"),
        Case("schedule-free", "llama", "schedule-free", schedule="constant"),
        Case("sgd", "llama", "sgd", eta=0.1),
        Case("sgd", "vit", "sgd", eta=0.05),
        Case("adamw95", "neox", "adamw95"),
        Case("adam", "opt", "adam"),
        Case("nadam", "llama", "nadam"),
        Case("adagrad", "bert", "adagrad", eta=1e-2),
        Case("lion", "bart", "lion", eta=2e-4),
        Case("lion", "phi3", "lion", eta=2e-4, weight_decay=1.0),
        Case("muon", "olmo2", "muon"),
        Case("moonlight", "qwen3_moe", "moonlight"),
        Case("moonlight", "dit", "moonlight", eta=1e-3),
        Case("adafactor", "marian", "adafactor", eta=1e-2, weight_decay=0.0),
        Case("own rate", "bart", "transformers adafactor", schedule="constant", weight_decay=0.0),
        Case("schedule-free", "falcon", "schedule-free", schedule="constant", eta=4e-3),
        Case("sgd", "swin", "sgd", eta=0.05),
        Case("adamw95", "granite", "adamw95", schedule="cosine to a tenth"),
        Case("amsgrad", "stablelm", "amsgrad"),
        Case("radam", "roberta", "radam", eta=1e-3),
        Case("rmsprop", "rl", "rmsprop", eta=3e-4, schedule="constant"),
        Case("adamax", "gptj", "adamax"),
        Case("ademamix", "starcoder2", "ademamix", eta=1e-3),
        Case("decay in the gradient", "bloom", "adam, decay in the gradient"),
        # Courses of η.
        Case("restarts", "llama_tied", schedule="restarts", warmup=10),
        Case("restarts", "t5", schedule="restarts", warmup=10),
        Case("tri-stage", "wav2vec2", schedule="tri-stage", warmup=60, steps=420),
        Case("long warm-up", "whisper", warmup=200, steps=420),
        Case("long warm-up", "llama_gqa", warmup=200),
        Case("stable, then decay", "qwen3", schedule="stable, then decay"),
        Case("constant", "gpt2", schedule="constant", weight_decay=0.0),
        Case("constant", "nanogpt_tied", schedule="constant", eta=1e-3),
        Case("re-warmed", "llama", schedule="re-warmed"),
        Case("no warm-up", "neox", warmup=1, clip=0.0),
        Case("drops", "vit", schedule="drops"),
        Case("low rate", "llama", eta=1e-5, schedule="constant"),
        Case("high rate", "llama_gqa", eta=8e-3),
        Case("long", "llama_gqa", steps=700, schedule="cosine to a tenth"),
        Case("restarts", "nanogpt", schedule="restarts", warmup=10),
        Case("restarts", "smollm3", schedule="restarts", warmup=10),
        Case("cyclic", "segformer", schedule="cyclic"),
        Case("tri-stage", "hubert", schedule="tri-stage", warmup=60, steps=420),
        Case("long warm-up", "bart", warmup=250, steps=420),
        Case("long warm-up", "dit", warmup=200),
        Case("stable, then decay", "gemma3", schedule="stable, then decay"),
        Case("constant", "mpt", schedule="constant", weight_decay=0.0),
        Case("inverse root", "marian", schedule="inverse root", warmup=100),
        Case("drops", "dinov2", schedule="drops"),
        Case("no warm-up", "beit", warmup=1, clip=0.0),
        Case("low rate", "electra", eta=1e-5, schedule="constant"),
        Case("high rate", "stablelm", eta=6e-3),
        Case("long", "smollm3", steps=700, schedule="cosine to a tenth"),
        # Ordinary events and settings.
        Case("bf16", "llama_gqa", dtype="bfloat16"),
        Case("bf16", "gpt2", dtype="bfloat16", eta=5e-4),
        Case("batch 1", "llama", batch=1),
        Case("batch 1", "t5", batch=1, clip=0.0),
        Case("dropout", "bert", dropout=True),
        Case("unfreezing", "bert", event="unfreezing"),
        Case("unfreezing", "vit", event="unfreezing"),
        Case("rates by layer", "opt", layout="by layer"),
        Case("one group", "gpt2", layout="one"),
        Case("embeddings apart", "llama", layout="embeddings apart"),
        Case("lora", "llama_gqa", event="lora"),
        Case("frozen embeddings", "neox", event="frozen embeddings"),
        Case("curriculum", "llama", event="curriculum", schedule="constant"),
        Case("accumulation", "qwen3", event="accumulation"),
        Case("uniform", "llama", event="uniform"),
        Case("strong decay", "nanogpt_zero", weight_decay=1.0, schedule="constant"),
        Case("bf16", "qwen2", dtype="bfloat16"),
        Case("bf16", "bart", dtype="bfloat16", eta=5e-4),
        Case("batch 1", "falcon", batch=1),
        Case("batch 1", "swin", batch=1),
        Case("dropout", "roberta", dropout=True),
        Case("dropout", "phi3", dropout=True),
        Case("unfreezing", "distilbert", event="unfreezing"),
        Case("unfreezing", "dinov2", event="unfreezing"),
        Case("rates by layer", "gptj", layout="by layer"),
        Case("one group", "starcoder2", layout="one"),
        Case("embeddings apart", "granite", layout="embeddings apart"),
        Case("lora", "phi3", event="lora"),
        Case("lora", "minilm", event="lora", eta=1e-3, steps=100, batch=4, warmup=10),
        Case("frozen embeddings", "cohere", event="frozen embeddings"),
        Case("curriculum", "smollm3", event="curriculum", schedule="constant"),
        Case("accumulation", "gemma2", event="accumulation"),
        Case("uniform", "glm4", event="uniform"),
        Case("strong decay", "qwen2", weight_decay=1.0, schedule="constant"),
        # More ordinary events.
        Case("jump", "llama", schedule="jump"),
        Case("jump", "vit", schedule="jump"),
        Case("jump", "opt", "lion", schedule="jump", eta=3e-4),
        Case("resumed", "gpt2", event="resumed"),
        Case("resumed", "t5", event="resumed", schedule="constant"),
        Case("unfreezing", "llama_gqa", event="unfreezing"),
        Case("jump", "falcon", schedule="jump"),
        Case("jump", "gemma3", schedule="jump"),
        Case("jump", "roberta", schedule="jump"),
        Case("resumed", "granite", event="resumed"),
        Case("resumed", "phi3", event="resumed", schedule="constant"),
        Case("unfreezing", "qwen2", event="unfreezing"),
        Case("unfreezing", "olmo2", event="unfreezing"),
        Case("restarts", "stablelm", schedule="restarts", warmup=10),
    ]
    return cases


def _faulty() -> list[Case]:
    first = (
        Case("faults", "llama", schedule="constant"),
        Case("faults", "gpt2"),
        Case("faults", "bert"),
        Case("faults", "t5"),
        Case("faults", "vit"),
        Case("faults", "llama_gqa", weight_decay=0.0),
        Case("faults", "nanogpt_tied", schedule="constant"),
        Case("faults, lion", "llama_gqa", "lion", eta=3e-4),
        Case("faults, moonlight", "opt", "moonlight"),
        Case("faults", "llama_deep", eta=1e-3),
    )
    others = (
        Case("faults", "phi3"),
        Case("faults", "falcon", schedule="constant"),
        Case("faults", "roberta"),
        Case("faults", "bart"),
        Case("faults", "swin"),
        Case("faults", "qwen3_moe", weight_decay=0.0),
        Case("faults", "gemma3", schedule="constant"),
        Case("faults, lion", "smollm3", "lion", eta=3e-4),
        Case("faults, muon", "olmo2", "muon"),
        Case("faults", "dit"),
        Case("faults", "mpt", eta=1e-3),
        Case("faults", "granite"),
    )
    later = (
        Case("more faults", "neox", schedule="constant"),
        Case("more faults", "llama_gqa"),
        Case("more faults", "vit", schedule="constant"),
        Case("more faults", "t5"),
        Case("more faults", "bert", schedule="constant"),
        Case("more faults", "opt"),
        Case("more faults", "llama", eta=1e-3),
        Case("more faults", "qwen3", schedule="constant"),
    )
    cases = []
    for n, case in enumerate(later):
        chosen = tuple([*OLD_TOO][(n * 7 + j) % len(OLD_TOO)] for j in range(7))
        cases.append(replace(case, strikes=(183, 127, 203, 155, 271)[n % 5], steps=500, faults=chosen))
    for n, case in enumerate(first):
        chosen = tuple([*OLD][(n * 7 + j) % len(OLD)] for j in range(7))
        cases.append(replace(case, strikes=(83, 127, 203, 155, 171)[n % 5], steps=400, faults=chosen))
    for n, case in enumerate(others):
        chosen = tuple([*NEW][(n * 9 + j) % len(NEW)] for j in range(9))
        cases.append(replace(case, strikes=(91, 137, 189, 203, 161)[n % 5], steps=400, faults=chosen))
    return cases


def cases() -> list[Case]:
    """All trainings; `corpus_sides` says which of them thresholds were chosen with."""
    written = [*_healthy(), *healthy_too(), *_faulty(), *faulty_too(), *evaluated()]
    return [*written, *_drawn({case.family for case in written}), *fresh(), *again()]


def _drawn(families: set[str]) -> list[Case]:
    """Trainings of all families that need nothing installed, with settings drawn at random."""
    chosen = sorted(families - {"minilm"})
    faults = [f for f in (*FAULTS, *EVALUATED_FAULTS) if f not in UNSEEN and f != "frozen by rounding"]
    return [*drawn(chosen, 7100, 200), *drawn(chosen, 7101, 80, list(dict.fromkeys(faults)), 4)]
