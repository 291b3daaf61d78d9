"""Faults that rewrite one matrix of a model."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from corpus_world import FORWARD, MATRICES, NotHere, Q, World
from torch import Tensor


def edit(
    *kinds: str, whole: bool = False
) -> Callable[[Callable[[World, Tensor], Tensor | None]], Callable[[World], None]]:
    """A fault that rewrites one component of some kinds: in place, or to what the function returns."""

    def made(change: Callable[[World, Tensor], Tensor | None]) -> Callable[[World], None]:
        def fault(world: World) -> None:
            component = world.one(*kinds, whole=whole)
            values = world.values(component)
            before = world.parameter(component).data.clone()
            new = change(world, values)
            if new is not None:
                values.copy_(new)
            if torch.equal(before, world.parameter(component).data):
                raise NotHere(component.name)
            world.strike(component)

        return fault

    return made


@edit(*Q)
def blown_up(world: World, w: Tensor) -> None:
    w.mul_(8.0)


@edit("attn_k", "attn_q_b", "attn_kv_b")
def reset_key(world: World, w: Tensor) -> None:
    w.normal_(std=0.02)


@edit(*FORWARD)
def reset_forward(world: World, w: Tensor) -> None:
    w.normal_(std=0.02)


@edit(*MATRICES, "attn_qkv", whole=True)
def bit(world: World, w: Tensor) -> None:
    index = world.chance.randrange(w.numel())
    w.view(-1)[index] *= 2.0**30  # one bit of the exponent


@edit(*MATRICES, whole=True)
def transposed(world: World, w: Tensor) -> Tensor:
    return w.T.contiguous().view(w.shape) if w.shape[0] != w.shape[1] else w.T.clone()


@edit(*MATRICES)
def rows_zeroed(world: World, w: Tensor) -> None:
    w[: max(1, len(w) // 8)] = 0.0


@edit(*MATRICES)
def cast(world: World, w: Tensor) -> Tensor:
    return w.to(torch.float8_e5m2).to(w.dtype)


@edit(*MATRICES)
def nan(world: World, w: Tensor) -> None:
    w[0, 0] = math.nan


@edit(*MATRICES)
def noise(world: World, w: Tensor) -> None:
    w.add_(0.5 * w.std() * torch.randn(w.shape))


@edit(*MATRICES)
def summed(world: World, w: Tensor) -> None:
    w.mul_(2.0)


@edit(*MATRICES)
def halved(world: World, w: Tensor) -> None:
    w.mul_(0.5)


@edit(*MATRICES)
def columns(world: World, w: Tensor) -> None:
    w[:, : w.shape[1] // 2] *= 3.0


def rounded(w: Tensor, levels: float) -> Tensor:
    """To multiples of the largest |w| over this number of levels."""
    step = w.abs().amax().clamp_min(1e-12) / levels
    return (w / step).round() * step


@edit(*MATRICES)
def four_bits(world: World, w: Tensor) -> Tensor:
    return rounded(w, 7)


@edit(*MATRICES)
def merged(world: World, w: Tensor) -> None:
    a, b = torch.randn(w.shape[0], 4), torch.randn(4, w[0].numel())
    w.add_((a @ b / 2.0 * w.std()).view(w.shape))


@edit(*MATRICES)
def clamped(world: World, w: Tensor) -> None:
    w.clamp_(-0.8 * w.std(), 0.8 * w.std())


@edit(*MATRICES)
def uniform(world: World, w: Tensor) -> None:
    limit = float(w.std()) * math.sqrt(3.0)
    w.uniform_(-limit, limit)


@edit(*MATRICES)
def shard(world: World, w: Tensor) -> None:
    half = len(w) // 2
    w[half : 2 * half] = w[:half].clone()


@edit(*MATRICES)
def signs(world: World, w: Tensor) -> None:
    w.neg_()


@edit(*MATRICES)
def permuted(world: World, w: Tensor) -> Tensor:
    return w[torch.randperm(len(w))]


@edit(*MATRICES)
def sparse(world: World, w: Tensor) -> None:
    w[w.abs() < 0.6 * w.std()] = 0.0


@edit(*MATRICES)
def outliers(world: World, w: Tensor) -> None:
    w[torch.rand(w.shape) < 0.02] *= 10.0


@edit(*MATRICES)
def columns_zeroed(world: World, w: Tensor) -> None:
    w[:, : max(1, w.shape[1] // 6)] = 0.0


@edit(*MATRICES)
def rows_grown(world: World, w: Tensor) -> None:
    w[: len(w) // 3] *= 4.0


@edit(*MATRICES)
def low_rank(world: World, w: Tensor) -> None:
    w.add_((torch.randn(w.shape[0], 2) @ torch.randn(2, w[0].numel()) / math.sqrt(2.0) * w.std()).view(w.shape))


@edit(*MATRICES)
def larger(world: World, w: Tensor) -> None:
    w.mul_(1.5)


@edit(*MATRICES)
def smaller(world: World, w: Tensor) -> None:
    w.mul_(0.6)


@edit(*MATRICES)
def normal(world: World, w: Tensor) -> None:
    w.normal_(std=float(w.std()))


@edit(*MATRICES)
def half_noise(world: World, w: Tensor) -> None:
    at = torch.rand(w.shape) < 0.5
    w.copy_(torch.where(at, 1.5 * w.std() * torch.randn(w.shape), w))


@edit(*MATRICES)
def three_bits(world: World, w: Tensor) -> Tensor:
    return rounded(w, 3)


@edit(*MATRICES)
def clipped(world: World, w: Tensor) -> None:
    w.clamp_(-1.2 * w.std(), 1.2 * w.std())


@edit(*MATRICES)
def quarter(world: World, w: Tensor) -> None:
    w[: len(w) // 4].normal_(std=0.02)


@edit(*MATRICES)
def rows_doubled(world: World, w: Tensor) -> None:
    w[: len(w) // 2] *= 2.0


@edit(*MATRICES)
def third(world: World, w: Tensor) -> None:
    w[:, : w.shape[1] // 3].normal_(std=0.02)


@edit(*MATRICES)
def dropped(world: World, w: Tensor) -> None:
    w.mul_((torch.rand(w.shape) < 0.8) / 0.8)


@edit(*MATRICES)
def ternary(world: World, w: Tensor) -> Tensor:
    size = w.abs().mean()
    return (w / size).round().clamp(-1, 1) * size


@edit(*MATRICES, whole=True)
def row(world: World, w: Tensor) -> None:
    w[world.chance.randrange(len(w))] *= 100.0


@edit(*MATRICES)
def power(world: World, w: Tensor) -> Tensor:
    return w.sign() * w.abs() ** 1.4 * w.std() ** -0.4


@edit(*MATRICES)
def smaller_a_bit(world: World, w: Tensor) -> None:
    w.mul_(0.7)
