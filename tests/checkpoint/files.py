"""Checkpoints of a small model in every format, made with the libraries that users make them with."""

from __future__ import annotations

import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForSeq2SeqLM

SMALL: dict[str, Any] = {
    "vocab_size": 48,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {**SMALL, "tie_word_embeddings": True},
    "gpt_neox": SMALL,
    "gpt2": {"vocab_size": 48, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2},
    "mixtral": {**SMALL, "num_local_experts": 3},
    "qwen3_moe": {**SMALL, "num_experts": 3, "moe_intermediate_size": 16, "head_dim": 8},
    "gpt_oss": {**SMALL, "num_local_experts": 3, "head_dim": 8},
    "t5": {"vocab_size": 48, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4},
}


def small(kind: str = "llama", dtype: torch.dtype = torch.float32) -> nn.Module:
    """A small model with weights of a known distribution, a Student t, of which every matrix has another scale."""
    config = CONFIG_MAPPING[kind](**CONFIGS[kind])
    auto = AutoModelForSeq2SeqLM if kind == "t5" else AutoModelForCausalLM
    model = auto.from_config(config)
    generator = torch.Generator().manual_seed(len(kind))
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            values = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(values * (1 + values.square() / 9) * 0.02 * (1 + number % 7))
    return model.to(dtype)


def save_dcp(state: dict[str, Any], path: Path) -> Path:
    """A distributed checkpoint, saved by one process."""
    import torch.distributed.checkpoint as dcp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(state, checkpoint_id=path)
    return path


def most_memory(function: Callable[[], object]) -> float:
    """MiB that Python's own objects took at most. Slow: ten times the time."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1] / (1 << 20)
    finally:
        tracemalloc.stop()
