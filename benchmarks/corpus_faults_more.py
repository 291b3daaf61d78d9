"""Faults that were added later, for thresholds to be chosen with: of the kinds of those that are evaluated."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import torch
from corpus_faults import decay, edit, factor_all, factor_one, second_moment
from corpus_world import MATRICES, World
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
}
