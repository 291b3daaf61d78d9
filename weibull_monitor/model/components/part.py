"""A part of a stored parameter: the elements that make up one logical matrix. A view, never a copy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Part:
    """A box of elements of a parameter that is seen in another shape.

    Every layout in use is such a box: GPT-NeoX stores q, k and v of each head together, so its (3·H·d, D) parameter is seen as
    (H, 3, d, D) and q is ``[:, 0]``; gpt-oss alternates gate and up, so its (E, D, 2·I) parameter is seen as (E, D, I, 2).

    Attributes:
        label: What the suffix in brackets says: ``q``, ``head 5``, ``expert 3, up``.
        view: The shape that the parameter is seen in: each of its dimensions in one or several factors.
        ranges: (start, stop) along each dimension of that view.
        within: Label of the part that this one is a piece of; empty for a piece of the whole parameter.

    >>> import torch
    >>> neox = torch.arange(12.0).reshape(12, 1)  # 2 heads of 2 features: q0 q0 k0 k0 v0 v0 q1 q1 k1 k1 v1 v1
    >>> Part("q", (2, 3, 2, 1), ((0, 2), (0, 1), (0, 2), (0, 1))).select(neox).flatten().tolist()
    [0.0, 1.0, 6.0, 7.0]
    """

    label: str
    view: tuple[int, ...]
    ranges: tuple[tuple[int, int], ...]
    within: str = ""

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(stop - start for start, stop in self.ranges)

    def select(self, tensor: Tensor) -> Tensor:
        """The elements of this part as a view of the whole parameter, which may have any strides.

        Raises:
            ValueError: If the tensor does not have the number of elements that this part was found in, as a shard has not.
        """
        if tensor.numel() != math.prod(self.view):
            raise ValueError(
                f"[{self.label}] is a part of a parameter of {math.prod(self.view)} elements seen as {self.view}; this tensor "
                f"of shape {tuple(tensor.shape)} has {tensor.numel()}. Pass the whole parameter, not a shard of it."
            )
        selected = tensor.detach().view(self.view)
        for dim, (start, stop) in enumerate(self.ranges):
            if stop - start != self.view[dim]:
                selected = selected.narrow(dim, start, stop - start)
        return selected
