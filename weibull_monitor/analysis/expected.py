"""What k of a kind is expected to be, from the published models of the same attention type."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import median, stdev, variance
from typing import Final, Literal, get_args

from weibull_monitor.analysis.attention import Attention
from weibull_monitor.analysis.published import FEED_FORWARD, PUBLISHED, AttentionKind, published_medians
from weibull_monitor.model.components import CLASS_OF_KIND

Position = Literal["below", "just below", "inside", "just above", "above"]
MIN_MODELS: Final = 3
"""With fewer models of a type, their spread is not estimated."""
ROUNDING: Final = 1e-4
"""Published medians have four decimals here, and fits are exact to about as much."""


@dataclass(frozen=True)
class ExpectedRange:
    """The range of published per-model medians of k, each over the blocks of one model.

    With m models of one type, the next one like them falls outside with probability 2/(m + 1). A value that is outside by
    less than ``spread`` is therefore called ``just`` outside.

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

    def position(self, k: float, noise: float = 0.0) -> Position:
        """Where a shape lies relative to the range.

        Args:
            k: The shape.
            noise: How far it may be outside and still count as inside: for example two standard errors.

        >>> expected = expected_range("attn_q", "gqa")
        >>> expected.position(1.12), expected.position(1.085), expected.position(0.9)
        ('inside', 'just below', 'below')
        """
        noise = max(noise, ROUNDING)
        if k < self.low - noise:
            return "just below" if k >= self.low - self.spread else "below"
        if k > self.high + noise:
            return "just above" if k <= self.high + self.spread else "above"
        return "inside"

    def __str__(self) -> str:
        return f"{self.low:.3f}–{self.high:.3f}"


def expected_range(of: str, attention: AttentionKind | Attention | None = None) -> ExpectedRange | None:
    """The range of published per-model medians of k of a kind or class, over models with the same type of attention.

    Feed-forward kinds do not depend on attention, so all 20 models count. Only one model with multi-head attention stored as
    three matrices is published without QK-norm and one with it. That is too few for two ranges, so W_q and W_k of both make
    one, 0.76 to 0.99 (without: 0.76 and 0.81; with: 0.97 and 0.99).

    Args:
        of: A kind (``attn_q``) or a class (``selection``, ``transmission``). The class ``transmission`` stands for the
            feed-forward matrices; each model counts once, with the median over its kinds. Other names, such as the kinds of
            cross-attention (``cross_attn_q``), have no published values.
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
        values = [median(k for kind, k in model.k.items() if kind in FEED_FORWARD) for model in PUBLISHED]
        return ExpectedRange(of, min(values), max(values), len(values), stdev(values))
    kinds = tuple(kind for kind in _KINDS if kind == of or (of == "selection" and CLASS_OF_KIND[kind] == of))
    if of in ("attn_q", "attn_k") and like & {"mha", "mha_qk_norm"}:
        kinds = ("attn_q", "attn_k")
    attention = None if set(kinds) <= set(FEED_FORWARD) else like
    values = published_medians(kinds, attention)
    if not values:
        return None
    models = sum(
        bool(model.k.keys() & set(kinds)) for model in PUBLISHED if attention is None or model.attention in attention
    )
    return ExpectedRange(of, min(values), max(values), models, max(spread(kind, like) for kind in kinds))


def spread(kind: str, like: frozenset[AttentionKind]) -> float:
    """Standard deviation of k between published models of one attention type.

    Args:
        kind: A kind that is published.
        like: The types of attention. Where they have fewer than three models, the pooled standard deviation within the
            other types is taken: an assumption.

    >>> round(spread("attn_q", frozenset({"gqa"})), 4), round(spread("attn_qkv", frozenset({"fused"})), 4)
    (0.0197, 0.0543)
    """
    by_type = {attention: published_medians((kind,), {attention}) for attention in get_args(AttentionKind)}
    enough = {attention: values for attention, values in by_type.items() if len(values) >= MIN_MODELS}
    own = [values for attention, values in enough.items() if attention in like]
    pooled = own or list(enough.values())
    freedom = sum(len(values) - 1 for values in pooled)
    return math.sqrt(sum((len(values) - 1) * variance(values) for values in pooled) / freedom)


def spread_is_known(kind: str, like: frozenset[AttentionKind]) -> bool:
    """Whether one of these types of attention has enough models to estimate the spread between them."""
    return any(len(published_medians((kind,), {attention})) >= MIN_MODELS for attention in like)


_KINDS: Final = tuple(dict.fromkeys(kind for model in PUBLISHED for kind in model.k))
