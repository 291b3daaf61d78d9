"""The models that are measured: built from configs, random bf16 weights made where they stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen3MoeConfig

from weibull_monitor.measure.reader.reader import ModelReader
from weibull_monitor.model.components.finder import Finder

SMALL = "124 M"
LARGE = "8 B"
STANDARD_DEVIATION = 0.02


@dataclass(frozen=True)
class Spec:
    """A model.

    Attributes:
        name: What it is called in tables.
        config: Makes its config.
        tiny: What is changed of it in a rehearsal.
        resolution: As `WeibullMonitor` takes it.
    """

    name: str
    config: Callable[..., Any]
    full: dict[str, Any]
    tiny: dict[str, Any]
    resolution: str = "auto"

    def settings(self, rehearsal: bool) -> Any:
        """The config."""
        return self.config(**(self.full | self.tiny if rehearsal else self.full))

    def build(self, device: torch.device, rehearsal: bool) -> nn.Module:
        """The model with bf16 weights from N(0, 0.02²), without a detour over the host's memory."""
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(self.settings(rehearsal)).to(torch.bfloat16)
        model = model.to_empty(device=device)
        model.tie_weights()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0.0, STANDARD_DEVIATION)
        return model.eval()


def gpt2(**settings: Any) -> GPT2Config:
    """GPT-2 without dropout."""
    return GPT2Config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False, **settings)


_LLAMA = {"tie_word_embeddings": False, "use_cache": False}
_TINY = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
_TINY_LLAMA = _TINY | {"num_key_value_heads": 1, "intermediate_size": 48}
_MOE = {
    "vocab_size": 151_936,
    "hidden_size": 2048,
    "num_hidden_layers": 24,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
    **_LLAMA,
}
_TINY_MOE = _TINY | {
    "num_key_value_heads": 1,
    "head_dim": 16,
    "num_experts": 2,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": 16,
}

MODELS = (
    Spec(LARGE, LlamaConfig, {
        "vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, **_LLAMA,
    }, _TINY_LLAMA),
    Spec(SMALL, gpt2, {}, {"vocab_size": 64, "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 32}),
    Spec("MoE", Qwen3MoeConfig, _MOE, _TINY_MOE),
    Spec("1.3 B", LlamaConfig, {
        "vocab_size": 32_000, "hidden_size": 2048, "intermediate_size": 5504, "num_hidden_layers": 24,
        "num_attention_heads": 16, "num_key_value_heads": 16, **_LLAMA,
    }, _TINY_LLAMA),
    Spec("MoE, each expert", Qwen3MoeConfig, _MOE, _TINY_MOE, resolution="matrix"),
)  # fmt: skip
"""The most important first: what the budget does not suffice for is left out."""


def spec(name: str) -> Spec:
    """A model by its name."""
    return next(one for one in MODELS if one.name == name)


def reader_of(model: nn.Module, resolution: str = "auto") -> ModelReader:
    """What reads a model as `WeibullMonitor` does with that resolution, ready to read."""
    reader = ModelReader(model, Finder(None, None, None, resolution))  # type: ignore[arg-type]
    reader.agree()
    return reader


def matrices(model: nn.Module) -> list[torch.Tensor]:
    """Its stored weight matrices, once each."""
    return [parameter.detach() for parameter in model.parameters() if parameter.dim() > 1]
