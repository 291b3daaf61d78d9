"""Blocks of models of pictures: convolutions as matrices, and what looks like an attention or a feed-forward block there."""

from __future__ import annotations

from collections.abc import Callable

import torch
from dataflow_models import HEADS, WIDE, WIDTH, kinds, linear
from torch import Tensor, nn
from torch.nn import functional as F

PICTURE = (torch.randn(2, WIDTH, 4, 4),)


def pixel(out: int, into: int = WIDTH) -> nn.Conv2d:
    """A matrix for each position."""
    return nn.Conv2d(into, out, 1)


def around(width: int = WIDTH) -> nn.Conv2d:
    """A convolution channel by channel."""
    return nn.Conv2d(width, width, 3, padding=1, groups=width)


class Block(nn.Module):
    """A patch embedding, then a function with a residual, whose parameters are those of the modules that it is given."""

    def __init__(self, run: Callable[..., Tensor], **modules: nn.Module):
        super().__init__()
        self.run, self.first, self.norm = run, pixel(WIDTH), nn.GroupNorm(1, WIDTH)
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return x + self.run(self, self.norm(x))


def by_head(x: Tensor) -> Tensor:
    """(B, C, H, W) → (B, heads, C / heads, H·W)."""
    return x.flatten(2).unflatten(1, (HEADS, -1))


def test_heads_that_a_convolution_mixes_and_a_picture_that_is_resized() -> None:
    def run(block: nn.Module, x: Tensor) -> Tensor:
        few = F.avg_pool2d(x, 2)
        q, k, v = by_head(block.v(few)), by_head(block.q(few)), by_head(block.k(few))
        scores = block.after(block.before(q.mT @ k).softmax(-1))
        out = (v @ scores.mT).reshape(few.shape)
        return block.c(F.interpolate(out, scale_factor=2, mode="bilinear").relu())

    matrices = {name: pixel(WIDTH) for name in "vqkc"}
    mixing = {"before": pixel(HEADS, HEADS), "after": pixel(HEADS, HEADS)}
    found = kinds(Block(run, **matrices, **mixing), PICTURE)
    lies = {"v": "attn_q", "q": "attn_k", "k": "attn_v", "c": "attn_o", "before": "other", "after": "other"}
    assert {name: found[name] for name in lies} == lies


def test_weights_of_positions_that_a_matrix_makes_outright_are_no_scores() -> None:
    def outlook(block: nn.Module, x: Tensor) -> Tensor:
        values = F.unfold(block.q(x), 3, padding=1).unflatten(1, (HEADS, WIDTH // HEADS, 9)).permute(0, 1, 4, 3, 2)
        weights = block.k(x).flatten(2).unflatten(1, (HEADS, 9, 9)).permute(0, 1, 4, 2, 3).softmax(-1)
        seen = (weights @ values).permute(0, 1, 4, 3, 2).reshape(len(x), 9 * WIDTH, -1)
        x = x + block.v(F.fold(seen, x.shape[2:], 3, padding=1))
        return x + block.down(F.gelu(block.up(x)))

    matrices = {"q": pixel(WIDTH), "k": pixel(81 * HEADS), "v": pixel(WIDTH)}
    found = kinds(Block(outlook, **matrices, up=pixel(WIDE), down=pixel(WIDTH, WIDE)), PICTURE)
    right = {"q": "mixer", "k": "mixer", "v": "mixer", "up": "ffn_in", "down": "ffn_out"}
    assert {name: found[name] for name in right} == right


def test_what_is_around_a_position_is_no_gate() -> None:
    def modulation(block: nn.Module, x: Tensor) -> Tensor:
        here, context, levels = block.fc1(x).split((WIDTH, WIDTH, 2), 1)
        total = 0
        for n, level in enumerate((block.near, block.far)):
            context = F.gelu(level(context))
            total = total + context * levels[:, n : n + 1]
        return block.fc3(here * block.fc2(total))

    matrices = {"fc1": pixel(2 * WIDTH + 2), "fc2": pixel(WIDTH), "fc3": pixel(WIDTH)}
    found = kinds(Block(modulation, **matrices, near=around(), far=around()), PICTURE)
    assert not {found[name] for name in matrices} & {"ffn_gate", "ffn_up", "ffn_down", "ffn_gate_up"}


def test_a_scale_and_a_bias_of_three_dimensions_are_vectors() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.o, self.q = linear(WIDTH), linear(WIDE), linear(WIDTH, WIDE)
            self.scale, self.bias = nn.Parameter(torch.ones(1, 1, WIDTH)), nn.Parameter(torch.zeros(1, 1, WIDTH))

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return x + self.q(F.gelu(self.o(torch.addcmul(self.bias, self.scale, x))))

    found = kinds(Scaled(), (torch.randn(2, 5, WIDTH),))
    assert (found["o"], found["q"]) == ("ffn_in", "ffn_out")
