"""Small models that say with their parameters' names nothing, or the wrong thing."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weibull_monitor.model.components import Component, discover_components

WIDTH, HEADS, SIZE, WIDE = 24, 4, 6, 40
INPUT = (torch.randn(2, 7, WIDTH, generator=torch.Generator().manual_seed(0)),)
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def linear(out: int, into: int = WIDTH) -> nn.Linear:
    return nn.Linear(into, out, bias=False)


def heads(x: Tensor, count: int = HEADS) -> Tensor:
    """(B, T, H·d) as (B, H, T, d)."""
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def merged(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Residual attention whose query is called ``up``, whose key is called ``down``."""

    def __init__(self, attend: Attend, groups: int = HEADS):
        super().__init__()
        self.attend, self.groups = attend, groups
        self.up = linear(HEADS * SIZE)
        self.down = linear(groups * SIZE)
        self.gate = linear(groups * SIZE)
        self.query = linear(WIDTH, HEADS * SIZE)

    def forward(self, x: Tensor) -> Tensor:
        y = F.layer_norm(x, (WIDTH,))
        q, k, v = heads(self.up(y)), heads(self.down(y), self.groups), heads(self.gate(y), self.groups)
        return x + self.query(merged(self.attend(q, k, v)))


LIES = {"up": "attn_q", "down": "attn_k", "gate": "attn_v", "query": "attn_o"}


class Block(nn.Module):
    """Calls a function with a residual; its parameters are those of the modules that it is given."""

    def __init__(self, run: Callable[..., Tensor], **modules: nn.Module | nn.Parameter):
        super().__init__()
        self.run = run
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.run(self, F.layer_norm(x, (WIDTH,)))


def found(model: nn.Module, inputs: object = INPUT, resolution: str = "matrix") -> dict[str, Component]:
    components = discover_components(model, example_inputs=inputs, resolution=resolution)  # type: ignore[arg-type]
    return {c.name.replace(".weight", ""): c for c in components}


def kinds(model: nn.Module, inputs: object = INPUT) -> dict[str, str]:
    return {name: c.label for name, c in found(model, inputs).items()}
