"""The table against what the papers say of it, in figures that were computed from the full data and not from this table."""

from __future__ import annotations

import numpy as np
import pytest

from weibull_monitor.analysis import PUBLISHED, published
from weibull_monitor.analysis.published import AttentionKind
from weibull_monitor.model.components import CLASS_OF_KIND

FFN = {"ffn_in", "ffn_out", "ffn_gate", "ffn_up", "ffn_down"}
TWELVE = [m for m in PUBLISHED if m.eta_peak is not None]


def test_there_are_twelve_models_of_seven_families_and_eight_more_of_the_cohort() -> None:
    assert len(TWELVE) == 12
    assert len({m.family for m in TWELVE}) == 7
    assert len(PUBLISHED) == len({m.name for m in PUBLISHED}) == 20
    assert (
        sum(m.shallow_ffn_k_min is not None for m in PUBLISHED) == 11
    )  # the cohort, three of which are among the twelve


def test_every_kind_is_one_of_ours_and_has_both_numbers() -> None:
    for model in PUBLISHED:
        assert model.k.keys() == model.lambda_.keys() <= CLASS_OF_KIND.keys()
        assert len(model.k) == (4 if model.attention == "fused" else 7)
        assert all(0.7 < k < 1.25 for k in model.k.values())


def test_feed_forward_medians_lie_where_they_are_published_to_lie() -> None:
    """[1.186, 1.204] with a coefficient of variation of 0.51 %; medians of medians miss those over all matrices a little."""
    medians = [np.median([k for kind, k in m.k.items() if kind in FFN]) for m in TWELVE]
    assert min(medians) == pytest.approx(1.186, abs=0.002)
    assert max(medians) == pytest.approx(1.204, abs=0.001)
    assert np.std(medians, ddof=1) / np.mean(medians) == pytest.approx(0.0051, abs=0.0006)


@pytest.mark.parametrize(
    ("attention", "kinds", "low", "high"),
    [
        ("mha", ("attn_q", "attn_k"), 0.76, 0.812),
        ("mha_qk_norm", ("attn_q", "attn_k"), 0.972, 0.99),
        ("gqa", ("attn_q", "attn_k"), 1.10, 1.16),
        ("fused", ("attn_qkv",), 1.05, 1.18),
    ],
)
def test_selection_medians_lie_where_they_are_published_to_lie(
    attention: AttentionKind, kinds: tuple[str, ...], low: float, high: float
) -> None:
    values = [m.k[kind] for m in TWELVE if m.attention == attention for kind in kinds]
    assert (min(values), max(values)) == pytest.approx((low, high), abs=0.005)


def test_scales_of_pythia_follow_the_published_regression() -> None:
    """λ over o, ffn_in, ffn_out against √(η_peak/λ_wd): r = 0.941, slope through the origin 0.0854."""
    models = [m for m in PUBLISHED if m.family == "Pythia"]
    x = np.array([m.sqrt_eta_over_wd for m in models])
    y = np.array([np.mean([m.lambda_[kind] for kind in ("attn_o", "ffn_in", "ffn_out")]) for m in models])
    assert np.corrcoef(x, y)[0, 1] == pytest.approx(0.941, abs=0.0006)
    assert (x @ y) / (x @ x) == pytest.approx(0.0854, abs=0.00006)


@pytest.mark.parametrize(
    ("name", "t_over_tau"),
    [("pythia-160m", 0.858), ("pythia-6.9b", 0.172), ("olmo-1-7b", 14.31), ("mistral-7b", 15.0), ("qwen3-8b", 110.0)],
)
def test_training_time_in_units_of_tau(name: str, t_over_tau: float) -> None:
    assert published(name).peak_time == pytest.approx(t_over_tau, abs=0.005)


def test_shallow_blocks_of_large_qwen_models_are_anomalous() -> None:
    for model in PUBLISHED:
        if (lowest := model.shallow_ffn_k_min) is not None:
            assert lowest >= 1.0 if model.size == "1.5B" else lowest <= 0.70, model.name


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(KeyError, match=r"gpt-5.*pythia-70m.*qwen2\.5-3b"):
        published("gpt-5")
