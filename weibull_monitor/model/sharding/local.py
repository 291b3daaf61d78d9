"""What this rank holds of every parameter: whole tensors, DTensors, FSDP1's flat parameters, ZeRO-3's partitions."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from weibull_monitor.model.sharding.dtensor import is_dtensor, layout_of, peers_of
from weibull_monitor.model.sharding.layout import Flat, Grid, Layout

if TYPE_CHECKING:
    from weibull_monitor.model.sharding.fsdp1 import FlatEntry


@dataclass(frozen=True)
class LocalParameter:
    """One parameter, and what this rank holds of it.

    Attributes:
        name: Its name in ``model.named_parameters()``; under FSDP1's flat parameters, the name it would have there.
        shape: Shape of the whole parameter.
        dtype: Dtype of the elements.
        requires_grad: Whether it is being trained.
        optimized: The tensor that an optimizer would hold for it.
        read: Gives the local tensor as it is now.
        layout: Which elements of the whole parameter the local tensor holds.
        like: Gives the local tensor of another that an optimizer keeps for it, of the same shape and placement as `optimized`.
        peers: Ranks that hold the same elements as this one, so that they may share the work; None for a whole tensor,
            which any rank may hold.
        copy: The lowest of the ranks over which this copy of the parameter is spread; None for a whole tensor.
        problem: Why its elements cannot be found; empty if they can.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    requires_grad: bool
    optimized: Tensor
    read: Callable[[], Tensor]
    layout: Layout
    like: Callable[[Tensor], Tensor] = torch.Tensor.detach
    peers: tuple[int, ...] | None = None
    copy: int | None = None
    problem: str = ""

    @cached_property
    def standin(self) -> Tensor:
        """A tensor of the whole parameter's shape and dtype: the parameter itself, or without elements if it is sharded."""
        if self.copy is None:
            return self.optimized
        return torch.empty(self.shape, dtype=self.dtype, device="meta", requires_grad=self.requires_grad)

    @property
    def stored(self) -> Tensor:
        """What holds the elements that are here: its type says whether they are plain numbers."""
        return self.optimized if self.copy is None else self.read()

    def stands(self, parameter: Tensor) -> bool:
        """Whether this is still true of a parameter. Elements that were moved to disk, or gathered, may have come back."""
        return (
            self.optimized is parameter
            and not self.problem
            and self.requires_grad == parameter.requires_grad
            and self.dtype == parameter.dtype
            and (self.copy is not None or self.shape == tuple(parameter.shape))
        )

    @property
    def agreed(self) -> tuple[object, ...]:
        """What has to be as it was when the ranks agreed on who counts what."""
        return self.name, self.shape, self.dtype, self.requires_grad, self.layout, self.peers, self.copy, self.problem


def local_parameters(model: nn.Module, before: Mapping[str, LocalParameter] | None = None) -> dict[str, LocalParameter]:
    """What this rank holds of every parameter of a model, by name, in the order of ``model.named_parameters()``.

    Parameters that FSDP2 has gathered for a forward pass are put back into their sharded state first. No element is read.

    Args:
        model: The model.
        before: What was found the last time; what has stayed the same is not looked at again.
    """
    _reshard(model)
    flat = {entry.name: entry for entry in _flat_parameters(model)}
    covered = {id(entry.flat_parameter) for entry in flat.values()}
    out: dict[str, LocalParameter] = {}
    for name, parameter in model.named_parameters():
        if name not in flat and id(parameter) not in covered:
            known = (before or {}).get(name)
            out[name] = known if known is not None and known.stands(parameter) else _held(name, parameter)
    for name, entry in flat.items():
        out[name] = LocalParameter(
            name=name,
            shape=entry.shape,
            dtype=entry.dtype,
            requires_grad=entry.requires_grad,
            optimized=entry.optimized,
            read=entry.read,
            layout=Flat(entry.shape, entry.start, entry.stop),
            like=entry.like,
            peers=(entry.rank,),
            copy=min(entry.ranks),
        )
    return out


def _flat_parameters(model: nn.Module) -> Iterable[FlatEntry]:
    if "torch.distributed.fsdp.fully_sharded_data_parallel" not in sys.modules:
        return ()
    from weibull_monitor.model.sharding.fsdp1 import flat_parameters

    return flat_parameters(model)


def _held(name: str, parameter: Any) -> LocalParameter:
    if hasattr(parameter, "ds_tensor"):
        return _zero3(name, parameter)
    if is_lazy(parameter):
        return _unreadable(name, parameter, "it has no shape before the first forward pass (a lazy module)")
    if getattr(parameter, "_fsdp_flattened", False):
        return _unreadable(name, parameter, "an FSDP module around the model holds it: pass that module as the model")
    if not is_dtensor(parameter):
        return LocalParameter(
            name=name,
            shape=tuple(parameter.shape),
            dtype=parameter.dtype,
            requires_grad=parameter.requires_grad,
            optimized=parameter,
            read=lambda: parameter.detach(),
            layout=Grid.whole(parameter.shape),
        )
    shape = tuple(parameter.shape)
    layout, problem = layout_of(parameter)
    return LocalParameter(
        name=name,
        shape=shape,
        dtype=parameter.dtype,
        requires_grad=parameter.requires_grad,
        optimized=parameter,
        read=lambda: local_tensor(parameter),
        layout=layout,
        like=local_tensor,
        peers=peers_of(parameter),
        copy=int(parameter.device_mesh.mesh.min()),
        problem=problem,
    )


def _unreadable(name: str, parameter: Any, problem: str) -> LocalParameter:
    return LocalParameter(
        name=name,
        shape=(0,),
        dtype=parameter.dtype,
        requires_grad=parameter.requires_grad,
        optimized=parameter,
        read=lambda: parameter,
        layout=Grid.whole((0,)),
        problem=problem,
    )


def local_tensor(tensor: Any) -> Tensor:
    """What this rank holds of a DTensor, without a copy and outside of autograd; another tensor itself."""
    with torch.no_grad():
        local: Tensor = tensor.to_local() if is_dtensor(tensor) else tensor
    return local


def _zero3(name: str, parameter: Any) -> LocalParameter:
    """A parameter that DeepSpeed ZeRO-3 has partitioned: equal stretches of the flattened tensor, the last one padded."""
    import torch.distributed as dist

    shard, group = parameter.ds_tensor, parameter.ds_process_group
    shape, rank, size = tuple(parameter.ds_shape), dist.get_rank(group), int(shard.ds_numel)
    numel = parameter.ds_numel
    available = getattr(getattr(shard, "status", None), "name", "AVAILABLE") == "AVAILABLE"
    return LocalParameter(
        name=name,
        shape=shape,
        dtype=shard.dtype,
        requires_grad=parameter.requires_grad,
        optimized=parameter,
        read=lambda: parameter.ds_tensor.detach(),
        layout=Flat(shape, min(rank * size, numel), min((rank + 1) * size, numel)),
        peers=(dist.get_rank(),),
        copy=min(dist.get_process_group_ranks(group)),
        problem="" if available else "DeepSpeed ZeRO-3 has moved its shard to disk",
    )


def _reshard(model: nn.Module) -> None:
    """Puts parameters that FSDP2 left gathered back into their shards, by its own public method; a local operation."""
    fsdp2 = sys.modules.get("torch.distributed.fsdp")
    wrapped = getattr(fsdp2, "FSDPModule", None)
    if wrapped is not None:
        for module in _modules(model, wrapped):
            module.reshard()


def _modules(model: nn.Module, wanted: type) -> Iterator[Any]:
    return (module for module in model.modules() if isinstance(module, wanted))
