"""Fused gates and experts of feed-forward blocks, proven by what the parts do in tiny models of the architectures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_models import CAUSAL, LLAMA_LIKE, base
from torch import Tensor

from weibull_monitor.model.components import discover_components


def is_affine(output: Callable[[], Tensor], view: Tensor) -> bool:
    """Whether an output depends on a part without an activation in between: from 0 to 1 it moves as from 1 to 2."""
    original = view.clone()
    results = []
    for factor in (0.0, 1.0, 2.0):
        view.copy_(original * factor)
        results.append(output())
    view.copy_(original)
    assert not torch.allclose(results[0], results[1], atol=1e-4)
    return torch.allclose(results[2] - results[1], results[1] - results[0], atol=1e-4)


GATED: dict[str, tuple[str, dict[str, Any]]] = {
    "phi3": ("phi3", {**CAUSAL["phi3 unequal"][1]}),
    "modernbert": (
        "modernbert",
        {**LLAMA_LIKE, "cls_token_id": 1, "sep_token_id": 2},
    ),
    "moonshine decoder: the gate comes second": (
        "moonshine",
        {
            "vocab_size": 50,
            "pad_token_id": 0,
            "hidden_size": 32,
            "intermediate_size": 48,
            "encoder_num_hidden_layers": 1,
            "decoder_num_hidden_layers": 1,
            "encoder_num_attention_heads": 4,
            "decoder_num_attention_heads": 4,
            "encoder_num_key_value_heads": 4,
            "decoder_num_key_value_heads": 4,
        },
    ),
}


@pytest.mark.parametrize("name", GATED)
def test_gate_and_up_of_a_fused_matrix(name: str) -> None:
    kind, arguments = GATED[name]
    model = base(kind, **arguments)
    components = discover_components(model)
    found = {c.part.label: c for c in components if c.part is not None and c.kind.startswith("ffn_")}
    parameter = dict(model.named_parameters())[found["gate"].parameter]
    block = model.get_submodule(found["gate"].parameter.rpartition(".")[0].rpartition(".")[0])
    x = torch.randn(1, 5, 32) * 0.3
    with torch.no_grad():
        for label, affine in (("up", True), ("gate", False)):
            part = found[label].part
            assert part is not None
            assert is_affine(lambda: block(x), part.select(parameter)) is affine, label


EXPERTS: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("mixtral", {**CAUSAL["phi3 unequal"][1], "num_local_experts": 3, "num_experts_per_tok": 1}),
    "gpt_oss: alternating, input first": (
        "gpt_oss",
        {**CAUSAL["phi3 unequal"][1], "head_dim": 8, "num_local_experts": 3, "num_experts_per_tok": 1},
    ),
    "aria: input first": (
        "aria_text",
        {**CAUSAL["phi3 unequal"][1], "moe_num_experts": 3, "moe_topk": 1, "moe_num_shared_experts": 1},
    ),
}


@pytest.mark.parametrize("name", EXPERTS)
def test_experts_and_their_gate_and_up(name: str) -> None:
    kind, arguments = EXPERTS[name]
    model = base(kind, **arguments)
    components = discover_components(model)
    gate_up = next(c for c in components if c.kind == "ffn_gate_up" and c.name.endswith("experts.gate_up_proj"))
    experts = model.get_submodule(gate_up.parameter.rpartition(".")[0])
    parameters = dict(model.named_parameters())
    found = {c.part.label: c for c in components if c.part is not None and "experts" in c.name}
    x = torch.randn(4, 32) * 0.3

    def output(expert: int) -> Tensor:
        with torch.no_grad():
            return experts(x, torch.full((4, 1), expert), torch.ones(4, 1)).clone()

    with torch.no_grad():
        for label, affine in (("expert 1, up", True), ("expert 1, gate", False)):
            component = found[label]
            assert component.expert == 1
            assert component.part is not None
            view = component.part.select(parameters[component.parameter])
            assert is_affine(lambda: output(1), view) is affine, label
            others = output(0)
            view.mul_(3.0)
            assert torch.equal(others, output(0)), "another expert has changed"
            view.div_(3.0)
        down = found["expert 2"]
        assert down.kind == "ffn_down"
        assert down.part is not None
        first, third = output(0), output(2)
        assert third.any()
        down.part.select(parameters[down.parameter]).zero_()
        assert torch.equal(first, output(0))
        assert not output(2).any()
