"""Bins of |w| that are float bit patterns: 2**m bins an octave, over the whole range of the dtype.

The bit pattern of a non-negative float, read as an integer, rises with its value. Dropping the sign and shifting out all but
``m`` mantissa bits therefore bins any scale without a logarithm or any float arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import torch

from weibull_monitor.model.components.storage import MANTISSA

MANTISSA_BITS = 6
"""m: 64 bins an octave, each about 1 % wide. With 32, single fits of 65,536 values miss the exact sort by more than 1e-4."""


@dataclass(frozen=True)
class Bins:
    """The bin layout of one float dtype.

    A row of counts has ``columns = finite + 2`` integers: exact zeros, the ``finite`` bins in rising order, and
    everything that is not finite (Inf and NaN).

    Attributes:
        dtype: The float dtype that is counted.
        integer: The integer dtype of the same width that its bits are viewed as.
        shift: Number of low mantissa bits that are dropped.
        finite: Number of bins that hold finite, non-zero values.
        edges: float64, shape (finite + 1,): bin ``j`` holds the values between ``edges[j]`` and ``edges[j + 1]``. An edge lies
            midway between the largest representable value of one bin and the smallest of the next, because a stored value
            stands for the interval of reals that round to it.
    """

    dtype: torch.dtype
    integer: torch.dtype
    shift: int
    finite: int
    edges: torch.Tensor = field(compare=False)  # they follow from the rest

    @property
    def columns(self) -> int:
        """Width of a row of counts."""
        return self.finite + 2

    @property
    def mask(self) -> int:
        """All bits but the sign."""
        return int(torch.iinfo(self.integer).max) if self.integer != torch.uint8 else 0x7F

    @property
    def fnuz(self) -> bool:
        """Whether the pattern of a negative zero means NaN, and there is no other (the fp8 ``fnuz`` types)."""
        return str(self.dtype).endswith("fnuz")


_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@cache
def bins_of(dtype: torch.dtype) -> Bins:
    """The bin layout of a dtype in `MANTISSA`; 64 bins an octave, or as many as a shorter mantissa has.

    >>> bins = bins_of(torch.float32)
    >>> bins.finite, [round(float(e), 5) for e in bins.edges[127 * 64 : 127 * 64 + 3]]
    (16320, [1.0, 1.01562, 1.03125])
    """
    mantissa = MANTISSA[dtype]
    integer = _INTEGERS[dtype.itemsize]
    shift = max(0, mantissa - MANTISSA_BITS)
    patterns = torch.arange(0, 2 ** (8 * dtype.itemsize - 1 - shift), dtype=torch.int64, device="cpu") << shift
    first = patterns.to(integer).view(dtype).double()  # the smallest value of each bin
    finite = int(torch.isfinite(first).sum())
    first = first[:finite]
    last = (patterns[:finite] + ((1 << shift) - 1)).to(integer).view(dtype).double()  # and the largest
    if not torch.isfinite(last[-1]):  # e4m3fn: the top bin's last pattern is NaN
        last[-1] = torch.finfo(dtype).max
    smallest = _smallest(dtype)
    # Between two adjacent float64 there is no midpoint to compute with, and no need of one.
    between = first[1:] if dtype == torch.float64 else last[:-1] + (first[1:] - last[:-1]) / 2.0
    edges = torch.cat([first.new_tensor([max(smallest / 2.0, 5e-324)]), between, last[-1:]])
    if shift == 0:  # bin 0 would hold nothing but zero, which has a column of its own: close it
        edges[0] = edges[1] * 0.5
    return Bins(dtype=dtype, integer=integer, shift=shift, finite=finite, edges=edges)


PLACE_BITS = 15
"""How finely places within a bin are measured, in bits: sums of their squares over 2³² values fit into int64."""


def place_bits(bins: Bins) -> int:
    """Bits of the place of a value within its bin that are measured."""
    return min(bins.shift, PLACE_BITS)


@cache
def middles_of(bins: Bins) -> tuple[torch.Tensor, torch.Tensor]:
    """The middle of the values of each bin, and the distance between the smallest values of two bins, float64 (finite,) each.

    >>> middle, width = middles_of(bins_of(torch.bfloat16))  # a bin holds two values
    >>> [float(v) * 128 for v in (middle[127 * 64], width[127 * 64])]
    [128.5, 2.0]
    """
    patterns = torch.arange(0, bins.finite, dtype=torch.int64, device="cpu") << bins.shift
    first = patterns.to(bins.integer).view(bins.dtype).double()
    if bins.shift == 0:  # a bin holds a single value; that of zero is never used
        return torch.cat([bins.edges[:1], first[1:]]), torch.zeros_like(first)
    steps = (1 << bins.shift) - 1  # from the smallest value of a bin to its largest
    last = (patterns + steps).to(bins.integer).view(bins.dtype).double()
    return first + (last - first) / 2.0, (last - first) / steps * 2.0**bins.shift


def _smallest(dtype: torch.dtype) -> float:
    """The smallest positive value, subnormal ones included."""
    return torch.ones(1, dtype=torch.int64, device="cpu").to(_INTEGERS[dtype.itemsize]).view(dtype).double().item()
