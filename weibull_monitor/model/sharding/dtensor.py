"""DTensors: FSDP2, HSDP, tensor, sequence and expert parallelism, and their combinations."""

from __future__ import annotations

import sys
from itertools import pairwise
from typing import Any

import numpy as np

from weibull_monitor.model.sharding.layout import Grid, Range


def is_dtensor(tensor: Any) -> bool:
    """Whether a tensor is a DTensor, without importing anything."""
    found = getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)
    return found is not None and isinstance(tensor, found)


def layout_of(parameter: Any) -> tuple[Grid, str]:
    """Which elements of a DTensor this rank holds, and why that is unknown (empty if it is known).

    The dimensions of the mesh divide the tensor from left to right, each into chunks as `torch.chunk` cuts them. Strided shards
    come last, from right to left: FSDP2 makes one of a dimension that tensor parallelism, further right in the mesh, has
    divided before it.
    """
    shape = tuple(parameter.shape)
    nothing = Grid(shape, tuple(() for _ in shape))
    coordinate = parameter.device_mesh.get_coordinate()
    if coordinate is None:  # this rank is not of the mesh
        return nothing, ""
    if any(placement.is_partial() for placement in parameter.placements):
        return nothing, "it is a DTensor whose ranks hold summands (Partial)"
    divisions = [
        (hasattr(placement, "split_factor"), place, size, placement)
        for place, size, placement in zip(
            coordinate, parameter.device_mesh.mesh.shape, parameter.placements, strict=True
        )
        if not placement.is_replicate()
    ]
    indices = [np.arange(size) for size in shape]
    plain, strided = [d for d in divisions if not d[0]], [d for d in divisions if d[0]]
    for _, place, size, placement in (*plain, *reversed(strided)):
        dim = placement.dim % len(shape)
        each = -(-len(indices[dim]) // size)
        indices[dim] = indices[dim][place * each : (place + 1) * each]
    grid, local = Grid(shape, tuple(_ranges(index) for index in indices)), tuple(parameter._local_tensor.shape)
    if 0 in local and 0 in grid.local_shape:
        return nothing, ""
    if grid.local_shape != local:
        where = f"{parameter.placements} of {shape} should be {grid.local_shape} on this rank and is {local}"
        return nothing, f"it is a DTensor of an unknown layout: {where}"
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


def _ranges(index: np.ndarray) -> tuple[Range, ...]:
    """Indices as ranges of consecutive ones, in their order."""
    if not len(index):
        return ()
    ends = [0, *(np.flatnonzero(np.diff(index) != 1) + 1).tolist(), len(index)]
    return tuple((int(index[a]), int(index[b - 1]) + 1) for a, b in pairwise(ends))
