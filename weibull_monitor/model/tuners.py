"""The layers that PEFT puts around the layers of a model: what is in them beside those is an adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from torch import nn

BASE: Final = "base_layer"
"""The name of the layer in such a layer."""


def is_tuner(module: nn.Module) -> bool:
    """Whether a module is a layer of PEFT around another layer, or of a class made from one.

    >>> from torch import nn
    >>> layer = nn.Module()
    >>> layer.base_layer = nn.Linear(8, 8)
    >>> is_tuner(layer)
    False
    """
    return module._modules.get(BASE) is not None and of_peft(type(module))


def of_peft(cls: type) -> bool:
    """Whether a class is PEFT's, or made from one of its classes."""
    return any(base.__module__.startswith("peft.") for base in cls.__mro__)
