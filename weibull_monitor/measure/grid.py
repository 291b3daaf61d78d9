"""Where values lie within their bins, for matrices whose values lie on a grid.

A bin is about 1 % wide, and the fit takes its values to fill it. Values of a coarser dtype in a wider one do not (bf16 or fp16 in
fp32), nor do dequantised int8, fp8 or 4-bit values. For such matrices the sum of the places within each bin is taken beside the
counts. These *offsets* are integers and add as counts do. A value that was not looked at adds nothing, which is what values that
fill their bin add on average. So any part of a matrix may be looked at or not; values that lie on no grid lose nothing by it
but time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from weibull_monitor.measure.bins import Bins, place_bits
from weibull_monitor.measure.plain.count import flat
from weibull_monitor.model.components.storage import MANTISSA

SAMPLE: Final = 512
"""Values that are looked at together to find whether a tensor lies on a grid."""
WAYS: Final = 3
"""Values are taken evenly over the tensor; side by side, which may have a scale in common; and across that."""
_FINE: Final = (7, 10, 12)
"""Mantissa bits of the grids that zero bits tell: bf16, fp16 and TF32, and the finest that moves λ by almost 1e-4."""
_LEAST: Final = 0.005
"""A smaller share of values on a grid is left alone: on that of bf16, it moves λ by 1.5e-5."""
_FINER: Final = 3
"""Equal values are looked for in eighths of a bin: of matrices with many scales, those of a group may be only almost equal."""
_EQUAL: Final = 8
"""Fewer pairs of equal values than this are left alone."""


@torch.no_grad()
def look(tensors: Sequence[Tensor], bins: Bins) -> Tensor:
    """Looks at some values of each tensor. On a device this is queued.

    Args:
        tensors: Tensors of dtype ``bins.dtype``, all on one device.
        bins: The layout that they are counted into.

    Returns:
        float32, (tensors * WAYS, 3 + grids), on the device: how many of the values are not zero; of how many neighbours, after
        sorting, the leading bits are equal, and of how many they are adjacent; how many values lie on each of `_grids`.
    """
    seen = torch.zeros(len(tensors) * WAYS, SAMPLE, dtype=bins.dtype, device=tensors[0].device)  # zeros do not count
    for row, values in zip(seen, (some for tensor in tensors for some in _some(tensor)), strict=True):
        row[: len(values)] = values
    seen = (seen.view(bins.integer) & bins.mask).sort(dim=1).values
    some = seen != 0
    leading = seen >> max(0, bins.shift - _FINER)
    step = (leading[:, 1:] - leading[:, :-1]).masked_fill(~some[:, :-1], 2)  # of numbers without a sign: no overflow
    found = [some, step == 0, step == 1]
    found += [some & (seen & ((1 << zero_bits) - 1) == 0) for zero_bits in _grids(bins)]
    return torch.stack([flags.sum(dim=1) for flags in found], dim=1).float()


def on_grid(looked: Sequence[Sequence[float]], bins: Bins) -> list[bool]:
    """Which tensors lie on a grid, so that all of their values have to be looked at.

    Args:
        looked: The rows of the result of `look`.
        bins: The layout that the values are counted into.

    >>> from weibull_monitor.measure.bins import bins_of
    >>> w, bins = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)), bins_of(torch.float32)
    >>> steps = w.abs().max() / 127
    >>> on_grid(look([w, w.bfloat16().float(), (w / steps).round() * steps], bins).tolist(), bins)
    [False, True, True]
    """
    found = [_on_grid(row, bins) for row in looked]
    return [any(found[at : at + WAYS]) for at in range(0, len(found), WAYS)]


def _on_grid(looked: Sequence[float], bins: Bins) -> bool:
    values, equal, adjacent, *on_grids = looked
    for zero_bits, found in zip(_grids(bins), on_grids, strict=True):
        by_chance = 0.5**zero_bits
        usual = values * by_chance + 4.0 * math.sqrt(values * by_chance * (1.0 - by_chance))
        if found > usual + _LEAST * values:
            return True
    if equal < _EQUAL:
        return False
    # Of few distinct values, many are equal. If they are dense, the neighbours of each are there as well: where the number of
    # values at each pattern has a Poisson distribution of mean h, a share q = 1 - exp(-h) of the patterns is there, and of each
    # one's neighbours again q.
    distinct = values - equal
    mean = values / distinct
    h = mean
    for _ in range(30):
        h = mean * -math.expm1(-h)
    there = -math.expm1(-h)  # q
    expected = there * distinct
    return adjacent < min(0.6 * expected, expected - 4.0 * math.sqrt(2.0 * expected * (1.0 - there) + 1.0))


def grids_among(tensors: Sequence[Tensor], bins: Bins) -> list[bool]:
    """Which tensors lie on a grid. A device is waited for."""
    if bins.shift == 0 or not tensors:  # a bin of fp8 is a single value
        return [False] * len(tensors)
    return on_grid(look(tensors, bins).tolist(), bins)


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
    offsets[:, :, [0, 1, -1]] = (
        0  # the smallest subnormal numbers share their bin with zeros, which have no place in it
    )
    offsets[:, 0, 0] = finite.sum(dim=1)
    return offsets


def _grids(bins: Bins) -> tuple[int, ...]:
    """How many low bits are zero on each of the grids that are finer than bins and coarser than the dtype."""
    return tuple(MANTISSA[bins.dtype] - grid for grid in _FINE if MANTISSA[bins.dtype] > grid)


def _some(tensor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """At most `SAMPLE` values in each of the `WAYS`, (values,) each."""
    here = flat(tensor)
    if here.dim() == 1:  # dense in memory
        side_by_side = here[max(0, len(here) - SAMPLE) // 2 :][:SAMPLE]
        run = min((stride for stride in tensor.stride() if stride > 1), default=1)
        return here[:: _odd(len(here) // SAMPLE)][:SAMPLE], side_by_side, here[run // 2 :: run][:SAMPLE]
    rows = here[:: max(1, len(here) // SAMPLE)]
    while rows.dim() > 2:
        rows = rows.select(1, rows.shape[1] // 2)
    evenly = rows[:, :: _odd(rows.shape[1] * len(rows) // SAMPLE)].reshape(-1)
    return evenly[:SAMPLE], rows[len(rows) // 2][:SAMPLE], rows[:, rows.shape[1] // 2][:SAMPLE]


def _odd(step: int) -> int:
    """An odd step: one that divides the length of a row would see few of its columns."""
    return max(1, step - 1 + step % 2)
