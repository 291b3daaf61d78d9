"""The fit of s·B·A, the change that a low-rank adapter makes, in blocks of rows and never as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

from weibull_monitor.measure.bins import bins_of
from weibull_monitor.measure.choose import count_magnitudes, solve
from weibull_monitor.measure.fit import WeibullFit, delivered
from weibull_monitor.measure.transfer import PendingResult, to_host

MOST: Final = 1 << 20
"""Elements of a product that are counted. Of a larger one, rows and columns are taken evenly, as many of each."""
BLOCK: Final = 1 << 18
"""Elements of a product that are made at a time: 1 MiB."""
_BINS: Final = bins_of(torch.float32)


class PendingProducts(NamedTuple):
    """Fits of products that may still be on their way from a device.

    Attributes:
        queued: The places of products, and their fits.
        norms: Their RMS over all elements, (products,), as they arrive.
    """

    queued: Sequence[tuple[Sequence[int], PendingResult]]
    norms: Sequence[PendingResult]

    def fits(self) -> list[tuple[WeibullFit, float]]:
        """The fit of each product and its RMS, in their order; waits for them."""
        fits, rms = delivered(self.queued), [result.rows()[0][0] for result in self.norms]
        return [(fits[place], rms[place]) for place in range(len(rms))]


@torch.no_grad()
def queue_products(factors: Sequence[tuple[Tensor, Tensor, float]]) -> PendingProducts:
    """Counts products s·B·A, on the device where the factors live.

    A and B of 16 bits are multiplied in fp32. The RMS is exact, from AAᵀ and BᵀB, whatever is sampled.

    Args:
        factors: A (rank, inputs, …), B (outputs, rank) and s of each product.

    >>> a, b = torch.eye(4, 64), torch.ones(64, 4)
    >>> ((fit, rms),) = queue_products([(a, b, 0.5)]).fits()
    >>> round(rms, 4), fit.n, fit.zeros  # 4 of 64 columns are 0.5
    (0.125, 256, 3840)
    """
    queued, norms = [], []
    for place, (first, second, scale) in enumerate(factors):
        a, b = first.detach().flatten(1).float(), second.detach().flatten(1).float()
        squares = ((a @ a.T) * (b.T @ b)).sum().clamp_min(0.0)  # tr(AAᵀBᵀB) = ‖BA‖²
        norms.append(to_host((abs(scale) * (squares / (b.shape[0] * a.shape[1])).sqrt()).view(1, 1)))
        rows, columns = _sampled(b.shape[0], a.shape[1])
        a, b = a[:, columns.to(a.device)], scale * b[rows.to(b.device)]
        counts = torch.zeros(0, device="cpu")
        step = max(1, BLOCK // a.shape[1])
        for start in range(0, len(b), step):
            made = count_magnitudes([b[start : start + step] @ a], _BINS)  # (1, bins.columns)
            counts = counts + made if len(counts) else made
        queued.append(([place], to_host(solve(counts, _BINS))))
    return PendingProducts(queued, norms)


def _sampled(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Indices of the rows and columns of a product that are counted."""
    side = int(MOST**0.5)
    if rows * columns <= MOST:
        chosen = rows, columns
    elif min(rows, columns) <= side:
        chosen = min(rows, MOST // min(columns, side)), min(columns, MOST // min(rows, side))
    else:
        chosen = side, side
    return _evenly(rows, chosen[0]), _evenly(columns, chosen[1])


def _evenly(of: int, some: int) -> Tensor:
    return torch.arange(some, device="cpu") * of // some
