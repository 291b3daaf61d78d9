"""A copy of the modules of a model, without its weights and hooks, to follow a forward pass with."""

from __future__ import annotations

import types
from collections.abc import Collection
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from weibull_monitor.model.architecture import held_by
from weibull_monitor.model.dataflow.traced import Traced
from weibull_monitor.model.dataflow.weights import Weights
from weibull_monitor.model.sharding import LocalParameter, inside
from weibull_monitor.model.sharding.made import HOOKS
from weibull_monitor.model.tuners import BASE, is_tuner

LARGEST_BUFFER: Final = 1 << 22
_HOOKS: Final = (
    "_forward_hooks", "_backward_hooks", "_backward_pre_hooks", "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs", "_forward_hooks_always_called",
)  # fmt: skip


def unwrapped(model: nn.Module) -> nn.Module:
    """The module in wrappers such as DDP and `torch.compile`."""
    for _ in range(8):
        inner = held_by(model)
        if inner is None or not ("_orig_mod" in model._modules or _wraps(model)):
            return model
        model = inner
    return model


def _wraps(model: nn.Module) -> bool:
    name = type(model).__name__
    return "DataParallel" in name or "FullyShard" in name or name.endswith(("Engine", "Wrapper", "Join"))


class Clone:
    """A model whose parameters have no values, and whose modules share nothing that a forward pass changes.

    Args:
        model: The model.
        held: What is here of its parameters, or of those of a larger model, which then counts: their names and whole shapes. What
            FSDP1 has flattened is put back where it was; the copy has none of FSDP1's modules.

    Attributes:
        module: The copy of the model.
        twins: For each parameter by its ``id``: what stands for it.
        names: The names of the parameters; their places are their numbers.
        shapes: Their shapes.
        weights: Where they lie.
    """

    def __init__(self, model: nn.Module, held: Collection[LocalParameter] = ()) -> None:
        self.weights = Weights()
        self.twins: dict[int, Traced] = {}
        self.names: list[str] = []
        self.shapes: list[tuple[int, ...]] = []
        self._put_back: dict[int, dict[str, Traced]] = {}  # by the ``id`` of a module: what FSDP1 has taken out of it
        modules = {id(module): inside(module) for module in model.modules()}
        flattened = [h for h in held if h.places]
        whole = {id(h.optimized): h for h in held if not h.places}
        self._taken = {id(h.optimized) for h in flattened}
        for name, parameter in model.named_parameters():
            if id(parameter) not in self._taken:
                known = whole.get(id(parameter))
                sharded = known is not None and not known.problem and not known.sources
                shape = known.shape if known is not None and sharded else tuple(parameter.shape)
                self.twins[id(parameter)] = self._twin(known.name if known else name, shape, parameter.dtype)
        for original in flattened:
            if any(id(module) in modules for module, _ in original.places):
                twin = self.twins[id(original)] = self._twin(original.name, original.shape, original.dtype)
                for module, attribute in original.places:
                    self._put_back.setdefault(id(module), {})[attribute] = twin
        self._buffers: dict[int, Any] = {}
        made = {id(module): object.__new__(type(module)) for module in modules.values()}
        self._modules: dict[int, nn.Module] = {key: made[id(module)] for key, module in modules.items()}
        for inner in modules.values():
            self._fill(inner, self._modules[id(inner)])
        self.module = self._modules[id(model)]

    def _twin(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Traced:
        """What stands for a parameter, under the next number."""
        known = dtype.is_floating_point and dtype.itemsize > 1
        elem = torch.empty(shape, dtype=dtype if known else torch.float32, device="meta")
        matrix = len(shape) > 1 and elem.numel() > 0
        if matrix:
            self.weights.add(elem, len(self.names))
        twin = Traced(elem, None, weight=matrix)
        twin._is_param = True  # what `isinstance(…, nn.Parameter)` looks at
        self.names.append(name)
        self.shapes.append(shape)
        return twin

    def _fill(self, old: nn.Module, new: nn.Module) -> None:
        state: dict[str, Any] = {}
        put_back = self._put_back.get(id(old), {})
        for name, value in old.__dict__.items():
            if name in put_back:
                continue
            if name == "_forward_pre_hooks":
                state[name] = type(value)({n: hook for n, hook in value.items() if isinstance(hook, HOOKS)})
            elif name in _HOOKS:
                state[name] = type(value)()
            elif name == "_parameters":
                kept = {n: p for n, p in value.items() if id(p) not in self._taken}
                state[name] = {n: None if p is None else self._parameter(p) for n, p in kept.items()} | put_back
            elif name == "_buffers":
                state[name] = {n: None if b is None else self._buffer(b) for n, b in value.items()}
            elif name == "_modules":
                state[name] = {n: None if m is None else self._modules[id(m)] for n, m in value.items()}
            else:
                state[name] = self._attribute(value, 3)
        state["training"] = False
        if is_tuner(old):  # what the layer below does is what the model does; adapters are known by where they are
            state["forward"] = state["_modules"][BASE]
        new.__dict__.update(state)

    def _parameter(self, parameter: Tensor) -> Any:
        return self.twins.get(id(parameter), parameter)

    def _buffer(self, buffer: Tensor) -> Any:
        if id(buffer) not in self._buffers:
            small = buffer.numel() <= LARGEST_BUFFER and buffer.device.type != "meta" and type(buffer) is Tensor
            stand = buffer.detach().cpu().clone() if small else torch.zeros((), dtype=buffer.dtype).expand(buffer.shape)
            self._buffers[id(buffer)] = stand
        return self._buffers[id(buffer)]

    def _attribute(self, value: Any, depth: int) -> Any:
        """An attribute with the modules, parameters and methods of the copy, and containers of its own."""
        if isinstance(value, nn.Module):
            return self._modules.get(id(value), value)
        if isinstance(value, Tensor):
            return self.twins.get(id(value), value)
        if isinstance(value, types.MethodType) and id(value.__self__) in self._modules:
            return types.MethodType(value.__func__, self._modules[id(value.__self__)])
        if isinstance(value, partial) and depth:
            return partial(self._attribute(value.func, depth - 1), *value.args, **value.keywords)
        if depth and type(value) in (list, tuple, set):
            return type(value)(self._attribute(v, depth - 1) for v in value)
        if depth and type(value) is dict:
            return {k: self._attribute(v, depth - 1) for k, v in value.items()}
        return value
