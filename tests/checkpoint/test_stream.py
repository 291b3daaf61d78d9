"""Counting in windows of stretches of boxes: the counts of the whole tensor, part by part, however it is divided."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from weibull_monitor.checkpoint.formats.tensors import Piece, StoredTensor
from weibull_monitor.checkpoint.stream import count_checkpoint
from weibull_monitor.errors import CheckpointError
from weibull_monitor.measure import bins_of, count_magnitudes
from weibull_monitor.model.components import Component, Part


def component(shape: tuple[int, ...], part: Part | None = None) -> Component:
    sizes = shape if part is None else tuple(stop - start for start, stop in part.ranges)
    name = "w" if part is None else f"w[{part.label}]"
    return Component(name, "other", None, None, False, sizes, torch.float32, True, "w", part)


def some_part(shape: tuple[int, ...], generator: random.Random) -> Part:
    """A box of the tensor with each dimension seen as one or two factors."""
    view: list[int] = []
    for size in shape:
        factor = generator.choice([n for n in range(1, size + 1) if size % n == 0])
        view += generator.choice([[size], [factor, size // factor]])
    ranges = []
    for size in view:
        start = generator.randrange(size)
        ranges.append((start, generator.randrange(start, size) + 1))
    return Part("p", tuple(view), tuple(ranges))


def boxes(shape: tuple[int, ...], generator: random.Random) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Where the shards of a tensor begin and how large they are: it is cut in two, again and again."""
    found = [((0,) * len(shape), shape)]
    for _ in range(generator.randrange(5)):
        at, sizes = found.pop(generator.randrange(len(found)))
        dim = generator.randrange(len(shape))
        cut = generator.randrange(sizes[dim] + 1)
        for start, size in ((0, cut), (cut, sizes[dim] - cut)):
            if size:
                moved = (*at[:dim], at[dim] + start, *at[dim + 1 :])
                found.append((moved, (*sizes[:dim], size, *sizes[dim + 1 :])))
    generator.shuffle(found)
    return found


@pytest.mark.parametrize("seed", range(40))
def test_counts_of_any_part_in_any_shards(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = random.Random(seed)
    shape = tuple(generator.choice([1, 2, 3, 4, 6, 12]) for _ in range(generator.choice([1, 2, 2, 3, 4])))
    tensor = torch.randn(shape)
    pieces = []
    with (tmp_path / "data").open("wb") as file:
        for at, sizes in boxes(shape, generator):
            box = tensor[tuple(slice(a, a + n) for a, n in zip(at, sizes, strict=True))].contiguous()
            file.write(b"\xff" * generator.randrange(9))
            strides = None
            if generator.random() < 0.3 and box.dim() > 1:
                box = box.transpose(0, 1).contiguous()
                strides = (box.stride(1), box.stride(0), *box.stride()[2:])
            pieces.append(Piece(tmp_path / "data", file.tell(), sizes, at, strides))
            file.write(box.numpy().tobytes())
    monkeypatch.setattr("weibull_monitor.checkpoint.stream.WINDOW", generator.choice([4, 8, 20, 64, 1 << 20]))
    parts = [None, *(some_part(shape, generator) for _ in range(3))]
    stored = {"w": StoredTensor("w", shape, torch.float32, tuple(pieces))}
    bins = bins_of(torch.float32)
    for part in parts:  # each by itself: where parts make up the whole, it is their sum
        (batch,) = count_checkpoint([component(shape, part)], stored)
        expected = count_magnitudes([tensor if part is None else part.select(tensor)], bins)
        assert torch.equal(batch.counts, expected), (shape, part)


def test_a_tensor_of_which_elements_are_missing_or_twice_there_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(torch.randn(8, 8).numpy().tobytes())
    top = Piece(tmp_path / "data", 0, (4, 8), (0, 0))
    for pieces, says in (((top,), "is not whole"), ((top, top, top), "stored more than once")):
        with pytest.raises(CheckpointError, match=says):
            list(count_checkpoint([component((8, 8))], {"w": StoredTensor("w", (8, 8), torch.float32, pieces)}))
