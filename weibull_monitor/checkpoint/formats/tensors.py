"""The tensors of a checkpoint as values: shape, dtype, and where in which file the elements are. Holds no weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch

DTYPES: Final = {f"torch.{name}": value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
"""Every dtype by the name that pickles have for it, such as ``torch.float32``."""
MAX_DIMENSIONS: Final = 16
MAX_ELEMENTS: Final = 1 << 62
"""Limits for shapes in tables that may be corrupted."""


@dataclass(frozen=True)
class Piece:
    """A box of a tensor's elements that is stored in one stretch of a file, in row-major order unless it has strides.

    Attributes:
        file: The file.
        offset: Position of the first byte in the file.
        sizes: Shape of the box.
        at: Where the box begins in the tensor, along each dimension.
        strides: Strides in elements, where the elements are not stored row by row; None otherwise.
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
        """Number of elements of the file from the first to the last of the box."""
        if self.strides is None:
            return self.numel
        return 1 + sum((n - 1) * stride for n, stride in zip(self.sizes, self.strides, strict=True))


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a checkpoint.

    Attributes:
        name: Its name in the checkpoint.
        shape: Its shape.
        dtype: Dtype of its elements; None if it cannot be counted.
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


def is_shape(value: Any) -> bool:
    """Whether an entry of a table is a tuple of sizes, strides or offsets within the limits."""
    if not isinstance(value, tuple) or len(value) > MAX_DIMENSIONS:
        return False
    return all(type(n) is int and 0 <= n < MAX_ELEMENTS for n in value)


def uncountable(name: str, shape: tuple[int, ...], dtype: object, pieces: tuple[Piece, ...] = ()) -> StoredTensor:
    """A tensor whose dtype cannot be counted, with that as its problem."""
    kind = str(dtype).removeprefix("torch.")
    return StoredTensor(name, shape, None, pieces, f"its dtype is {kind}, not a float type")


@dataclass(frozen=True)
class Contents:
    """The tables of one checkpoint.

    Attributes:
        tensors: Its tensors by name, in the order of its files.
        size: Bytes of its files.
        step: Optimizer steps taken, if it says so.
        notes: Remarks for the user on how it was read.
    """

    tensors: Mapping[str, StoredTensor]
    size: int
    step: int | None = None
    notes: tuple[str, ...] = field(default_factory=tuple)
