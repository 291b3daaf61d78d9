"""Counts to fits: in one launch of a kernel where the device has kernels, in plain torch elsewhere."""

from __future__ import annotations

import torch
from torch import Tensor

from weibull_monitor.measure.bins import Bins
from weibull_monitor.measure.kernels import kernels_for
from weibull_monitor.measure.plain.solve import RESULT_COLUMNS, solve_on_device
from weibull_monitor.measure.threads import alone


@torch.no_grad()
def solve(counts: Tensor, bins: Bins) -> Tensor:
    """Fits every row of counts.

    Args:
        counts: int64, shape (rows, bins.columns), as `count_magnitudes` returns it.
        bins: The layout of the counts.

    Returns:
        float64, shape (rows, RESULT_COLUMNS), on the device of ``counts``, or on the CPU if that device has no
        float64. A row that cannot be fitted holds NaN where there is no value. Nothing is synchronised on CUDA.
    """
    if (kernels := kernels_for(counts.device, bins.dtype)) is not None:
        out = torch.empty(len(counts), RESULT_COLUMNS, dtype=torch.float64, device=counts.device)
        every = torch.arange(len(counts), device=counts.device).unsqueeze(1).expand(-1, 2).contiguous()
        kernels.solve(counts, every, bins, out)
        return out
    with alone():  # the pieces are small, and a team of threads would go on spinning for a while
        counts = counts.cpu() if counts.device.type == "mps" else counts
        return solve_on_device(counts, bins, trim=counts.device.type == "cpu")
