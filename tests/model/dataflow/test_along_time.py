"""Feed-forward blocks made of convolutions along time, as in forecasting and speech: one matrix each, whatever the kernel."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from weibull_monitor.model.components import Component, discover

WIDTH, INNER = 16, 32


class Layer(nn.Module):
    """An encoder layer whose feed-forward block is two convolutions, (outputs, inputs, kernel)."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.query_projection, self.key_projection = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.value_projection, self.out_projection = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.conv1 = nn.Conv1d(WIDTH, INNER, kernel, padding=kernel // 2)
        self.conv2 = nn.Conv1d(INNER, WIDTH, kernel, padding=kernel // 2)
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:  # (batch, time, width)
        q, k, v = (
            part(x).unflatten(-1, (2, -1)).transpose(1, 2)
            for part in (self.query_projection, self.key_projection, self.value_projection)
        )
        x = self.norm1(
            x + self.out_projection(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        )
        return self.norm2(x + self.conv2(functional.gelu(self.conv1(x.transpose(1, 2)))).transpose(1, 2))


class Forecaster(nn.Module):
    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.embedding = nn.Linear(7, WIDTH)
        self.layers = nn.ModuleList([Layer(kernel) for _ in range(2)])
        self.projection = nn.Linear(WIDTH, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding(x)
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.projection(x)
        return out


def found(model: nn.Module, inputs: object) -> dict[str, Component]:
    return {c.name: c for c in discover(model, example_inputs=inputs).components}  # type: ignore[arg-type]


@pytest.mark.parametrize("kernel", [1, 3])
def test_the_outputs_of_a_convolution_along_time_are_no_experts(kernel: int) -> None:
    components = found(Forecaster(kernel), (torch.randn(2, 12, 7),))
    assert len(components) == 2 + 2 * 6  # none is in parts
    assert all(c.expert is None and c.part is None for c in components.values())
    for layer in range(2):
        kinds = [components[f"layers.{layer}.{name}.weight"].kind for name in ("query_projection", "conv1", "conv2")]
        assert kinds == (["attn_q", "ffn_in", "ffn_out"] if kernel == 1 else ["attn_q", "other", "other"])
        assert components[f"layers.{layer}.conv1.weight"].shape == (INNER, WIDTH, kernel)
