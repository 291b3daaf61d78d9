"""DTensors: FSDP2, HSDP, tensor, sequence and expert parallelism, and their combinations."""

from __future__ import annotations

import sys
from itertools import pairwise
from typing import Any

import numpy as np

from weibull_monitor.sharding.layout import Grid, Range


def is_dtensor(tensor: Any) -> bool:
    """Whether a tensor is a DTensor; imports nothing for it."""
    found = getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)
    return found is not None and isinstance(tensor, found)


def layout_of(parameter: Any) -> tuple[Grid, str]:
    """Which elements of a DTensor this rank holds, and why that cannot be told (empty if it can).

    The dimensions of the mesh divide the tensor from left to right. A plain shard is a chunk of what is left of its dimension,
    as `torch.chunk` cuts it; a strided shard, which FSDP2 makes of a dimension that tensor parallelism has already
    divided in ``split_factor``, is the chunk of the same place out of each of those divisions.
    """
    shape = tuple(parameter.shape)
    coordinate = parameter.device_mesh.get_coordinate()
    if coordinate is None:  # this rank is not of the mesh
        return Grid(shape, tuple(() for _ in shape)), ""
    indices = [np.arange(size) for size in shape]
    for place, size, placement in zip(coordinate, parameter.device_mesh.mesh.shape, parameter.placements, strict=True):
        if placement.is_replicate():
            continue
        if placement.is_partial():
            return Grid.whole(shape), "it is a DTensor whose ranks hold summands (Partial)"
        dim = placement.dim % len(shape)
        divisions = _chunks(indices[dim], getattr(placement, "split_factor", 1))
        indices[dim] = np.concatenate([_chunks(division, size)[place] for division in divisions])
    grid = Grid(shape, tuple(_ranges(index) for index in indices))
    local = tuple(parameter._local_tensor.shape)
    if grid.local_shape != local and 0 not in (*grid.local_shape, *local):
        return (
            grid,
            f"it is a DTensor of an unknown layout: {parameter.placements} of {shape} should be {grid.local_shape} here",
        )
    if 0 in local:
        return Grid(shape, tuple(() for _ in shape)), ""
    return grid, ""


def peers_of(parameter: Any) -> tuple[int, ...]:
    """The ranks of the mesh that hold the same elements as this one, itself included."""
    mesh, coordinate = parameter.device_mesh, parameter.device_mesh.get_coordinate()
    if coordinate is None:
        return ()
    same = tuple(
        slice(None) if placement.is_replicate() else place
        for place, placement in zip(coordinate, parameter.placements, strict=True)
    )
    return tuple(sorted(mesh.mesh[same].flatten().tolist()))


def _chunks(index: np.ndarray, count: int) -> list[np.ndarray]:
    """Like `torch.chunk`, but always ``count`` pieces, the last of which may be empty."""
    size = -(-len(index) // count)
    return [index[i * size : (i + 1) * size] for i in range(count)]


def _ranges(index: np.ndarray) -> tuple[Range, ...]:
    """Indices as ranges of consecutive ones, in their order."""
    if not len(index):
        return ()
    ends = [0, *(np.flatnonzero(np.diff(index) != 1) + 1).tolist(), len(index)]
    return tuple((int(index[a]), int(index[b - 1]) + 1) for a, b in pairwise(ends))
