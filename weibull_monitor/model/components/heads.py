"""Finds out how many heads an attention has, from attributes of the module and of the configurations above it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from torch import nn

_QUERY: Final = (
    "num_heads",
    "num_attention_heads",
    "n_heads",
    "n_head",
    "num_query_heads",
    "heads",
    "nhead",
    "encoder_attention_heads",
)
_KEY_VALUE: Final = ("num_key_value_heads", "num_kv_heads", "n_kv_heads", "n_kv_head", "num_key_heads", "kv_heads")
_SIZE: Final = ("head_dim", "attention_head_size", "head_size", "qk_head_dim", "dim_head", "d_kv", "key_value_proj_dim")


@dataclass(frozen=True)
class Heads:
    """The heads of one attention.

    Attributes:
        query: Number of query heads.
        key_value: Number of heads of keys and values.
        size: Features of one head's query and key, or None if they follow from the shapes.
    """

    query: int
    key_value: int
    size: int | None = None


def heads_of(unit: nn.Module, configs: Iterable[Any] = ()) -> Heads | None:
    """The heads of an attention module, or None if their number is not known.

    Args:
        unit: The attention module; its attributes and those of its children come first.
        configs: Configurations of the modules above, nearest first.

    >>> from torch import nn
    >>> heads_of(nn.MultiheadAttention(64, 4))
    Heads(query=4, key_value=4, size=16)
    """
    own = [unit, *unit.children()]
    query = _first(own, _QUERY) or _first(configs, _QUERY)
    if query is None:
        return None
    key_value = _first(own, _KEY_VALUE)
    if key_value is None and _first(own, ("multi_query",), bool):
        key_value = 1
    if key_value is None and _first(own, _QUERY) is None:
        key_value = _first(configs, _KEY_VALUE)
    if key_value is None:
        groups = _first(own, ("num_key_value_groups",))
        key_value = query // groups if groups else query
    return Heads(query, key_value, _first(own, _SIZE) or _first(configs, ("head_dim",)))


def _first(holders: Iterable[Any], names: Iterable[str], kind: type[int] = int) -> int | None:
    for holder in holders:
        for name in names:
            value = _attribute(holder, name)
            if type(value) is kind and isinstance(value, int) and value:
                return int(value)
    return None


def _attribute(holder: Any, name: str) -> object:
    try:
        return getattr(holder, name, None)
    except Exception:  # a configuration whose layers differ may raise any error of its own when asked for one figure
        return None
