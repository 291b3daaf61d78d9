"""Layouts of DTensors against what `torch.chunk` makes of the numbered elements, on meshes larger than this machine could run."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.tensor import Partial, Replicate, Shard
from torch.distributed.tensor.placement_types import _StridedShard

from weibull_monitor.model.sharding.dtensor import is_dtensor, layout_of, peers_of


@dataclass
class Mesh:
    """A device mesh seen from one of its coordinates, or from outside."""

    mesh: Tensor
    coordinate: tuple[int, ...] | None

    def get_coordinate(self) -> tuple[int, ...] | None:
        return self.coordinate


def sharded(shape: tuple[int, ...], placements: list[Any], mesh: Mesh, local: Tensor) -> Any:
    return SimpleNamespace(shape=shape, placements=tuple(placements), device_mesh=mesh, _local_tensor=local)


def cut(tensor: Tensor, dim: int, count: int, place: int) -> Tensor:
    """Like FSDP2 and `distribute_tensor`: a chunk, or nothing where there are fewer chunks."""
    pieces = tensor.chunk(count, dim)
    return pieces[place] if place < len(pieces) else tensor.narrow(dim, 0, 0)


def covered(shape: tuple[int, ...], grid: Any) -> list[int]:
    whole = torch.arange(torch.Size(shape).numel()).view(shape)
    for dim, ranges in enumerate(grid.ranges):
        whole = torch.cat([whole.narrow(dim, a, b - a) for a, b in ranges] or [whole.narrow(dim, 0, 0)], dim)
    return sorted(whole.flatten().tolist())


@pytest.mark.parametrize("rows", [1, 7, 16, 61])
@pytest.mark.parametrize(("dp", "tp"), [(1, 1), (2, 2), (4, 3), (3, 8), (16, 8)])
def test_tensor_parallel_rows_that_fsdp2_divides_again(rows: int, dp: int, tp: int) -> None:
    whole = torch.arange(rows * 3).view(rows, 3)
    seen: list[int] = []
    for i, j in itertools.product(range(dp), range(tp)):
        local = cut(cut(whole, 0, tp, j), 0, dp, i)
        mesh = Mesh(torch.arange(dp * tp).view(dp, tp), (i, j))
        grid, problem = layout_of(sharded((rows, 3), [_StridedShard(0, split_factor=tp), Shard(0)], mesh, local))
        assert not problem
        assert covered((rows, 3), grid) == sorted(local.flatten().tolist())
        seen += covered((rows, 3), grid)
    assert sorted(seen) == list(range(rows * 3))


@pytest.mark.parametrize("shape", [(5, 12), (9, 4, 6)])
def test_two_dimensions_of_a_mesh_divide_two_of_a_tensor(shape: tuple[int, ...]) -> None:
    whole = torch.arange(torch.Size(shape).numel()).view(shape)
    seen: list[int] = []
    for i, j in itertools.product(range(4), range(5)):
        local = cut(cut(whole, 0, 4, i), len(shape) - 1, 5, j)
        mesh = Mesh(torch.arange(20).view(4, 5), (i, j))
        grid, problem = layout_of(sharded(shape, [Shard(0), Shard(-1)], mesh, local))
        assert not problem
        assert covered(shape, grid) == sorted(local.flatten().tolist())
        seen += covered(shape, grid)
    assert sorted(seen) == list(range(whole.numel()))


def test_replicas_are_peers() -> None:
    mesh = Mesh(torch.arange(24).view(2, 3, 4), (1, 2, 3))
    parameter = sharded((12, 8), [Replicate(), Shard(0), Replicate()], mesh, torch.zeros(4, 8))
    assert peers_of(parameter) == (8, 9, 10, 11, 20, 21, 22, 23)
    assert layout_of(parameter)[0].ranges == (((8, 12),), ((0, 8),))


def test_what_cannot_be_told_is_said_and_a_stranger_holds_nothing() -> None:
    mesh = Mesh(torch.arange(2), (0,))
    assert "summands" in layout_of(sharded((4, 4), [Partial()], mesh, torch.zeros(4, 4)))[1]
    assert "unknown layout" in layout_of(sharded((4, 4), [Shard(0)], mesh, torch.zeros(3, 4)))[1]
    outside = sharded((4, 4), [Shard(0)], Mesh(torch.arange(2), None), torch.zeros(0))
    assert layout_of(outside)[0].units == 0
    assert peers_of(outside) == ()
    assert not is_dtensor(torch.zeros(2))
