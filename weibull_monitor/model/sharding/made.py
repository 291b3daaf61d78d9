"""Weights that a layer makes of parameters: `torch.nn.utils.parametrize`, `weight_norm`, `spectral_norm`, pruning masks.

The layer computes with ``layer.weight``, and its parameters are called ``weight_g``, ``weight_orig`` or
``parametrizations.weight.original``. What counts is the weight that it computes with. It is made here without calling the layer:
buffers (the vectors of `spectral_norm`), random numbers and hooks stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

HOOKS: Final = (WeightNorm, SpectralNorm, BasePruningMethod)
"""Hooks that set a weight before each forward pass."""


@dataclass(frozen=True)
class MadeWeight:
    """A weight that a layer makes of parameters.

    Attributes:
        name: The path of the layer, and the name of the weight in it.
        sources: The parameters that only serve to make it, by their names in ``model.named_parameters()``.
        how: What makes it, for messages.
        make: Makes it, without a side effect.
        mask: For a pruned weight: applies the mask to a tensor of the weight's shape. Else None.
    """

    name: str
    sources: dict[str, Tensor]
    how: str
    make: Callable[[], Tensor]
    mask: Callable[[Tensor], Tensor] | None = None


def made_weights(modules: Mapping[str, nn.Module]) -> Iterator[MadeWeight]:
    """Every weight that one of some modules makes of parameters, by the path of the module. No value is read."""
    for path, module in modules.items():
        prefix = f"{path}." if path else ""
        lists = module._modules.get("parametrizations")
        if isinstance(lists, nn.ModuleDict) and parametrize.is_parametrized(module):
            for name, chain in lists.items():
                if isinstance(chain, parametrize.ParametrizationList):
                    yield _parametrized(prefix, name, chain)
        for hook in module._forward_pre_hooks.values():
            found = _hooked(prefix, module, hook)
            if found is not None:
                yield found


def _parametrized(prefix: str, name: str, chain: parametrize.ParametrizationList) -> MadeWeight:
    parameters = {n: p for n, p in chain._parameters.items() if p is not None and n.startswith("original")}
    return MadeWeight(
        name=prefix + name,
        sources={f"{prefix}parametrizations.{name}.{n}": p for n, p in parameters.items()},
        how=", ".join(type(step).__name__.lstrip("_") for step in chain.children()),
        make=lambda: _through(chain),
    )


def _hooked(prefix: str, module: nn.Module, hook: Any) -> MadeWeight | None:
    """The weight that a hook sets before each forward pass."""

    def sources(name: str, *endings: str) -> dict[str, Tensor]:
        found = {ending: getattr(module, name + ending, None) for ending in endings}
        return {f"{prefix}{name}{ending}": t for ending, t in found.items() if isinstance(t, Tensor)}

    if isinstance(hook, WeightNorm):
        made_of = sources(hook.name, "_g", "_v")
        return MadeWeight(prefix + hook.name, made_of, "weight_norm", lambda: hook.compute_weight(module))
    if isinstance(hook, SpectralNorm):
        made_of = sources(hook.name, "_orig")
        return MadeWeight(prefix + hook.name, made_of, "spectral_norm", lambda: _spectral(module, hook))
    if isinstance(hook, BasePruningMethod):
        name: str = hook._tensor_name
        mask = f"{name}_mask"
        return MadeWeight(
            name=prefix + name,
            sources=sources(name, "_orig"),
            how="pruning",
            make=lambda: hook.apply_mask(module),  # type: ignore[no-untyped-call]
            mask=lambda tensor: tensor * getattr(module, mask).to(tensor),
        )
    return None


def _spectral(module: nn.Module, hook: SpectralNorm) -> Tensor:
    """The weight of the older `spectral_norm`, with the vectors of the last forward pass."""
    original, weight = getattr(module, hook.name + "_orig"), getattr(module, hook.name)
    if weight.data_ptr() != original.data_ptr():
        made: Tensor = hook.compute_weight(module, do_power_iteration=False)
        return made
    # Before the first forward pass the vectors are random numbers, which that pass will improve first; so does this, on copies.
    matrix = hook.reshape_weight_to_matrix(original)
    right = nn.functional.normalize(torch.mv(matrix.t(), getattr(module, hook.name + "_u")), dim=0, eps=hook.eps)
    largest: Tensor = original / torch.mv(matrix, right).norm()
    return largest


def _through(chain: parametrize.ParametrizationList) -> Tensor:
    """What a chain of parametrizations makes of its originals in evaluation mode, by copies of its modules."""
    originals = [chain.original] if chain.is_tensor else [getattr(chain, f"original{i}") for i in range(chain.ntensors)]
    steps = [step for name, step in chain._modules.items() if name.isdigit() and step is not None]
    ours = all(type(step).__module__ == "torch.nn.utils.parametrizations" for step in steps)
    with nullcontext() if ours else _random_state_kept(originals):
        made: Tensor = _evaluated(steps[0]).forward(*originals)
        for step in steps[1:]:
            made = _evaluated(step).forward(made)
    return made


def _random_state_kept(tensors: list[Any]) -> Any:
    devices = sorted({t.device.index for t in tensors if t.device.type == "cuda"})
    return torch.random.fork_rng(devices=devices)


def _evaluated(module: nn.Module) -> Any:
    """A copy of a module in evaluation mode, with copies of its buffers, its own parameters, and no hooks."""
    twin = type(module).__new__(type(module))
    twin.__dict__.update(module.__dict__)
    twin.__dict__["training"] = False
    twin.__dict__["_compiled_call_impl"] = None
    twin.__dict__["_buffers"] = {n: None if b is None else b.clone() for n, b in module._buffers.items()}
    twin.__dict__["_modules"] = {n: None if m is None else _evaluated(m) for n, m in module._modules.items()}
    for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
        twin.__dict__[hooks] = {}
    return twin
