"""Counts the components of a checkpoint in one pass over its files, a few megabytes at a time.

The counts equal those of `weibull_monitor.measure` integer by integer: each stretch of a tensor is treated as a shard of it
(`weibull_monitor.model.sharding.layout`), and the elements of every part in it are counted. A thread reads ahead into buffers
that are used again and again, so that memory does not depend on the size of a file or a tensor.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from weibull_monitor.checkpoint.formats.files import open_regular
from weibull_monitor.checkpoint.formats.tensors import Piece, StoredTensor
from weibull_monitor.checkpoint.look import MatrixLook, Structure
from weibull_monitor.errors import CheckpointError
from weibull_monitor.measure import Bins, bins_of, count_magnitudes
from weibull_monitor.measure.choose import sum_places
from weibull_monitor.measure.grid import TALLIES, evidence, offsets_from, on_grid, tally
from weibull_monitor.measure.reader.sums import ROWS_AT_ONCE, CountedRows, Sums
from weibull_monitor.model.components import Component
from weibull_monitor.model.sharding.layout import Box, Flat, Grid, boxes_between

WINDOW: Final = 8 << 20
"""Bytes that are read at a time."""
AHEAD: Final = 2
"""How many windows are read while one is counted."""
MAX_SCATTERED: Final = 128 << 20
"""Most bytes of a tensor whose elements are not stored row by row. It is read as a whole."""

Progress = Callable[[int], None]


def count_checkpoint(
    components: Sequence[Component],
    stored: Mapping[str, StoredTensor],
    progress: Progress = lambda _: None,
    seen: dict[str, Structure] | None = None,
) -> Iterator[CountedRows]:
    """The counts of components whose parameters are in files.

    Args:
        components: What to count.
        stored: Where the elements of each component's parameter are, by the parameter's name.
        progress: Called with the number of bytes that were read since its last call.
        seen: Takes what is seen of each parameter whose rows are read whole, by its name.

    Raises:
        CheckpointError: If a file cannot be read, or ends early.
    """
    sums = Sums(components)
    return sums.complete(_batches(components, sums.read, stored, progress, seen))


def _batches(
    components: Sequence[Component],
    read: Iterable[int],
    stored: Mapping[str, StoredTensor],
    progress: Progress,
    seen: dict[str, Structure] | None,
) -> Iterator[CountedRows]:
    # What lies on a grid is known when all of it has been counted; it is read once more then.
    again: list[int] = []
    for indices, rows, bins in _in_batches(_stream(components, read, stored, _counted, progress, seen), ROWS_AT_ONCE):
        counts = rows[:, TALLIES:]  # (rows, bins.columns)
        found = [False] * len(rows)
        if bins.shift:
            found = on_grid(evidence(rows[:, :TALLIES], counts, bins).tolist(), bins)
        again += [index for index, grid in zip(indices, found, strict=True) if grid]
        smooth = [row for row, grid in enumerate(found) if not grid]
        if smooth:
            yield CountedRows(tuple(indices[row] for row in smooth), counts[smooth], bins)
    for indices, rows, bins in _in_batches(_stream(components, again, stored, _placed), ROWS_AT_ONCE // 3):
        counts, places = rows[:, 0], rows[:, 1:]  # (rows, bins.columns), (rows, 2, bins.columns)
        yield CountedRows(indices, counts, bins, offsets_from(places, counts, bins))


_Work = Callable[[Sequence[Tensor], Sequence[int], Sequence[Tensor], Bins], Tensor]
"""Makes integers that add, for some rows: of views, the row of each, what is looked at of each row, and the layout of bins."""


def _counted(views: Sequence[Tensor], rows: Sequence[int], some: Sequence[Tensor], bins: Bins) -> Tensor:
    """Tallies and counts, (rows, TALLIES + bins.columns)."""
    return torch.cat([tally(some, bins), count_magnitudes(views, bins, rows)], dim=1)


def _placed(views: Sequence[Tensor], rows: Sequence[int], some: Sequence[Tensor], bins: Bins) -> Tensor:
    """Counts and the sums of places, (rows, 3, bins.columns)."""
    return torch.cat([count_magnitudes(views, bins, rows).unsqueeze(1), sum_places(views, bins, rows)], dim=1)


_Row = tuple[int, Tensor, Bins]
"""A component by its place, what was made of all of its values, and their layout."""


def _in_batches(rows: Iterable[_Row], at_once: int) -> Iterator[tuple[tuple[int, ...], Tensor, Bins]]:
    """Rows of one dtype together, some at a time."""
    waiting: dict[torch.dtype, list[_Row]] = {}
    for row in rows:
        waiting.setdefault(row[2].dtype, []).append(row)
        if len(waiting[row[2].dtype]) >= at_once:
            yield _together(waiting.pop(row[2].dtype))
    for left in waiting.values():
        yield _together(left)


def _together(rows: Sequence[_Row]) -> tuple[tuple[int, ...], Tensor, Bins]:
    return tuple(index for index, _, _ in rows), torch.stack([made for _, made, _ in rows]), rows[0][2]


def _stream(
    components: Sequence[Component],
    read: Iterable[int],
    stored: Mapping[str, StoredTensor],
    work: _Work,
    progress: Progress = lambda _: None,
    seen: dict[str, Structure] | None = None,
) -> Iterator[_Row]:
    """Reads the parameters of components once, and does some work on them window by window."""
    of_parameter: dict[str, list[int]] = {}
    for index in read:
        of_parameter.setdefault(components[index].parameter, []).append(index)
    order = [name for name in stored if name in of_parameter]  # the order of the files
    with _ReadAhead(_windows(order, stored)) as windows:
        reading: _Parameter | None = None
        for window, data in windows:
            if reading is None or reading.name != window.name:
                _completed(reading, seen)
                members = of_parameter[window.name]
                reading = _Parameter(stored[window.name], members, [components[i] for i in members], work)
                reading.look = _look_at(stored[window.name], reading.components) if seen is not None else None
            yield from reading.add(window, data.view(reading.bins.dtype))
            progress(window.bytes)
        _completed(reading, seen)


def _look_at(tensor: StoredTensor, components: Sequence[Component]) -> MatrixLook:
    assert tensor.dtype is not None  # checked by _Parameter
    stacked = len(tensor.shape) == 3 and any(c.kind.startswith("ffn_") or c.expert is not None for c in components)
    return MatrixLook(tensor.shape, tensor.dtype, stacked)


def _completed(reading: _Parameter | None, seen: dict[str, Structure] | None) -> None:
    if reading is None:
        return
    if reading.unfinished:
        raise CheckpointError(
            f"{reading.name} is not whole in the checkpoint: its files are corrupted; copy them again"
        )
    if seen is not None and reading.look is not None and (structure := reading.look.result()) is not None:
        seen[reading.name] = structure


@dataclass(frozen=True)
class _FileStretch:
    """A stretch of a piece: its elements from ``start`` to ``stop``, in the order of the file."""

    name: str
    piece: Piece
    itemsize: int
    start: int
    stop: int

    @property
    def bytes(self) -> int:
        return (self.stop - self.start) * self.itemsize


def _windows(order: Iterable[str], stored: Mapping[str, StoredTensor]) -> Iterator[_FileStretch]:
    for name in order:
        tensor = stored[name]
        itemsize = tensor.dtype.itemsize if tensor.dtype is not None else 1
        for piece in tensor.pieces:
            step = WINDOW // itemsize if piece.strides is None else piece.extent
            for start in range(0, piece.extent, step):
                yield _FileStretch(name, piece, itemsize, start, min(start + step, piece.extent))


class _Parameter:
    """Works on the components of one parameter while its elements arrive."""

    def __init__(
        self, tensor: StoredTensor, indices: Sequence[int], components: Sequence[Component], work: _Work
    ) -> None:
        if tensor.dtype is None:
            raise CheckpointError(f"{tensor.name} does not hold floats that can be counted")
        self.name, self.bins, self.components = tensor.name, bins_of(tensor.dtype), components
        self.look: MatrixLook | None = None
        self._shape, self._indices, self._work = tensor.shape, indices, work
        self._boxes = [Box(c.part.view, c.part.ranges) if c.part else None for c in components]
        self._left = [c.numel for c in components]
        self._made: dict[int, Tensor] = {}
        rows = [_rows(tensor.shape, box) for box in self._boxes]
        self._first, self._last = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])

    @property
    def unfinished(self) -> bool:
        """Whether elements of a component are still missing."""
        return any(self._left)

    def add(self, window: _FileStretch, data: Tensor) -> list[_Row]:
        """Works on a window.

        Returns:
            The components that are now complete.
        """
        views: list[Tensor] = []
        places: list[int] = []
        some: dict[int, list[Tensor]] = {}
        for layout, local in _as_shards(window, data, self._shape):
            if self.look is not None:
                self.look.add(layout, local)
            first, last = _range(layout)
            for place in np.flatnonzero((self._first < last) & (self._last > first)).tolist():
                here = [view for view in layout.select(local, self._boxes[place]) if view.numel()]
                if here:
                    views += here
                    places += [place] * len(here)
                    some.setdefault(place, []).append(layout.some(local, self._boxes[place]).values())
        if not views:
            return []
        touched = sorted(some)
        row = {place: n for n, place in enumerate(touched)}
        looked_at = [torch.cat(some[place]) for place in touched]
        made = self._work(views, [row[place] for place in places], looked_at, self.bins)
        done = []
        for view, place in zip(views, places, strict=True):
            self._left[place] -= view.numel()
        for place in touched:
            if place in self._made:
                self._made[place] += made[row[place]]
            else:
                self._made[place] = made[row[place]].clone() if len(touched) > 1 else made[0]
            if self._left[place] < 0:
                raise CheckpointError(
                    f"{self.name} is stored more than once in the checkpoint: its tables are corrupted"
                )
            if not self._left[place]:
                done.append((self._indices[place], self._made.pop(place), self.bins))
        return done


def _as_shards(window: _FileStretch, data: Tensor, shape: tuple[int, ...]) -> Iterator[tuple[Flat | Grid, Tensor]]:
    """A window as shards of its parameter, and the local tensor of each."""
    piece = window.piece
    if piece.strides is not None:
        yield _grid(shape, piece.at, piece.sizes), data.as_strided(piece.sizes, piece.strides)
        return
    if piece.sizes[1:] == shape[1:] or len(shape) < 2:  # whole rows: a stretch of the parameter as well
        before = (piece.at[0] if shape else 0) * math.prod(shape[1:])
        yield Flat(shape, before + window.start, before + window.stop), data
        return
    strides = [math.prod(piece.sizes[d + 1 :]) for d in range(len(piece.sizes))]
    for box in boxes_between(window.start, window.stop, piece.sizes):
        sizes = tuple(stop - start for start, stop in box)
        first = sum(start * stride for (start, _), stride in zip(box, strides, strict=True)) - window.start
        at = tuple(a + start for a, (start, _) in zip(piece.at, box, strict=True))
        yield _grid(shape, at, sizes), data[first : first + math.prod(sizes)].view(sizes)


def _grid(shape: tuple[int, ...], at: Sequence[int], sizes: Sequence[int]) -> Grid:
    return Grid(shape, tuple(((a, a + n),) for a, n in zip(at, sizes, strict=True)))


def _range(layout: Flat | Grid) -> tuple[int, int]:
    """First row of the parameter that is there, at least in part, and the row after the last."""
    if isinstance(layout, Flat):
        inner = max(1, math.prod(layout.shape[1:]))
        return layout.start // inner, -(-layout.stop // inner)
    return layout.ranges[0][0] if layout.ranges else (0, 1)


def _rows(shape: tuple[int, ...], box: Box | None) -> tuple[int, int]:
    """The range of rows of a parameter that contains a part; the part may have only some of these rows."""
    whole = shape[0] if shape else 1
    if box is None or not shape or whole % box.view[0]:
        return 0, whole
    unit = whole // box.view[0]
    return box.ranges[0][0] * unit, box.ranges[0][1] * unit


class _ReadAhead:
    """Reads windows ahead of their use, into buffers that are used again.

    Args:
        windows: What to read.
    """

    def __init__(self, windows: Iterator[_FileStretch]) -> None:
        self._pending = windows
        self._pool = ThreadPoolExecutor(1, "weibull-read")
        self._free = [torch.empty(WINDOW, dtype=torch.uint8, device="cpu") for _ in range(AHEAD + 1)]
        self._file: Path | None = None
        self._fd = -1

    def __enter__(self) -> Iterator[tuple[_FileStretch, Tensor]]:
        return self._all()

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._close()

    def _all(self) -> Iterator[tuple[_FileStretch, Tensor]]:
        """Every window and its bytes, which are there until the next is asked for."""
        queued: deque[tuple[_FileStretch, Tensor, Future[Tensor]]] = deque()
        while True:
            while len(queued) <= AHEAD and (self._free or not queued) and (window := next(self._pending, None)):
                buffer = self._buffer(window)
                queued.append((window, buffer, self._pool.submit(self._read, window, buffer)))
            if not queued:
                return
            window, buffer, future = queued.popleft()
            yield window, future.result()
            if len(buffer) == WINDOW:
                self._free.append(buffer)

    def _buffer(self, window: _FileStretch) -> Tensor:
        if window.bytes <= WINDOW and self._free:
            return self._free.pop()
        return torch.empty(window.bytes, dtype=torch.uint8, device="cpu")

    def _read(self, window: _FileStretch, buffer: Tensor) -> Tensor:
        """Reads one window. Only the reading thread calls it, so that one file at a time is open."""
        if self._file != window.piece.file:
            self._close()
            self._fd = open_regular(window.piece.file)
            self._file = window.piece.file
        here = buffer[: window.bytes]
        into = memoryview(here.numpy().data)
        at = window.piece.offset + window.start * window.itemsize
        while into:
            try:
                count = os.preadv(self._fd, [into], at)
            except OSError as error:
                raise CheckpointError(f"{window.piece.file} cannot be read: {error.strerror}; copy it again") from error
            if not count:
                raise CheckpointError(
                    f"{window.piece.file} ends before what it says it holds: it is truncated; copy it again"
                )
            into, at = into[count:], at + count
        return here

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd, self._file = -1, None
