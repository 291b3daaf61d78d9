"""What a model's own code initialises its matrices with, read off the calls that it makes on the meta device."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from weibull_monitor.model.initial_scale import InitialScale as InitialScale

_aten = torch.ops.aten


def initial_scales(model: nn.Module) -> dict[str, InitialScale]:
    """The distributions that a model of transformers draws its matrices from, by parameter name.

    Its ``_init_weights`` is called for every module of a model on the meta device, where drawing costs nothing, and the
    calls are followed: of a normal or uniform draw, of `torch.nn.init.trunc_normal_`, and of what the values are multiplied
    with. A matrix that is set in another way (orthogonal, constant, copied) is left out.

    Args:
        model: A model whose parameters are all on the meta device.

    Returns:
        The distributions; empty if the model has no ``_init_weights`` or has parameters elsewhere.
    """
    initialise = cast("Callable[[nn.Module], None] | None", getattr(model, "_init_weights", None))
    names = {_key(parameter): name for name, parameter in model.named_parameters()}
    if initialise is None or not all(parameter.is_meta for parameter in model.parameters()):
        return {}
    draws = _Draws()
    with warnings.catch_warnings(), torch.no_grad(), _flags_hidden(model), _truncation_noted(draws), draws:
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


@contextmanager
def _truncation_noted(draws: _Draws) -> Iterator[None]:
    """Notes the calls of `torch.nn.init.trunc_normal_`, which does nothing on the meta device in newer versions of torch."""
    original = getattr(nn.init, "_no_grad_trunc_normal_", None)
    if original is None:
        yield
        return

    def noted(tensor: Tensor, mean: float, std: float, a: float, b: float, *_: Any, **__: Any) -> Tensor:
        draws.truncated(tensor, mean, std, a, b)
        return tensor

    nn.init._no_grad_trunc_normal_ = noted
    try:
        yield
    finally:
        nn.init._no_grad_trunc_normal_ = original


class _Draws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows draws into parameters, which are known by their storages: ``parameter.data`` is a tensor of its own."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: dict[int, InitialScale | None] = {}

    def truncated(self, tensor: Tensor, mean: float, std: float, low: float, high: float) -> None:
        """A draw from a normal distribution that is cut at both ends."""
        even = mean == 0.0 and low == -high and std > 0
        self.found[_key(tensor)] = InitialScale("truncated", std, high / std) if even else None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if args and isinstance(args[0], Tensor):
            whole = (
                args[0].nbytes == args[0].untyped_storage().nbytes()
            )  # a row that is set, as for padding, changes little
            if out is args[0] and whole:
                self._follow(func._overloadpacket, _key(args[0]), args[1:], kwargs)
        return out

    def _follow(self, packet: Any, key: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if packet is _aten.normal_:
            mean, std = _both(args, kwargs, ("mean", 0.0), ("std", 1.0))
            self.found[key] = InitialScale("normal", std) if mean == 0.0 and std > 0 else None
        elif packet is _aten.uniform_:
            low, high = _both(args, kwargs, ("from", 0.0), ("to", 1.0))
            self.found[key] = InitialScale("uniform", high) if low == -high and high > 0 else None
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
        elif packet is not _aten.clamp_:  # any other change in place
            self.found[key] = None


def _key(tensor: Tensor) -> int:
    """The storage, which lives as long as the parameter that it belongs to."""
    return int(tensor.untyped_storage()._cdata)


def _both(
    args: tuple[Any, ...], kwargs: dict[str, Any], first: tuple[str, float], second: tuple[str, float]
) -> list[float]:
    """Two arguments by position or name, or their defaults."""
    named = (first, second)
    return [float(args[n] if len(args) > n else kwargs.get(name, usual)) for n, (name, usual) in enumerate(named)]
