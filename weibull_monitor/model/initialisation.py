"""What a model's own code initialises its matrices with, read off the calls that it makes on the meta device."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten


class InitialScale(NamedTuple):
    """The distribution that a matrix is drawn from.

    Attributes:
        kind: ``normal``, ``truncated`` or ``uniform``.
        scale: Its σ (before truncation), or the end of its interval ±b.
        cut: Where a truncated distribution ends, in σ; 0 for the others.
    """

    kind: str
    scale: float
    cut: float = 0.0


def initial_scales(model: nn.Module) -> dict[str, InitialScale]:
    """The distributions that a model of transformers draws its matrices from, by parameter name.

    Its ``_init_weights`` is called for every module of a model on the meta device, where drawing costs nothing, and the
    calls are followed: of a normal or uniform draw, a truncated one (as `torch.nn.init.trunc_normal_` makes it), and of what
    the values are multiplied with. A matrix that is set in another way (orthogonal, constant, copied) is left out.

    Args:
        model: A model whose parameters are all on the meta device.

    Returns:
        The distributions; empty if the model has no ``_init_weights`` or has parameters elsewhere.
    """
    initialise = cast("Callable[[nn.Module], None] | None", getattr(model, "_init_weights", None))
    names = {id(parameter): name for name, parameter in model.named_parameters(remove_duplicate=False)}
    if initialise is None or not all(parameter.is_meta for parameter in model.parameters()):
        return {}
    draws = _Draws()
    with warnings.catch_warnings(), torch.no_grad(), _flags_hidden(model), draws:
        warnings.simplefilter("ignore")
        for module in reversed(list(model.modules())):  # children first, as Module.apply
            with suppress(Exception):  # what one module's code cannot do on the meta device costs that module
                initialise(module)
    return {names[key]: found for key, found in draws.found.items() if key in names and found is not None}


@contextmanager
def _flags_hidden(model: nn.Module) -> Iterator[None]:
    """Takes the marks away with which transformers skips what has been initialised, and puts them back."""
    holders: list[Any] = [*model.modules(), *model.parameters()]
    marked = [holder for holder in holders if vars(holder).pop("_is_hf_initialized", False)]
    try:
        yield
    finally:
        for holder in holders:
            vars(holder).pop("_is_hf_initialized", None)
        for holder in marked:
            holder._is_hf_initialized = True


class _Draws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows draws into parameters. Storages on the meta device have no address, so tensors are known by their own identity."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: dict[int, InitialScale | None] = {}
        self._kept: list[Tensor] = []  # so that no identity is used twice

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if args and isinstance(args[0], Tensor):
            target = _base(args[0])
            packet = func._overloadpacket
            if out is args[0] or packet in (_aten.detach, _aten.alias):
                self._follow(packet, id(target), target, args[1:], kwargs)
        return out

    def _follow(self, packet: Any, key: int, target: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._kept.append(target)
        whole = target.numel() > 0
        if packet is _aten.normal_:
            mean, std = _both(args, kwargs, ("mean", 0.0), ("std", 1.0))
            self.found[key] = InitialScale("normal", std) if whole and mean == 0.0 and std > 0 else None
        elif packet is _aten.uniform_:
            low, high = _both(args, kwargs, ("from", 0.0), ("to", 1.0))
            self.found[key] = InitialScale("uniform", high) if low == -high and high > 0 else None
        elif packet is _aten.erfinv_:
            before = self.found.get(key)
            if before is not None and before.kind == "uniform" and before.scale < 1.0:
                cut = math.sqrt(2.0) * float(torch.erfinv(torch.tensor(before.scale, dtype=torch.float64)))
                self.found[key] = InitialScale("truncated", 1.0 / math.sqrt(2.0), cut)
            elif before is not None:
                self.found[key] = InitialScale("normal", 1.0 / math.sqrt(2.0))
        elif packet in (_aten.mul_, _aten.div_):
            before = self.found.get(key)
            factor = args[0] if args else 1.0
            if before is None or not isinstance(factor, (int, float)) or factor == 0:
                self.found[key] = None
            else:
                size = abs(float(factor)) if packet is _aten.mul_ else 1.0 / abs(float(factor))
                self.found[key] = before._replace(scale=before.scale * size)
        elif packet in (_aten.add_, _aten.sub_):
            if args and isinstance(args[0], (int, float)) and args[0] == 0:
                return
            self.found[key] = None
        elif packet in (_aten.clamp_, _aten.detach, _aten.alias, _aten.requires_grad_):
            return
        elif packet._qualified_op_name.endswith("_"):  # any other change in place
            self.found[key] = None


def _base(tensor: Tensor) -> Tensor:
    """The tensor that a view is of: the parameter itself for ``parameter.data`` and ``parameter.detach()``."""
    base = tensor._base
    return tensor if base is None else base


def _both(
    args: tuple[Any, ...], kwargs: dict[str, Any], first: tuple[str, float], second: tuple[str, float]
) -> list[float]:
    """Two arguments by position or name, or their defaults."""
    named = (first, second)
    return [float(args[n] if len(args) > n else kwargs.get(name, usual)) for n, (name, usual) in enumerate(named)]
