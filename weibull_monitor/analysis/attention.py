"""Which published models a model may be compared with, by its type of attention; and the reason if there are none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from weibull_monitor.analysis.published import AttentionKind
from weibull_monitor.model.components import AttentionType, Component, distinct
from weibull_monitor.model.components.attention import Sharing


@dataclass(frozen=True)
class Attention:
    """The properties of a model's attention that decide which published models are like it.

    Attributes:
        sharing: ``MHA``, ``GQA``, ``MQA``, ``MLA`` or ``unknown``.
        fused: Whether W_q, W_k and W_v are stored as one matrix.
        qk_norm: Whether queries and keys are normalised; None if that is not known.
        differs: Other kinds of attention that the same blocks have, in words; empty if there are none.
        causal: Whether a position sees only those before it; None if that is not known.
    """

    sharing: Sharing
    fused: bool = False
    qk_norm: bool | None = None
    differs: str = ""
    causal: bool | None = None

    @property
    def like(self) -> tuple[AttentionKind, ...]:
        """The types of attention of the published models to compare with; empty if there are none.

        With shared keys, the parts of a fused matrix are compared with W_q, W_k and W_v of other models with shared keys. The
        published values of fused multi-head attention are of the whole matrix.

        >>> Attention("GQA", fused=True).like, Attention("MHA", qk_norm=True).like, Attention("MLA").like
        (('gqa',), ('mha_qk_norm',), ())
        """
        if self.sharing == "GQA":
            return ("gqa",)
        if self.sharing != "MHA":
            return ()
        if self.fused:
            return () if self.qk_norm else ("fused",)
        return ("mha", "mha_qk_norm") if self.qk_norm is None else ("mha_qk_norm",) if self.qk_norm else ("mha",)

    @property
    def reason(self) -> str:
        """Why no published model has this type of attention; empty if one has."""
        if self.like:
            return ""
        if self.sharing == "unknown":
            return "the number of heads is not known, so the type of attention is not known"
        name = "fused multi-head attention with normalised queries and keys" if self.sharing == "MHA" else self.sharing
        return f"no model with {name} is published"

    def __str__(self) -> str:
        name = {"MHA": "multi-head attention (MHA)", "GQA": "grouped-query attention (GQA)"}.get(self.sharing)
        name = name or ("attention of an unknown type" if self.sharing == "unknown" else self.sharing)
        norm = {True: ", with QK-norm", False: ", no QK-norm", None: ", QK-norm not known"}[self.qk_norm]
        return f"{name}, q, k and v stored {'as one matrix' if self.fused else 'apart'}{norm}"


def attention_of(
    components: Sequence[Component], recorded: Iterable[AttentionType | Mapping[str, Any]] = ()
) -> Attention | None:
    """The attention of a model or tower: as recorded or, without a record, from the sizes of its matrices.

    Sizes show whether keys are shared and whether the matrices are fused. They do not show the number of heads (so MQA looks
    like GQA), nor whether queries and keys are normalised.

    Args:
        components: The components of the tower.
        recorded: The result of `weibull_monitor.model.components.attention_types`, or the same from a history.

    Returns:
        The type that most blocks have; None if there is no self-attention.

    >>> from torch import nn
    >>> from weibull_monitor.model.components import attention_types, discover_components
    >>> layer = nn.TransformerEncoderLayer(64, 4)
    >>> found = discover_components(layer)
    >>> attention_of(found) == Attention("MHA", fused=True), attention_of(found, attention_types(layer, found)).qk_norm
    (True, False)
    """
    mine = [c for c in components if not c.cross and c.expert is None]
    kinds = {c.kind for c in mine}
    fused = any(c.kind == "attn_qkv" and c.part is None for c in mine)
    towers = {c.tower for c in mine if c.kind.startswith("attn_")}
    values = [vars(one) if isinstance(one, AttentionType) else dict(one) for one in recorded]
    values = [one for one in values if not one["cross"] and one["tower"] in towers]
    if not values:
        return _by_sizes(mine, kinds, fused)
    values.sort(key=lambda one: -one["blocks"])
    types = list(dict.fromkeys(Attention(one["sharing"], fused, one["qk_norm"]) for one in values))
    differs = "; ".join(str(other) for other in types[1:])
    causal = values[0].get("causal")
    if types[0].sharing == "unknown" and (by_sizes := _by_sizes(mine, kinds, fused)) is not None:
        return replace(by_sizes, qk_norm=types[0].qk_norm, differs=differs, causal=causal)
    return replace(types[0], differs=differs, causal=causal)


def _by_sizes(components: Sequence[Component], kinds: set[str], fused: bool) -> Attention | None:
    if kinds & {"attn_kv_a", "attn_kv_b", "attn_q_b"}:
        return Attention("MLA", fused)
    sizes = {c.kind: c.numel for c in distinct(components)}
    if {"attn_q", "attn_k"} <= sizes.keys():
        return Attention("MHA" if sizes["attn_q"] == sizes["attn_k"] else "GQA", fused)
    return Attention("unknown", fused) if kinds & {"attn_q", "attn_k", "attn_qkv", "attn_qk", "attn_kv"} else None
