"""Layouts against brute force: every element of the whole is numbered, and what is selected are the right numbers."""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch

from weibull_monitor.model.sharding import Box, Flat, Grid, Layout

BOXES = [
    ((12, 5), None),
    ((12, 5), Box((12, 5), ((0, 4), (0, 5)))),  # concatenated
    ((12, 5), Box((2, 3, 2, 5), ((0, 2), (1, 2), (0, 2), (0, 5)))),  # per head
    ((12, 5), Box((2, 3, 2, 5), ((1, 2), (0, 2), (1, 2), (0, 5)))),  # a box in the middle
    ((5, 12), Box((5, 6, 2), ((0, 5), (0, 6), (1, 2)))),  # alternating columns
    ((4, 6, 10), Box((4, 6, 5, 2), ((2, 3), (0, 6), (0, 5), (0, 1)))),  # one expert's gate
    ((4, 6, 10), Box((4, 6, 2, 5), ((0, 4), (0, 6), (1, 2), (0, 5)))),
    ((12, 1), Box((2, 3, 2, 1), ((0, 2), (0, 1), (0, 2), (0, 1)))),
    ((1, 12), Box((1, 3, 4), ((0, 1), (2, 3), (0, 4)))),
]


def numbered(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.arange(math.prod(shape)).view(shape)


def wanted(shape: tuple[int, ...], box: Box | None) -> list[int]:
    """The numbers of a part's elements, by going through all indices."""
    if box is None:
        return list(range(math.prod(shape)))
    inside = itertools.product(*(range(*r) for r in box.ranges))
    strides = [math.prod(box.view[d + 1 :]) for d in range(len(box.view))]
    return sorted(sum(i * s for i, s in zip(index, strides, strict=True)) for index in inside)


def selected(layout: Layout, local: torch.Tensor, box: Box | None) -> list[int]:
    return sorted(x for piece in layout.select(local, box) for x in piece.flatten().tolist())


@pytest.mark.parametrize(("shape", "box"), BOXES)
@pytest.mark.parametrize("seed", range(20))
def test_a_grid_gives_what_is_here_of_a_part(shape: tuple[int, ...], box: Box | None, seed: int) -> None:
    chance = random.Random(seed)
    index = []
    for n in shape:
        cuts = sorted(chance.sample(range(n + 1), min(n + 1, 4)))
        index.append([(a, b) for a, b in zip(cuts[::2], cuts[1::2], strict=False)])
    grid = Grid(shape, tuple(map(tuple, index)))
    local = numbered(shape)
    for dim, ranges in enumerate(index):
        local = torch.cat([local.narrow(dim, a, b - a) for a, b in ranges], dim)
    assert selected(grid, local, box) == sorted(set(local.flatten().tolist()) & set(wanted(shape, box)))
    transposed = local.transpose(0, -1).contiguous().transpose(0, -1)  # other strides, the same elements
    assert selected(grid, transposed, box) == selected(grid, local, box)
    cut = [selected(grid.narrowed(a, a + 1), local[a : a + 1], box) for a in range(grid.units)]
    assert sorted(itertools.chain(*cut)) == selected(grid, local, box)


@pytest.mark.parametrize(("shape", "box"), BOXES)
def test_a_flat_stretch_gives_what_is_here_of_a_part(shape: tuple[int, ...], box: Box | None) -> None:
    whole, padding = numbered(shape).flatten(), torch.full((3,), -1)
    part = set(wanted(shape, box))
    for start, stop in itertools.combinations(range(0, len(whole) + 1, 7), 2):
        local = torch.cat([whole[start:stop], padding])
        expected = [x for x in range(start, stop) if x in part]
        assert selected(Flat(shape, start, stop), local, box) == expected
        assert selected(Flat(shape, start, stop).narrowed(2, 5), local[2:5], box) == expected_between(expected, start)
    assert Flat(shape, 4, 4).select(padding, box) == []


def expected_between(expected: list[int], start: int) -> list[int]:
    return [x for x in expected if start + 2 <= x < start + 5]


def test_views_and_no_copies() -> None:
    local = torch.randn(12, 5)
    box = Box((2, 3, 2, 5), ((0, 2), (1, 2), (0, 2), (0, 5)))
    for piece in Grid.whole((12, 5)).select(local, box):
        assert piece.untyped_storage().data_ptr() == local.untyped_storage().data_ptr()


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(ValueError, match=r"has shape \(3, 5\), not \(12, 5\)"):
        Grid.whole((12, 5)).select(torch.zeros(3, 5), None)
    with pytest.raises(ValueError, match=r"seen as \(2, 7, 5\) cannot be found in one of shape \(12, 5\)"):
        Grid.whole((12, 5)).select(torch.zeros(12, 5), Box((2, 7, 5), ((0, 2), (0, 1), (0, 5))))
    with pytest.raises(ValueError, match="cannot hold elements 4 to 9"):
        Flat((12, 5), 4, 9).select(torch.zeros(4), None)
