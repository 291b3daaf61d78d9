"""A few elements of each matrix, which are compared before and after the steps of the optimizers."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor

from weibull_monitor.measure.kernels import kernels_for
from weibull_monitor.measure.kernels.table import ELEMENTS, SUMS
from weibull_monitor.model.components.storage import ordinary
from weibull_monitor.model.sharding.layout import step_of
from weibull_monitor.model.upload import on_device

if TYPE_CHECKING:
    from weibull_monitor.measure.kernels.launch import Kernels

LOCAL: Final = "_local_tensor"
"""The attribute in which a DTensor keeps what this rank holds."""
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

    @torch.no_grad()  # a view with a history would keep what autograd accumulates the gradient with, of this stream
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
        weight = torch.full_like(times, self.last[0].numel() / ELEMENTS)
        squares, moved = squares / ELEMENTS, moved / ELEMENTS
        rows = [weight, squares, times * weight, after * squares, moved, steps * weight]
        out.index_add_(0, self.index, torch.stack(rows, dim=1))


@dataclass
class GatheredRows(ElementRows):
    """The same on an accelerator with kernels: one launch, at an address, instead of a view of each matrix.

    Attributes:
        kernels: The kernels of the device.
        known: Where each parameter is, how many bytes it has, and its strides.
        stream: The stream of the last launch.
        begin: int64, (rows,): where the parameters are, on the device.
        offsets: int64, (rows, elements): how far the elements of each are from there.
        ends: The largest of them in each row.
    """

    kernels: Kernels = field(kw_only=True)
    known: list[tuple[int, int, tuple[int, ...]]] = field(default_factory=list, init=False)
    stream: Any = field(init=False)
    begin: Tensor = field(init=False)
    offsets: Tensor = field(init=False)
    ends: list[int] = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.let_go()
        self.last = self.last.flatten(1).contiguous()  # (rows, elements)
        offsets = np.stack([_offsets(spec) for spec in self.specs])
        self.ends = offsets.max(axis=1).tolist()
        self.offsets = self.kernels.upload(offsets)
        self.stream = stream_of(self.last.device)

    def locate(self) -> None:
        """Finds out where the parameters are.

        Raises:
            ValueError: If one of them is not where its elements can be read.
        """
        held = [here(p) for p in self.parameters] if self.sharded else self.parameters
        known = [(local.data_ptr(), local.nbytes, local.stride()) for local in held]
        if known == self.known:
            return
        self.known = []  # until the addresses are on the device
        for local, (_, strides, *_), end in zip(held, self.specs, self.ends, strict=True):
            if not ordinary(local):
                raise ValueError(f"a {type(local).__name__} has no address")
            if local.device != self.last.device or local.dtype != self.last.dtype:
                raise ValueError("a parameter is on another device or has another dtype")
            if local.stride() != strides:
                raise ValueError("a parameter has other strides")
            if (local.storage_offset() + end) * local.itemsize >= local.untyped_storage().nbytes():
                raise ValueError("a parameter has fewer elements")
        self.begin = self.kernels.upload(np.array([address for address, *_ in known], dtype=np.int64))
        self.known = known

    def launch(self, step: int, of_step: bool) -> None:
        """Queues the kernel."""
        self.locate()
        held = (self.begin, self.offsets, self.last, self.sums)
        if (now := stream_of(self.last.device)) != self.stream:
            # Steps may be queued on another stream than samples: addresses have to have arrived, and stay until they are read.
            now.wait_stream(self.stream)
            for tensor in held:
                tensor.record_stream(now)
            self.stream = now
        self.kernels.compare(*held, step, of_step)

    def compare(self, step: int) -> None:
        """Counts what was written since the last call of this or of `after`, when so many steps had been taken."""
        self.launch(step, of_step=False)

    def after(self) -> None:
        """Compares the elements with those before the step, right after it."""
        if self.now is None:
            self.last.copy_(torch.cat(self.look()).flatten(1))
            self.let_go()
            return
        self.launch(0, of_step=True)
        self.now = None


def rows_of(places: list[int], specs: list[Spec]) -> ElementRows:
    """Rows of elements, by a kernel where there is one."""
    held = [here(p) for p, *_ in specs]
    kernels = kernels_for(held[0].device, held[0].dtype) if all(map(ordinary, held)) else None
    return ElementRows(places, specs) if kernels is None else GatheredRows(places, specs, kernels=kernels)


def stream_of(device: torch.device) -> Any:
    """The stream that work on a device is queued on now; None where there are no streams."""
    return torch.cuda.current_stream(device) if device.type == "cuda" else None


def _offsets(spec: Spec) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """How far the elements of a row are from the first of their parameter."""
    _, _, size, strides, offset = spec
    along = (np.arange(n, dtype=np.int64) * stride for n, stride in zip(size, strides, strict=True))
    return reduce(np.add.outer, along).reshape(-1) + offset


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
