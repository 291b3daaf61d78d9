"""Which W_q meets which W_k: the two matrices, parts or heads whose sizes set the scale of attention logits."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from weibull_monitor.model.components.component import Component


@dataclass(frozen=True)
class AttentionPair:
    """The matrices that make the queries and the keys of one attention, or of one of its heads.

    Attributes:
        query: Name of the component that makes the queries.
        key: Name of the component that makes the keys.
        block: Index of the block, or None.
        head: Index of the query head; None for the whole attention.
        factor: The scale of attention is this times RMS_q·RMS_k.
    """

    query: str
    key: str
    block: int | None
    head: int | None
    factor: float

    def scale(self, rms_query: float, rms_key: float) -> float:
        """The scale of attention: the standard deviation of a logit, if inputs are independent and of unit size.

        With x and y of independent entries of variance 1, the d_head products in q·k = (W_q x)·(W_k y) have variance
        (RMS_q²·d_q)(RMS_k²·d_k) each, where d_q and d_k are the widths of the inputs. Their sum, multiplied by s, has the
        standard deviation s·√d_head·RMS_q·RMS_k·√(d_q·d_k); with the usual s = 1/√d_head that is RMS_q·RMS_k·d_in. What
        training aligns makes larger logits: the scale is that of unaligned inputs.

        Args:
            rms_query: RMS of the component that makes the queries.
            rms_key: RMS of the component that makes the keys.

        >>> AttentionPair("q", "k", 0, None, factor=512.0).scale(0.02, 0.02)
        0.2048
        """
        return self.factor * rms_query * rms_key


def attention_pairs(components: Sequence[Component], attention: Iterable[Any] = ()) -> tuple[AttentionPair, ...]:
    """The pairs of every attention whose scale follows from its matrices.

    Attention that normalises queries and keys has none: there the norms set the scale, and not the matrices. In multi-head
    latent attention the latents are taken as inputs, and of keys the part without a position counts.

    Args:
        components: The components of a model.
        attention: Its `AttentionType`, or the same as mappings from a history. Without it, attention is taken to be scaled by
            1/√d_head and not normalised.

    >>> from torch import nn
    >>> from weibull_monitor.model.components import attention_types, discover_components
    >>> layer = nn.TransformerEncoderLayer(64, 4)
    >>> found = discover_components(layer)
    >>> attention_pairs(found, attention_types(layer, found))
    (AttentionPair(query='self_attn.in_proj_weight[q]', key='self_attn.in_proj_weight[k]', block=None, head=None, factor=64.0),)
    """
    types = [dict(one) if isinstance(one, Mapping) else vars(one) for one in attention]
    units: dict[tuple[Any, ...], tuple[list[Component], list[Component]]] = {}
    for c in components:
        if (is_key := _role(c)) is not None:
            where = (c.tower, c.block, c.cross, c.parameter.rsplit(".", 2)[0])
            units.setdefault(where, ([], []))[is_key].append(c)
    pairs: list[AttentionPair] = []
    for (tower, block, cross, _), (queries, keys) in units.items():
        of_tower = [one for one in types if (one["tower"], one["cross"]) == (tower, cross)]
        chosen = next((one for one in of_tower if block in one.get("in_blocks", ())), None)
        chosen = chosen or next(iter(of_tower), {})
        if not chosen.get("qk_norm"):
            pairs += _pairs(queries, keys, chosen)
    return tuple(pairs)


def _role(component: Component) -> int | None:
    """0 for what makes queries, 1 for what makes keys; None for anything else."""
    if component.expert is not None:
        return None
    if component.kind in ("attn_q", "attn_q_b"):
        return 0
    if component.kind == "attn_k":
        return 1
    return None


def _pairs(
    queries: Sequence[Component], keys: Sequence[Component], attention: Mapping[str, Any]
) -> list[AttentionPair]:
    """The pairs of one attention: of the whole, and of its heads if they are measured."""
    query, key = _whole(queries), _whole(keys)
    scale = float(attention.get("logit_scale", 1.0))
    heads = [_by_head(queries), _by_head(keys)]
    out = []
    if query is not None and key is not None:
        size = attention.get("head_size")
        rows = (
            _outputs(query, attention.get("query_heads"), size),
            _outputs(key, attention.get("key_value_heads"), size),
        )
        if (
            attention.get("sharing") == "MLA"
        ):  # the rest of a query's features meets the part of the key with a position
            scale *= math.sqrt(min(1.0, rows[1] / rows[0]))
        factor = scale * math.sqrt((query.numel / rows[0]) * (key.numel / rows[1]))
        out.append(AttentionPair(query.name, key.name, query.block, None, factor))
        others = heads[1] or {0: key}  # a key that all queries share is not divided
        if len(others) == (attention.get("key_value_heads") or len(others)) and len(heads[0]) % len(others) == 0:
            shared = len(heads[0]) // len(others)  # query heads for each key
            for head, one in heads[0].items():
                other = others.get(head // shared)
                if other is not None:
                    out.append(AttentionPair(one.name, other.name, query.block, head, factor))
    return out


def _whole(members: Sequence[Component]) -> Component | None:
    """The one of these that is a whole W_q or W_k; None if there are several."""
    whole = [c for c in members if head_of(c) is None]
    parts = [c for c in whole if c.part is not None]  # q beside a gate, in a matrix that holds both
    whole = parts or whole
    return whole[0] if len(whole) == 1 else None


def _by_head(members: Sequence[Component]) -> dict[int, Component]:
    return {head: c for c in members if (head := head_of(c)) is not None}


def head_of(component: Component) -> int | None:
    """The index of the attention head that a part is; None for anything else."""
    found = re.search(r"\bhead (\d+)$", component.part.label) if component.part is not None else None
    return int(found[1]) if found else None


def _outputs(component: Component, heads: int | None, size: int | None) -> int:
    """How many features a matrix makes: its first axis, unless only the other one fits the heads, as in a Conv1D."""
    first, last = component.shape[0], component.shape[1]
    return last if heads and size and first != heads * size == last else first
