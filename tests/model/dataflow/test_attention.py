"""Attention is known by what it does, however it is written and whatever its matrices are called."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from dataflow_models import (
    HEADS,
    INPUT,
    LIES,
    SIZE,
    WIDTH,
    Attend,
    Attention,
    Block,
    found,
    heads,
    kinds,
    linear,
    merged,
)
from torch import Tensor, nn
from torch.nn import functional as F

from weibull_monitor.model.components import attention_types, discover


def causal(q: Tensor) -> Tensor:
    return torch.full((q.shape[-2], q.shape[-2]), -math.inf).triu(1)


def rotated(x: Tensor) -> Tensor:
    angles = torch.arange(x.shape[-2])[:, None] * torch.arange(1, SIZE // 2 + 1).repeat(2)
    a, b = x.chunk(2, -1)
    return x * angles.cos() + torch.cat([-b, a], -1) * angles.sin()


def normed(x: Tensor) -> Tensor:
    return x * (x.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt()


def flex(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention(q, k, v)  # type: ignore[return-value]


WAYS: dict[str, Attend] = {
    "sdpa": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    "matmul": lambda q, k, v: ((q @ k.mT) / SIZE**0.5 + causal(q)).softmax(-1) @ v,
    "keys first": lambda q, k, v: (k @ q.mT).softmax(-2).mT @ v,
    "einsum": lambda q, k, v: torch.einsum("bhqk,bhkd->bhqd", torch.einsum("bhqd,bhkd->bhqk", q, k).softmax(-1), v),
    "sigmoid": lambda q, k, v: (q @ k.mT - 2.0).sigmoid() @ v,
    "soft cap and ALiBi": lambda q, k, v: (30 * torch.tanh(q @ k.mT / 30) - torch.arange(7)).softmax(-1) @ v,
    "rotated": lambda q, k, v: F.scaled_dot_product_attention(rotated(q), rotated(k), v),
    "normed": lambda q, k, v: (normed(q) @ normed(k).mT).softmax(-1) @ v,
    "masked by a value": lambda q, k, v: (q @ k.mT).masked_fill(torch.ones(7, 7).triu(1).bool(), -1e9).softmax(-1) @ v,
    "distances": lambda q, k, v: (-torch.cdist(q, k)).softmax(-1) @ v,
    "flex": flex,
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_writing_attention(way: str) -> None:
    assert kinds(Attention(WAYS[way])) == LIES


def test_all_of_it_is_known_by_use_and_says_why() -> None:
    components = found(Attention(WAYS["matmul"]))
    assert {c.evidence for c in components.values()} == {"use"}
    assert "softmax" in components["up"].because or "scores" in components["up"].because


@pytest.mark.parametrize("groups", [1, 2, HEADS])
@pytest.mark.parametrize("way", ["sdpa", "repeated"])
def test_how_heads_are_grouped(groups: int, way: str) -> None:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if way == "sdpa":
            return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        k, v = (t.repeat_interleave(HEADS // groups, 1) for t in (k, v))
        return F.scaled_dot_product_attention(q, k, v)

    model = Attention(attend, groups)
    seen = discover(model, example_inputs=INPUT)
    (one,) = attention_types(model, seen.components, seen.attention)
    sharing = {1: "MQA", 2: "GQA", HEADS: "MHA"}[groups]
    assert (one.sharing, one.query_heads, one.key_value_heads, one.head_size) == (sharing, HEADS, groups, SIZE)


@pytest.mark.parametrize(
    ("way", "norm", "hidden"), [("normed", True, False), ("matmul", False, True), ("sdpa", False, True)]
)
def test_norms_of_queries_and_hidden_keys_are_seen(way: str, norm: bool, hidden: bool) -> None:
    model = Attention(WAYS[way])
    model.q_norm = nn.Identity()  # a name that lies
    seen = discover(model, example_inputs=INPUT)
    (one,) = attention_types(model, seen.components, seen.attention)
    assert one.qk_norm is norm
    assert one.causal is hidden


@pytest.mark.parametrize(
    ("shape", "axis", "order"),
    [
        ((3, HEADS, SIZE), 0, "vqk"),  # one after the other
        ((HEADS, 3, SIZE), 1, "kqv"),  # head by head
        ((HEADS, SIZE, 3), 2, "qvk"),  # feature by feature
        ((SIZE, 3, HEADS), 1, "vkq"),
    ],
)
def test_fused_storage_in_odd_orders(shape: tuple[int, ...], axis: int, order: str) -> None:
    def run(block: nn.Module, x: Tensor) -> Tensor:
        parts = block.router(x).unflatten(-1, shape).unbind(axis + 2)
        as_heads = [
            p.transpose(1, 2) if shape.index(HEADS) < shape.index(SIZE) else p.permute(0, 3, 1, 2) for p in parts
        ]
        named = dict(zip(order, as_heads, strict=True))
        return block.mlp(merged(F.scaled_dot_product_attention(named["q"], named["k"], named["v"])))

    model = Block(run, router=linear(3 * HEADS * SIZE), mlp=linear(WIDTH, HEADS * SIZE))
    components = found(model)
    assert components["router"].kind == "attn_qkv"
    assert components["mlp"].kind == "attn_o"
    weight = torch.arange(3 * HEADS * SIZE * WIDTH).view(-1, WIDTH)
    rows = torch.arange(3 * HEADS * SIZE).view(shape)
    for n, role in enumerate(order):
        part = components[f"router[{role}]"]
        assert part.kind == f"attn_{role}"
        assert part.part is not None
        expected = weight[rows.select(axis, n).flatten()].flatten().sort()[0]
        assert torch.equal(part.part.select(weight).flatten().sort()[0], expected)


def test_erasing_the_rows_called_q_makes_all_scores_equal() -> None:
    def run(block: nn.Module, x: Tensor) -> Tensor:
        k, q, v = block.proj(x).unflatten(-1, (HEADS, 3, SIZE)).transpose(1, 2).unbind(3)
        block.scores = q @ k.mT  # type: ignore[assignment]
        return block.fc(merged(block.scores.softmax(-1) @ v))

    model = Block(run, proj=linear(3 * HEADS * SIZE), fc=linear(WIDTH, HEADS * SIZE))
    part = found(model)["proj[q]"].part
    assert part is not None
    with torch.no_grad():
        part.select(model.proj.weight).zero_()
        model(*INPUT)
    assert not model.scores.any()


def test_heads_of_fused_storage() -> None:
    def run(block: nn.Module, x: Tensor) -> Tensor:
        q, k, v = block.proj(x).unflatten(-1, (HEADS, 3, SIZE)).transpose(1, 2).unbind(3)
        return block.fc(merged(F.scaled_dot_product_attention(q, k, v)))

    components = found(Block(run, proj=linear(3 * HEADS * SIZE), fc=linear(WIDTH, HEADS * SIZE)), resolution="head")
    part = components["proj[k, head 2]"].part
    assert part is not None
    weight = torch.arange(3 * HEADS * SIZE * WIDTH).view(HEADS, 3, SIZE, WIDTH)
    assert torch.equal(part.select(weight).flatten(), weight[2, 1].flatten())


def test_cross_attention_is_where_keys_come_from_another_stream() -> None:
    class Cross(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = linear(WIDTH), linear(WIDTH, 10)
            self.self_attn = nn.ModuleDict({n: linear(WIDTH) for n in ("w", "x", "y", "z")})

        def forward(self, x: Tensor, memory: Tensor) -> Tensor:
            x, memory = self.a(x), self.b(memory)
            m = self.self_attn
            y = F.scaled_dot_product_attention(heads(m["w"](x)), heads(m["x"](memory)), heads(m["y"](memory)))
            return x + m["z"](merged(y))

    seen = kinds(Cross(), (INPUT[0], torch.randn(2, 5, 10)))
    assert [seen[f"self_attn.{n}"] for n in "wxyz"] == ["cross_attn_q", "cross_attn_k", "cross_attn_v", "cross_attn_o"]


def compressed(block: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Keys of one position each, and a last one of which several positions are the gated mean (DeepSeek-V4)."""
    pooled = (block.e(x) * block.f(x).softmax(1)).sum(1, keepdim=True)
    return x, torch.cat([block.b(x), pooled], 1)


def by_position(block: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Keys that are multiplied with something else that the same position makes (Inkling 2)."""
    return x, block.b(x) * block.e(x)


def pooled_queries(block: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Queries that are means over positions (Funnel)."""
    return F.avg_pool2d(x[:, None], (2, 1), (2, 1), ceil_mode=True)[:, 0], block.b(x)


@pytest.mark.parametrize("keys", [compressed, by_position, pooled_queries])
@pytest.mark.parametrize("other", [False, True])
def test_keys_made_of_the_stream_in_several_steps_are_no_other_sequence(keys: Any, other: bool) -> None:
    """The same with a second sequence, which keys are made of in the same way, is a cross-attention."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.start, self.second = linear(WIDTH), linear(WIDTH, 10)
            for name in "abcdef":
                setattr(self, name, linear(WIDTH))

        def forward(self, x: Tensor, memory: Tensor) -> Tensor:
            stream = self.start(x)
            memory = self.second(memory)
            stream = stream + self.d(merged(F.scaled_dot_product_attention(*(heads(self.b(stream)),) * 3)))
            read = F.layer_norm(stream, (WIDTH,))
            q, k = keys(self, read)
            if other:
                k = keys(self, memory)[1]
            y = F.scaled_dot_product_attention(heads(self.a(q)), heads(k), heads(k))
            y = self.c(merged(y))
            return stream + (y if y.shape[1] == x.shape[1] else y.repeat_interleave(2, 1)[:, : x.shape[1]])

    seen = kinds(Model(), (INPUT[0], torch.randn(2, 7, 10)))
    cross = "cross_" if other else ""
    assert (seen["a"], seen["c"]) == (f"{cross}attn_q", f"{cross}attn_o")


def test_queries_that_a_matrix_makes_of_pooled_positions_are_a_sequence_of_their_own() -> None:
    """Patches of bytes, which attend to the bytes (BLT)."""

    def run(block: nn.Module, x: Tensor) -> Tensor:
        patches = F.gelu(block.a(F.avg_pool2d(x[:, None], (2, 1), (2, 1), ceil_mode=True)[:, 0]))
        y = F.scaled_dot_product_attention(heads(block.b(patches)), heads(block.c(x)), heads(block.d(x)))
        return block.e(merged(y)).repeat_interleave(2, 1)[:, : x.shape[1]]

    seen = kinds(Block(run, **{n: linear(WIDTH) for n in "abcde"}))
    assert [seen[n] for n in "bcde"] == ["cross_attn_q", "cross_attn_k", "cross_attn_v", "cross_attn_o"]


def test_latents_of_queries_keys_and_values() -> None:
    def run(block: nn.Module, x: Tensor) -> Tensor:
        q = heads(block.b(F.layer_norm(block.a(x), (8,))))
        latent, rope = block.c(x).split([10, 2], -1)
        k, v = heads(block.d(F.layer_norm(latent, (10,)))).split([SIZE - 2, SIZE], -1)
        k = torch.cat([k, rope[:, None].expand(-1, HEADS, -1, -1)], -1)
        return block.e(merged(F.scaled_dot_product_attention(q, k, v)))

    model = Block(
        run,
        a=linear(8),
        b=linear(HEADS * SIZE, 8),
        c=linear(12),
        d=linear(HEADS * (2 * SIZE - 2), 10),
        e=linear(WIDTH, HEADS * SIZE),
    )
    seen = kinds(model)
    assert {n: seen[n] for n in "abcde"} == {
        "a": "attn_q_a",
        "b": "attn_q_b",
        "c": "attn_kv_a",
        "d": "attn_kv_b",
        "e": "attn_o",
    }
    assert (seen["d[k]"], seen["d[v]"]) == ("attn_k", "attn_v")


def test_linear_attention_is_none() -> None:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return q.softmax(-1) @ (k.softmax(-2).mT @ v)

    assert set(kinds(Attention(attend)).values()) == {"mixer"}


def test_the_module_of_torch() -> None:
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 48, batch_first=True)
    for training in (True, False):
        components = found(layer.train(training))
        assert components["self_attn.in_proj_weight[q]"].evidence == "use"
        assert {n: components[n].kind for n in ("self_attn.out_proj", "linear1", "linear2")} == {
            "self_attn.out_proj": "attn_o",
            "linear1": "ffn_in",
            "linear2": "ffn_out",
        }


@pytest.mark.parametrize("embedded", [False, True])
def test_a_value_that_is_taken_out_of_the_output_again_is_no_gate(embedded: bool) -> None:
    """As in exclusive self-attention; and what is looked up for each token may be added to the value first."""

    class Exclusive(Attention):
        def __init__(self) -> None:
            super().__init__(F.scaled_dot_product_attention)
            self.table = nn.Embedding(11, WIDTH)
            self.first, self.fc = nn.Embedding(11, WIDTH), nn.Linear(WIDTH, WIDTH, bias=False)

        def forward(self, tokens: Tensor) -> Tensor:
            x = self.first(tokens)
            y = F.layer_norm(x, (WIDTH,))
            q, k, v = heads(self.up(y)), heads(self.down(y)), heads(self.gate(y))
            v = v + heads(self.table(tokens)) if embedded else v
            out, unit = self.attend(q, k, v), F.normalize(v, dim=-1)
            out = out - (out * unit).sum(-1, keepdim=True) * unit
            return x + self.query(merged(out) * torch.sigmoid(self.fc(y)))

    found = kinds(Exclusive(), (torch.zeros(2, 7, dtype=torch.long),))
    assert {name: found[name] for name in LIES} == LIES
    assert (found["fc"], found["table"]) == ("attn_gate", "embedding")


def test_a_narrow_input_of_queries_and_keys_alike_makes_no_latent_queries() -> None:
    def bottleneck(block: nn.Module, x: Tensor) -> Tensor:
        narrow = F.layer_norm(block.o(x), (12,))
        q, k, v = heads(block.v(narrow)), heads(block.q(narrow)), heads(block.k(x))
        return block.c(merged(F.scaled_dot_product_attention(q, k, v)))

    matrices = {"v": linear(WIDTH, 12), "q": linear(WIDTH, 12), "k": linear(WIDTH), "c": linear(WIDTH)}
    known = kinds(Block(bottleneck, o=linear(12), **matrices))
    assert {name: known[name] for name in matrices} == {"v": "attn_q", "q": "attn_k", "k": "attn_v", "c": "attn_o"}
