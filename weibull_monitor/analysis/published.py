"""The published models: medians over the blocks of k and λ per kind, attention type and hyper-parameters.

Transcribed from the tables of T. Ding, "A Two-Parameter Weibull Framework for Diagnosing Transformer Weight Distributions",
arXiv:2605.18898 (2026), data DATABASE_v9_1 (twelve models of seven families, and a cohort of Qwen models), CC BY 4.0
(creativecommons.org/licenses/by/4.0). Changes: our names of kinds, k to four decimals, λ to four digits; the three models
that are in both tables are taken from the first. The cohort's table gives no heads. The technical reports say that those
models share keys among queries (GQA), and that Qwen3 is the only one to normalise queries and keys (arXiv:2407.10671,
2412.15115, 2505.09388). Pythia's heads are in S. Biderman et al., arXiv:2304.01373.

Every published range that the package uses is defined or computed here, and says which statistic it is.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

AttentionKind = Literal["mha", "mha_qk_norm", "gqa", "fused"]
"""Types of attention among the published models.

``mha``: multi-head, W_q, W_k and W_v stored as three matrices. ``mha_qk_norm``: the same with normalised queries and keys.
``gqa``: keys shared among queries. ``fused``: multi-head, W_q, W_k and W_v stored as one matrix.
"""
Confidence = Literal["explicit", "inferred", "estimated", ""]

FEED_FORWARD: Final = ("ffn_gate", "ffn_up", "ffn_down", "ffn_in", "ffn_out")
"""The published feed-forward kinds."""
FEED_FORWARD_BAND: Final = (1.186, 1.204)
"""Range of per-model medians of k over all feed-forward matrices of a model: 12 models of 7 families, 70 M to 14 B.

The text of the paper gives it. The table below holds medians per kind; their median per model goes from 1.187 to 1.204 for the
same 12 models, and from 1.178 to 1.204 with the cohort, which is what `expected_range("transmission")` returns.
"""
LAST_SHALLOW_BLOCK: Final = 5
"""Shallow blocks are 0 to this one: where Qwen models of 3 B and above have feed-forward matrices of very low k."""
SHALLOW_K: Final = 0.70
"""Upper end of the lowest feed-forward k over the shallow blocks of those models: a range over single matrices."""


@dataclass(frozen=True)
class PublishedModel:
    """One trained model, as published.

    Attributes:
        name: The model.
        family: Its family.
        size: Its number of parameters, as published.
        attention: Type of its attention.
        blocks: Number of transformer blocks.
        tokens: Training tokens, as published.
        k: Shape by kind, median over the blocks.
        lambda_: Scale by kind, median over the blocks.
        query_heads: Number of query heads, if published.
        key_value_heads: Number of heads of keys and values, if published.
        qk_norm: Whether queries and keys are normalised.
        eta_peak: η at its peak, if published.
        weight_decay: λ_wd, if published.
        steps: Optimizer steps, if published.
        confidence: Source of the hyper-parameters: ``explicit`` from the authors of the model, ``inferred`` or ``estimated``
            by the author of the table; empty where there are none.
        shallow_ffn_k_min: Lowest k of a feed-forward matrix within blocks 0 to 5, if published.
    """

    name: str
    family: str
    size: str
    attention: AttentionKind
    blocks: int
    tokens: str
    k: Mapping[str, float]
    lambda_: Mapping[str, float]
    query_heads: int | None = None
    key_value_heads: int | None = None
    qk_norm: bool = False
    eta_peak: float | None = None
    weight_decay: float | None = None
    steps: int | None = None
    confidence: Confidence = ""
    shallow_ffn_k_min: float | None = None

    @property
    def sqrt_eta_over_wd(self) -> float | None:
        """√(η_peak/λ_wd), if both are published."""
        return math.sqrt(self.eta_peak / self.weight_decay) if self.eta_peak and self.weight_decay else None

    @property
    def peak_time(self) -> float | None:
        """T·η_peak·λ_wd, if all three are published: the papers call it T/τ.

        >>> round(published("pythia-70m").peak_time, 2)
        1.43
        """
        if not (self.eta_peak and self.weight_decay and self.steps):
            return None
        return self.eta_peak * self.weight_decay * self.steps


_Fit = tuple[float, float]
_GATED: Final = ("attn_q", "attn_k", "attn_v", "attn_o", "ffn_gate", "ffn_up", "ffn_down")
_PLAIN: Final = ("attn_qkv", "attn_o", "ffn_in", "ffn_out")


def _columns(kinds: tuple[str, ...], fits: tuple[_Fit, ...]) -> tuple[Mapping[str, float], Mapping[str, float]]:
    k = {kind: shape for kind, (shape, _) in zip(kinds, fits, strict=True)}
    lambda_ = {kind: scale for kind, (_, scale) in zip(kinds, fits, strict=True)}
    return MappingProxyType(k), MappingProxyType(lambda_)


def _pythia(size: str, heads: int, blocks: int, eta: float, *fits: _Fit) -> PublishedModel:
    k, lambda_ = _columns(_PLAIN, fits)
    known = (heads, heads, False, eta, 0.01, 143_000)
    return PublishedModel(
        f"pythia-{size.lower()}", "Pythia", size, "fused", blocks, "300B", k, lambda_, *known, "explicit"
    )


def _gated(
    name: str,
    family: str,
    heads: tuple[int, int],
    qk_norm: bool,
    blocks: int,
    tokens: str,
    eta: float,
    steps: int,
    confidence: Confidence,
    *fits: _Fit,
) -> PublishedModel:
    query, key_value = heads
    attention: AttentionKind = "gqa" if key_value < query else "mha_qk_norm" if qk_norm else "mha"
    size = name.rpartition("-")[2].upper()
    k, lambda_ = _columns(_GATED, fits)
    known = (query, key_value, qk_norm, eta, 0.1, steps)
    shallow = _SHALLOW.get(name)
    return PublishedModel(name, family, size, attention, blocks, tokens, k, lambda_, *known, confidence, shallow)


def _cohort(name: str, blocks: int, tokens: str, *fits: _Fit) -> PublishedModel:
    family, _, size = name.replace("-math", "").rpartition("-")
    k, lambda_ = _columns(_GATED, fits)
    family, size, shallow = family.capitalize(), size.upper(), _SHALLOW[name]
    return PublishedModel(name, family, size, "gqa", blocks, tokens, k, lambda_, shallow_ffn_k_min=shallow)


# Lowest k of a feed-forward matrix within blocks 0 to 5: single matrices, no medians.
_SHALLOW: Final = {
    "qwen2-1.5b": 1.179,
    "qwen2.5-1.5b": 1.167,
    "qwen2-math-1.5b": 1.187,
    "qwen2.5-math-1.5b": 1.117,
    "qwen2-7b": 0.526,
    "qwen2.5-7b": 0.566,
    "qwen2-math-7b": 0.519,
    "qwen2.5-math-7b": 0.619,
    "qwen2.5-3b": 0.571,
    "qwen3-8b": 0.341,
    "qwen2.5-14b": 0.398,
}

# fmt: off
PUBLISHED: Final[tuple[PublishedModel, ...]] = (
    # (k, λ) of attn_qkv (the whole fused matrix), attn_o, ffn_in, ffn_out
    _pythia("70M", 8, 6, 1e-3, (1.0488, 0.02783), (1.1838, 0.0186), (1.1903, 0.026), (1.1898, 0.02101)),
    _pythia("160M", 12, 12, 6e-4, (1.0982, 0.02516), (1.1917, 0.01568), (1.1927, 0.02411), (1.1953, 0.01888)),
    _pythia("410M", 16, 24, 3e-4, (1.1466, 0.02122), (1.1988, 0.01797), (1.1991, 0.0208), (1.2011, 0.01716)),
    _pythia("1B", 8, 16, 3e-4, (1.1758, 0.02014), (1.1990, 0.01877), (1.1997, 0.02015), (1.1993, 0.01733)),
    _pythia("6.9B", 32, 32, 1.2e-4, (1.1726, 0.01679), (1.1986, 0.01302), (1.2026, 0.01675), (1.2010, 0.01467)),
    # (k, λ) of attn_q, attn_k, attn_v, attn_o, ffn_gate, ffn_up, ffn_down
    _gated("olmo-1-7b", "OLMo-1", (32, 32), False, 32, "2.5T", 3e-4, 477_000, "explicit",
           (0.8123, 0.001729), (0.7601, 0.001703), (1.0601, 0.002513), (1.0409, 0.002402),
           (1.2010, 0.003363), (1.2039, 0.003442), (1.2041, 0.003486)),
    _gated("olmo-2-7b", "OLMo-2", (32, 32), True, 32, "~4T", 3e-4, 480_000, "inferred",
           (0.9895, 0.01406), (0.9716, 0.01324), (1.1930, 0.01663), (1.1958, 0.01634),
           (1.1976, 0.01755), (1.2032, 0.01676), (1.2031, 0.01654)),
    _gated("llama-3-8b", "Llama-3", (32, 8), False, 32, ">15T", 3e-4, 1_000_000, "inferred",
           (1.1352, 0.01352), (1.1462, 0.021), (1.1710, 0.007453), (1.1841, 0.008293),
           (1.1890, 0.01171), (1.1971, 0.009322), (1.1931, 0.009227)),
    _gated("mistral-7b", "Mistral", (32, 8), False, 32, "8T", 3e-4, 500_000, "estimated",
           (1.1485, 0.002979), (1.1291, 0.003507), (1.1702, 0.002383), (1.1902, 0.002402),
           (1.1947, 0.002836), (1.1964, 0.002582), (1.1926, 0.002546)),
    _gated("qwen2.5-7b", "Qwen2.5", (28, 4), False, 28, "18T", 3e-4, 1_100_000, "inferred",
           (1.1328, 0.01352), (1.1033, 0.01409), (1.1430, 0.0139), (1.1665, 0.01307),
           (1.1904, 0.0143), (1.1888, 0.01438), (1.1830, 0.01407)),
    _gated("qwen2.5-14b", "Qwen2.5", (40, 8), False, 48, "18T", 3e-4, 1_100_000, "estimated",
           (1.1638, 0.01719), (1.1413, 0.01886), (1.1628, 0.01699), (1.1903, 0.01703),
           (1.1929, 0.01813), (1.1926, 0.0187), (1.1897, 0.01829)),
    _gated("qwen3-8b", "Qwen3", (32, 8), True, 36, "36T", 5e-4, 2_200_000, "inferred",
           (1.1623, 0.0215), (1.1539, 0.0211), (1.1581, 0.02476), (1.1802, 0.02265),
           (1.1872, 0.02374), (1.1886, 0.02367), (1.1846, 0.02323)),
    # The cohort: the same kinds; no hyper-parameters.
    _cohort("qwen2-1.5b", 28, "7T", (1.1166, 0.01762), (1.1142, 0.01966), (1.1438, 0.01728), (1.1416, 0.0158),
            (1.1856, 0.01866), (1.1876, 0.01726), (1.1769, 0.01653)),
    _cohort("qwen2.5-1.5b", 28, "18T", (1.0947, 0.02225), (1.1155, 0.02277), (1.1377, 0.02253), (1.1375, 0.02132),
            (1.1777, 0.02443), (1.1796, 0.02419), (1.1688, 0.02303)),
    _cohort("qwen2-math-1.5b", 28, "7T + mathematics", (1.1277, 0.02619), (1.1083, 0.02576), (1.1446, 0.0274),
            (1.1556, 0.02564), (1.1931, 0.02868), (1.1905, 0.02733), (1.1874, 0.02654)),
    _cohort("qwen2.5-math-1.5b", 28, "18T + mathematics", (1.1256, 0.0314), (1.1011, 0.03066), (1.1468, 0.03542),
            (1.1564, 0.03255), (1.1912, 0.0353), (1.1881, 0.03438), (1.1859, 0.03343)),
    _cohort("qwen2-7b", 28, "7T", (1.1366, 0.01231), (1.1096, 0.0134), (1.1456, 0.01191), (1.1660, 0.01122),
            (1.1895, 0.01284), (1.1892, 0.01236), (1.1838, 0.01207)),
    _cohort("qwen2-math-7b", 28, "7T + 200B mathematics", (1.1545, 0.02002), (1.1249, 0.01929), (1.1523, 0.02054),
            (1.1808, 0.01996), (1.1971, 0.0212), (1.1946, 0.02129), (1.1935, 0.0212)),
    _cohort("qwen2.5-math-7b", 28, "18T + 700B mathematics", (1.1547, 0.02062), (1.1195, 0.01962), (1.1515, 0.02202),
            (1.1791, 0.02092), (1.1959, 0.02215), (1.1934, 0.02223), (1.1916, 0.02206)),
    _cohort("qwen2.5-3b", 36, "18T", (1.1277, 0.02131), (1.1200, 0.0224), (1.1484, 0.02179), (1.1610, 0.02073),
            (1.1781, 0.02242), (1.1813, 0.02289), (1.1747, 0.02183)),
)
# fmt: on


def published(name: str) -> PublishedModel:
    """The published model of that name.

    Raises:
        KeyError: If there is none.

    >>> model = published("olmo-2-7b")
    >>> model.attention, model.k["attn_q"], model.confidence
    ('mha_qk_norm', 0.9895, 'inferred')
    """
    for model in PUBLISHED:
        if model.name == name:
            return model
    raise KeyError(f"{name!r} is not published; there are {', '.join(m.name for m in PUBLISHED)}")


def published_medians(kinds: Collection[str], attention: Collection[AttentionKind] | None = None) -> list[float]:
    """All published per-model medians of k of some kinds.

    Args:
        kinds: The kinds.
        attention: Only models with one of these types of attention; all models by default.

    Returns:
        One value per model and kind, each a median over the blocks of that model.

    >>> values = published_medians(("attn_q", "attn_k"), {"gqa"})
    >>> len(values), min(values), max(values)  # 13 models
    (26, 1.0947, 1.1638)
    """
    models = [model for model in PUBLISHED if attention is None or model.attention in attention]
    return [model.k[kind] for model in models for kind in kinds if kind in model.k]
