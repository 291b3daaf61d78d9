"""The low-rank adapters of a model: which A goes with which B, and the factor of their product."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from weibull_monitor.model.components import Component

if TYPE_CHECKING:
    from torch import Tensor, nn

_PAIRS = (("lora_A", "lora_B"), ("lora_embedding_A", "lora_embedding_B"))


@dataclass(frozen=True)
class Adapter:
    """One adapter of one weight: W + s·B·A.

    Attributes:
        name: The name of A in ``model.named_parameters()``.
        target: The path of the module whose weight it changes.
        adapter: Its name among those of that weight, such as ``default``; empty if there is one.
        a: A, (rank, inputs); of an embedding (rank, rows); of a convolution (rank, inputs, …).
        b: B, (outputs, rank).
        scaling: s: α/r, or α/√r with rank stabilisation (D. Kalajdzievski, arXiv:2312.03732, 2023).
        dora: Whether the sum is normalised by rows and scaled again (S.-Y. Liu et al., arXiv:2402.09353, 2024).
    """

    name: str
    target: str
    adapter: str
    a: Tensor
    b: Tensor
    scaling: float
    dora: bool = False

    @property
    def rank(self) -> int:
        """Rank of the product, at most."""
        return self.a.shape[0]


def adapters_of(model: nn.Module) -> list[Adapter]:
    """The adapters of a model with PEFT's attributes: ``lora_A``, ``lora_B`` and ``scaling`` of a module, by adapter or alone.

    >>> from torch import nn
    >>> layer = nn.Linear(8, 8)
    >>> layer.lora_A, layer.lora_B, layer.scaling = nn.Parameter(layer.weight[:2]), nn.Parameter(layer.weight[:, :2]), 0.5
    >>> [(found.name, found.rank, found.scaling) for found in adapters_of(nn.Sequential(layer))]
    [('0.lora_A', 2, 0.5)]
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [found for path, module in model.named_modules() for found in _of_module(path, module, names)]


def _of_module(path: str, module: nn.Module, names: Mapping[int, str]) -> Iterator[Adapter]:
    for first, second in _PAIRS:
        a, b = getattr(module, first, None), getattr(module, second, None)
        if a is None or b is None:
            continue
        by_name = _by_name(a), _by_name(b)
        for adapter in by_name[0].keys() & by_name[1].keys():
            one, other = by_name[0][adapter], by_name[1][adapter]
            scaling = _of_adapter(getattr(module, "scaling", None), adapter)
            if id(one) not in names or not isinstance(scaling, (int, float)) or not _fit(one, other):
                continue
            dora = bool(_of_adapter(getattr(module, "use_dora", None), adapter)) or _holds(
                getattr(module, "lora_magnitude_vector", None), adapter
            )
            yield Adapter(names[id(one)], path, adapter, one, other, float(scaling), dora)


def _by_name(held: Any) -> dict[str, Tensor]:
    """The matrices that a module holds, by adapter."""
    from torch import Tensor, nn  # not at the top: who reads a history does not wait for torch

    if isinstance(held, Tensor):
        return {"": held}
    if isinstance(held, (nn.ModuleDict, nn.ParameterDict)):
        found = {name: getattr(one, "weight", one) for name, one in held.items()}
        return {name: one for name, one in found.items() if isinstance(one, Tensor)}
    weight = getattr(held, "weight", None)
    return {"": weight} if isinstance(weight, Tensor) else {}


def _of_adapter(held: Any, adapter: str) -> Any:
    return held.get(adapter) if isinstance(held, Mapping) else held


def _holds(held: Any, adapter: str) -> bool:
    from torch import nn

    return isinstance(held, nn.ModuleDict) and adapter in held


def _fit(a: Tensor, b: Tensor) -> bool:
    """Whether B·A is a product of matrices; the kernel of the second of two convolutions has to be a point."""
    return a.dim() > 1 and b.dim() > 1 and math.prod(b.shape[1:]) == a.shape[0] == b.shape[1]


def of_adapters(components: Sequence[Component]) -> bool:
    """Whether adapters are trained and the weights that they change are not: tables then speak of what is trained."""
    still = any(not c.trainable and not c.kind.startswith("adapter") for c in components)
    return still and any(c.kind == "adapter_a" and c.trainable for c in components)
