from __future__ import annotations

import pytest

from weibull_monitor.analysis import (
    Attention,
    classify,
    drift_severity,
    expected_range,
    initialisation_of,
    regime,
    training_state,
)
from weibull_monitor.analysis.published import AttentionKind


@pytest.mark.parametrize(
    ("k", "r2", "expected"),
    [
        (0.94, 0.999, "strong selection"),
        (0.95, 0.999, "mild selection"),
        (1.179, 0.999, "mild selection"),
        (1.18, 0.999, "transmission"),
        (1.21, None, "transmission"),
        (1.2272, 0.996, "above the band"),  # normal, truncated at two standard deviations
        (1.3751, 0.983, "above the band"),  # uniform
        (1.5, None, "above the band"),
        (1.19, 0.949, "mixture"),
        (0.34, 0.9, "mixture"),
    ],
)
def test_regimes(k: float, r2: float | None, expected: str) -> None:
    assert regime(k, r2) == expected


def test_what_misses_the_band_by_its_noise_is_in_it() -> None:
    assert classify(1.215, "attn_o", k_se=0.003).regime == "transmission"
    assert classify(1.215, "attn_o", k_se=0.001).regime == "above the band"


@pytest.mark.parametrize("k", [0.0, -1.0, float("nan")])
def test_what_is_no_shape_has_no_regime(k: float) -> None:
    with pytest.raises(ValueError, match="a shape is above 0"):
        regime(k)


@pytest.mark.parametrize(
    ("drift", "expected"), [(-0.0099, "none"), (0.01, "mild"), (-0.30, "mild"), (0.301, "strong"), (-0.38, "strong")]
)
def test_severity(drift: float, expected: str) -> None:
    assert drift_severity(drift) == expected


def test_drift_is_against_the_own_baseline_where_there_is_one() -> None:
    """A model of uniform initialisation at 1.30 has drifted by −5.5 %, not by +7.9 %."""
    own = classify(1.30, "ffn_up", baseline=1.3751)
    assert own.drift == pytest.approx(-0.0546, abs=1e-4)
    assert (own.against, own.severity) == ("baseline", "mild")
    assert classify(1.12, "attn_q").drift == pytest.approx(1.12 / 1.205434 - 1, abs=1e-6)


def test_drift_against_an_anchor_within_the_noise_is_none_and_against_the_own_baseline_is_not() -> None:
    """4,096 values: se(k) = 0.0214. 1.5 % below the anchor is noise; two samples of one matrix share theirs."""
    assert classify(1.187, "attn_o", k_se=0.0214).severity == "none"
    assert classify(1.187, "attn_o", k_se=0.0214, baseline=1.205434).severity == "mild"


@pytest.mark.parametrize(
    ("k", "expected"),
    [
        (1.2054, "normal"),
        (1.2272, "truncated_normal_2"),
        (1.3751, "uniform"),
        (1.45, "uniform"),
        (1.0, "normal"),
        (0.76, "normal"),
    ],
)
def test_an_initialisation_is_guessed_among_those_in_use(k: float, expected: str) -> None:
    """A Laplace distribution (k = 1) is not: no framework initialises so, and trained matrices pass through that k."""
    assert initialisation_of(k) == expected


@pytest.mark.parametrize(
    ("t_over_tau", "expected"),
    [
        (0.0, "transition"),
        (0.249, "transition"),
        (0.25, "partial"),
        (0.4, "approaching"),
        (0.8, "near saturated"),
        (1.2, "saturated"),
        (110.0, "saturated"),
    ],
)
def test_training_state(t_over_tau: float, expected: str) -> None:
    assert training_state(t_over_tau) == expected


def test_time_is_not_negative() -> None:
    with pytest.raises(ValueError, match="cannot be negative"):
        training_state(-0.1)


@pytest.mark.parametrize(
    ("kind", "attention", "low", "high"),
    [
        ("selection", "mha", 0.76, 0.99),
        ("selection", "mha_qk_norm", 0.76, 0.99),
        ("attn_q", "mha", 0.76, 0.99),
        ("attn_qkv", "fused", 1.05, 1.18),
        ("attn_o", "gqa", 1.1375, 1.1903),
        ("transmission", None, 1.1777, 1.2039),
    ],
)
def test_expected_ranges(kind: str, attention: AttentionKind | None, low: float, high: float) -> None:
    found = expected_range(kind, attention)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.005)


@pytest.mark.parametrize(
    ("kind", "attention"),
    [
        ("attn_q", None),
        ("attn_q", Attention("MLA")),
        ("attn_q", Attention("MQA")),
        ("attn_q", Attention("MHA", fused=True)),  # parts of a fused matrix: the whole is published
        ("attn_qkv", Attention("GQA", fused=True)),
        ("attn_qkv", Attention("MHA", fused=True, qk_norm=True)),
        ("cross_attn_q", "mha"),
        ("ffn_gate_up", "gqa"),
        ("lm_head", "gqa"),
        ("none", "gqa"),
        ("mixed", "fused"),
    ],
)
def test_nothing_is_expected_where_nothing_comparable_is_published(
    kind: str, attention: AttentionKind | Attention | None
) -> None:
    assert expected_range(kind, attention) is None
    assert classify(1.1, kind, attention).position is None


def test_grouped_queries_at_their_published_shapes_are_as_expected() -> None:
    """The published library expects 1.18 to 1.21 of them and so alerts on every model that it holds itself."""
    for k in (1.1352, 1.1461, 1.1485, 1.1291):  # Llama-3 and Mistral, q and k
        assert classify(k, "attn_q", "gqa").position == "inside"
    assert classify(1.19, "attn_q", "gqa").position == "above"


def test_just_outside_is_within_the_spread_between_models() -> None:
    """Thirteen models with shared keys: sd 0.0197 of W_q around 1.095 to 1.164, computed from the published table."""
    found = expected_range("attn_q", "gqa")
    assert found is not None
    assert found.models == 13
    assert found.spread == pytest.approx(0.0197, abs=1e-4)
    positions = [found.position(k) for k in (1.07, 1.08, 1.095, 1.13, 1.1638, 1.18, 1.19)]
    assert positions == ["below", "just below", "inside", "inside", "inside", "just above", "above"]
