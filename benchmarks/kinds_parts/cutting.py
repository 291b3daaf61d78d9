"""Runs a model and cuts its graph at every product with a parameter, for `by_effect`."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

WITH_WEIGHT: Final = {"linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "embedding"}
"""Functions whose second argument is a weight (the first one, of `embedding`'s dispatched form)."""
CONTRACTS: Final = {
    "matmul",
    "__matmul__",
    "__rmatmul__",
    "mm",
    "bmm",
    "addmm",
    "baddbmm",
    "einsum",
    "_grouped_mm",
    "grouped_mm",
}
KINKED: Final = {
    "relu",
    "relu_",
    "relu6",
    "leaky_relu",
    "leaky_relu_",
    "clamp",
    "clamp_min",
    "hardswish",
    "hardtanh",
    "elu",
}
NORMS: Final = {"layer_norm", "rms_norm", "group_norm", "batch_norm", "normalize", "instance_norm"}
NORM: Final = re.compile(r"norm", re.IGNORECASE)


@dataclass(eq=False)
class Event:
    """A place where the graph was cut, and the leaf that goes on from it."""

    type: str  # product, scores, weights (of an attention), attended
    leaf: Tensor
    made: Tensor | None = None  # for a product: its result, which depends on its weight
    reads: tuple[Tensor, ...] = ()  # the operands, not cut
    name: str = ""  # for a product: the function
    dims: tuple[int, ...] = ()  # scores: the operands that have the last two; attended: along which weights are summed


@dataclass
class Effects:
    """What was seen in a run."""

    events: list[Event] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    roles: dict[int, dict[str, Tensor]] = field(
        default_factory=lambda: defaultdict(dict)
    )  # id of parameter: role: mask


class Cutting(TorchFunctionMode):
    """Cuts the graph at every product, and notes it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.weights = {p.untyped_storage().data_ptr() for p in model.parameters() if p.dim() > 1}
        self.seen = Effects()
        self.by_leaf: dict[int, Event] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "").removesuffix(".default")
        if func is F.scaled_dot_product_attention:
            _several(args[0].shape[-1])
            return self.cut(Event("attended", func(*args, **kwargs), reads=tuple(args[:3])))
        if name in NORMS and args and isinstance(args[0], Tensor):
            return scaled(args[0])
        if name in KINKED and args and isinstance(args[0], Tensor) and self.is_activation(name, args, kwargs):
            return F.silu(args[0])
        if name in WITH_WEIGHT or name in CONTRACTS:
            return self.contract(func, name, list(args), kwargs)
        if name == "multi_head_attention_forward":
            return self.multi_head(func, args, kwargs)
        out = func(*args, **kwargs)
        if name == "softmax" and isinstance(out, Tensor) and out.requires_grad:
            found = args[0] if args else kwargs["input"]
            if any(event.type == "scores" for event in self.reach(found)):
                return self.cut(Event("weights", out, reads=(found,)))
        return out

    @staticmethod
    def is_activation(name: str, args: Any, kwargs: Any) -> bool:
        if not name.startswith("clamp"):
            return bool(args[0].is_floating_point())
        low = kwargs.get("min", args[1] if len(args) > 1 else None)
        return (
            not isinstance(low, Tensor) and low == 0 and kwargs.get("max", args[2] if len(args) > 2 else None) is None
        )

    def is_weight(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value.dim() > 1 and value.untyped_storage().data_ptr() in self.weights

    def contract(self, func: Any, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        named = ("input", "weight", "mat2", "other")  # by position, whichever way they came
        args += [kwargs.pop(key) for key in named if isinstance(kwargs.get(key), Tensor)]
        places = [i for i, a in enumerate(args) if isinstance(a, Tensor) and a.is_floating_point()]
        if name == "einsum" and len(args) == 2 and isinstance(args[1], (list, tuple)):
            args = [args[0], *args[1]]
            places = list(range(1, len(args)))
        if name in ("addmm", "baddbmm"):
            places = places[-2:]
        if name == "embedding":
            given = [args[0]]
            args[0] = args[0].clamp(0, args[1].shape[0] - 1)  # sizes that were made smaller may not go together
        elif name in WITH_WEIGHT:
            given = [args[0]]
            args[0] = args[0].detach()
        elif any(self.is_weight(args[i]) for i in places):
            given = [args[i] for i in places if not self.is_weight(args[i])][:1]
            for i in places:
                args[i] = args[i] if self.is_weight(args[i]) else args[i].detach()
        else:
            return self.between(func, name, args, kwargs, places)
        out = func(*args, **kwargs)
        if not out.requires_grad:
            return out
        return self.cut(Event("product", out, made=out, reads=tuple(given), name=self.sort(name, args)))

    @staticmethod
    def sort(name: str, args: list[Any]) -> str:
        kernel = name.startswith("conv") and max(args[1].shape[2:]) > 1
        return "wide" if kernel else name

    def between(self, func: Any, name: str, args: list[Any], kwargs: dict[str, Any], places: list[int]) -> Any:
        """A product of two tensors, neither of them a parameter."""
        out = func(*args, **kwargs)
        operands = [args[i] for i in places]
        if len(operands) != 2 or not all(o.requires_grad for o in operands):
            return out
        if name == "baddbmm" or (name != "einsum" and operands[0].dim() > 3):
            _several(operands[0].shape[-1])
        inner, outer = (-1, -2), (0, 1)  # of a matmul: the dimension that is summed over; whose the last two are
        if name == "einsum":
            left, _, right = args[0].replace(" ", "").partition("->")
            one, two = left.split(",")
            summed = next((c for c in one if c in two and c not in right), "")
            inner = (one.index(summed) - len(one), two.index(summed) - len(two)) if summed else (-1, -2)
            outer = tuple(
                0 if c in one and c not in two else 1 if c in two and c not in one else -1 for c in right[-2:]
            )
        weighing = [any(event.type == "weights" for event in self.reach(o)) for o in operands]
        if sum(weighing) == 1:
            first = weighing.index(True)
            if any(s.type != "product" or s.name == "embedding" for s in self.reach(operands[1 - first])):
                return out  # the stream itself is weighed, not a value
            return self.cut(Event("attended", out, reads=(operands[first], operands[1 - first]), dims=(inner[first],)))
        return self.cut(Event("scores", out, reads=tuple(operands), dims=outer))

    def multi_head(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """`nn.MultiheadAttention`, of which torch says the layout."""
        out = func(*args, **kwargs)
        inner, outer = args[5], args[11]
        parts = inner.chunk(3) if inner is not None else [kwargs[f"{n}_proj_weight"] for n in "qkv"]
        for role, part in zip(("attn_q", "attn_k", "attn_v"), parts, strict=True):
            whole = part._base if part._base is not None else part
            mask = torch.zeros(whole.numel(), dtype=torch.bool)
            start = part.storage_offset() if whole is inner else 0
            mask[start : start + part.numel()] = True
            self.seen.roles[id(whole)][role] = mask.view(whole.shape)
        self.seen.roles[id(outer)]["attn_o"] = torch.ones(outer.shape, dtype=torch.bool)
        return (self.cut(Event("product", out[0], made=out[0], reads=tuple(args[:1]), name="heads")), *out[1:])

    def cut(self, event: Event) -> Tensor:
        event.leaf = event.leaf.detach().requires_grad_()
        self.by_leaf[id(event.leaf)] = event
        self.seen.events.append(event)
        return event.leaf.clone()

    def reach(self, tensor: Any) -> list[Event]:
        """The cuts that a tensor is made from, without another one between."""
        return [self.by_leaf[i] for i in variables(tensor) if i in self.by_leaf]


def _several(features: int) -> None:
    if features < 2:
        raise ValueError("a head has one feature: the model was made too small")


def variables(tensor: Any) -> list[int]:
    """The ids of the leaves of the graph of a tensor."""
    if not isinstance(tensor, Tensor) or not tensor.requires_grad:
        return []
    if tensor.grad_fn is None:
        return [id(tensor)]
    found: dict[int, None] = {}
    seen, todo = set(), [tensor.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found[id(node.variable)] = None
        todo.extend(following for following, _ in node.next_functions)
    return list(found)


def scaled(x: Tensor) -> Tensor:
    """A tensor divided by its size, as a constant: what is left of a norm."""
    return x / (x.detach().float().square().mean().sqrt().to(x.dtype) + 1e-6)


@contextmanager
def without_norms(model: nn.Module) -> Iterator[None]:
    changed = []
    for module in model.modules():
        small = all(p.dim() < 2 for p in module.parameters())
        small = small and not type(module).__module__.startswith("torch.nn.utils")  # of weights
        if small and NORM.search(type(module).__name__) and not list(module.children()):
            module.forward = lambda x, *args, **kwargs: scaled(x)
            changed.append(module)
    try:
        yield
    finally:
        for module in changed:
            del module.forward
