"""Makes a tree of modules from the names and shapes of tensors, for checkpoints without a configuration.

`weibull_monitor.model.components.discover` looks at modules: their classes, what is beside a matrix, whether the elements of a
list are alike. The tree has as much of that as names and shapes show. They do not show the sizes of heads, so matrices whose
layout depends on these (q, k and v head by head) are measured whole.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn

_EMBEDDING: Final = re.compile(
    r"(?:^|_)(?:wte|wpe|embed(?:_tokens|_positions|_in)?|embeds_layer|shared|codebook)$|embeddings?$"
)
_HEAD: Final = re.compile(r"lm_head|embed_out|output|head|classifier|decoder")
MAX_DEPTH: Final = 48


class _Conv(nn.modules.conv._ConvNd):
    """Stands for a convolution."""

    def __init__(self) -> None:
        nn.Module.__init__(self)


class _Embedding(nn.Embedding):
    """Stands for an embedding."""

    def __init__(self) -> None:
        nn.Module.__init__(self)


class Conv1D(nn.Module):
    """Stands for a linear layer that is stored as (in, out), as in GPT-2. Discovery knows it by this name."""


class _List(nn.ModuleList):
    """Stands for a list of modules."""


class _Model(nn.Module):
    """The root, which knows the module that makes the logits, if one was found."""

    def get_output_embeddings(self) -> nn.Module | None:
        """That module."""
        found: nn.Module | None = self.__dict__.get("_weibull_head")
        return found


class _Node:
    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.children: dict[str, _Node] = {}


def placeable(name: str) -> bool:
    """Whether a tensor's name is the path of a parameter."""
    return 0 < len(name) < 1024 and name.count(".") < MAX_DEPTH and all(name.split("."))


def skeleton(shapes: Mapping[str, tuple[tuple[int, ...], torch.dtype]]) -> nn.Module:
    """A tree of modules with parameters on the meta device.

    Args:
        shapes: Shape and dtype of every tensor by name, names being `placeable`.
    """
    root = _Node()
    for name, (shape, dtype) in shapes.items():
        *path, attribute = name.split(".")
        node = root
        for segment in path:
            node = node.children.setdefault(segment, _Node())
        node.tensors[attribute] = torch.empty(shape, dtype=dtype, device="meta")
    input_first = _input_first(root)
    model = _Model()
    _fill(model, root, input_first)
    model.__dict__["_weibull_head"] = _head(model)  # not as an attribute, which would make it a module of that name
    return model


def _fill(module: nn.Module, node: _Node, input_first: frozenset[str]) -> None:
    for attribute, tensor in node.tensors.items():
        module._parameters[attribute] = nn.Parameter(tensor, requires_grad=tensor.is_floating_point())
    kinds: list[tuple[frozenset[str], type[nn.Module]]] = []
    for name, child in node.children.items():  # not by add_module, which refuses names of nn.Module's own methods
        made = _class(name, child, input_first, kinds)()
        module._modules[name] = made
        _fill(made, child, input_first)


def _class(
    name: str, node: _Node, input_first: frozenset[str], kinds: list[tuple[frozenset[str], type[nn.Module]]]
) -> type[nn.Module]:
    """The class of a module. Neighbours that hold mostly the same names get one class, as the blocks of a list have.

    Args:
        name: The module's name.
        node: What it holds.
        input_first: Names of linear layers that are stored as (in, out).
        kinds: The classes made for its neighbours so far, each with the names that it holds; a new one is added here.
    """
    weight = node.tensors.get("weight")
    if weight is not None and not node.children:
        if weight.dim() > 2:
            return _Conv
        if weight.dim() == 2 and _EMBEDDING.search(name) and "bias" not in node.tensors:
            return _Embedding
        return Conv1D if name in input_first and weight.dim() == 2 else nn.Module
    if node.children and not node.tensors and all(child.isdigit() for child in node.children):
        return _List
    held = frozenset((*node.tensors, *node.children))
    for before, found in kinds:
        if 2 * len(held & before) >= len(held | before):
            return found
    kinds.append((held, type("Stored", (nn.Module,), {})))
    return kinds[-1][1]


def _input_first(root: _Node) -> frozenset[str]:
    """Names of the linear layers that are stored as (in, out): their bias is as long as the second dimension, not the first."""
    found: dict[str, set[bool]] = {}
    stack = [root]
    while stack:
        node = stack.pop()
        for name, child in node.children.items():
            stack.append(child)
            weight, bias = child.tensors.get("weight"), child.tensors.get("bias")
            if weight is None or bias is None or weight.dim() != 2 or bias.dim() != 1:
                continue
            rows, columns = weight.shape
            if rows != columns:
                found.setdefault(name, set()).add(len(bias) == columns)
    return frozenset(name for name, first in found.items() if first == {True})


def _head(model: nn.Module) -> nn.Module | None:
    """The module at the top whose name says that it makes logits, and whose matrix is as large as an embedding."""
    sizes = {tuple(m.weight.shape) for m in model.modules() if isinstance(m, _Embedding)}
    for name, child in model._modules.items():
        weight = child._parameters.get("weight") if child is not None else None
        if weight is not None and _HEAD.search(name) and tuple(weight.shape) in sizes:
            return child
    return None
