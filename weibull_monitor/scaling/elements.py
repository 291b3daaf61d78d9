"""A few elements of each matrix, which are compared before and after the steps of the optimizers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from weibull_monitor.model.sharding.layout import step_of
from weibull_monitor.model.upload import on_device

LOOKED_AT: Final = 64
"""How many elements of a matrix are compared, at most."""
LOCAL: Final = "_local_tensor"
"""The attribute in which a DTensor keeps what this rank holds."""
SUMS: Final = 6
"""Sums of a row: squares and number of writes, the step after which the largest came, squares and number of steps, and the
squares of that write."""
PACKED: Final = 6
"""What adds up over rows: their weight; squares and times of writes; the step, times the squares; squares and number of steps."""

Spec = tuple[Tensor, tuple[int, ...], tuple[int, ...], tuple[int, ...], int]
"""Some elements of a parameter: the parameter, its strides, size and strides of a view of it, and how far from its first element
that begins."""


@dataclass
class ElementRows:
    """Rows of elements of one device, dtype and shape.

    Attributes:
        places: The component of each row, by its place.
        specs: Where the elements of each row are.
        parameters: The parameter of each row.
        sharded: Whether these are DTensors.
        index: `places` on the device, int64 (rows,).
        last: The elements after the last step, (rows, …).
        sums: The sums since the last sample, float32 (SUMS, rows).
        views: Views of the elements; on an accelerator, only while a step is under way.
        addresses: Where the parameters of the views are.
        now: The elements before this step, (rows, …).
    """

    places: list[int]
    specs: list[Spec]
    parameters: list[Tensor] = field(init=False)
    sharded: bool = field(init=False)
    index: Tensor = field(init=False)
    last: Tensor = field(init=False)
    sums: Tensor = field(init=False)
    views: list[Tensor] = field(default_factory=list)
    addresses: list[int] = field(default_factory=list)
    now: Tensor | None = None

    def __post_init__(self) -> None:
        self.parameters = [p for p, *_ in self.specs]
        self.sharded = any(hasattr(p, LOCAL) for p in self.parameters)
        self.last = torch.cat(self.look())
        self.index = on_device(torch.tensor(self.places, device="cpu"), self.last.device)
        self.clear()

    def look(self) -> list[Tensor]:
        """Views of the elements, (1, …) each.

        Raises:
            ValueError: If a parameter has other strides now, so that its elements are in other places.

        On an accelerator they are made anew each time: a view keeps the memory of weights that are moved to the host for a while.
        """
        held = [here(p) for p in self.parameters] if self.sharded else self.parameters
        addresses = [local.data_ptr() for local in held]
        if not self.views or addresses != self.addresses:
            if any(local.stride() != strides for local, (_, strides, *_) in zip(held, self.specs, strict=True)):
                raise ValueError("a parameter has other strides")
            self.views = [
                local.as_strided(size, strides, local.storage_offset() + offset)
                for local, (_, _, size, strides, offset) in zip(held, self.specs, strict=True)
            ]
            self.addresses = addresses
        return self.views

    def clear(self) -> None:
        """Begins the sums anew."""
        self.sums = torch.zeros(SUMS, len(self.places), dtype=torch.float32, device=self.last.device)

    def compare(self, step: int) -> None:
        """Counts what was written since the last call of this or of `after`, when so many steps had been taken."""
        now = torch.cat(self.look())
        if now.device.type == "cpu" and torch.equal(
            now, self.last
        ):  # nearly always; elsewhere the answer would be waited for
            return
        squares = _squares(now, self.last)
        self.sums[0] += squares
        self.sums[1] += squares > 0
        self.sums[2].masked_fill_(squares > self.sums[5], step)
        self.sums[5] = torch.maximum(self.sums[5], squares)
        self.last = now

    def before(self, step: int) -> None:
        """Compares the elements with those after the last step, right before one."""
        self.compare(step)
        self.now = self.last

    def after(self) -> None:
        """Compares the elements with those before the step, right after it."""
        self.last = torch.cat(self.look())
        if self.now is not None:
            squares = _squares(self.last, self.now)
            self.sums[3] += squares
            self.sums[4] += squares > 0
        self.now = None
        self.let_go()

    def let_go(self) -> None:
        """Drops the views of memory of an accelerator."""
        if self.last.device.type != "cpu":
            self.views = []

    def packed(self, out: Tensor) -> None:
        """Adds the sums to those of the components, (components, PACKED)."""
        squares, times, after, moved, steps, _ = self.sums
        weight = torch.full_like(times, self.last[0].numel() / LOOKED_AT)
        squares, moved = squares / LOOKED_AT, moved / LOOKED_AT
        rows = [weight, squares, times * weight, after * squares, moved, steps * weight]
        out.index_add_(0, self.index, torch.stack(rows, dim=1))


def here(p: Tensor) -> Tensor:
    """What this rank holds of a parameter: ``to_local`` of a DTensor, at a hundredth of its time."""
    local: Tensor = getattr(p, LOCAL, p)
    return local


def some_of(piece: Tensor, most: int) -> Tensor:
    """A view of up to ``most`` elements that are spread evenly over a tensor."""
    if piece.is_contiguous():
        return piece.view(-1)[:: step_of(piece.numel(), most)][:most]
    for done, (size, dim) in enumerate(sorted((size, dim) for dim, size in enumerate(piece.shape))):
        kept = min(size, max(1, int(most ** (1 / (piece.dim() - done)) + 1e-9)))
        piece = piece.narrow(dim, 0, size // kept * kept)[(slice(None),) * dim + (slice(None, None, size // kept),)]
        most //= kept
    return piece


def _squares(a: Tensor, b: Tensor) -> Tensor:
    """The squared distance of two tensors in each row, float32 (rows,)."""
    out: Tensor = (a - b).float().square_().flatten(1).sum(1)
    return out
