"""A tensor that an optimizer keeps for a parameter: plain floats, or codes of 8 bits with a scale for each block.

bitsandbytes and torchao keep m and v so (T. Dettmers et al., "8-bit Optimizers via Block-wise Quantization", arXiv:2110.02861,
2021): an element is table[code]·scale[place // block], with its place in row-major order. Neither library is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from weibull_monitor.model.sharding.local import local_tensor

BLOCKS: Final = (256, 2048, 64, 128, 512, 1024, 4096)
"""Sizes of blocks, the usual ones first."""


class BlockCodes(NamedTuple):
    """A quantised tensor.

    Attributes:
        codes: uint8, contiguous, of the parameter's shape on this rank.
        table: The value of each code, float32 of shape (256,).
        scales: float32 of shape (blocks,).
        block: Elements of a block; the last may be shorter.
    """

    codes: Tensor
    table: Tensor
    scales: Tensor
    block: int

    def values(self, piece: Tensor) -> Tensor:
        """The values of some elements: float32, a new tensor. On a device this is queued.

        Args:
            piece: A view of `codes`, of any shape.

        >>> codes = torch.tensor([[0, 1, 2], [2, 1, 0]], dtype=torch.uint8)
        >>> kept = BlockCodes(codes, torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([1.0, 10.0]), block=4)
        >>> kept.values(codes[:, 1:]).tolist()
        [[0.0, 1.0], [0.0, -10.0]]
        """
        # The place of an element among all codes is its distance in memory, as these are contiguous.
        first = int(piece.storage_offset() - self.codes.storage_offset())
        place = torch.full((1,) * piece.dim(), first, device=piece.device)
        for dimension, (size, stride) in enumerate(zip(piece.shape, piece.stride(), strict=True)):
            along = torch.arange(size, device=piece.device) * stride
            place = place + along.view(-1, *(1,) * (piece.dim() - dimension - 1))
        return self.table[piece.long()] * self.scales[place // self.block]


def raw_of(kept: Tensor | BlockCodes) -> Tensor:
    """The tensor that pieces are taken of."""
    return kept if isinstance(kept, Tensor) else kept.codes


def values_of(kept: Tensor | BlockCodes) -> Callable[[Tensor], Tensor]:
    """What makes float32 of pieces of it."""
    return Tensor.float if isinstance(kept, Tensor) else kept.values


def kept_tensor(optimizer: Any, parameter: Tensor, *names: str) -> Tensor | BlockCodes | str | None:
    """What an optimizer keeps for a parameter under the first of some names.

    Args:
        optimizer: The optimizer itself, without wrappers.
        parameter: The parameter, as the optimizer holds it.
        names: The names in the parameter's state.

    Returns:
        It; why it cannot be read; or None if nothing is kept under these names.

    >>> weight = torch.nn.Parameter(torch.zeros(2, 2))
    >>> adamw = torch.optim.AdamW([weight])
    >>> weight.grad = torch.ones(2, 2)
    >>> adamw.step()
    >>> kept_tensor(adamw, weight, "exp_avg")[0]
    tensor([0.1000, 0.1000])
    """
    state = optimizer.state.get(parameter, {})
    name = next((name for name in names if isinstance(state.get(name), Tensor)), None)
    if name is None:
        return None
    tensor: Tensor = state[name]
    kind = type(optimizer).__name__
    here, owned = local_tensor(tensor), local_tensor(parameter)
    if name in (getattr(optimizer, "_scales", None) or {}).get(parameter, ()):  # Transformer Engine
        return f"{kind} keeps a state that is scaled"
    if here.shape != owned.shape:
        return f"{kind} keeps a state of another shape or precision than the parameter"
    quantised = _codes(here, name, state)
    if quantised is not None:
        return quantised
    if not here.is_floating_point() or here.element_size() < 2 or hasattr(here, "codes"):
        return f"{kind} keeps a state that is too coarse to compute u from, or of an unknown form"
    return tensor


def _codes(here: Any, name: str, state: Any) -> BlockCodes | None:
    """The codes, if it is a state of bitsandbytes or torchao with 8 bits."""
    if name.startswith("state") and here.dtype == torch.uint8:  # bitsandbytes: state1, qmap1 and absmax1, or 2
        codes, table, scales = here, *(state.get(f"{part}{name.removeprefix('state')}") for part in ("qmap", "absmax"))
        paged = getattr(here, "is_paged", False)
    else:
        codes, table, scales = (getattr(here, part, None) for part in ("codes", "qmap", "scale"))
        paged = False
    if paged or not all(isinstance(part, Tensor) for part in (codes, table, scales)):
        return None
    if codes.shape != here.shape or not codes.is_contiguous() or table.shape != (256,) or scales.dim() != 1:
        return None
    block = next((size for size in BLOCKS if -(-codes.numel() // size) == len(scales)), None)
    return None if block is None else BlockCodes(codes, table, scales, block)
