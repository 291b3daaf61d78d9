"""Cross-attention is attention to another sequence only, in deformable attention, too."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from dataflow_models import HEADS, INPUT, SIZE, WIDTH, heads, kinds, linear, merged
from torch import Tensor, nn
from torch.nn import functional as F

POINTS = 3
Pairs = Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]]


class Crossing(nn.Module):
    """Attention of one sequence to what `pairs` makes of it and of a second one; its names say that it is one or the other."""

    def __init__(self, pairs: Pairs, name: str):
        super().__init__()
        self.start, self.other, self.pairs, self.name = linear(WIDTH), linear(WIDTH, 10), pairs, name
        self.add_module(name, nn.ModuleDict({n: linear(WIDTH) for n in ("w", "x", "y", "z", "more")}))

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        x, memory = self.start(x), self.other(memory)
        m = getattr(self, self.name)
        k, v = self.pairs(m, x, memory)
        y = F.scaled_dot_product_attention(heads(m["w"](x)), heads(k), heads(v))
        return x + m["z"](merged(y))


def both(m: nn.Module, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """Keys of the own tokens, and of another sequence with the same matrix, in one attention."""
    return torch.cat((m["x"](x), m["x"](memory)), 1), torch.cat((m["y"](x), m["y"](memory)), 1)  # type: ignore[index]


def at_once(m: nn.Module, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """Keys of both sequences, one after the other."""
    every = torch.cat((memory, x), 1)
    return m["x"](every), m["y"](every)  # type: ignore[index]


def global_too(m: nn.Module, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """Keys of the own tokens, and others of a few global ones, of another matrix."""
    few = memory[:, :2]
    return torch.cat((m["more"](few), m["x"](x)), 1), torch.cat((m["y"](few), m["y"](x)), 1)  # type: ignore[index]


def none_added(m: nn.Module, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """Keys of the other sequence, and one of zeros."""
    return F.pad(m["x"](memory), (0, 0, 1, 0)), F.pad(m["y"](memory), (0, 0, 1, 0))  # type: ignore[index]


@pytest.mark.parametrize(("pairs", "cross"), [(both, ""), (at_once, ""), (global_too, ""), (none_added, "cross_")])
@pytest.mark.parametrize("name", ["self_attn", "cross_attn"])
def test_cross_attention_has_no_keys_of_the_own_tokens(pairs: Pairs, cross: str, name: str) -> None:
    seen = kinds(Crossing(pairs, name), (INPUT[0], torch.randn(2, 5, 10)))
    assert [seen[f"{name}.{n}"] for n in "wxyz"] == [f"{cross}attn_{role}" for role in "qkvo"]


@pytest.mark.parametrize("cross", ["", "cross_"])
def test_deformable_attention_to_another_sequence_is_cross_attention(cross: str) -> None:
    class Deformable(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.start, self.other = linear(WIDTH), linear(WIDTH, 10)
            self.q_proj, self.k_proj = linear(HEADS * POINTS), linear(HEADS * POINTS)
            self.up, self.down = linear(HEADS * SIZE), linear(WIDTH, HEADS * SIZE)

        def forward(self, x: Tensor, memory: Tensor) -> Tensor:
            x, memory = self.start(x), self.other(memory)
            places, weights = (heads(y) for y in (self.q_proj(x), self.k_proj(x)))  # (batch, heads, queries, points)
            grid = torch.stack((places, torch.zeros_like(places)), -1).flatten(0, 1)
            value = heads(self.up(memory if cross else x)).mT.flatten(0, 1)  # (batch · heads, features, positions)
            found = F.grid_sample(value.unsqueeze(2), grid, align_corners=False)
            y = (found * weights.softmax(-1).flatten(0, 1).unsqueeze(1)).sum(-1)
            return x + self.down(merged(y.mT.unflatten(0, (-1, HEADS))))

    seen = kinds(Deformable(), (INPUT[0], torch.randn(2, 5, 10)))
    assert (seen["up"], seen["down"]) == (f"{cross}attn_v", f"{cross}attn_o")
    assert seen["q_proj"] == seen["k_proj"] == "other"


@pytest.mark.parametrize("order", [1, -1])
def test_a_matrix_of_two_attentions_is_crossing_only_in_both(order: int) -> None:
    """One attention to the own tokens and one to a second sequence, whose outputs are added before one output matrix."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.start, self.other = linear(WIDTH), linear(WIDTH, 10)
            for name in "qkvo":
                setattr(self, name, linear(WIDTH))
            self.k2, self.v2 = linear(WIDTH), linear(WIDTH)

        def forward(self, x: Tensor, memory: Tensor) -> Tensor:
            x, memory = self.start(x), self.other(memory)
            pairs = [(self.k(x), self.v(x)), (self.k2(memory), self.v2(memory))][::order]
            q = heads(self.q(x))
            near, far = (F.scaled_dot_product_attention(q, heads(k), heads(v)) for k, v in pairs)
            return x + self.o(merged(near + far))

    seen = kinds(Both(), (INPUT[0], torch.randn(2, 5, 10)))
    assert [seen[n] for n in "qkvo"] == ["attn_q", "attn_k", "attn_v", "attn_o"]
    assert (seen["k2"], seen["v2"]) == ("cross_attn_k", "cross_attn_v")
