"""Models whose matrices have given shapes: Weibull quantiles, so that the fit gives those shapes back without noise."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from weibull_monitor.model.components import Component, discover_components


def llama(heads: int = 8, key_value_heads: int = 2, blocks: int = 3, kind: str = "llama") -> nn.Module:
    """A small Llama-like model: W_q, W_k and W_v apart, a gated feed-forward block."""
    config = CONFIG_MAPPING[kind](
        vocab_size=64,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        head_dim=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return AutoModelForCausalLM.from_config(config)


def neox(blocks: int = 3) -> nn.Module:
    """A small GPT-NeoX: W_q, W_k and W_v in one matrix, a plain feed-forward block, as Pythia has them."""
    config = CONFIG_MAPPING["gpt_neox"](
        vocab_size=64, hidden_size=128, intermediate_size=512, num_hidden_layers=blocks, num_attention_heads=8
    )
    return AutoModelForCausalLM.from_config(config)


@torch.no_grad()
def give_shapes(model: nn.Module, k: Mapping[str, float], scale: float = 0.02) -> nn.Module:
    """Fills the stored matrices of the kinds named with values of that shape."""
    parameters = dict(model.named_parameters())
    for component in discover_components(model):
        if component.part is None and component.kind in k:
            fill(parameters[component.parameter], k[component.kind], scale, seed=component.block or 0)
    return model


@torch.no_grad()
def fill(parameter: torch.Tensor, k: float, scale: float, seed: int = 0) -> None:
    """The quantiles of a Weibull distribution at (i − ½)/n, in random order and with random signs."""
    n = parameter.numel()
    rng = np.random.default_rng(seed)
    values = scale * (-np.log1p(-(np.arange(n) + 0.5) / n)) ** (1.0 / k)
    values = rng.permutation(values) * rng.choice([-1.0, 1.0], n)
    parameter.copy_(torch.from_numpy(values).reshape(parameter.shape))


def of_kind(model: nn.Module, kind: str) -> list[Component]:
    """The stored matrices of a kind, by block."""
    return [c for c in discover_components(model) if c.kind == kind and c.part is None]


def noise_of(shape: float, n: int) -> float:
    """Standard error of k at the normal anchor, from simulation."""
    return 1.137 * shape / math.sqrt(n)


@pytest.fixture
def small_models_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the small models of this file stand for the published ones, which have 70 million parameters or more."""
    monkeypatch.setattr("weibull_monitor.analysis.scope.MIN_PARAMETERS", 0)
