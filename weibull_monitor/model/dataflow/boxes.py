"""Rows of a stored parameter as a box of elements of the parameter seen in another shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Span = tuple[int, int]


@dataclass(frozen=True)
class Box:
    """A part of a parameter, as in `weibull_monitor.model.components.part.Part`.

    Attributes:
        view: The shape that the parameter is seen in.
        ranges: (start, stop) along each dimension of that view.
        shape: Shape of the part, with the number of dimensions that the parameter has.
    """

    view: tuple[int, ...]
    ranges: tuple[Span, ...]
    shape: tuple[int, ...]


def box_of(
    shape: tuple[int, ...],
    places: Tensor,
    summed: Sequence[int] = (1,),
    columns: Tensor | None = None,
    width: int = 0,
    step: int = 1,
) -> Box | None:
    """The box of the rows that begin at some places of a flat parameter; None if they make no box.

    Args:
        shape: Shape of the parameter.
        places: (m,): the place of one element of each row.
        summed: The axes that a product sums over: along these a row has all elements.
        columns: Of these, the elements along the first of those axes that belong to the part; None for all.
        width: The number of elements of a row; 0 for all along these axes.
        step: The distance of its elements.

    >>> box_of((12, 4), torch.tensor([0, 4, 24, 28]))  # rows 0, 1, 6 and 7: of two heads of q, k and v, two features each
    Box(view=(2, 6, 4), ranges=((0, 2), (0, 2), (0, 4)), shape=(4, 4))
    """
    if not len(places):
        return None
    coordinates = torch.unravel_index(places, shape)
    if columns is None and len(summed) == 1 and 0 < width < shape[summed[0]]:  # a slice of what a row could have
        jump = max(step // math.prod(shape[summed[0] + 1 :]), 1)
        columns = int(coordinates[summed[0]][0]) + jump * torch.arange(width)
        if int(columns[-1]) >= shape[summed[0]]:
            return None
    view: list[int] = []
    ranges: list[Span] = []
    made: list[int] = []
    lines_of: list[int] = []
    for axis, size in enumerate(shape):
        if axis in summed and (columns is None or axis != summed[0]):
            view.append(size)
            ranges.append((0, size))
            made.append(size)
            continue
        lines = torch.unique(columns if axis in summed and columns is not None else coordinates[axis])
        found = divided(lines, size)
        if found is None:
            return None
        view += found[0]
        ranges += found[1]
        made.append(len(lines))
        if axis not in summed:
            lines_of.append(axis)
    if len(lines_of) > 1:  # rows that differ along several axes must be all rows of the box
        number = coordinates[lines_of[0]]
        for axis in lines_of[1:]:
            number = number * shape[axis] + coordinates[axis]
        if len(torch.unique(number)) != math.prod(made[axis] for axis in lines_of):
            return None
    return Box(tuple(view), tuple(ranges), tuple(made))


def divided(lines: Tensor, size: int) -> tuple[tuple[int, ...], tuple[Span, ...]] | None:
    """The factors and ranges of sorted lines among ``size``; None if there are none.

    >>> divided(torch.tensor([4, 5, 6]), 9)
    ((9,), ((4, 7),))
    >>> divided(torch.tensor([1, 3, 5]), 6)
    ((3, 2), ((0, 3), (1, 2)))
    """
    start, count = int(lines[0]), len(lines)
    gaps = (lines[1:] != lines[:-1] + 1).nonzero().flatten()
    if len(gaps) == 0:
        return (size,), ((start, start + count),)
    length = int(gaps[0]) + 1  # runs of this many lines, ``period`` apart
    period = int(lines[length]) - start
    runs = count // length
    expected = (start + period * torch.arange(runs)[:, None] + torch.arange(length)[None]).flatten()
    if count % length or not torch.equal(expected, lines):
        return None
    offset = start % period
    if offset + length > period or size % period:
        return None
    first = (start - offset) // period
    return (size // period, period), ((first, first + runs), (offset, offset + length))
