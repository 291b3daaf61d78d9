"""Tiny models of real architectures, each small enough to be built and run in milliseconds."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModel, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

COMMON = {"vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LLAMA_LIKE = {
    **COMMON,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}

CAUSAL: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt_neox": ("gpt_neox", LLAMA_LIKE),
    "gpt_neox_japanese": (
        "gpt_neox_japanese",
        {
            **COMMON,
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "intermediate_multiple_size": 2,
        },
    ),
    "bloom": ("bloom", {**COMMON, "hidden_size": 32, "n_layer": 1, "n_head": 4}),
    "falcon head by head": (
        "falcon",
        {**LLAMA_LIKE, "multi_query": False, "new_decoder_architecture": False, "alibi": False},
    ),
    "falcon one key": (
        "falcon",
        {**LLAMA_LIKE, "multi_query": True, "new_decoder_architecture": False, "alibi": False},
    ),
    "falcon groups": ("falcon", {**LLAMA_LIKE, "num_kv_heads": 2, "new_decoder_architecture": True, "alibi": False}),
    "gpt2": ("gpt2", {**COMMON, "n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 32}),
    "gpt_bigcode head by head": (
        "gpt_bigcode",
        {**COMMON, "n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 32, "multi_query": False},
    ),
    "gpt_bigcode one key": (
        "gpt_bigcode",
        {**COMMON, "n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 32, "multi_query": True},
    ),
    "codegen": ("codegen", {**COMMON, "n_embd": 32, "n_layer": 1, "n_head": 8, "n_positions": 32, "rotary_dim": 4}),
    "phi3 unequal": ("phi3", {**LLAMA_LIKE, "num_key_value_heads": 2}),
    "mpt": ("mpt", {**COMMON, "d_model": 32, "n_heads": 4, "n_layers": 1, "max_seq_len": 32, "expansion_ratio": 2}),
    "persimmon": ("persimmon", LLAMA_LIKE),
    "openai-gpt": ("openai-gpt", {**COMMON, "n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 32}),
}


def causal(name: str) -> nn.Module:
    """A causal language model by its name above, in evaluation mode, with large random weights and no biases."""
    kind, arguments = CAUSAL[name]
    return randomised(AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**arguments), attn_implementation="eager"))


def base(kind: str, **arguments: Any) -> nn.Module:
    """A model without a head, prepared in the same way."""
    return randomised(AutoModel.from_config(CONFIG_MAPPING[kind](**arguments), attn_implementation="eager"))


def llama(**sizes: Any) -> LlamaForCausalLM:
    """A Llama of two blocks that can be trained on bytes; the same weights whenever it is built."""
    torch.manual_seed(0)
    given = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2} | sizes
    given = {"vocab_size": 256, "max_position_embeddings": 64, "bos_token_id": None, "eos_token_id": None} | given
    return LlamaForCausalLM(LlamaConfig(**given))


@torch.no_grad()
def randomised(model: nn.Module) -> nn.Module:
    """Weights that make attention far from uniform; biases erased, so that an erased matrix gives exactly nothing."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and not name.endswith("bias"):
            parameter.normal_(std=0.4)
        elif name.endswith("bias"):
            parameter.zero_()
    return model.eval()
