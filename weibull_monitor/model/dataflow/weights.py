"""Where the elements of a tensor made of parameters lie in these: through views, copies and concatenations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from weibull_monitor.model.dataflow.graph import LOW_BITS, UNTRACKED

Key = int
"""Number of the storage of a tensor on the meta device."""


@dataclass(frozen=True)
class _Parameter:
    number: int


@dataclass(frozen=True)
class _Copy:
    """A dense tensor made of others of known origin: a copy, an elementwise function or, along ``dim``, a concatenation.

    With ``rows``, element i along the first dimension is element ``rows[i]`` of the source.
    """

    made: Tensor
    sources: tuple[Tensor, ...]
    dim: int = 0
    rows: Tensor | None = None


class Weights:
    """The storages on the meta device that hold parameters, or copies of them."""

    def __init__(self) -> None:
        self._roots: dict[Key, _Parameter | _Copy] = {}
        self._keep: list[Tensor] = []
        self._shapes: dict[int, tuple[int, ...]] = {}
        self._rows: dict[tuple[object, ...], tuple[Tensor, int]] = {}

    def add(self, elem: Tensor, number: int) -> None:
        """Notes that a contiguous tensor is parameter ``number``."""
        self._roots[key_of(elem)] = _Parameter(number)
        self._shapes[number] = tuple(elem.shape)
        self._keep.append(elem)

    def copied(self, made: Tensor, sources: tuple[Tensor, ...], dim: int = 0, rows: Tensor | None = None) -> None:
        """Notes that a tensor was made of others."""
        if key_of(made) not in self._roots:
            self._roots[key_of(made)] = _Copy(made, sources, dim, rows)
            self._keep.append(made)

    def axes(self, number: int, step: int, extent: int, kernel: int) -> tuple[int, ...]:
        """The axes of a parameter that a product sums over.

        Args:
            number: The parameter.
            step: Distance between neighbours along the summed dimension.
            extent: Distance from its beginning to its end.
            kernel: For a convolution: the number of positions, which are the last axes.
        """
        shape = self._shapes.get(number, ())
        out, stride = [], 1
        for axis in reversed(range(len(shape))):
            if (step <= stride < max(extent, step + 1) and shape[axis] > 1) or (kernel > 1 and axis >= 2):
                out.append(axis)
            stride *= shape[axis]
        return tuple(sorted(out))

    def holds(self, elem: Tensor) -> bool:
        """Whether a tensor's storage holds parameters."""
        return key_of(elem) in self._roots

    def locate(self, elem: Tensor, index: Tensor) -> Tensor:
        """Where elements come from.

        Args:
            elem: A tensor that `holds` parameters, of n dimensions.
            index: (m, n): the places of m elements in it.

        Returns:
            (m,): for each the number of the parameter, in the upper bits, and the place in the flat parameter.
        """
        root = self._roots.get(key_of(elem))
        if root is None:
            return torch.full((len(index),), UNTRACKED)
        offset: Tensor = int(elem.storage_offset()) + index @ torch.tensor(elem.stride(), dtype=torch.int64)
        if isinstance(root, _Parameter):
            return offset | (root.number << LOW_BITS)
        made = root.made
        place = torch.zeros((len(index), made.dim()), dtype=torch.int64)
        rest = offset - int(made.storage_offset())
        for dim in sorted(range(made.dim()), key=made.stride, reverse=True):
            if made.shape[dim] > 1 and made.stride(dim):
                place[:, dim] = rest // made.stride(dim)
                rest = rest % made.stride(dim)
        if root.rows is not None:
            place[:, 0] = root.rows[place[:, 0]]
        if len(root.sources) == 1:
            return self._in(root.sources[0], place)
        out = torch.full((len(index),), UNTRACKED)
        start = 0
        for source in root.sources:
            stop = start + source.shape[root.dim]
            inside = (place[:, root.dim] >= start) & (place[:, root.dim] < stop)
            if inside.any():
                there = place[inside].clone()
                there[:, root.dim] -= start
                out[inside] = self._in(source, there)
            start = stop
        return out

    def _in(self, source: Tensor, place: Tensor) -> Tensor:
        """The elements of a source of which another tensor is an elementwise function, possibly broadcast."""
        place = place[:, place.shape[1] - source.dim() :] if place.shape[1] > source.dim() else place
        limits = torch.tensor(source.shape, dtype=torch.int64) - 1
        return (
            self.locate(source, torch.minimum(place, limits))
            if len(source.shape) == place.shape[1]
            else place[:, 0] * 0 - 1
        )

    def rows(self, elem: Tensor, contracted: int) -> tuple[Tensor, int]:
        """The first element of every row, and the distance between the elements of a row, along a contracted dimension.

        Args:
            elem: A tensor of n dimensions that `holds` parameters.
            contracted: The dimension that a product sums over.

        Returns:
            Codes of the shape of ``elem`` with size 1 there, and the distance.
        """
        key = (key_of(elem), elem.storage_offset(), elem.shape, elem.stride(), contracted)
        if key not in self._rows:
            shape = list(elem.shape)
            shape[contracted] = 1
            root = self._roots.get(key_of(elem))
            if isinstance(root, _Parameter):
                first = torch.tensor(elem.storage_offset() | (root.number << LOW_BITS))
                for dim, (size, stride) in enumerate(zip(shape, elem.stride(), strict=True)):
                    first = first + (torch.arange(size) * stride).view(
                        [-1 if d == dim else 1 for d in range(len(shape))]
                    )
                self._rows[key] = first, elem.stride(contracted)
                return self._rows[key]
            grids = torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij")
            index = torch.stack([grid.flatten() for grid in grids], dim=1)
            step = 1
            if elem.shape[contracted] > 1 and len(index):
                second = index[:1].clone()
                second[:, contracted] = 1
                step = int((self.locate(elem, second) - self.locate(elem, index[:1]))[0])
            self._rows[key] = self.locate(elem, index).view(shape), step
        return self._rows[key]


def key_of(elem: Tensor) -> Key:
    """The storage of a tensor."""
    return int(elem.untyped_storage()._cdata)
