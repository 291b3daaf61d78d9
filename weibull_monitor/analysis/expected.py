"""What k of a kind is expected to be, from the published models of the same attention type."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import median, stdev, variance
from typing import Final, Literal

from weibull_monitor.analysis.attention import Attention
from weibull_monitor.analysis.published import PUBLISHED, AttentionKind
from weibull_monitor.model.components import CLASS_OF_KIND

Position = Literal["below", "just below", "inside", "just above", "above"]
MIN_MODELS: Final = 3
"""Fewer models of a type than this do not tell how much models of that type differ."""
ROUNDING: Final = 1e-4
"""Published medians have four decimals here, and fits are exact to about as much."""


@dataclass(frozen=True)
class ExpectedRange:
    """Where the medians over the blocks of published models lie.

    The range is that of the models, no more: with m models of one type, one more like them falls outside with a probability of
    2/(m + 1). So what lies outside by less than ``spread`` is called ``just`` outside.

    Attributes:
        of: The kind or class.
        low: The lowest published median.
        high: The highest.
        models: Number of models.
        spread: Standard deviation between models of one attention type.
    """

    of: str
    low: float
    high: float
    models: int
    spread: float

    def position(self, k: float) -> Position:
        """Where a shape lies relative to the range.

        >>> expected = expected_range("attn_q", "gqa")
        >>> expected.position(1.12), expected.position(1.085), expected.position(0.9)
        ('inside', 'just below', 'below')
        """
        if k < self.low - ROUNDING:
            return "just below" if k >= self.low - self.spread else "below"
        if k > self.high + ROUNDING:
            return "just above" if k <= self.high + self.spread else "above"
        return "inside"

    def __str__(self) -> str:
        return f"{self.low:.3f}–{self.high:.3f}"


def expected_range(of: str, attention: AttentionKind | Attention | None = None) -> ExpectedRange | None:
    """The range of the published medians of a kind or class, over models with the same type of attention.

    Feed-forward kinds do not depend on attention: all models count. Of multi-head attention stored apart one model is
    published without QK-norm and one with it: too few for a range of each, so W_q and W_k of both make one range, 0.76 to
    0.99, as published (without: 0.76 and 0.81; with: 0.97 and 0.99).

    Args:
        of: A kind (``attn_q``) or a class (``selection``, ``transmission``). The class ``transmission`` means feed-forward
            matrices, each model counting once with the median over its kinds. A kind of another name, such as that of a
            cross-attention (``cross_attn_q``), has no published figures.
        attention: The type of attention; not needed for feed-forward kinds.

    Returns:
        The range, or None where nothing comparable is published.

    >>> print(expected_range("attn_q", "gqa"), expected_range("ffn_down"), expected_range("attn_q", "mha"))
    1.095–1.164 1.169–1.204 0.760–0.990
    >>> print(expected_range("router"), expected_range("attn_q", Attention("MLA")))
    None None
    """
    like = frozenset(attention.like if isinstance(attention, Attention) else [attention] if attention else [])
    if like & {"mha", "mha_qk_norm"}:
        like |= {"mha", "mha_qk_norm"}
    return _range(of, like)


@lru_cache(maxsize=256)
def _range(of: str, like: frozenset[AttentionKind]) -> ExpectedRange | None:
    if of == "transmission":
        values = [median(k for kind, k in m.k.items() if not _depends_on_attention(kind)) for m in PUBLISHED]
        return ExpectedRange(of, min(values), max(values), len(values), stdev(values))
    kinds = tuple(kind for kind in _KINDS if kind == of or (of == "selection" and CLASS_OF_KIND[kind] == of))
    if of in ("attn_q", "attn_k") and like & {"mha", "mha_qk_norm"}:
        kinds = ("attn_q", "attn_k")
    models = [m for m in PUBLISHED if m.attention in like or not any(map(_depends_on_attention, kinds))]
    values = [m.k[kind] for m in models for kind in kinds if kind in m.k]
    if not values:
        return None
    counted = sum(any(kind in m.k for kind in kinds) for m in models)
    return ExpectedRange(of, min(values), max(values), counted, max(spread(kind, like) for kind in kinds))


def spread(kind: str, like: frozenset[AttentionKind]) -> float:
    """Standard deviation of k between published models of one attention type.

    Args:
        kind: A kind that is published.
        like: The types of attention. Where they have fewer than three models, the standard deviation within the other types,
            pooled: an assumption.

    >>> round(spread("attn_q", frozenset({"gqa"})), 4), round(spread("attn_qkv", frozenset({"fused"})), 4)
    (0.0197, 0.0543)
    """
    groups: dict[AttentionKind, list[float]] = {}
    for model in PUBLISHED:
        if kind in model.k:
            groups.setdefault(model.attention, []).append(model.k[kind])
    enough = {attention: values for attention, values in groups.items() if len(values) >= MIN_MODELS}
    own = {attention: values for attention, values in enough.items() if attention in like}
    pooled = (own or enough).values()
    freedom = sum(len(values) - 1 for values in pooled)
    return math.sqrt(sum((len(values) - 1) * variance(values) for values in pooled) / freedom)


def spread_is_known(kind: str, like: frozenset[AttentionKind]) -> bool:
    """Whether there are enough models of these types of attention to tell how much they differ."""
    return any(sum(m.attention == one and kind in m.k for m in PUBLISHED) >= MIN_MODELS for one in like)


def _depends_on_attention(kind: str) -> bool:
    return kind.startswith("attn_")


_KINDS: Final = tuple(dict.fromkeys(kind for model in PUBLISHED for kind in model.k))
