"""Which W_q meets which W_k, and the scale of attention that follows, against products of random vectors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from weibull_monitor.model.components import attention_pairs, attention_types, discover_components

SMALL = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 64}
LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 12,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 2,
}


def model_of(kind: str, **more: Any) -> nn.Module:
    transformers = pytest.importorskip("transformers", reason="needs the transformers extra")
    config = transformers.CONFIG_MAPPING[kind](**SMALL | {"pad_token_id": 0} | more)
    auto = transformers.AutoModelForMaskedLM if kind == "bert" else transformers.AutoModelForCausalLM
    made: nn.Module = auto.from_config(config)
    return made


def scales_of(model: nn.Module, resolution: str = "matrix") -> dict[tuple[int | None, int | None], float]:
    components = discover_components(model, resolution=resolution)  # type: ignore[arg-type]
    parameters = dict(model.named_parameters())

    def rms(name: str) -> float:
        (c,) = [c for c in components if c.name == name]
        weight = parameters[c.parameter]
        return float((c.part.select(weight) if c.part else weight).detach().square().mean().sqrt())

    pairs = attention_pairs(components, attention_types(model, components))
    return {(pair.block, pair.head): pair.scale(rms(pair.query), rms(pair.key)) for pair in pairs}


def measured(q: torch.Tensor, k: torch.Tensor, heads: int, keys: int, factor: float) -> float:
    """Standard deviation of the logits of random inputs: ``q`` and ``k`` are (out, in)."""
    chance = torch.Generator().manual_seed(0)
    x, y = (torch.randn(4000, w.shape[1], generator=chance) for w in (q, k))
    queries, made = (x @ q.T).view(4000, heads, -1), (y @ k.T).view(4000, keys, -1)
    made = made.repeat_interleave(heads // keys, dim=1)
    return float((queries * made).sum(-1).std() * factor)


@pytest.mark.parametrize(("kind", "more", "keys"), [("llama", {}, 4), ("llama", {"num_key_value_heads": 2}, 2)])
def test_it_is_the_size_of_a_logit_of_random_inputs(kind: str, more: dict[str, Any], keys: int) -> None:
    model = model_of(kind, **more)
    layer = model.model.layers[1].self_attn  # type: ignore[union-attr,index]
    expected = measured(layer.q_proj.weight.detach(), layer.k_proj.weight.detach(), 4, keys, 1 / math.sqrt(12))
    assert scales_of(model)[1, None] == pytest.approx(expected, rel=0.05)


def test_the_factor_of_the_model_counts() -> None:
    granite = model_of("granite", attention_multiplier=0.5)
    layer = granite.model.layers[0].self_attn  # type: ignore[union-attr,index]
    expected = measured(layer.q_proj.weight.detach(), layer.k_proj.weight.detach(), 4, 4, 0.5)
    assert scales_of(granite)[0, None] == pytest.approx(expected, rel=0.05)
    transformers = pytest.importorskip("transformers", reason="needs the transformers extra")
    t5 = transformers.T5Model(
        transformers.T5Config(d_model=48, d_kv=12, d_ff=64, num_layers=1, num_heads=4, vocab_size=64)
    )
    (first, *_) = attention_types(t5, discover_components(t5))
    assert first.logit_scale == pytest.approx(math.sqrt(12), rel=1e-5)  # it does not divide by √d_head


def test_fused_storage_and_heads() -> None:
    fused, apart = scales_of(model_of("gpt_neox"), "head"), scales_of(model_of("llama", num_key_value_heads=2), "head")
    assert set(fused) == set(apart) == {(block, head) for block in (0, 1) for head in (None, 0, 1, 2, 3)}
    assert all(0.5 < value / fused[0, None] < 2.0 for value in fused.values())
    one_key = scales_of(model_of("llama", num_key_value_heads=1), "head")
    assert set(one_key) == set(apart)


def test_latent_attention_takes_latents_as_inputs_and_keys_without_position() -> None:
    model = model_of("deepseek_v3", **LATENT)
    layer = model.model.layers[0].self_attn  # type: ignore[union-attr,index]
    q = layer.q_b_proj.weight.detach().view(4, 16, 24)[:, :8].reshape(32, 24)
    k = layer.kv_b_proj.weight.detach().view(4, 20, 16)[:, :8].reshape(32, 16)
    expected = measured(q, k, 4, 4, float(layer.scaling))
    assert scales_of(model)[0, None] == pytest.approx(expected, rel=0.15)  # few elements


def test_normalised_queries_have_no_scale() -> None:
    assert scales_of(model_of("qwen3", head_dim=12, num_key_value_heads=2)) == {}
