"""What a checkpoint's tables say of its tensors: where the elements of each lie. Nothing of a tensor is read for that."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch


@dataclass(frozen=True)
class Piece:
    """A box of a tensor's elements that lies in one stretch of a file, in row-major order unless it has strides.

    Attributes:
        file: The file.
        offset: Of the first byte.
        sizes: Shape of the box.
        at: Where the box begins in the tensor, along each dimension.
        strides: Of a box whose elements lie in another order than row by row, in elements; None otherwise.
    """

    file: Path
    offset: int
    sizes: tuple[int, ...]
    at: tuple[int, ...]
    strides: tuple[int, ...] | None = None

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.sizes)

    @property
    def extent(self) -> int:
        """Number of elements from the first to the last in the file."""
        if self.strides is None:
            return self.numel
        return 1 + sum((n - 1) * stride for n, stride in zip(self.sizes, self.strides, strict=True))


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a checkpoint.

    Attributes:
        name: Its name there.
        shape: Its shape.
        dtype: Dtype of its elements; None if they are no floats that can be counted.
        pieces: Where its elements are, each once.
        problem: Why it cannot be measured; empty if it can.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype | None
    pieces: tuple[Piece, ...] = ()
    problem: str = ""

    @property
    def numel(self) -> int:
        """Number of elements as they are stored."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Contents:
    """The tables of one checkpoint.

    Attributes:
        tensors: Its tensors by name, in the order of its files.
        size: Bytes of its files.
        step: Optimizer steps taken, if it says so.
        notes: What there is to say of it.
    """

    tensors: Mapping[str, StoredTensor]
    size: int
    step: int | None = None
    notes: tuple[str, ...] = field(default_factory=tuple)
