"""Finds the kinds of attention in a model, from its matrices and modules. The expected k depends on them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from weibull_monitor.model.components.component import Component
from weibull_monitor.model.components.heads import heads_of

if TYPE_CHECKING:
    from torch import nn

    from weibull_monitor.model.dataflow.reading import AttentionUse

Sharing = Literal["MHA", "GQA", "MQA", "MLA", "unknown"]
_QK_NORM: Final = r"(?:^|_)(?:q|k|qk|query|key)_?(?:layer)?_?norm|^norm_[qk]$|^[qk]_layernorm$|^ln_[qk]$"

_SCALING: Final = ("scaling", "scale", "softmax_scale", "sm_scale", "inv_norm_factor")
"""Attributes that hold what an attention multiplies its products by."""
_UNSCALED: Final = r"^\w*T5\w*Attention$|^GPTNeoSelfAttention$"
"""Classes of attention that do not scale their products."""


@dataclass(frozen=True)
class AttentionType:
    """One kind of attention that a model has.

    Attributes:
        tower: Path of the list of blocks that it belongs to.
        sharing: ``MHA`` (one key per query head), ``GQA`` (one per group of heads), ``MQA`` (one for all), ``MLA`` (keys and
            values are made from a latent), or ``unknown``.
        query_heads: Number of query heads, or None.
        key_value_heads: Number of heads of keys and values, or None.
        head_size: Features of the query of one head, or None.
        qk_norm: Whether queries and keys are normalised before they meet.
        fused: Whether q, k and v (or k and v) are stored as one matrix.
        cross: Whether it is cross-attention.
        gated: Whether its output passes a gate.
        blocks: How many blocks have it.
        causal: Whether later keys are hidden from each query, as a forward pass shows it; None without one.
        logit_scale: What a product of a query and a key is multiplied by, times √(features of a head): 1 for the usual
            1/√(features of a head).
        in_blocks: Indices of these blocks.
    """

    tower: str
    sharing: Sharing
    query_heads: int | None
    key_value_heads: int | None
    head_size: int | None
    qk_norm: bool
    fused: bool
    cross: bool
    gated: bool
    blocks: int
    causal: bool | None = None
    logit_scale: float = 1.0
    in_blocks: tuple[int, ...] = ()

    def __str__(self) -> str:
        heads = f" {self.query_heads}/{self.key_value_heads} heads" if self.query_heads else ""
        size = f" of {self.head_size}" if self.head_size else ""
        extras = [w for w, there in (("qk-norm", self.qk_norm), ("fused", self.fused), ("gated", self.gated)) if there]
        cross = "cross " if self.cross else ""
        return f"{cross}{self.sharing}{heads}{size}{''.join(', ' + e for e in extras)} ({self.blocks} blocks)"


def attention_types(
    model: nn.Module, components: Iterable[Component], seen: Mapping[str, AttentionUse] | None = None
) -> tuple[AttentionType, ...]:
    """Every kind of attention in a model: as a forward pass shows it, else from its matrices, modules and configuration.

    Args:
        model: The model that the components were found in.
        components: Its components.
        seen: What a forward pass says about the attention that a parameter belongs to: `Discovery.attention`.

    >>> from torch import nn
    >>> from weibull_monitor.model.components import discover_components
    >>> layer = nn.TransformerEncoderLayer(64, 4)
    >>> print(*attention_types(layer, discover_components(layer)))
    MHA 4/4 heads of 16, fused (1 blocks)
    """
    modules = dict(model.named_modules())
    groups: dict[str, dict[str, Component]] = {}
    for component in components:
        if component.kind.startswith("attn_") and (component.part is None or component.kind == "attn_gate"):
            path = _attention_path(component.parameter, modules)
            groups.setdefault(path, {}).setdefault(component.kind, component)
    counted: dict[AttentionType, list[int | None]] = {}
    for path, by_kind in groups.items():
        if by_kind.keys() & {"attn_q", "attn_qkv", "attn_q_b", "attn_qk"}:
            use = next((seen[c.parameter] for c in by_kind.values() if seen and c.parameter in seen), None)
            one = _type(path, by_kind, modules, model)
            block = next(c.block for kind, c in by_kind.items() if kind != "attn_gate")
            counted.setdefault(one if use is None else _as_seen(one, use), []).append(block)
    return tuple(
        replace(one, blocks=len(found), in_blocks=tuple(b for b in found if b is not None))
        for one, found in counted.items()
    )


def _as_seen(one: AttentionType, use: AttentionUse) -> AttentionType:
    """A kind of attention, with what a forward pass says about it."""
    queries, keys = use.query_heads, use.key_value_heads
    if one.sharing == "MLA" or not queries or not keys:
        return replace(one, qk_norm=use.qk_norm, cross=use.cross, causal=use.causal)
    sharing: Sharing = "MHA" if keys == queries else "MQA" if keys == 1 else "GQA"
    return replace(
        one,
        sharing=sharing,
        query_heads=queries,
        key_value_heads=keys,
        head_size=use.head_size,
        qk_norm=use.qk_norm,
        cross=use.cross,
        causal=use.causal,
    )


def _attention_path(parameter: str, modules: dict[str, nn.Module]) -> str:
    """The module that holds all matrices of an attention."""
    from torch import nn  # not at the top: who reads a history does not wait for torch

    segments = parameter.split(".")[:-1]
    owner = ".".join(segments)
    if isinstance(modules[owner], nn.MultiheadAttention):
        return owner
    parent = ".".join(segments[:-1])
    above = parent.rpartition(".")[0]  # BERT: attention.self.query and attention.output.dense
    inner = parent.rpartition(".")[2]
    return above if inner in ("self", "attention", "output") and re.search("att", above.rpartition(".")[2]) else parent


def _type(path: str, by_kind: dict[str, Component], modules: dict[str, nn.Module], model: nn.Module) -> AttentionType:
    unit = modules.get(path, model)
    segments = path.split(".")
    above = [modules[".".join(segments[:n])] for n in range(len(segments), 0, -1)]
    heads = heads_of(unit, [m.config for m in (*above, model) if hasattr(m, "config")])
    any_one = next(c for kind, c in by_kind.items() if kind != "attn_gate")
    query, key = by_kind.get("attn_q"), by_kind.get("attn_k")
    # How heads share keys: a latent means MLA; else the number of heads of each decides, or the shapes (H·d, D) and (G·d, D).
    sharing: Sharing = "unknown"
    count = kv = size = None
    if by_kind.keys() & {"attn_kv_a", "attn_kv_b"}:
        sharing = "MLA"
        if heads is not None:
            count, kv = heads.query, heads.query
    elif heads is not None:
        count, kv, size = heads.query, heads.key_value, heads.size
        if query is not None and size is None and query.shape[0] % count == 0:
            size = query.shape[0] // count
        if key is not None and size and len(key.shape) == 2 and key.shape[0] % size == 0:
            kv = key.shape[0] // size  # (G·d, D): the shape outweighs what the configuration says
        sharing = "MHA" if kv == count else "MQA" if kv == 1 else "GQA"
    elif query is not None and key is not None and len(query.shape) == len(key.shape) == 2:
        sharing = "MHA" if query.shape[0] == key.shape[0] else "GQA"
    # Norms of queries and keys are known by their names alone.
    names = [name for _, module in unit.named_modules() for name, _ in module.named_children()]
    return AttentionType(
        tower=any_one.tower,
        sharing=sharing,
        query_heads=count,
        key_value_heads=kv,
        head_size=size,
        qk_norm=any(re.search(_QK_NORM, name) for name in names),
        fused=bool(by_kind.keys() & {"attn_qkv", "attn_kv", "attn_qk"}),
        cross=any_one.cross,
        gated="attn_gate" in by_kind,
        blocks=0,
        logit_scale=_logit_scale(unit, size or (heads.size if heads is not None else None)),
    )


def _logit_scale(unit: nn.Module, size: int | None) -> float:
    """What products of queries and keys are multiplied by, times √(features of a head); 1 if the module does not say.

    Args:
        unit: The attention module.
        size: Features of the query of one head, or None.
    """
    own = [unit, *unit.children()]
    unscaled = any(re.search(_UNSCALED, type(module).__name__) for module in own)
    unscaled |= any(getattr(module, "scale_attn_weights", True) is False for module in own)
    factor: float | None = 1.0 if unscaled else None
    for module in own if factor is None else ():
        stated = (getattr(module, name, None) for name in _SCALING)
        factor = next((v for v in stated if isinstance(v, float) and math.isfinite(v) and v > 0), None)
        if factor is not None:
            break
    if factor is None or size is None:
        return 1.0
    factor = 1.0 / factor if factor > 1.0 else factor  # some modules divide by what they keep
    layer = next((getattr(module, "layer_idx", None) for module in own), None)
    if isinstance(layer, int) and any(getattr(m, "scale_attn_by_inverse_layer_idx", False) is True for m in own):
        factor /= layer + 1
    return float(f"{factor * math.sqrt(size):.6g}")
