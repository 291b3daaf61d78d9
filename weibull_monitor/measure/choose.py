"""Counts of |w| and their fits: by kernels on devices that have them, in plain torch elsewhere. The one file that chooses.

Counts are integers and add: over chunks, threads, ranks, experts and files. The order of the elements does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from weibull_monitor.measure.bins import Bins
from weibull_monitor.measure.kernels import kernels_for
from weibull_monitor.measure.plain.count import (
    count_by_bincount,
    count_by_scatter,
    places_by_bincount,
    places_by_scatter,
)
from weibull_monitor.measure.plain.solve import RESULT_COLUMNS, solve_on_device
from weibull_monitor.measure.threads import alone
from weibull_monitor.model.components.storage import ordinary

if TYPE_CHECKING:
    from weibull_monitor.measure.kernels.launch import Kernels

_QUEUED_ON_DEVICE = frozenset({"cuda", "xpu"})
"""Device types on which counting is queued without waiting. On others the weights are copied to the host chunk by chunk."""


def count_magnitudes(tensors: Sequence[Tensor], bins: Bins, rows: Sequence[int] | None = None) -> Tensor:
    """Counts the magnitudes of each tensor in one read of the weights, in chunks, on the device where they live.

    Args:
        tensors: Tensors of dtype ``bins.dtype``, of any shape and strides, all on one device. Not modified, never copied
            whole.
        bins: The layout to count into.
        rows: For each tensor the row that it is counted into, from 0 on without gaps; by default, each has its own.

    Returns:
        int64, shape (rows, bins.columns): zeros, finite bins, non-finite; on the tensors' device if that is ``cuda`` or
        ``xpu`` (queued: no synchronisation), else on the CPU.
    """
    device = tensors[0].device if tensors else torch.device("cpu")
    kernels = kernels_for(device, bins.dtype) if all(map(ordinary, tensors)) else None  # they read memory
    if kernels is not None:
        return count_by_kernel(kernels, tensors, bins, rows)
    return (count_by_scatter if queued_on(device) else count_by_bincount)(tensors, bins, rows)


def sum_places(tensors: Sequence[Tensor], bins: Bins, rows: Sequence[int] | None = None) -> Tensor:
    """Where values lie within their bins, in a second read of the weights.

    Args:
        tensors: As for `count_magnitudes`; not of 8 bits.
        bins: As for `count_magnitudes`.
        rows: As for `count_magnitudes`.

    Returns:
        int64, shape (rows, 2, bins.columns), on the same device as the counts would be: the sums that
        `weibull_monitor.measure.grid.offsets_from` makes offsets of.
    """
    device = tensors[0].device if tensors else torch.device("cpu")
    return (places_by_scatter if queued_on(device) else places_by_bincount)(tensors, bins, rows)


def queued_on(device: torch.device) -> bool:
    """Whether work on a device is queued, so that to look at a number means to wait."""
    return device.type in _QUEUED_ON_DEVICE


@torch.no_grad()
def count_by_kernel(
    kernels: Kernels, tensors: Sequence[Tensor], bins: Bins, rows: Sequence[int] | None = None
) -> Tensor:
    """Counts with one launch of a Triton kernel; see `weibull_monitor.measure.kernels.count`."""
    rows = range(len(tensors)) if rows is None else rows
    counts = torch.zeros(max(rows, default=-1) + 1, bins.columns, dtype=torch.int64, device=kernels.device)
    table = kernels.table([tensor.detach() for tensor in tensors], [(row,) for row in rows])
    kernels.count(kernels.upload(table.pieces), kernels.upload(table.starts), counts, bins)
    return counts


@torch.no_grad()
def solve(counts: Tensor, bins: Bins, offsets: Tensor | None = None) -> Tensor:
    """Fits every row of counts.

    Args:
        counts: int64, shape (rows, bins.columns), as `count_magnitudes` returns it.
        bins: The layout of the counts.
        offsets: Of values on a grid, as `weibull_monitor.measure.grid.offsets_from` returns it; None if values fill their bins.

    Returns:
        float64, shape (rows, RESULT_COLUMNS), on the device of ``counts``, or on the CPU if that device has no
        float64. A row that cannot be fitted holds NaN where there is no value. Nothing is synchronised on CUDA.
    """
    if offsets is None and (kernels := kernels_for(counts.device, bins.dtype)) is not None:
        out = torch.empty(len(counts), RESULT_COLUMNS, dtype=torch.float64, device=counts.device)
        same = torch.arange(len(counts), device=counts.device).unsqueeze(1).expand(-1, 2).contiguous()
        kernels.solve(counts, same, bins, out)
        return out
    with alone():  # the pieces are small, and a team of threads would go on spinning for a while
        counts = counts.cpu() if counts.device.type == "mps" else counts
        return solve_on_device(counts, bins, counts.device.type == "cpu", offsets)
