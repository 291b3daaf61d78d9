"""FSDP1 (`FullyShardedDataParallel`): the parameters that its flat parameters are made of."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class FlatEntry:
    """One original parameter within a flat parameter.

    Attributes:
        name: Its name, with the prefixes of wrappers.
        shape: Its shape.
        dtype: Dtype of the flat parameter.
        requires_grad: Whether it is being trained.
        start: First of its elements, in row-major order, that is here.
        stop: The element after the last that is here.
        read: Gives those elements, one-dimensional.
        like: Gives those elements of a tensor that the optimizer keeps for ``optimized``.
        optimized: What the optimizer holds: the original parameter with ``use_orig_params=True``, else the flat one.
        flat_parameter: The flat parameter.
        ranks: The ranks over which one copy is spread; ``rank`` is this one.
        rank: This rank.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    requires_grad: bool
    start: int
    stop: int
    read: Callable[[], Tensor]
    like: Callable[[Tensor], Tensor]
    optimized: Tensor
    flat_parameter: Tensor
    ranks: tuple[int, ...]
    rank: int


def flat_parameters(model: nn.Module) -> Iterator[FlatEntry]:
    """Every original parameter of every FSDP1 unit of a model; nothing if FSDP1 is not in use."""
    fsdp = sys.modules.get("torch.distributed.fsdp.fully_sharded_data_parallel")
    if fsdp is None:
        return
    wrapped = [module for module in model.modules() if isinstance(module, fsdp.FullyShardedDataParallel)]
    if not wrapped:
        return
    names = {id(module): name for name, module in model.named_modules()}
    for module in wrapped:
        handle = module._handle
        if handle is not None:
            yield from _entries(handle, names)


def _entries(handle: Any, names: dict[int, str]) -> Iterator[FlatEntry]:
    import torch.distributed as dist

    flat = handle.flat_param
    sharded = handle.uses_sharded_strategy
    offsets = _offsets(flat)
    for i, (info, shape) in enumerate(zip(flat._param_infos, flat._shapes, strict=True)):
        numel = math.prod(shape)
        start, stop, at = 0, numel, offsets[i]
        if sharded:
            shard = flat._shard_param_infos[i]
            if shard.in_shard:
                start, stop, at = shard.intra_param_start_idx, shard.intra_param_end_idx + 1, shard.offset_in_shard
            else:
                start = stop = at = 0
        original = flat._params[i] if flat._params is not None else flat
        path = names[id(info.module)]
        yield FlatEntry(
            name=f"{path}.{info.param_name}" if path else info.param_name,
            shape=tuple(shape),
            dtype=flat.dtype,
            requires_grad=original.requires_grad,
            start=start,
            stop=stop,
            read=_reader(flat, sharded, at, stop - start),
            like=_within(at, stop - start) if original is flat else torch.Tensor.detach,
            optimized=original,
            flat_parameter=flat,
            ranks=tuple(dist.get_process_group_ranks(handle.process_group)) if sharded else (dist.get_rank(),),
            rank=dist.get_rank(),
        )


def _within(offset: int, length: int) -> Callable[[Tensor], Tensor]:
    return lambda kept: kept.detach()[offset : offset + length]


def _reader(flat: Any, sharded: bool, offset: int, length: int) -> Callable[[], Tensor]:
    def read() -> Tensor:
        local: Tensor = (
            getattr(flat, "_local_shard", flat.data) if sharded else flat.data
        )  # the former since the first forward
        return local.detach()[offset : offset + length]

    return read


def _offsets(flat: Any) -> list[int]:
    """Where each original parameter begins in the whole flat parameter, padding between them included."""
    sizes = flat._numels_with_padding
    padding = flat._is_padding_mask
    out, at = [], 0
    for size, is_padding in zip(sizes, padding, strict=True):
        if not is_padding:
            out.append(at)
        at += size
    return out
