"""The numbers of the papers that follow from the published tables, computed from these, beside the numbers as published.

T. Ding, "A Two-Parameter Weibull Framework for Diagnosing Transformer Weight Distributions", arXiv:2605.18898 (2026), data
CC BY 4.0; the regression over Pythia: arXiv:2606.19367 (2026). Twelve models of `PUBLISHED` have hyper-parameters and are those
of the first paper's table; the others are its cohort.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import mean, median, stdev

import numpy as np

from weibull_monitor.analysis.classify import drift_severity, training_state
from weibull_monitor.analysis.published import FEED_FORWARD, PUBLISHED, AttentionKind, PublishedModel
from weibull_monitor.measure.weibull import anchors

_Q_AND_K = ("attn_q", "attn_k")


@dataclass(frozen=True)
class Claim:
    """A number of a paper.

    Attributes:
        what: What it is the number of.
        statistic: Which statistic of what.
        computed: The number from the table that the package ships.
        published: The number as published; empty for a table's row that the paper gives in words only.
    """

    what: str
    statistic: str
    computed: str
    published: str


def claims() -> tuple[Claim, ...]:
    """Every number of the papers that the shipped table can give, in the order of the papers."""
    return tuple(_claims())


def _claims() -> Iterator[Claim]:
    twelve = [m for m in PUBLISHED if m.eta_peak is not None]
    families = len({m.family for m in twelve})
    yield Claim("models", "with hyper-parameters; of families", f"{len(twelve)}; {families}", "12; 7")
    yield Claim("k of a normal initialisation", "anchor", f"{anchors()['normal'].k:.4f}", "1.2054")
    ffn = [median(k for kind, k in m.k.items() if kind in FEED_FORWARD) for m in twelve]
    of = "median per model"
    yield Claim("feed-forward k", f"{of}: lowest, highest", _range(ffn), "1.186–1.204")
    yield Claim("feed-forward k", f"{of}: sd/mean", f"{100 * stdev(ffn) / mean(ffn):.2f} %", "0.51 %")
    stored: tuple[tuple[str, AttentionKind, tuple[str, ...], str], ...] = (
        ("k of W_q, W_k: MHA, apart, no QK-norm", "mha", _Q_AND_K, "0.760–0.812"),
        ("k of W_q, W_k: MHA, apart, QK-norm", "mha_qk_norm", _Q_AND_K, "0.972–0.990"),
        ("k of W_q, W_k: GQA", "gqa", _Q_AND_K, "1.10–1.16"),
        ("k of W_qkv: MHA, fused", "fused", ("attn_qkv",), "1.05–1.18"),
    )
    for what, attention, kinds, published in stored:
        values = [m.k[kind] for m in twelve if m.attention == attention for kind in kinds]
        yield Claim(what, "median per kind: lowest, highest", _range(values), published)
    yield from _pythia([m for m in twelve if m.family == "Pythia"])
    for m in twelve:
        if m.peak_time is not None:
            state = f"{m.peak_time:.3g}: {training_state(m.peak_time)}"
            yield Claim(f"T/τ of {m.name}", "T·η_peak·λ_wd", state, _STATES[m.name])
    start = anchors()["normal"].k
    for m in twelve:
        kinds = ("attn_qkv",) if m.attention == "fused" else _Q_AND_K
        drifts = [m.k[kind] / start - 1.0 for kind in kinds]
        words = ", ".join(f"{kind} {100 * d:+.1f} % {drift_severity(d)}" for kind, d in zip(kinds, drifts, strict=True))
        yield Claim(f"severity in {m.name}", "median k/1.2054 − 1", words, "")
    shallow = [m.shallow_ffn_k_min for m in PUBLISHED if m.shallow_ffn_k_min is not None and _billions(m) >= 3.0]
    yield Claim(
        "feed-forward k of blocks 0 to 5 in Qwen from 3 B on",
        "lowest per model: highest",
        f"{max(shallow):.2f}",
        "≤ 0.70",
    )


def _pythia(models: list[PublishedModel]) -> Iterator[Claim]:
    x = np.array([m.sqrt_eta_over_wd for m in models], dtype=np.float64)
    y = np.array([mean(m.lambda_[kind] for kind in ("attn_o", "ffn_in", "ffn_out")) for m in models])
    of = "o, in, out; 5 sizes"
    yield Claim("λ of Pythia against √(η_peak/λ_wd)", f"r; {of}", f"{np.corrcoef(x, y)[0, 1]:.3f}", "0.94")
    yield Claim("λ of Pythia against √(η_peak/λ_wd)", f"slope through 0; {of}", f"{x @ y / (x @ x):.4f}", "0.087")


def _range(values: list[float]) -> str:
    return f"{min(values):.3f}–{max(values):.3f}"


def _billions(model: PublishedModel) -> float:
    return float(model.size[:-1]) / (1.0 if model.size.endswith("B") else 1000.0)


_STATES = {
    "pythia-70m": "1.43: saturated",
    "pythia-160m": "0.858: near saturated",
    "pythia-410m": "0.429: approaching",
    "pythia-1b": "0.429: approaching",
    "pythia-6.9b": "0.172: transition",
    "olmo-1-7b": "14.31: saturated",
    "olmo-2-7b": "14.4: saturated",
    "llama-3-8b": "30: saturated",
    "mistral-7b": "15: saturated",
    "qwen2.5-7b": "33: saturated",
    "qwen2.5-14b": "33: saturated",
    "qwen3-8b": "110: saturated",
}
"""T/τ and the state in the first paper's table."""
