"""Faults that were added later: for thresholds to be chosen with, of the kinds of those that are evaluated, and some held out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import torch
from corpus_faults import decay, edit, factor_all, factor_one, second_moment
from corpus_world import MATRICES, NotHere, World
from torch import Tensor


@edit(*MATRICES)
def _columns_zeroed(world: World, w: Tensor) -> None:
    w[:, : max(1, w.shape[1] // 6)] = 0.0


@edit(*MATRICES)
def _rows_grown(world: World, w: Tensor) -> None:
    w[: len(w) // 3] *= 4.0


@edit(*MATRICES)
def _low_rank(world: World, w: Tensor) -> None:
    w.add_((torch.randn(w.shape[0], 2) @ torch.randn(2, w[0].numel()) / math.sqrt(2.0) * w.std()).view(w.shape))


@edit(*MATRICES)
def _larger(world: World, w: Tensor) -> None:
    w.mul_(1.5)


@edit(*MATRICES)
def _smaller(world: World, w: Tensor) -> None:
    w.mul_(0.6)


@edit(*MATRICES)
def _normal(world: World, w: Tensor) -> None:
    w.normal_(std=float(w.std()))


@edit(*MATRICES)
def _half_noise(world: World, w: Tensor) -> None:
    at = torch.rand(w.shape) < 0.5
    w.copy_(torch.where(at, 1.5 * w.std() * torch.randn(w.shape), w))


@edit(*MATRICES)
def _three_bits(world: World, w: Tensor) -> Tensor:
    step = w.abs().amax() / 3
    return (w / step).round() * step


@edit(*MATRICES)
def _clipped(world: World, w: Tensor) -> None:
    w.clamp_(-1.2 * w.std(), 1.2 * w.std())


@edit(*MATRICES)
def _quarter(world: World, w: Tensor) -> None:
    w[: len(w) // 4].normal_(std=0.02)


@edit(*MATRICES)
def _rows_doubled(world: World, w: Tensor) -> None:
    w[: len(w) // 2] *= 2.0


@edit(*MATRICES)
def _third(world: World, w: Tensor) -> None:
    w[:, : w.shape[1] // 3].normal_(std=0.02)


@edit(*MATRICES)
def _dropped(world: World, w: Tensor) -> None:
    w.mul_((torch.rand(w.shape) < 0.8) / 0.8)


@edit(*MATRICES)
def _ternary(world: World, w: Tensor) -> Tensor:
    size = w.abs().mean()
    return (w / size).round().clamp(-1, 1) * size


@edit(*MATRICES, whole=True)
def _row(world: World, w: Tensor) -> None:
    w[world.chance.randrange(len(w))] *= 100.0


@edit(*MATRICES)
def _power(world: World, w: Tensor) -> Tensor:
    return w.sign() * w.abs() ** 1.4 * w.std() ** -0.4


@edit(*MATRICES)
def _smaller_a_bit(world: World, w: Tensor) -> None:
    w.mul_(0.7)


def _mixed(world: World) -> None:
    chosen = world.components(*MATRICES)
    one = world.chance.choice(chosen)
    others = [c for c in chosen if (c.kind, c.tower, c.shape, c.cross) == (one.kind, one.tower, one.shape, one.cross)]
    others = [c for c in others if c.block != one.block]
    if not others:
        raise NotHere("two layers")
    world.values(one).add_(world.values(others[0])).mul_(0.5)
    world.strike(one)


def _ascending(world: World) -> None:
    def change() -> None:
        for p in world.model.parameters():
            if p.grad is not None:
                p.grad.neg_()

    world.before_step.append(change)


def _spike(world: World) -> None:
    def change() -> None:
        for p in world.model.parameters():
            if p.grad is not None:
                p.grad.mul_(1000.0)
        world.before_step.clear()

    world.before_step.append(change)


def _some_steps(world: World, factor: float, steps: int) -> None:
    factor_all(world, factor)
    left = [steps]

    def count() -> None:
        left[0] -= 1
        if not left[0]:
            world.factors.clear()

    world.after_step.append(count)


FAULTS_TOO: Final[dict[str, Callable[[World], None]]] = {
    "η × 15 for a matrix": lambda world: factor_one(world, 15.0, *MATRICES),
    "columns zeroed": _columns_zeroed,
    "rows × 4": _rows_grown,
    "low rank added": _low_rank,
    "five steps at η × 30": lambda world: _some_steps(world, 30.0, 5),
    "second moment × 0.001": lambda world: second_moment(world, 1e-3),
    "matrix × 1.5": _larger,
    "matrix × 0.6": _smaller,
    "normal instead of trained": _normal,
    "decay × −30": lambda world: decay(world, -30.0),
    "half of the values noise": _half_noise,
    "3-bit rounding": _three_bits,
    "clipped at 1.2 σ": _clipped,
    "a quarter from the start": _quarter,
    "rows × 2": _rows_doubled,
    "a third from the start": _third,
    "weights dropped out": _dropped,
    "ternary": _ternary,
    "one row × 100": _row,
    "powers of 1.4": _power,
    "matrix × 0.7": _smaller_a_bit,
    "merged with another layer": _mixed,
    "gradient upside down": _ascending,
    "one gradient × 1000": _spike,
}
