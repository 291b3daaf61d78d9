"""FSDP1 (`FullyShardedDataParallel`): the parameters that its flat parameters are made of."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from weibull_monitor.model.sharding.layout import Flat
from weibull_monitor.model.sharding.parameter import LocalParameter


def flat_parameters(modules: Mapping[str, nn.Module]) -> Iterator[tuple[Tensor, LocalParameter]]:
    """Every original parameter of every FSDP1 unit among a model's modules, after the flat parameter that it is in."""
    fsdp = sys.modules.get("torch.distributed.fsdp.fully_sharded_data_parallel")
    if fsdp is None:  # not in use
        return
    wrapped = [module for module in modules.values() if isinstance(module, fsdp.FullyShardedDataParallel)]
    names = {id(module): name for name, module in modules.items()} if wrapped else {}
    for module in wrapped:
        if module._handle is not None:
            yield from _originals(module._handle, names)


def inside(module: nn.Module) -> nn.Module:
    """The module in FSDP1's wrappers; any other module itself."""
    fsdp = sys.modules.get("torch.distributed.fsdp.fully_sharded_data_parallel")
    while fsdp is not None and isinstance(module, fsdp.FullyShardedDataParallel):
        module = module._fsdp_wrapped_module
    return module


def _originals(handle: Any, names: dict[int, str]) -> Iterator[tuple[Tensor, LocalParameter]]:
    import torch.distributed as dist

    flat, sharded, me = handle.flat_param, handle.uses_sharded_strategy, dist.get_rank()
    ranks = tuple(dist.get_process_group_ranks(handle.process_group)) if sharded else (me,)
    offsets = _offsets(flat)
    tied: dict[tuple[int, str], list[tuple[nn.Module, str]]] = {}
    for info in flat._shared_param_infos:
        tied.setdefault((id(info.prim_module), info.prim_param_name), []).append((info.module, info.param_name))
    for i, (info, shape) in enumerate(zip(flat._param_infos, flat._shapes, strict=True)):
        # Elements start to stop of the original, in row-major order, lie at `at` in what is here of the flat parameter.
        start, stop, at = 0, math.prod(shape), offsets[i]
        if sharded:
            shard = flat._shard_param_infos[i]
            start = stop = at = 0
            if shard.in_shard:
                start, stop, at = shard.intra_param_start_idx, shard.intra_param_end_idx + 1, shard.offset_in_shard
        # With ``use_orig_params=True`` optimizers hold the originals, else the flat parameter.
        original = flat if flat._params is None else flat._params[i]
        path = names[id(info.module)]
        within = _within(at, stop - start)
        yield (
            flat,
            LocalParameter(
                name=f"{path}.{info.param_name}" if path else info.param_name,
                shape=tuple(shape),
                dtype=flat.dtype,
                requires_grad=original.requires_grad,
                optimized=original,
                read=_reader(flat, sharded, within),
                layout=Flat(tuple(shape), start, stop),
                like=within if original is flat else _flattened,
                peers=(me,),
                copy=min(ranks),
                places=((info.module, info.param_name), *tied.get((id(info.module), info.param_name), ())),
            ),
        )


def _flattened(kept: Tensor) -> Tensor:
    """What an optimizer keeps for an original parameter, which has the shape of that where nothing is sharded."""
    return kept.detach().flatten()


def _within(offset: int, length: int) -> Callable[[Tensor], Tensor]:
    return lambda local: local.detach()[offset : offset + length]


def _reader(flat: Any, sharded: bool, within: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
    # There is a `_local_shard` since the first forward pass.
    return lambda: within(getattr(flat, "_local_shard", flat.data) if sharded else flat.data)


def _offsets(flat: Any) -> list[int]:
    """Where each original parameter begins in the whole flat parameter, padding between them included."""
    out, at = [], 0
    for size, is_padding in zip(flat._numels_with_padding, flat._is_padding_mask, strict=True):
        if not is_padding:
            out.append(at)
        at += size
    return out
