"""What this rank holds of every parameter: whole tensors, DTensors, FSDP1's flat parameters, ZeRO-3's partitions."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Set
from functools import partial
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from weibull_monitor.errors import text_of
from weibull_monitor.model.sharding.dtensor import is_dtensor, layout_of, peers_of
from weibull_monitor.model.sharding.fsdp1 import flat_parameters
from weibull_monitor.model.sharding.layout import Flat, Grid
from weibull_monitor.model.sharding.made import MadeWeight, made_weights
from weibull_monitor.model.sharding.parameter import LocalParameter


def local_parameters(model: nn.Module, before: Mapping[str, LocalParameter] | None = None) -> dict[str, LocalParameter]:
    """What this rank holds of every parameter of a model, by name, in the order of ``model.named_parameters()``.

    Parameters that FSDP2 has gathered for a forward pass are put back into their sharded state first. No element is read.

    Args:
        model: The model.
        before: What was found the last time; what has stayed the same is not looked at again.
    """
    modules = dict(model.named_modules())  # gone through once
    _reshard(modules.values())
    return _of_modules(model, modules, before or {})


class ParameterWatch:
    """Calls `local_parameters` of one model again and again; where nothing has changed, which is seen in a fraction of the time.

    Args:
        model: The model. Not modified.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._held: dict[str, LocalParameter] = {}
        self._modules: list[nn.Module] = []
        self._seen: list[object] = []  # what all of them hold; empty if the whole has to be gone through each time

    def __call__(self) -> dict[str, LocalParameter]:
        """What this rank holds now."""
        if self._seen and self._same():
            return self._held
        modules = dict(self._model.named_modules())
        _reshard(modules.values())
        self._held = _of_modules(self._model, modules, self._held)
        self._modules = list(modules.values())
        methods = ("named_modules", "named_parameters")
        plain = all(getattr(type(self._model), name) is getattr(nn.Module, name) for name in methods)
        # Under FSDP parameters may be in another state than that in which they are measured.
        wrapped = _fsdp("FSDPModule", "FullyShardedDataParallel")
        plain = plain and not any(isinstance(module, wrapped) for module in self._modules)
        self._seen = _holdings(self._modules) if plain else []
        return self._held

    def _same(self) -> bool:
        """Whether each module holds the same modules, parameters and hooks as the last time, and these are what they were."""
        seen = _holdings(self._modules)
        return (
            len(seen) == len(self._seen)
            and all(map(is_, seen, self._seen))
            and all(held.describes(held.optimized) for held in self._held.values())
        )


def _holdings(modules: Iterable[nn.Module]) -> list[object]:
    """All that some modules hold that `local_parameters` looks at."""
    found: list[object] = []
    for module in modules:
        if module._modules:
            found += module._modules
            found += module._modules.values()
        if module._parameters:
            found += module._parameters
            found += module._parameters.values()
        if module._forward_pre_hooks:
            found += module._forward_pre_hooks.values()
        found.append(module)
    return found


def _of_modules(
    model: nn.Module, modules: Mapping[str, nn.Module], before: Mapping[str, LocalParameter]
) -> dict[str, LocalParameter]:
    out: dict[str, LocalParameter] = {}
    flat: dict[str, LocalParameter] = {}
    covered: set[int] = set()
    for parameter, original in flat_parameters(modules):
        covered.add(id(parameter))
        flat[original.name] = original
    made = {source: weight for weight in made_weights(modules) for source in weight.sources}
    for name, parameter in _parameters(model, modules):
        if name in made:
            weight = made[name]
            out[weight.name] = _made(weight, before.get(weight.name), weight.sources.keys() & flat.keys())
        elif name not in flat and id(parameter) not in covered:
            known = before.get(name)
            out[name] = known if known is not None and known.describes(parameter) else _held(name, parameter)
    for name in made.keys() & flat.keys():  # with FSDP1 they may not be parameters of the model
        weight = made[name]
        out[weight.name] = _made(weight, before.get(weight.name), {flat.pop(name).name})
    return out | flat


def _parameters(model: nn.Module, modules: Mapping[str, nn.Module]) -> Iterable[tuple[str, Tensor]]:
    """The same as ``model.named_parameters()``."""
    if type(model).named_parameters is not nn.Module.named_parameters:
        return model.named_parameters()
    found: dict[int, tuple[str, Tensor]] = {}
    for path, module in modules.items():
        for name, parameter in module._parameters.items():
            if parameter is not None and id(parameter) not in found:
                found[id(parameter)] = f"{path}.{name}" if path else name, parameter
    return found.values()


def _made(weight: MadeWeight, known: LocalParameter | None, flat: Set[str]) -> LocalParameter:
    """A weight that its layer makes of parameters, which have to be whole on this rank.

    Args:
        weight: The weight.
        known: What was found the last time.
        flat: Those of its parameters that FSDP1 holds.
    """
    sources = tuple(weight.sources.values())
    signature = (weight.how, *((id(s), s.dtype, tuple(s.shape), s.requires_grad, s.device) for s in sources))
    if known is not None and not known.problem and known.signature == signature:
        return known
    shape: tuple[int, ...] = (0,)
    dtype, problem = sources[0].dtype, ""
    if flat or any(is_dtensor(source) or hasattr(source, "ds_tensor") for source in sources):
        problem = f"its layer makes it of sharded parameters ({weight.how}), which would have to be gathered"
    else:
        try:
            with torch.no_grad():
                first = weight.make()
            shape, dtype = tuple(first.shape), first.dtype
        except Exception as error:  # it may be anybody's code
            problem = f"its layer makes it ({weight.how}), and that failed ({type(error).__name__}: {text_of(error)})"
    mask = weight.mask

    def read() -> Tensor:
        with torch.no_grad():
            return weight.make().detach()

    def like(kept: Tensor) -> Tensor:
        if mask is None:
            raise ValueError(f"its layer makes it of other parameters ({weight.how})")
        return mask(kept.detach())

    return LocalParameter(
        name=weight.name,
        shape=shape,
        dtype=dtype,
        requires_grad=any(source.requires_grad for source in sources),
        optimized=max(sources, key=Tensor.numel),
        read=read,
        layout=Grid.whole(shape),
        like=like,
        sources=sources,
        signature=signature,
        steps_alike=mask is not None,
        problem=problem,
    )


def _held(name: str, parameter: Any) -> LocalParameter:
    """A parameter that is here, whatever its class."""
    try:
        return _described(name, parameter)
    except Exception as error:  # a tensor of another library may refuse any question
        nothing = (0,)
        return LocalParameter(
            name=name,
            shape=nothing,
            dtype=torch.float32,
            requires_grad=False,
            optimized=parameter,
            read=lambda: torch.empty(nothing, device="cpu"),
            layout=Grid.whole(nothing),
            problem=f"its class {type(parameter).__name__} cannot be read ({type(error).__name__}: {text_of(error)})",
        )


def _described(name: str, parameter: Any) -> LocalParameter:
    made_of = partial(LocalParameter, name=name, requires_grad=parameter.requires_grad, optimized=parameter)
    if hasattr(parameter, "ds_tensor"):
        return _zero3(parameter, made_of)
    problem = ""
    if is_lazy(parameter):
        problem = "it has no shape before the first forward pass (a lazy module)"
    elif parameter.is_nested:
        problem = "it is a nested tensor"
    elif getattr(parameter, "_fsdp_flattened", False):
        problem = "an FSDP module around the model holds it: pass that module as the model"
    if problem or not is_dtensor(parameter):
        shape = (0,) if problem else tuple(parameter.shape)
        read = parameter.detach if not problem else lambda: parameter
        return made_of(shape=shape, dtype=parameter.dtype, read=read, layout=Grid.whole(shape), problem=problem)
    layout, problem = layout_of(parameter)
    return made_of(
        shape=tuple(parameter.shape),
        dtype=parameter.dtype,
        read=partial(local_tensor, parameter),
        layout=layout,
        like=local_tensor,
        peers=peers_of(parameter),
        copy=int(parameter.device_mesh.mesh.min()),
        problem=problem,
    )


def local_tensor(tensor: Any) -> Tensor:
    """What this rank holds of a DTensor, without a copy and outside of autograd; another tensor itself."""
    with torch.no_grad():
        local: Tensor = tensor.to_local() if is_dtensor(tensor) else tensor
    return local


def _zero3(parameter: Any, made_of: Callable[..., LocalParameter]) -> LocalParameter:
    """A parameter that DeepSpeed ZeRO-3 has partitioned: equal stretches of the flattened tensor, the last one padded."""
    import torch.distributed as dist

    shard, group, numel = parameter.ds_tensor, parameter.ds_process_group, parameter.ds_numel
    shape, size = tuple(parameter.ds_shape), int(shard.ds_numel)
    start = dist.get_rank(group) * size
    available = getattr(getattr(shard, "status", None), "name", "AVAILABLE") == "AVAILABLE"
    return made_of(
        shape=shape,
        dtype=shard.dtype,
        read=lambda: parameter.ds_tensor.detach(),  # another tensor when it was gathered in between
        layout=Flat(shape, min(start, numel), min(start + size, numel)),
        peers=(dist.get_rank(),),
        copy=min(dist.get_process_group_ranks(group)),
        problem="" if available else "DeepSpeed ZeRO-3 has moved its shard to disk",
    )


def _fsdp(*names: str) -> tuple[type, ...]:
    """Classes of ``torch.distributed.fsdp``; none where nobody has imported it."""
    imported = sys.modules.get("torch.distributed.fsdp")
    found = (getattr(imported, name, None) for name in names)
    return tuple(kind for kind in found if kind is not None)


def _reshard(modules: Iterable[nn.Module]) -> None:
    """Puts parameters that FSDP2 left gathered back into their shards, by its own public method; a local operation."""
    if wrapped := _fsdp("FSDPModule"):
        for module in modules:
            if isinstance(module, wrapped):
                module.reshard()  # type: ignore[operator]
