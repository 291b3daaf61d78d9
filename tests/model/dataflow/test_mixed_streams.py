"""Residual streams that are mixed with numbers made of themselves: what reads them does not mix the scores of heads."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from weibull_monitor.model.components import discover

WIDTH, STREAMS, HEADS = 24, 3, 4


class Mixed(nn.Module):
    """An attention between several residual streams, of which each token chooses its mixture."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.choose = nn.Parameter(torch.randn(WIDTH, STREAMS + 1) * 0.1)
        self.fixed = nn.Parameter(torch.randn(STREAMS, STREAMS + 1))
        self.give = nn.Parameter(torch.randn(WIDTH) * 0.1)
        self.to_qkv, self.to_out = nn.Linear(WIDTH, 3 * 32, bias=False), nn.Linear(32, WIDTH, bias=False)

    def forward(self, streams: Tensor) -> Tensor:  # (batch, tokens, streams, width)
        normed = self.norm(streams)
        mixture = (normed @ self.choose).tanh() + self.fixed
        mixed = torch.einsum("btse,btsd->bted", mixture, streams)
        x, streams = mixed[..., 0, :], mixed[..., 1:, :]
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.to_qkv(x).chunk(3, dim=-1))
        out = self.to_out(((q @ k.mT).softmax(-1) @ v).transpose(1, 2).flatten(2))
        return streams + torch.einsum("btd,bts->btsd", out, (normed @ self.give).tanh())


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Sequential(nn.LayerNorm(12), nn.Linear(12, WIDTH), nn.LayerNorm(WIDTH))
        self.layers = nn.ModuleList([Mixed() for _ in range(2)])
        self.head = nn.Linear(WIDTH, 50)

    def forward(self, x: Tensor) -> Tensor:
        streams = self.tokens(x)[:, :, None].expand(-1, -1, STREAMS, -1)
        for layer in self.layers:
            streams = layer(streams)
        out: Tensor = self.head(streams.sum(2))
        return out


def test_attention_that_reads_a_chosen_mixture_of_streams_is_known() -> None:
    found = {c.name: c for c in discover(Model(), example_inputs=(torch.randn(2, 10, 12),)).components}
    for layer in range(2):
        assert found[f"layers.{layer}.to_qkv.weight"].kind == "attn_qkv"
        assert found[f"layers.{layer}.to_qkv.weight[q]"].kind == "attn_q"
        assert found[f"layers.{layer}.to_out.weight"].kind == "attn_o"
    assert not [c.name for c in found.values() if "heads" in c.because]
