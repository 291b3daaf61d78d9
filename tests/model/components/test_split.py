"""Every layout of fused queries, keys and values is proven by what the parts do in tiny models, never by a name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tiny_models import CAUSAL, LLAMA_LIKE, base, causal, randomised
from torch import Tensor, nn
from transformers import BlipVisionConfig, BlipVisionModel

from weibull_monitor.model.components import Component, discover_components

POSITION = 3
ENCODER = {**LLAMA_LIKE, "cls_token_id": 1, "sep_token_id": 2}


@contextmanager
def softmaxes() -> Iterator[list[Tensor]]:
    """Collects what every softmax over four dimensions returns: the attention, where code computes it step by step."""
    seen: list[Tensor] = []
    originals = (torch.nn.functional.softmax, torch.softmax, Tensor.softmax)

    def recording(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*args: Any, **kwargs: Any) -> Tensor:
            result = function(*args, **kwargs)
            if result.dim() >= 3:
                seen.append(result.detach().clone())
            return result

        return call

    torch.nn.functional.softmax, torch.softmax = recording(originals[0]), recording(originals[1])
    Tensor.softmax = recording(originals[2])  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        torch.nn.functional.softmax, torch.softmax, Tensor.softmax = originals  # type: ignore[method-assign]


def attention(model: nn.Module, run: Callable[[nn.Module], Any]) -> Tensor:
    """The first attention that a run computes, as (positions that ask, heads, positions that are asked)."""
    with torch.no_grad(), softmaxes() as seen:
        run(model)
    first = seen[0]
    return first.reshape(-1, *first.shape[-2:]).transpose(0, 1)


def tokens(seed: int) -> Callable[[nn.Module], Any]:
    ids = torch.randint(3, 50, (1, 8), generator=torch.Generator().manual_seed(seed))
    return lambda model: model(input_ids=ids)


def parts(model: nn.Module, block: int | None = 0) -> dict[str, Component]:
    """The parts of the fused attention matrix of a block, by label."""
    return {
        c.part.label: c
        for c in discover_components(model)
        if c.part is not None and c.kind.startswith("attn_") and c.block == block
    }


@contextmanager
def erased(model: nn.Module, component: Component) -> Iterator[None]:
    assert component.part is not None
    parameter = dict(model.named_parameters())[component.parameter]
    before = parameter.detach().clone()
    component.part.select(parameter).zero_()
    try:
        yield
    finally:
        parameter.data.copy_(before)


@contextmanager
def erased_at(model: nn.Module, component: Component, position: int) -> Iterator[None]:
    """What the part makes is erased at one position only."""
    assert component.part is not None
    parameter = dict(model.named_parameters())[component.parameter]
    marks = torch.zeros_like(parameter)
    component.part.select(marks).fill_(1.0)
    owner = model.get_submodule(component.parameter.rpartition(".")[0])
    features = marks.flatten(1).any(1) if type(owner).__name__ != "Conv1D" else marks.any(0)

    def hook(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        output = output.clone()
        output[..., position, features.nonzero().flatten()] = 0.0
        return output

    handle = owner.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def rows_changed(model: nn.Module, run: Callable[[nn.Module], Any], component: Component) -> set[int]:
    """Which positions ask differently when a part is erased at `POSITION`."""
    before = attention(model, run)
    with erased_at(model, component, POSITION):
        after = attention(model, run)
    return {i for i in range(len(before)) if not torch.allclose(before[i], after[i], atol=1e-6)}


def assert_roles(model: nn.Module, runs: list[Callable[[nn.Module], Any]], found: dict[str, Component]) -> None:
    """A query decides how its own position asks, a key how others ask of it, and a value neither."""
    assert rows_changed(model, runs[0], found["q"]) == {POSITION}
    assert rows_changed(model, runs[0], found["k"]) > {POSITION}
    assert rows_changed(model, runs[0], found["v"]) == set()
    ones = [attention(model, run) for run in runs]
    assert not torch.allclose(*ones, atol=1e-3)
    for label in ("q", "k"):  # without queries, or without keys, the attention knows nothing of the input
        with erased(model, found[label]):
            assert torch.allclose(*[attention(model, run) for run in runs], atol=1e-6), label
    with erased(model, found["v"]):
        assert not torch.allclose(*[attention(model, run) for run in runs], atol=1e-3)
        output = next(c for c in discover_components(model) if c.kind == "attn_o" and c.block == found["v"].block)
        assert not output_input(model, runs[0], output).any()


def output_input(model: nn.Module, run: Callable[[nn.Module], Any], component: Component) -> Tensor:
    """What a matrix reads during a run."""
    seen: list[Tensor] = []
    owner = model.get_submodule(component.parameter.rpartition(".")[0])
    handle = owner.register_forward_pre_hook(lambda _module, args: seen.append(args[0].detach().clone()))
    try:
        with torch.no_grad():
            run(model)
    finally:
        handle.remove()
    return seen[0]


@pytest.mark.parametrize("name", CAUSAL)
def test_queries_keys_and_values_of_decoders(name: str) -> None:
    model = causal(name)
    found = parts(model)
    assert sorted(found) == ["k", "q", "v"]
    assert_roles(model, [tokens(1), tokens(2)], found)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (
            "modernbert",
            {**ENCODER},
        ),
        (
            "deberta",
            {**ENCODER, "relative_attention": False},
        ),
    ],
)
def test_queries_keys_and_values_of_encoders(kind: str, arguments: dict[str, Any]) -> None:
    model = base(kind, **arguments)
    for module in model.modules():  # DeBERTa adds biases of its own to queries and values
        for bias in ("q_bias", "v_bias"):
            if hasattr(module, bias):
                getattr(module, bias).data.zero_()
    assert_roles(model, [tokens(1), tokens(2)], parts(model))


def test_queries_keys_and_values_of_pixels() -> None:
    arguments = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "image_size": 16,
        "patch_size": 8,
    }
    config = BlipVisionConfig(**arguments)
    model = randomised(BlipVisionModel._from_config(config, attn_implementation="eager"))

    def pixels(seed: int) -> Callable[[nn.Module], Any]:
        image = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
        return lambda m: m(pixel_values=image)

    assert_roles(model, [pixels(1), pixels(2)], parts(model))


def test_torch_multi_head_attention() -> None:
    attention_module = randomised(nn.ModuleDict({"attn": nn.MultiheadAttention(32, 4, bias=False, batch_first=True)}))
    found = {c.part.label: c for c in discover_components(attention_module) if c.part is not None}

    def weights(x: Tensor) -> Tensor:
        with torch.no_grad():
            return attention_module["attn"](x, x, x, average_attn_weights=False)[1]

    one, two = torch.randn(1, 6, 32), torch.randn(1, 6, 32)
    assert not torch.allclose(weights(one), weights(two))
    for label, blind in (("q", True), ("k", True), ("v", False)):
        with erased(attention_module, found[label]):
            assert torch.allclose(weights(one), weights(two), atol=1e-6) is blind, label
    with erased(attention_module, found["v"]), torch.no_grad():
        assert not attention_module["attn"](one, one, one)[0].any()


def test_keys_and_values_made_of_a_latent() -> None:
    model = base(
        "deepseek_v3",
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_nope_head_dim=8,
        qk_rope_head_dim=4,
        v_head_dim=12,
        first_k_dense_replace=1,
    )
    found = parts(model)
    assert found["k"].shape == (32, 16)
    assert found["v"].shape == (48, 16)
    assert rows_changed(model, tokens(1), found["k"]) > {POSITION}
    assert rows_changed(model, tokens(1), found["v"]) == set()
    with erased(model, found["v"]):
        output = next(c for c in discover_components(model) if c.kind == "attn_o")
        assert not output_input(model, tokens(1), output).any()


def test_an_output_gate_that_is_stored_with_the_queries() -> None:
    model = base(
        "qwen3_next",
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        layer_types=["full_attention"],
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_experts=2,
        num_experts_per_tok=1,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        decoder_sparse_step=5,
    )
    found = parts(model)
    assert {found[label].kind for label in ("q", "gate")} == {"attn_q", "attn_gate"}
    assert rows_changed(model, tokens(1), found["q"]) == {POSITION}
    assert rows_changed(model, tokens(1), found["gate"]) == set()
    output = next(c for c in discover_components(model) if c.kind == "attn_o")
    before = output_input(model, tokens(1), output)
    with erased(model, found["gate"]):  # the sigmoid of nothing is a half everywhere
        half = output_input(model, tokens(1), output)
    assert not torch.allclose(before, half, atol=1e-3)
    with erased(model, found["q"]):
        assert torch.allclose(attention(model, tokens(1)), attention(model, tokens(2)), atol=1e-6)


def test_what_names_do_not_show_stays_whole() -> None:
    """Rows by heads or groups, and a gate and up-projection whose name does not say which is first."""
    layout: list[dict[str, dict[str, tuple[int, int]]]] = [
        {"attention": {"query_key_value": (32, 96), "dense": (32, 32)}, "mlp": {"Wi": (32, 96), "Wo": (48, 32)}},
        {"attention": {"wqkv": (32, 64), "wo": (32, 32)}, "mlp": {"gate_up_proj": (32, 96), "down_proj": (48, 32)}},
        {"attention": {"qkv": (32, 96), "proj": (32, 32)}, "mlp": {"up_gate_proj": (32, 96), "down_proj": (48, 32)}},
    ]
    blocks = [
        nn.ModuleDict(
            {u: nn.ModuleDict({n: nn.Linear(*size) for n, size in unit.items()}) for u, unit in block.items()}
        )
        for block in layout
    ]
    found = discover_components(nn.ModuleDict({"layers": nn.ModuleList(blocks)}), example_inputs=False)
    fused = [c for c in found if c.kind in ("attn_qkv", "ffn_gate_up")]
    assert len(fused) == 6
    parts = {c.parameter: [p.part.label for p in found if p.part and p.parameter == c.parameter] for c in fused}
    assert parts == {
        "layers.0.attention.query_key_value.weight": [],
        "layers.0.mlp.Wi.weight": [],
        "layers.1.attention.wqkv.weight": [],
        "layers.1.mlp.gate_up_proj.weight": ["gate", "up"],
        "layers.2.attention.qkv.weight": ["q", "k", "v"],
        "layers.2.mlp.up_gate_proj.weight": ["up", "gate"],
    }


@pytest.mark.parametrize("name", ["gpt_neox", "falcon groups", "falcon one key", "gpt2", "phi3 unequal", "codegen"])
def test_every_head_is_the_one_that_the_attention_calls_so(name: str) -> None:
    """Erasing query head h changes head h of the attention and no other; erasing a key head changes the heads that share it."""
    model = causal(name)
    components = discover_components(model, resolution="head")
    before = attention(model, tokens(1))  # (asks, heads, asked)
    heads = before.shape[1]
    queries = [c for c in components if c.part is not None and c.part.within == "q"]
    keys = [c for c in components if c.part is not None and c.part.within == "k"]
    assert len(queries) == heads
    assert heads % len(keys) == 0
    for shared, group in ((1, queries), (heads // len(keys), keys)):
        for index, component in enumerate(group):
            assert component.part is not None
            assert component.part.label.endswith(f"head {index}")
            with erased(model, component):
                after = attention(model, tokens(1))
            changed = [h for h in range(heads) if not torch.allclose(before[:, h], after[:, h], atol=1e-6)]
            assert changed == list(range(index * shared, (index + 1) * shared))


def test_heads_of_matrices_that_are_stored_apart() -> None:
    model = base("llama", **CAUSAL["phi3 unequal"][1])
    components = discover_components(model, resolution="head")
    by_kind: dict[str, list[Component]] = {}
    for component in components:
        if component.part is not None:
            by_kind.setdefault(component.kind, []).append(component)
    assert {kind: len(found) for kind, found in by_kind.items()} == {"attn_q": 4, "attn_k": 2, "attn_v": 2, "attn_o": 4}
    output = next(c for c in components if c.kind == "attn_o" and c.part is None)
    parameters = dict(model.named_parameters())
    value = by_kind["attn_v"][1]  # read by query heads 2 and 3, so by columns 16 to 31 of the output projection
    before = output_input(model, tokens(1), output)
    with erased(model, value):
        after = output_input(model, tokens(1), output)
    changed = (before != after).any(0).any(0).nonzero().flatten()
    columns = torch.zeros_like(parameters[output.parameter])
    for component in by_kind["attn_o"][2:]:
        assert component.part is not None
        component.part.select(columns).fill_(1.0)
    assert changed.tolist() == columns.any(0).nonzero().flatten().tolist()
