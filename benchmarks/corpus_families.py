"""The families of models that alerts are tried on: each is a small model, with batches to train it on."""

from __future__ import annotations

import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
)

BYTES, MASK, WINDOW, WIDTH = 256, 256, 32, 64
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Task:
    """A model and how to train it.

    Attributes:
        model: The model.
        loss: The loss of a batch.
        batch: Makes a batch of a size from a generator of random numbers.
        others: Models that are trained beside it and belong to the same training, such as a critic; they are part of ``model``.
    """

    model: nn.Module
    loss: Callable[[nn.Module, Batch], Tensor]
    batch: Callable[[torch.Generator, int], Batch]


@cache
def text() -> Tensor:
    """Python's standard library as bytes."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    return torch.frombuffer(
        bytearray(b"".join(file.read_bytes() for file in files)[:3_000_000]), dtype=torch.uint8
    ).long()


def windows(random: torch.Generator, size: int, length: int = WINDOW) -> Tensor:
    """Windows of the text, shape (size, length)."""
    data = text()
    at = torch.randint(len(data) - length, (size,), generator=random)
    return torch.stack([data[i : i + length] for i in at.tolist()])


def causal(random: torch.Generator, size: int) -> Batch:
    tokens = windows(random, size)
    return {"input_ids": tokens, "labels": tokens.clone()}


def short(random: torch.Generator, size: int) -> Batch:
    tokens = windows(random, size, 12)
    return {"input_ids": tokens, "labels": tokens.clone()}


def masked(random: torch.Generator, size: int) -> Batch:
    tokens = windows(random, size)
    hidden = torch.rand(tokens.shape, generator=random) < 0.15
    return {"input_ids": tokens.masked_fill(hidden, MASK), "labels": tokens.masked_fill(~hidden, -100)}


def translated(random: torch.Generator, size: int) -> Batch:
    """The task of sequence-to-sequence models: the same text backwards."""
    tokens = windows(random, size, WINDOW // 2)
    return {"input_ids": tokens, "labels": tokens.flip(1)}


@cache
def patterns(classes: int, channels: int, side: int) -> Tensor:
    smooth = torch.randn(classes, channels, side // 4, side // 4, generator=torch.Generator().manual_seed(7))
    return nn.functional.interpolate(smooth, scale_factor=4, mode="bilinear")


def images(random: torch.Generator, size: int, channels: int = 3, side: int = 32) -> tuple[Tensor, Tensor]:
    """Noisy images of ten patterns and their numbers, shapes (size, channels, side, side) and (size,)."""
    labels = torch.randint(10, (size,), generator=random)
    noise = torch.randn(size, channels, side, side, generator=random)
    return patterns(10, channels, side)[labels] + noise, labels


def pictures(random: torch.Generator, size: int) -> Batch:
    pixels, labels = images(random, size)
    return {"pixel_values": pixels, "labels": labels}


def own_loss(model: nn.Module, batch: Batch) -> Tensor:
    """The loss that models of transformers compute themselves."""
    loss: Tensor = model(**batch).loss
    return loss


NEUTRAL: Final = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None, "vocab_size": BYTES + 1}
LLAMA: Final = {
    **NEUTRAL,
    "hidden_size": WIDTH,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
GROUPED: Final = {**LLAMA, "num_key_value_heads": 2}
PLAIN: Final = {**LLAMA, "intermediate_size": 256}
HEAD: Final = {"head_dim": 16}
EXPERTS: Final = {"num_experts_per_tok": 2, "intermediate_size": 96}

DECODERS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "llama": ("llama", LLAMA),
    "llama_gqa": ("llama", GROUPED),
    "llama_deep": ("llama", {**GROUPED, "num_hidden_layers": 8, "hidden_size": 48, "intermediate_size": 96}),
    "llama_tied": ("llama", {**GROUPED, "tie_word_embeddings": True}),
    "qwen3": ("qwen3", {**GROUPED, **HEAD}),
    "qwen2": ("qwen2", GROUPED),
    "neox": ("gpt_neox", PLAIN),
    "gpt2": ("gpt2", {**NEUTRAL, "n_embd": WIDTH, "n_layer": 3, "n_head": 4, "n_positions": 64}),
    "opt": (
        "opt",
        {
            **NEUTRAL,
            "hidden_size": WIDTH,
            "ffn_dim": 256,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
            "word_embed_proj_dim": WIDTH,
        },
    ),
    "mixtral": ("mixtral", {**GROUPED, **EXPERTS, "num_local_experts": 4}),
    "deepseek": (
        "deepseek_v3",
        {
            **LLAMA,
            "num_key_value_heads": 4,
            "q_lora_rank": 32,
            "kv_lora_rank": 32,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 16,
            "v_head_dim": 16,
            "n_routed_experts": 4,
            "n_group": 1,
            "topk_group": 1,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 64,
            "first_k_dense_replace": 1,
        },
    ),
    "mamba": ("mamba", {**NEUTRAL, "hidden_size": WIDTH, "num_hidden_layers": 3, "state_size": 8}),
    "olmo2": ("olmo2", LLAMA),
    "lfm2": ("lfm2", {**GROUPED, "layer_types": ["conv", "full_attention", "conv"], "block_auto_adjust_ff_dim": False}),
    "qwen3_moe": ("qwen3_moe", {**GROUPED, **HEAD, **EXPERTS, "num_experts": 4, "moe_intermediate_size": 64}),
    "gemma3": (
        "gemma3_text",
        {
            **GROUPED,
            **HEAD,
            "query_pre_attn_scalar": 16,
            "sliding_window": 32,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "gemma2": ("gemma2", {**GROUPED, **HEAD, "query_pre_attn_scalar": 16, "sliding_window": 32}),
    "falcon": ("falcon", {**NEUTRAL, "hidden_size": WIDTH, "num_hidden_layers": 3, "num_attention_heads": 4}),
    "bloom": ("bloom", {**NEUTRAL, "hidden_size": WIDTH, "n_layer": 3, "n_head": 4}),
    "phi3": ("phi3", GROUPED),
    "gptj": ("gptj", {**NEUTRAL, "n_embd": WIDTH, "n_layer": 3, "n_head": 4, "n_positions": 64, "rotary_dim": 8}),
    "stablelm": ("stablelm", GROUPED),
    "cohere": ("cohere", GROUPED),
    "mpt": ("mpt", {"vocab_size": BYTES + 1, "d_model": WIDTH, "n_layers": 3, "n_heads": 4, "max_seq_len": 64}),
    "starcoder2": ("starcoder2", {**GROUPED, "intermediate_size": 256}),
    "olmoe": ("olmoe", {**GROUPED, **EXPERTS, "num_experts": 4}),
    "granite": ("granite", GROUPED),
    "glm4": ("glm4", {**GROUPED, **HEAD}),
    "mamba2": (
        "mamba2",
        {
            **NEUTRAL,
            "hidden_size": WIDTH,
            "num_hidden_layers": 2,
            "state_size": 16,
            "num_heads": 8,
            "head_dim": 16,
            "n_groups": 1,
            "chunk_size": 16,
        },
    ),
    "smollm3": ("smollm3", GROUPED),
    "nemotron": ("nemotron", GROUPED),
    "gpt_oss": ("gpt_oss", {**GROUPED, **EXPERTS, **HEAD, "num_local_experts": 4, "sliding_window": 32}),
    "jetmoe": (
        "jetmoe",
        {**GROUPED, "kv_channels": 16, "num_local_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 2},
    ),
    "bamba": (
        "bamba",
        {
            **GROUPED,
            "mamba_n_heads": 8,
            "mamba_d_head": 16,
            "mamba_n_groups": 1,
            "mamba_d_state": 16,
            "mamba_chunk_size": 16,
            "attn_layer_indices": [1],
        },
    ),
}
ENCODERS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "bert": ("bert", PLAIN),
    "roberta": ("roberta", {**PLAIN, "pad_token_id": 0, "max_position_embeddings": 80}),
    "electra": ("electra", {**PLAIN, "embedding_size": 32, "pad_token_id": 0}),
    "deberta": (
        "deberta-v2",
        {
            **PLAIN,
            "relative_attention": True,
            "position_buckets": 16,
            "pos_att_type": ["p2c", "c2p"],
            "pad_token_id": 0,
        },
    ),
    "albert": ("albert", {**PLAIN, "embedding_size": 32, "pad_token_id": 0}),
    "distilbert": (
        "distilbert",
        {"vocab_size": BYTES + 1, "dim": WIDTH, "n_layers": 3, "n_heads": 4, "hidden_dim": 256},
    ),
    "modernbert": (
        "modernbert",
        {**LLAMA, "pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "local_attention": 16},
    ),
}
BART: Final = {
    "vocab_size": BYTES + 1,
    "d_model": WIDTH,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 160,
    "decoder_ffn_dim": 160,
    "max_position_embeddings": 64,
    "decoder_start_token_id": 2,
}
T5: Final = {
    "vocab_size": BYTES + 1,
    "d_model": WIDTH,
    "d_kv": 16,
    "d_ff": 128,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}
SEQ2SEQ: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "t5": ("t5", {**T5, "d_ff": 160}),
    "t5_gated": ("t5", {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "bart": ("bart", BART),
    "marian": ("marian", {**BART, "pad_token_id": 0}),
}
SLOW: Final = frozenset(("mamba", "falcon_mamba", "jamba", "zamba", "rwkv"))
"""Decoders that take one token after another without their kernels: they get short texts."""
VIT: Final = {
    "hidden_size": WIDTH,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
VISION: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "vit": ("vit", VIT),
    "swin": (
        "swin",
        {"embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4, "image_size": 32, "patch_size": 4},
    ),
    "dinov2": (
        "dinov2",
        {
            "hidden_size": WIDTH,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "mlp_ratio": 2,
            "image_size": 32,
            "patch_size": 8,
        },
    ),
    "beit": ("beit", {**VIT, "use_relative_position_bias": True}),
    "segformer": (
        "segformer",
        {
            "hidden_sizes": [16, 32, 48, 64],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 2, 3, 4],
            "image_size": 32,
        },
    ),
    "convnext": (
        "convnext",
        {"hidden_sizes": [24, 48], "depths": [2, 2], "num_stages": 2, "patch_size": 4, "image_size": 32},
    ),
}


def _of_transformers(auto: Any, kind: str, arguments: dict[str, Any], batch: Any, **more: Any) -> Task:
    config = CONFIG_MAPPING[kind](**arguments, **more)
    try:
        model = auto.from_config(config, attn_implementation="eager")
    except (ValueError, TypeError):  # a model without attention
        model = auto.from_config(config)
    return Task(model, own_loss, batch)


def build(family: str) -> Task:
    """The task of a family; its weights come from torch's global random state."""
    import corpus_evaluated_text as later  # which import this module
    import corpus_families_more as more
    import corpus_fresh_text as fresh

    if row := (DECODERS | more.DECODERS | later.DECODERS | fresh.DECODERS).get(family):
        return _of_transformers(AutoModelForCausalLM, *row, short if family in SLOW else causal)
    if row := (ENCODERS | more.ENCODERS | later.ENCODERS | fresh.ENCODERS).get(family):
        return _of_transformers(AutoModelForMaskedLM, *row, masked)
    if row := (SEQ2SEQ | more.SEQ2SEQ | later.SEQ2SEQ | fresh.SEQ2SEQ).get(family):
        return _of_transformers(AutoModelForSeq2SeqLM, *row, translated)
    if row := (VISION | more.VISION | later.VISION | fresh.VISION).get(family):
        return _of_transformers(AutoModelForImageClassification, *row, pictures, num_labels=10)
    import corpus_evaluated_own
    import corpus_evaluated_senses
    import corpus_fresh
    import corpus_own

    own = corpus_own.OWN | corpus_evaluated_senses.SENSES | corpus_evaluated_own.OWN
    return (own | corpus_fresh.MADE)[family]()
