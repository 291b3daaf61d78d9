"""How many heads an attention has: from what the module and the configuration above it say."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

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
        size: Features of a head's query and key, or None where it follows from the shapes.
        nope: Features of a head's key without position (multi-head latent attention), or None.
        value: Features of a head's value where it differs from ``size``, or None.
    """

    query: int
    key_value: int
    size: int | None = None
    nope: int | None = None
    value: int | None = None


def heads_of(unit: nn.Module, configs: Iterable[Any] = ()) -> Heads | None:
    """The heads of an attention module, or None where nothing says how many there are.

    Args:
        unit: The attention module; what it or its parts say comes first.
        configs: Configurations of the modules above, nearest first.

    >>> heads_of(nn.MultiheadAttention(64, 4))
    Heads(query=4, key_value=4, size=16, nope=None, value=None)
    """
    own = [unit, *unit.children()]
    everywhere = [*own, *configs]
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
    return Heads(
        query,
        key_value,
        _first(own, _SIZE) or _first(configs, ("head_dim",)),
        _first(everywhere, ("qk_nope_head_dim",)),
        _first(everywhere, ("v_head_dim",)),
    )


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
    except (
        Exception
    ):  # a configuration whose layers differ refuses to name one figure for all, with an error of its own
        return None
