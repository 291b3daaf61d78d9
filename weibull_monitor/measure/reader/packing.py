"""Rows of counts as ranks send them: only the columns where weights lie, and still exact.

A row of float32 has 16,322 columns, of which weights use some hundreds. Ranks send the octaves from 2⁻⁴⁴ to 2⁴ only, as int32:
12 kB per matrix. They hold every value of a matrix of 2³² normal weights of any scale from 10⁻³ to 1. Values below and above
are counted in a column each. If there are any, the matrix is sent again with its whole row, and from then on at once so.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import torch
from torch import Tensor

from weibull_monitor.measure.bins import Bins, bins_of
from weibull_monitor.measure.grid import TALLIES, roughness
from weibull_monitor.model.components import Component

LOWEST_OCTAVE: Final = -44
HIGHEST_OCTAVE: Final = 4
BYTES_AT_ONCE: Final = 32 << 20
"""Most bytes in one all-reduce: 2,700 matrices. More matrices take several."""
ZEROS, NONFINITE, BELOW, ABOVE, MISSING, TALLY = range(6)
"""The columns before the bins: exact zeros, non-finite values, finite values outside of the sent bins, ranks that failed, and the
first of a tally (`weibull_monitor.measure.grid.tally`)."""
_BEFORE: Final = TALLY + TALLIES


@dataclass(frozen=True)
class SentBins:
    """The bins of a dtype that are sent.

    Attributes:
        bins: The layout of the rows of counts.
        first: First bin that is sent.
        last: The bin after the last.
    """

    bins: Bins
    first: int
    last: int

    @property
    def width(self) -> int:
        """Numbers that are sent per row."""
        return _BEFORE + self.last - self.first

    def pack(self, counts: Tensor, tallies: Tensor) -> Tensor:
        """Rows of counts, int64 (rows, bins.columns), and their tallies, int64 (rows, TALLIES), as int64 (rows, width)."""
        finite = counts[:, 1:-1]  # (rows, bins.finite)
        below, above = finite[:, : self.first].sum(dim=1), finite[:, self.last :].sum(dim=1)  # (rows,) each
        none = torch.zeros_like(below)
        before = torch.stack([counts[:, 0], counts[:, -1], below, above, none], dim=1)
        return torch.cat([before, tallies.to(counts.device), finite[:, self.first : self.last]], dim=1)

    def evidence(self, packed: Tensor) -> Tensor:
        """What `weibull_monitor.measure.grid.on_grid` judges by, of sums of rows (rows, width) with no values outside."""
        rough = roughness(packed[:, _BEFORE:], self.bins, self.first)
        return torch.cat([packed[:, TALLY:_BEFORE].long(), rough], dim=1)

    def unpack(self, packed: Tensor) -> Tensor:
        """The reverse of `pack`, for rows (rows, width) that have no values outside of the sent bins."""
        counts = torch.zeros(len(packed), self.bins.columns, dtype=torch.int64, device=packed.device)
        counts[:, 0], counts[:, -1] = packed[:, ZEROS], packed[:, NONFINITE]
        counts[:, 1 + self.first : 1 + self.last] = packed[:, _BEFORE:]
        return counts

    def pack_places(self, places: Tensor) -> Tensor:
        """Sums of places (rows, 2, bins.columns) as (rows, 2, sent): how many values were looked at, and the sent bins."""
        return torch.cat([places[..., :1], places[..., 1 + self.first : 1 + self.last]], dim=2)

    def unpack_places(self, packed: Tensor) -> Tensor:
        """The reverse of `pack_places`."""
        places = packed.new_zeros(len(packed), 2, self.bins.columns)
        places[..., 0], places[..., 1 + self.first : 1 + self.last] = packed[..., 0], packed[..., 1:]
        return places


@cache
def sent_bins(dtype: torch.dtype, whole: bool = False) -> SentBins:
    """The bins of a dtype that are sent; all of them with ``whole``.

    >>> sent_bins(torch.bfloat16).width, sent_bins(torch.bfloat16, whole=True).width, sent_bins(torch.float8_e4m3fn).width
    (3105, 16352, 121)
    """
    bins = bins_of(dtype)
    if whole:
        return SentBins(bins, 0, bins.finite)
    starts = bins.edges[:-1]
    first = int((starts < 2.0**LOWEST_OCTAVE).sum()) - 1  # an edge lies just below its power of two
    last = int((starts < 2.0**HIGHEST_OCTAVE).sum())
    return SentBins(bins, max(first, 0), min(last, bins.finite))


@dataclass(frozen=True)
class Bucket:
    """Components whose rows are summed by one all-reduce, in a buffer of shape (len(indices), sent.width).

    Attributes:
        indices: Which components, by their place.
        sent: The bins that are sent of each.
        dtype: Of the buffer: int32, or int64 for components with more elements than int32 can count.
    """

    indices: tuple[int, ...]
    sent: SentBins
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes in the buffer."""
        return len(self.indices) * self.sent.width * self.dtype.itemsize


def buckets(
    components: Sequence[Component],
    indices: Iterable[int],
    whole: Container[str] = (),
    bytes_at_once: int = BYTES_AT_ONCE,
) -> list[Bucket]:
    """Divides components among as few buckets as their dtypes and the limit allow; the same on every rank.

    Args:
        components: The components.
        indices: Which of them, by their place.
        whole: Names of the components that are sent with all of their bins.
        bytes_at_once: Most bytes in a bucket.
    """
    groups: dict[tuple[torch.dtype, bool, bool], list[int]] = {}
    for index in indices:
        component = components[index]
        groups.setdefault((component.dtype, component.name in whole, component.numel >= 2**31), []).append(index)
    out = []
    for (dtype, all_bins, large), members in groups.items():
        sent, integer = sent_bins(dtype, all_bins), torch.int64 if large else torch.int32
        rows = max(1, bytes_at_once // (sent.width * integer.itemsize))
        out += [Bucket(tuple(members[at : at + rows]), sent, integer) for at in range(0, len(members), rows)]
    return out
