"""The largest singular values of W_qᵀW_k against torch's own decomposition."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from weibull_monitor.measure.spectral import attention_singular_values, largest_singular_values

SMALL = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
SMALL |= {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}


@torch.no_grad()
def exact(query: Tensor, key: Tensor, heads: int = 4) -> list[float]:
    """By `torch.linalg.svd` in float64, of W_q and W_k as (outputs, inputs)."""
    size = len(query) // heads
    shared = heads * size // len(key)
    out = []
    for h in range(heads):
        q = query[h * size : (h + 1) * size].double()
        k = key[h // shared * size : (h // shared + 1) * size].double()
        out.append(float(torch.linalg.svd(q.T @ k).S[0]))
    return out


def with_a_large_direction(model: nn.Module) -> nn.Module:
    """As training makes matrices: one direction stands out."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() == 2:
                p += 0.3 * torch.randn(p.shape[0], 1) @ torch.randn(1, p.shape[1])
    return model


@pytest.mark.parametrize(
    ("kind", "more", "of"),
    [
        ("llama", {"num_key_value_heads": 2}, lambda a: (a.q_proj.weight, a.k_proj.weight)),  # grouped queries
        ("phi3", {"num_key_value_heads": 2}, lambda a: a.qkv_proj.weight.split([32, 16, 16])[:2]),  # fused, grouped
        (
            "gpt_neox",
            {},
            lambda a: a.query_key_value.weight.view(4, 3, 8, 32)[:, :2].transpose(0, 1).reshape(2, 32, 32),
        ),
    ],
)
def test_of_each_head_whatever_the_storage(kind: str, more: dict[str, Any], of: Any) -> None:
    model = with_a_large_direction(AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**SMALL, **more)))
    found = attention_singular_values(model)
    attentions = [m for n, m in model.named_modules() if n.endswith(("self_attn", "attention"))]
    assert len(found) == len(attentions) == 2
    for values, attention in zip(found.values(), attentions, strict=True):
        assert values == pytest.approx(exact(*of(attention)), rel=1e-3)


def test_columns_of_conv1d() -> None:
    config = CONFIG_MAPPING["gpt2"](n_embd=32, n_layer=1, n_head=4, vocab_size=40, n_positions=16)
    model = with_a_large_direction(AutoModelForCausalLM.from_config(config))
    query, key, _ = model.transformer.h[0].attn.c_attn.weight.t().split(32)
    assert attention_singular_values(model) == {
        "transformer.h.0.attn.c_attn.weight[q]": pytest.approx(exact(query, key), rel=1e-3)
    }


def test_random_matrices_dead_heads_and_the_random_state() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(8, 64, 512, generator=generator), torch.randn(8, 64, 512, generator=generator)
    truth = torch.linalg.matrix_norm(query.transpose(1, 2) @ key, ord=2)
    before = torch.get_rng_state()
    found = largest_singular_values(query.bfloat16(), key)
    assert torch.equal(torch.get_rng_state(), before)
    assert (found / truth - 1).abs().max() < 0.02
    assert (found <= truth * 1.003).all()  # too few iterations give too low a value
    query[3] = 0.0
    assert largest_singular_values(query, key)[3] == 0.0
    with pytest.raises(ValueError, match="8 query heads cannot share 3"):
        largest_singular_values(query, key[:3])
