"""Which elements of a parameter a rank holds, and where those of a part lie among them. Index arithmetic; reads no weights.

Two layouts cover every kind of sharding in use. A `Grid` holds, along each dimension, some ranges of indices: DTensors, and
whole parameters. A `Flat` holds a stretch of the elements in row-major order: FSDP1's flat parameters and DeepSpeed ZeRO-3.
A part of a parameter (`weibull_monitor.model.components.Part`) may be cut by either in any place; what is here of it comes
as a few strided views of the local tensor, never as a copy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np
from torch import Tensor

Range = tuple[int, int]
"""(start, stop)."""


class Box(NamedTuple):
    """A part: the shape that the parameter is seen in, and (start, stop) along each dimension of that view."""

    view: tuple[int, ...]
    ranges: tuple[Range, ...]


@dataclass(frozen=True)
class Grid:
    """A local tensor of as many dimensions as the parameter, that holds some indices along each.

    Attributes:
        shape: Shape of the whole parameter.
        ranges: Along each dimension the ranges of indices that are here, in the order in which they lie in the local tensor.

    >>> Grid((10, 4), (((0, 2), (5, 7)), ((0, 4),))).local_shape
    (4, 4)
    """

    shape: tuple[int, ...]
    ranges: tuple[tuple[Range, ...], ...]

    @classmethod
    def whole(cls, shape: Sequence[int]) -> Grid:
        """The layout of a parameter that is here completely."""
        return cls(tuple(shape), tuple(((0, n),) for n in shape))

    @property
    def local_shape(self) -> tuple[int, ...]:
        """Shape of the local tensor."""
        return tuple(sum(stop - start for start, stop in ranges) for ranges in self.ranges)

    @property
    def units(self) -> int:
        """In how many pieces of equal size it can be divided: rows of the local tensor."""
        return self.local_shape[0] if math.prod(self.local_shape) else 0

    def narrowed(self, start: int, stop: int) -> Grid:
        """The layout of ``local[start:stop]``."""
        kept, at = [], 0
        for first, last in self.ranges[0]:
            low, high = max(start - at, 0), min(stop - at, last - first)
            if low < high:
                kept.append((first + low, first + high))
            at += last - first
        return replace(self, ranges=(tuple(kept), *self.ranges[1:]))

    def select(self, local: Tensor, box: Box | None) -> list[Tensor]:
        """Views of ``local`` that hold each element of the part that is here once.

        Args:
            local: Of shape `local_shape`, any strides.
            box: The part; None for everything.

        Raises:
            ValueError: If ``local`` has another shape, or the box divides a parameter of another shape.
        """
        if tuple(local.shape) != self.local_shape:
            raise ValueError(f"the local tensor has shape {tuple(local.shape)}, not {self.local_shape}")
        if box is None or not local.numel():
            return [local] if local.numel() else []
        factors = _factors(self.shape, box)
        along = [_combs(r, *f) for r, f in zip(self.ranges, factors, strict=True)]
        return [_strided(local, combs) for combs in product(*along)]


@dataclass(frozen=True)
class Flat:
    """A one-dimensional local tensor that begins with the elements ``start`` to ``stop`` of the parameter in row-major order.

    What follows in the local tensor is padding.

    Attributes:
        shape: Shape of the whole parameter.
        start: First element that is here.
        stop: The element after the last that is here.
    """

    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def local_shape(self) -> tuple[int, ...]:
        """Shape of the local tensor without its padding."""
        return (self.stop - self.start,)

    @property
    def units(self) -> int:
        """In how many pieces of equal size it can be divided: elements."""
        return self.stop - self.start

    def narrowed(self, start: int, stop: int) -> Flat:
        """The layout of ``local[start:stop]``."""
        return replace(self, start=min(self.start + start, self.stop), stop=min(self.start + stop, self.stop))

    def select(self, local: Tensor, box: Box | None) -> list[Tensor]:
        """Views of ``local`` that hold each element of the part that is here once, as `Grid.select`."""
        if local.dim() != 1 or len(local) < self.stop - self.start:
            raise ValueError(
                f"the local tensor has shape {tuple(local.shape)}, and cannot hold elements {self.start} to {self.stop}"
            )
        if self.start >= self.stop:
            return []
        if box is None:
            return [local[: self.stop - self.start]]
        _factors(self.shape, box)
        strides = [math.prod(box.view[d + 1 :]) for d in range(len(box.view))]
        out = []
        for piece in boxes_between(self.start, self.stop, box.view):
            cut = [(max(a, c), min(b, d)) for (a, b), (c, d) in zip(piece, box.ranges, strict=True)]
            if all(a < b for a, b in cut):
                first = sum(a * s for (a, _), s in zip(cut, strides, strict=True)) - self.start
                sizes = [b - a for a, b in cut]
                offset = local.storage_offset() + first * local.stride(0)
                out.append(local.as_strided(sizes, [s * local.stride(0) for s in strides], offset))
        return out


Layout = Grid | Flat


class _Comb(NamedTuple):
    """Runs of indices, ``times`` of them, at equal distances."""

    start: int
    length: int
    distance: int
    times: int


def _strided(local: Tensor, combs: Sequence[_Comb]) -> Tensor:
    sizes, strides, offset = [], [], local.storage_offset()
    for comb, stride in zip(combs, local.stride(), strict=True):
        offset += comb.start * stride
        if comb.times > 1:
            sizes.append(comb.times)
            strides.append(comb.distance * stride)
        sizes.append(comb.length)
        strides.append(stride)
    return local.as_strided(sizes, strides, offset)


def _factors(shape: tuple[int, ...], box: Box) -> list[tuple[tuple[int, ...], tuple[Range, ...]]]:
    """The dimensions of a box's view and its ranges, by the dimension of the parameter that they divide."""
    out, at = [], 0
    for size in shape:
        first, held = at, 1
        while at < len(box.view) and (at == first or held < size):
            held *= box.view[at]
            at += 1
        if held != size:
            break
        out.append((box.view[first:at], box.ranges[first:at]))
    if len(out) != len(shape) or any(n != 1 for n in box.view[at:]):
        raise ValueError(f"a part of a parameter seen as {box.view} cannot be found in one of shape {shape}")
    return out


@lru_cache(maxsize=4096)
def _combs(here: tuple[Range, ...], view: tuple[int, ...], ranges: tuple[Range, ...]) -> tuple[_Comb, ...]:
    """Where, among the indices that are here along one dimension, those of a part lie."""
    wanted = all(r == (0, n) for r, n in zip(ranges, view, strict=True))
    if wanted:
        size = sum(stop - start for start, stop in here)
        return (_Comb(0, size, size, 1),) if size else ()
    index = np.concatenate([np.arange(start, stop) for start, stop in here]) if here else np.empty(0, np.int64)
    inside = np.ones(len(index), dtype=bool)
    for n, (start, stop) in zip(reversed(view), reversed(ranges), strict=True):
        index, digit = np.divmod(index, n)
        inside &= (digit >= start) & (digit < stop)
    return tuple(_grouped(np.flatnonzero(inside)))


def _grouped(positions: np.ndarray) -> Iterator[_Comb]:
    """Rising positions as runs, and runs of equal length at equal distances together."""
    if not len(positions):
        return
    breaks = np.flatnonzero(np.diff(positions) != 1) + 1
    firsts = positions[np.concatenate([[0], breaks])]
    lengths = np.diff(np.concatenate([[0], breaks, [len(positions)]]))
    at = 0
    while at < len(firsts):
        count = 1
        distance = int(firsts[at + 1] - firsts[at]) if at + 1 < len(firsts) else int(lengths[at])
        while (
            at + count < len(firsts)
            and lengths[at + count] == lengths[at]
            and firsts[at + count] - firsts[at + count - 1] == distance
        ):
            count += 1
        yield _Comb(int(firsts[at]), int(lengths[at]), distance, count)
        at += count


def boxes_between(start: int, stop: int, view: Sequence[int]) -> Iterator[list[Range]]:
    """The elements ``start`` to ``stop`` in row-major order as boxes: at most two a dimension, less one."""
    if start >= stop:
        return
    if len(view) == 1:
        yield [(start, stop)]
        return
    inner = math.prod(view[1:])
    first, last = start // inner, (stop - 1) // inner
    if first == last:
        for rest in boxes_between(start - first * inner, stop - first * inner, view[1:]):
            yield [(first, first + 1), *rest]
        return
    if start > first * inner:
        for rest in boxes_between(start - first * inner, inner, view[1:]):
            yield [(first, first + 1), *rest]
        first += 1
    if stop < (last + 1) * inner:
        for rest in boxes_between(0, stop - last * inner, view[1:]):
            yield [(last, last + 1), *rest]
        last -= 1
    if first <= last:
        yield [(first, last + 1), *[(0, n) for n in view[1:]]]
