"""Which elements of a parameter a rank holds, and where those of a part are among them. Index arithmetic; reads no weights.

Two layouts cover every kind of sharding in use. A `Grid` holds some ranges of indices along each dimension: DTensors, and
whole parameters. A `Flat` holds consecutive elements in row-major order: FSDP1's flat parameters and DeepSpeed ZeRO-3.
Either may cut a part of a parameter (`weibull_monitor.model.components.Part`) anywhere. The elements of the part on this rank
come as a few strided views of the local tensor, never as a copy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from weibull_monitor.model.upload import on_device

Range = tuple[int, int]
"""(start, stop)."""


class Box(NamedTuple):
    """A part of a parameter: the shape that the parameter is viewed in, and (start, stop) along each dimension of that view."""

    view: tuple[int, ...]
    ranges: tuple[Range, ...]


class Elements(NamedTuple):
    """Some elements of a tensor.

    Attributes:
        tensor: It.
        places: Their indices along each dimension of it; None for all of it, which has one dimension.
    """

    tensor: Tensor
    places: tuple[npt.NDArray[np.int64], ...] | None = None

    def values(self) -> Tensor:
        """What they are now, in one dimension. On a device this is queued."""
        if self.places is None:
            return self.tensor
        return self.tensor[tuple(on_device(torch.from_numpy(of), self.tensor.device) for of in self.places)]


@dataclass(frozen=True)
class Grid:
    """A local tensor with as many dimensions as the parameter, which holds some indices along each.

    Attributes:
        shape: Shape of the whole parameter.
        ranges: Along each dimension the ranges of indices that are here, in the order of the local tensor.

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
        """Number of equal pieces that it can be divided into: rows of the local tensor, 1 if it has no dimensions."""
        shape = self.local_shape
        if not math.prod(shape):
            return 0
        return shape[0] if shape else 1

    def narrowed(self, start: int, stop: int) -> Grid:
        """The layout of ``local[start:stop]``."""
        kept, at = [], 0  # `at` counts the local rows before each range
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
        # A part is a product of index sets, one for each dimension of the parameter; so is the grid, and so is what they share.
        # Along a dimension that may be several evenly spaced runs of local indices; each combination of them is one view.
        factors = _factors(self.shape, box)
        along = [_combs(r, *f) for r, f in zip(self.ranges, factors, strict=True)]
        return [_strided(local, combs) for combs in product(*along)]

    def some(self, local: Tensor, box: Box | None) -> Elements:
        """Those elements that are here of about `LOOKED_AT` that are spread evenly over a part.

        Which those are depends on the parameter and the part alone. So each of them is on one rank, in one stretch of a file,
        and so on, however the parameter is divided.

        Args:
            local: Of shape `local_shape`, any strides.
            box: The part; None for the whole parameter.
        """
        inner = self.shape[1:]
        rows_only = len(self.ranges) > 0 and len(self.ranges[0]) == 1 and self.local_shape[1:] == inner
        if box is None and rows_only and local.is_contiguous():  # a stretch of the parameter
            start = self.ranges[0][0][0] * math.prod(inner)
            step = step_of(math.prod(self.shape))
            return Elements(local.view(-1)[-start % step :: step])
        if not local.dim() or not local.numel():
            return Elements(local.reshape(-1))
        return Elements(local, _places(self, box))


@dataclass(frozen=True)
class Flat:
    """A one-dimensional local tensor: elements ``start`` to ``stop`` of the parameter in row-major order, then padding.

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
        """Number of equal pieces that it can be divided into: elements."""
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
        _factors(self.shape, box)  # raises if the box does not fit
        strides = [math.prod(box.view[d + 1 :]) for d in range(len(box.view))]
        out = []
        # The elements that are here are a few boxes of the view; each shares at most one box with the part.
        for piece in boxes_between(self.start, self.stop, box.view):
            cut = [(max(a, c), min(b, d)) for (a, b), (c, d) in zip(piece, box.ranges, strict=True)]
            if all(a < b for a, b in cut):
                # Where the box begins in the local tensor; a view steps through the rest of it.
                first = sum(a * s for (a, _), s in zip(cut, strides, strict=True)) - self.start
                sizes = [b - a for a, b in cut]
                offset = local.storage_offset() + first * local.stride(0)
                out.append(local.as_strided(sizes, [s * local.stride(0) for s in strides], offset))
        return out

    def some(self, local: Tensor, box: Box | None) -> Elements:
        """Those elements that are here of some that are spread evenly over a part, as `Grid.some`."""
        local = local[: max(0, self.stop - self.start)]
        if box is None:
            step = step_of(math.prod(self.shape))
            return Elements(local[-self.start % step :: step])
        return Elements(local, _places(self, box))


Layout = Grid | Flat

LOOKED_AT = 1024
"""How many elements of a matrix are looked at, at least; fewer than three times as many."""


def step_of(numel: int, looked_at: int = LOOKED_AT) -> int:
    """The distance between elements that are looked at. It shares no factor with the number of elements: all columns are met.

    >>> step_of(4096 * 4096), step_of(1000)
    (16383, 1)
    """
    step = max(1, numel // looked_at)
    while math.gcd(step, numel) > 1:
        step -= 1
    return step


@lru_cache(maxsize=4096)
def _places(layout: Layout, box: Box | None) -> tuple[npt.NDArray[np.int64], ...]:
    """Where the elements that are looked at of a part are in the local tensor, along each of its dimensions."""
    ranges = box.ranges if box else tuple((0, n) for n in layout.shape)
    sizes = [stop - start for start, stop in ranges]
    numel = math.prod(sizes)
    within = (
        np.unravel_index(np.arange(0, numel, step_of(numel)), sizes) if numel else [np.empty(0, np.int64)] * len(sizes)
    )
    view = box.view if box else layout.shape
    digits = tuple(index + start for index, (start, _) in zip(within, ranges, strict=True))
    linear = np.ravel_multi_index(digits, view)  # in the parameter, in row-major order
    if isinstance(layout, Flat):
        return (linear[(linear >= layout.start) & (linear < layout.stop)] - layout.start,)
    places, here = [], np.ones(len(linear), dtype=bool)
    for index, held in zip(np.unravel_index(linear, layout.shape), layout.ranges, strict=True):
        place, before = np.full(len(index), -1), 0
        for start, stop in held:
            inside = (index >= start) & (index < stop)
            place[inside] = index[inside] - start + before
            before += stop - start
        places.append(place)
        here &= place >= 0
    return tuple(place[here] for place in places)


class _Comb(NamedTuple):
    """Some runs of consecutive indices, ``times`` of them, whose beginnings are ``distance`` apart."""

    start: int
    length: int
    distance: int
    times: int


def _strided(local: Tensor, combs: Sequence[_Comb]) -> Tensor:
    """The elements of one comb along each dimension, as a view: a comb of several runs takes two dimensions of it."""
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
    """The dimensions of a box's view and its ranges, by the dimension of the parameter that they divide.

    A view (heads, 3, width, columns) of a parameter (heads·3·width, columns) gives (heads, 3, width) and (columns,).
    """
    out, at = [], 0
    for size in shape:
        # Takes dimensions of the view until their product is the size: at least one, which may be 1.
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
    """Where the indices of a part are among those that are here along one dimension of the parameter."""
    if all(r == (0, n) for r, n in zip(ranges, view, strict=True)):  # the part has all indices
        size = sum(stop - start for start, stop in here)
        return (_Comb(0, size, size, 1),) if size else ()
    # An index of the parameter is a number with one digit for each dimension of the view: the part has a range of each digit.
    index = np.concatenate([np.arange(start, stop) for start, stop in here]) if here else np.empty(0, np.int64)
    inside = np.ones(len(index), dtype=bool)  # by place in the local tensor, like `index`
    for n, (start, stop) in zip(reversed(view), reversed(ranges), strict=True):
        index, digit = np.divmod(index, n)
        inside &= (digit >= start) & (digit < stop)
    return tuple(_grouped(np.flatnonzero(inside)))


def _grouped(positions: np.ndarray) -> Iterator[_Comb]:
    """Rising positions as runs of consecutive ones, with runs of equal length at equal distances taken together."""
    if not len(positions):
        return
    breaks = np.flatnonzero(np.diff(positions) != 1) + 1
    firsts = positions[np.concatenate([[0], breaks])]  # (runs,): the first position of each run, and its length
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
    """The elements ``start`` to ``stop`` of a tensor of shape ``view`` in row-major order, as at most two boxes per dimension.

    >>> list(boxes_between(5, 16, (3, 6)))  # the end of the first row, the beginning of the third, the second
    [[(0, 1), (5, 6)], [(2, 3), (0, 4)], [(1, 2), (0, 6)]]
    """
    if start >= stop:
        return
    if len(view) == 1:
        yield [(start, stop)]
        return
    inner = math.prod(view[1:])

    def within(index: int, low: int, high: int) -> Iterator[list[Range]]:
        for rest in boxes_between(low, high, view[1:]):
            yield [(index, index + 1), *rest]

    # Complete slices first to last along the first dimension, and what is before and after them; each may be empty.
    first, last = -(-start // inner), stop // inner
    if first > last:  # start and stop lie in the same slice
        yield from within(last, start - last * inner, stop - last * inner)
        return
    yield from within(first - 1, start - (first - 1) * inner, inner)
    yield from within(last, 0, stop - last * inner)
    if first < last:
        yield [(first, last), *[(0, n) for n in view[1:]]]


def whole(tensor: Tensor) -> Tensor:
    """The elements of a whole tensor that are looked at, in one dimension; see `Grid.some`."""
    return Grid.whole(tensor.shape).some(tensor.detach(), None).values()
