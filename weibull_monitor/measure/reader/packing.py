"""Counts as the ranks add them up: a window of each row where weights lie, small enough to send, and exact all the same.

A row of float32 has 16,322 columns, of which weights use some hundreds. Only the octaves from 2⁻⁴⁴ to 2⁴ are sent, as int32:
12 kB a matrix. They hold every value of a matrix of 2³² normal weights of any scale from 10⁻³ to 1. What lies outside is counted
on either side; a matrix of which there is any is sent again with its whole row, and from then on with it at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import torch
from torch import Tensor

from weibull_monitor.measure.bins import Bins, bins_of

LOWEST_OCTAVE: Final = -44
HIGHEST_OCTAVE: Final = 4
BYTES_AT_ONCE: Final = 32 << 20
"""What one all-reduce sums at most: 2,000 matrices and their notes; more go in several."""
ZEROS, NONFINITE, BELOW, ABOVE, MISSING = range(5)
"""The columns before the window: exact zeros, non-finite values, finite ones outside of the window, ranks that failed."""
_BEFORE: Final = 5


@dataclass(frozen=True)
class SentBins:
    """The bins of a dtype that are sent.

    Attributes:
        bins: The layout of the rows.
        first: First bin.
        last: The bin after the last.
    """

    bins: Bins
    first: int
    last: int

    @property
    def width(self) -> int:
        """Numbers that are sent for a row."""
        return _BEFORE + self.last - self.first

    def pack(self, counts: Tensor, out: Tensor) -> None:
        """Writes rows of counts (rows, bins.columns) to ``out`` (rows, width), of an integer dtype that holds their values."""
        finite = counts[:, 1:-1]
        out[:, ZEROS], out[:, NONFINITE] = counts[:, 0], counts[:, -1]
        out[:, BELOW] = finite[:, : self.first].sum(dim=1)
        out[:, ABOVE] = finite[:, self.last :].sum(dim=1)
        out[:, MISSING] = 0
        out[:, _BEFORE:] = finite[:, self.first : self.last]

    def unpack(self, packed: Tensor) -> Tensor:
        """Rows of counts, int64 (rows, bins.columns), from rows with nothing outside of the window."""
        counts = torch.zeros(len(packed), self.bins.columns, dtype=torch.int64, device=packed.device)
        counts[:, 0], counts[:, -1] = packed[:, ZEROS], packed[:, NONFINITE]
        counts[:, 1 + self.first : 1 + self.last] = packed[:, _BEFORE:]
        return counts


@cache
def window_of(dtype: torch.dtype, whole: bool = False) -> SentBins:
    """The window of a dtype.

    Args:
        dtype: A dtype that can be counted.
        whole: Whether to take all of its bins.

    >>> window_of(torch.bfloat16).width, window_of(torch.bfloat16, whole=True).width, window_of(torch.float8_e4m3fn).width
    (3078, 16325, 94)
    """
    bins = bins_of(dtype)
    if whole:
        return SentBins(bins, 0, bins.finite)
    starts = bins.edges[:-1]
    first = int((starts < 2.0**LOWEST_OCTAVE).sum())
    last = int((starts < 2.0**HIGHEST_OCTAVE).sum())
    return SentBins(
        bins, max(first - 1, 0), min(last, bins.finite)
    )  # an edge lies just below the power of two it stands for


@dataclass(frozen=True)
class Bucket:
    """Rows that are summed together: their windows one after the other in one buffer, after the notes.

    Attributes:
        indices: Which components.
        windows: The window of each.
        notes: Numbers of the buffer before the first row.
        dtype: int32, or int64 where a component has elements too many for it.
    """

    indices: tuple[int, ...]
    windows: tuple[SentBins, ...]
    notes: int
    dtype: torch.dtype

    @property
    def size(self) -> int:
        """Numbers in the buffer."""
        return self.notes + sum(window.width for window in self.windows)

    def runs(self) -> list[tuple[int, int, int]]:
        """(first row, row after the last, place in the buffer) of neighbours with the same window."""
        out: list[tuple[int, int, int]] = []
        at = self.notes
        for row, window in enumerate(self.windows):
            if out and self.windows[out[-1][0]] is window:
                out[-1] = (out[-1][0], row + 1, out[-1][2])
            else:
                out.append((row, row + 1, at))
            at += window.width
        return out

    def rows(self, buffer: Tensor, first: int, last: int, place: int) -> Tensor:
        """The packed rows of a run, as a view (rows, width) of the buffer."""
        width = self.windows[first].width
        return buffer[place : place + (last - first) * width].view(last - first, width)


def buckets(
    components: Sequence[tuple[int, torch.dtype, int, bool]], notes: int, bytes_at_once: int = BYTES_AT_ONCE
) -> list[Bucket]:
    """Divides components among as few buckets as the limit allows; the first also takes the notes.

    Args:
        components: (index, dtype, elements, whether the whole row is sent) of each.
        notes: Numbers that travel before the rows of the first bucket.
        bytes_at_once: What a bucket may take.
    """
    out: list[Bucket] = []
    chosen: list[tuple[int, SentBins]] = []
    largest = 0

    def close() -> None:
        nonlocal chosen, largest
        dtype = torch.int64 if largest >= 2**31 else torch.int32
        places, windows = tuple(i for i, _ in chosen), tuple(w for _, w in chosen)
        out.append(Bucket(places, windows, notes if not out else 0, dtype))
        chosen, largest = [], 0

    size = notes
    for index, dtype, numel, whole in sorted(components, key=lambda c: (c[3], str(c[1]), c[2] >= 2**31, c[0])):
        window = window_of(dtype, whole)
        width = 8 if max(largest, numel) >= 2**31 else 4
        if chosen and (size + window.width) * width > bytes_at_once:
            close()
            size = 0
        chosen.append((index, window))
        largest = max(largest, numel)
        size += window.width
    if chosen or not out:
        close()
    return out
