"""The table for one launch of the counting kernel: where the elements are in memory, and which rows they are counted into.

Nothing is copied and nothing is read here: a tensor of any strides becomes a few pieces, each an address, a length and a
stride. What is aligned to 16 bytes and fills whole tiles is read in vectors; heads, tails and odd strides value by value.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from weibull_monitor.model.sharding.layout import Elements

TILE = 8192
"""Elements that a program counts between two sums of its histogram: 64 a thread."""
ROWS = 4
"""Rows that a piece may be counted into: its own, and those of the matrices that it is a part of."""
ALIGNMENT = 16
"""Bytes of a vector."""
DENSE, RUNS, ODD = range(3)
"""How the elements of a piece are spaced: side by side; in runs of whole vectors; in any other way."""
ADDRESS, BEGIN, END, RUN, STRIDE, FIRST_TILE, LAYOUT, FIRST_ROW = range(8)
"""The columns of the table; the rows take `ROWS` of them."""
COLUMNS = FIRST_ROW + ROWS
STEP, FIRST, NUMBER, LOOKED_AT_COLUMNS = range(1, 5)
"""The columns of the table of values that are looked at, after their matrix's address; and how many there are."""
ELEMENTS = 64
"""Elements of a matrix that are compared with what they were, at most."""
SUMS = 6
"""Sums of such a row: squares and number of writes, the step after which the largest came, squares and number of steps, and the
squares of that write."""

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class WorkTable:
    """What one launch counts.

    Attributes:
        pieces: int64, (pieces + 1, COLUMNS); the last holds nothing but the number of tiles.
        starts: int64, (programs + 1, 2): the first tile of each program, and the piece that this tile is in.
    """

    pieces: Integers
    starts: Integers

    @property
    def programs(self) -> int:
        """How many programs share the tiles; 0 if there is nothing to count."""
        return len(self.starts) - 1


def table_of(tensors: Sequence[Tensor], rows: Sequence[Sequence[int]], programs: int, tile: int = TILE) -> WorkTable:
    """The table of a launch.

    Args:
        tensors: Tensors of one dtype on one device, of any shape and strides.
        rows: For each tensor the rows that it is counted into, at most `ROWS`.
        programs: How many programs may share the tiles.
        tile: Elements of a tile.
    """
    out: list[tuple[int, ...]] = []
    tiles = 0
    for tensor, into in zip(tensors, rows, strict=True):
        padded = (*into, *(-1,) * (ROWS - len(into)))
        for piece in pieces_of(tensor, tile):
            out.append((*piece[:5], tiles, piece[5], *padded))
            tiles += -(-(piece[2] - piece[1]) // tile)
    out.append((0, 0, 0, 1, 1, tiles, ODD, *(-1,) * ROWS))
    pieces = np.array(out, dtype=np.int64)
    programs = min(programs, tiles)
    first = np.arange(programs + 1, dtype=np.int64) * tiles // max(programs, 1)
    within = np.searchsorted(pieces[:, FIRST_TILE], first, side="right") - 1
    return WorkTable(pieces, np.stack([first, within], axis=1))


def looked_at(some: Sequence[Elements]) -> tuple[Integers, npt.NDArray[np.int32]]:
    """The table of `weibull_monitor.measure.kernels.evidence.tally_kernel`, and the places that it points to.

    Args:
        some: Elements of each matrix, of one dtype on one device.

    Returns:
        int64 (matrices, LOOKED_AT_COLUMNS): address, distance of the elements or 0 if they are not evenly spaced, the first of
        their places, how many there are; int32: their places, in elements behind the address.

    Raises:
        ValueError: If an element is farther from its matrix's address than 32 bits say.
    """
    out: list[tuple[int, int, int, int]] = []
    places: list[npt.NDArray[np.int32]] = []
    first = 0
    for tensor, indices in some:
        if indices is None:  # one dimension, or none
            step = tensor.stride(0) if tensor.dim() else 1
            out.append((tensor.data_ptr(), step, 0, tensor.numel()))
            continue
        distances = sum(index * stride for index, stride in zip(indices, tensor.stride(), strict=True))
        here = np.asarray(distances, dtype=np.int64)
        if len(here) and int(here.max()) >= 2**31:
            raise ValueError("elements lie too far apart")
        out.append((tensor.data_ptr(), 0, first, len(here)))
        places.append(here.astype(np.int32))
        first += len(here)
    return np.array(out, dtype=np.int64).reshape(-1, LOOKED_AT_COLUMNS), np.concatenate(
        [*places, np.zeros(1, np.int32)]
    )


def rows_of(pairs: Sequence[tuple[int, int]]) -> Integers:
    """The rows that a solve takes and writes, as `weibull_monitor.measure.kernels.launch.Kernels.solve` wants them."""
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def pieces_of(tensor: Tensor, tile: int = TILE) -> Iterator[tuple[int, int, int, int, int, int]]:
    """Address, first element, end, run, stride and layout of pieces that hold each element of a tensor once.

    Element ``i`` of a piece is ``i // run * stride + i % run`` elements behind its address.

    >>> import torch
    >>> whole = torch.empty(64, 384, dtype=torch.bfloat16)
    >>> [piece[1:] for piece in pieces_of(whole)]  # three tiles
    [(0, 24576, 24576, 24576, 0)]
    >>> [piece[1:] for piece in pieces_of(whole[:, 128:256])]  # 64 runs of 128, 384 apart: one tile
    [(0, 8192, 128, 384, 1)]
    >>> [piece[1:] for piece in pieces_of(whole[:, 1:129])]  # not aligned
    [(0, 8192, 128, 384, 2)]
    """
    itemsize, address = tensor.element_size(), tensor.data_ptr()
    *outer, (runs, stride), (run, step) = _collapsed(tensor)
    if step != 1 and run > 1:
        outer, (runs, stride), (run, step) = [*outer, (runs, stride)], (run, step), (1, 1)
    length = runs * run
    for shift in _offsets(outer):
        start = address + shift * itemsize
        if runs == 1 or stride == run:
            yield from _dense(start, length, itemsize, tile)
        elif start % ALIGNMENT == run * itemsize % ALIGNMENT == stride * itemsize % ALIGNMENT == 0:
            full = length // tile * tile
            if full:
                yield start, 0, full, run, stride, RUNS
            if full < length:
                yield start, full, length, run, stride, ODD
        elif length:
            yield start, 0, length, run, stride, ODD


def _dense(address: int, length: int, itemsize: int, tile: int) -> Iterator[tuple[int, int, int, int, int, int]]:
    """Pieces of a stretch of memory: what comes before the first vector, whole tiles, the rest."""
    head = min(length, -address % ALIGNMENT // itemsize)
    full = (length - head) // tile * tile
    if full == 0:
        head = length  # one piece, not two
    if head:
        yield address, 0, head, head, head, ODD
    if full:
        yield address + head * itemsize, 0, full, full, full, DENSE
    if rest := length - head - full:
        yield address + (head + full) * itemsize, 0, rest, rest, rest, ODD


def _collapsed(tensor: Tensor) -> list[tuple[int, int]]:
    """(size, stride) of the fewest dimensions that give the same elements, at least two, the outermost first."""
    sizes = [(size, stride) for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size != 1]
    sizes.sort(key=lambda dimension: -dimension[1])
    out: list[tuple[int, int]] = []
    for size, stride in sizes:
        if out and out[-1][1] == size * stride:
            out[-1] = (out[-1][0] * size, stride)
        else:
            out.append((size, stride))
    while len(out) < 2:
        out.insert(0, (1, math.prod(size for size, _ in out)))
    return out


def _offsets(dimensions: Sequence[tuple[int, int]]) -> Iterator[int]:
    """The offset of every index into some dimensions."""
    if not dimensions:
        yield 0
        return
    (size, stride), *inner = dimensions
    for index in range(size):
        for offset in _offsets(inner):
            yield index * stride + offset
