"""Where values lie within their bins, for matrices whose values lie on a grid.

A bin is about 1 % wide, and the fit takes its values to fill it. Values of a coarser dtype in a wider one do not (bf16 or fp16 in
fp32), nor do dequantised int8, fp8 or 4-bit values. For such matrices the sum of the places within each bin is taken beside the
counts. These *offsets* are integers and add as counts do.

Integers that add up as well, over chunks, ranks and files, decide whether a matrix lies on a grid: its counts, and a tally of the
values at fixed places of the matrix (`weibull_monitor.model.sharding.layout.Layout.some`). So the answer is the same however the
matrix is divided. Values that are taken for a grid by mistake lose nothing by it but time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from weibull_monitor.measure.bins import MANTISSA_BITS, Bins, place_bits
from weibull_monitor.model.components.storage import MANTISSA
from weibull_monitor.model.upload import on_device

Numbers = npt.NDArray[np.float64]
Answers = npt.NDArray[np.bool_]

_FINE: Final = (7, 10, 12)
"""Mantissa bits of the grids that zero bits tell: bf16, fp16 and TF32, and the finest that moves λ by almost 1e-4."""
SLOTS: Final = 8
"""Parts between two neighbours of a grid: a value that left the grid by a small step is still near it."""
TALLIES: Final = len(_FINE) * (SLOTS + 1)
"""Integers in a tally."""
_LEAST: Final = 0.005
"""A smaller share of values on a grid is left alone: on that of bf16, it moves λ by 1.5e-5."""
_CHANCE: Final = 3
"""So many values of a small sample may lie on a grid by chance."""
MOST: Final = 9.0
"""What a single bin adds to the roughness at most, in units of what chance adds on average: an edge or a spike is not a grid."""
PARTS: Final = 16
"""Roughness is added up in whole sixteenths, so that its sum does not depend on the order."""
_DEVIATIONS: Final = 5.0
"""Roughness, or unevenness of places, by so many standard deviations above that of chance means a grid."""
ROWS_AT_ONCE: Final = 32
"""Rows whose roughness is computed together, unless they are trimmed: 4 MiB a temporary."""


def lows_of(dtype: torch.dtype) -> tuple[int, ...]:
    """Bits of a dtype's mantissa below those of each grid that zero bits tell; 0 for grids that are not coarser than the dtype.

    >>> lows_of(torch.float32), lows_of(torch.float16)
    ((16, 13, 11), (3, 0, 0))
    """
    return tuple(max(0, MANTISSA[dtype] - mantissa) for mantissa in _FINE)


@torch.no_grad()
def tally(values: Sequence[Tensor], bins: Bins) -> Tensor:
    """Counts where values lie between those of the coarser dtypes. On a device this is queued.

    Args:
        values: Some values of each matrix, one dimension each, of dtype ``bins.dtype``, all on one device.
        bins: The layout that the matrices are counted into.

    Returns:
        int64, (matrices, TALLIES), on the device. For grids of 7, 10 and 12 bits of mantissa: how many of the finite values
        that are not zero lie in each eighth of the way from one value of the grid to the next, and how many on the grid, which
        are not in an eighth. All 0 for grids that are not coarser than the dtype, and for 8-bit floats.
    """
    device = values[0].device if values else torch.device("cpu")
    out = torch.zeros(len(values), len(_FINE), SLOTS + 1, dtype=torch.int64, device=device)
    if not values or not bins.shift:
        return out.flatten(1)
    bits = torch.cat(tuple(values)).view(bins.integer) & bins.mask  # (all values,)
    lengths = on_device(torch.tensor([len(some) for some in values], device="cpu"), device)
    of = torch.arange(len(values), device=device).repeat_interleave(lengths, output_size=len(bits))  # their matrix
    usable = ((bits != 0) & (bits < bins.finite << bins.shift)).long()  # beyond are Inf and NaN
    for place, low in enumerate(lows_of(bins.dtype)):
        if not low:
            continue
        after = bits & ((1 << low) - 1)  # the distance from the value of the grid below
        eighth = after >> (low - 3) if low >= 3 else after << (3 - low)
        slot = eighth.where(after != 0, SLOTS).long() + of * (SLOTS + 1)
        sums = torch.zeros(len(values) * (SLOTS + 1), dtype=torch.int64, device=device)
        out[:, place] = sums.scatter_add_(0, slot, usable).view(len(values), -1)
    return out.flatten(1)


@torch.no_grad()
def roughness(finite: Tensor, bins: Bins, first: int = 0) -> Tensor:
    """By how much the counts of neighbouring bins differ, where chance lets them.

    Of t values in three neighbouring bins of equal width, each is in any of them by the same chance if they lie on no grid. Then
    (a - 2b + c)² has the mean 2t. If many values are equal, it is larger.

    Args:
        finite: Counts of bins, (rows, some bins): all finite bins, or a stretch outside of which there are no values.
        bins: The layout.
        first: The first of those bins.

    Returns:
        int64, (rows, 2): how many triples hold values; the sum of their (a - 2b + c)² / 2t, each at most `MOST`, in `PARTS`.
    """
    out = [_roughness(part, first) for part in torch.split(finite, ROWS_AT_ONCE)] if bins.shift else []
    return torch.cat(out) if out else torch.zeros(len(finite), 2, dtype=torch.int64, device=finite.device)


def _roughness(finite: Tensor, first: int) -> Tensor:
    c = torch.nn.functional.pad(
        finite.double(), (2, 2)
    )  # (rows, bins + 4): neighbours without values belong to triples too
    total = c[:, :-2] + c[:, 1:-1] + c[:, 2:]  # (rows, bins + 2)
    bend = total - 3.0 * c[:, 1:-1]
    # Beyond a power of two bins are twice as wide: triples across one say nothing.
    place = torch.arange(first - 1, first - 1 + total.shape[1], device=c.device) % (1 << MANTISSA_BITS)
    total = total * ((place > 0) & (place < (1 << MANTISSA_BITS) - 1))
    # Each step is one correctly rounded operation, so every device and machine comes to the same integers.
    parts = (bend * bend * (PARTS / 2.0) / total).clamp_(max=PARTS * MOST).floor_().where(total > 0, 0.0)
    return torch.stack([(total > 0).sum(1), parts.sum(1).long()], dim=1)


def evidence(tallies: Tensor, counts: Tensor, bins: Bins) -> Tensor:
    """What `on_grid` judges by, for rows of counts of all values.

    Args:
        tallies: As `tally` returns it.
        counts: int64, (rows, bins.columns).
        bins: The layout of the counts.

    Returns:
        int64, (rows, TALLIES + 2).
    """
    finite, first = counts[:, 1:-1], 0
    if counts.device.type == "cpu" and bins.shift and len(counts):  # bins that no row uses cost time
        used = finite.sum(dim=0).nonzero()  # much faster than `any`
        first, last = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)
        finite = finite[:, first:last]
    return torch.cat([tallies.to(counts.device), roughness(finite, bins, first)], dim=1)


def on_grid(found: Sequence[Sequence[float]] | Numbers, bins: Bins) -> list[bool]:
    """Which matrices lie on a grid, so that all of their values have to be looked at.

    Args:
        found: For each matrix the `TALLIES` numbers of `tally` and the two of `roughness`, of all of its values together.
        bins: The layout that the values are counted into.

    >>> from weibull_monitor.measure import bins_of, count_magnitudes
    >>> w, bins = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).flatten(), bins_of(torch.float32)
    >>> steps = w.abs().max() / 127
    >>> all_three = [w, w.bfloat16().float(), (w / steps).round() * steps]
    >>> on_grid(evidence(tally(all_three, bins), count_magnitudes(all_three, bins), bins).tolist(), bins)
    [False, True, True]
    """
    if not len(found):
        return []
    table = np.asarray(found, dtype=np.float64)  # (matrices, TALLIES + 2)
    both: list[bool] = (_zero_bits(table[:, :TALLIES], bins) | _rough(*table[:, TALLIES:].T)).tolist()
    return both


def _zero_bits(tallied: Numbers, bins: Bins) -> Answers:
    """Whether more values than by chance lie on one of the grids, or near it, (matrices,) from (matrices, TALLIES)."""
    found = np.zeros(len(tallied), dtype=np.bool_)
    for place, low in enumerate(lows_of(bins.dtype)):
        if not low:  # nothing was tallied
            continue
        of_grid = tallied[:, place * (SLOTS + 1) :][:, : SLOTS + 1]
        eighths, on_it = of_grid[:, :SLOTS].copy(), of_grid[:, SLOTS]  # (matrices, SLOTS), (matrices,)
        values = of_grid.sum(axis=1)
        usual = values * 0.5**low
        found |= on_it > usual + 4.0 * np.sqrt(usual) + _LEAST * values + _CHANCE
        if low < 3:  # not all of the eighths can hold values
            continue
        mean = values / SLOTS
        eighths[:, 0] += on_it
        # χ² of seven degrees of freedom has mean 7 and variance 14. The squares are multiples of 1/64: their sum is exact.
        uneven = ((eighths - mean[:, None]) ** 2).sum(axis=1) / np.maximum(mean, 1.0)
        enough = values >= 10 * SLOTS
        found |= enough & (uneven > (SLOTS - 1) + 2 * _DEVIATIONS * math.sqrt(2 * (SLOTS - 1)))
    return found


def _rough(triples: Numbers, parts: Numbers) -> Answers:
    # The square of a normal variable has variance 2; neighbouring triples share bins, so their mean varies by twice as much.
    return parts > PARTS * (triples + _DEVIATIONS * 2.0 * np.sqrt(triples))


def offsets_from(places: Tensor, counts: Tensor, bins: Bins) -> Tensor:
    """Offsets of rows of which every value was looked at.

    Args:
        places: As `weibull_monitor.measure.plain.count.places_by_scatter` returns them, (rows, 2, bins.columns).
        counts: The counts of the same values, int64 (rows, bins.columns).
        bins: The layout of both.

    Returns:
        int64, (rows, 2, bins.columns). In the columns of the bins: sums of twice the distance of each value from the middle of
        its bin, in steps of 2 ** `place_bits` a bin; sums of its square, less what values that fill the bin have on average. In
        column 0, how many values were looked at. The rest is 0.
    """
    offsets = places.clone()
    finite = counts[:, 1:-1]
    offsets[:, 1, 1:-1] -= (4 ** place_bits(bins) - 1) // 3 * finite
    # The smallest subnormal numbers share their bin with zeros, which have no place in it. (A list of places would be an index
    # on the host, for which a device is waited for.)
    offsets[:, :, :2] = 0
    offsets[:, :, -1] = 0
    offsets[:, 0, 0] = finite.sum(dim=1)
    return offsets
