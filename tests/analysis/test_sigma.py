from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from weibull_monitor.analysis.sigma import attribute_sigma


def test_the_parts_are_those_of_scipys_standard_deviation_and_add_up() -> None:
    rng = np.random.default_rng(0)
    k, lambda_ = rng.uniform(0.4, 1.5, 12), rng.uniform(0.001, 0.1, 12)
    growth = attribute_sigma(k, lambda_)
    sigma = stats.weibull_min(k, scale=lambda_).std()
    unit = stats.weibull_min(k).std()
    np.testing.assert_allclose(growth.total, np.log(sigma / sigma[0]), atol=1e-9)
    np.testing.assert_allclose(growth.from_lambda, np.log(lambda_ / lambda_[0]), atol=1e-12)
    np.testing.assert_allclose(growth.from_k, np.log(unit / unit[0]), atol=1e-9)
    np.testing.assert_allclose(growth.from_lambda + growth.from_k, growth.total, atol=1e-15)


def test_pieces_of_a_trajectory_add_up_to_the_whole() -> None:
    k, lambda_ = np.array([1.2054, 1.19, 1.0, 0.81]), np.array([0.0178, 0.02, 0.03, 0.025])
    whole = attribute_sigma(k, lambda_)
    pieces = [attribute_sigma(k[i : i + 2], lambda_[i : i + 2]) for i in range(3)]
    assert sum(p.from_k[-1] for p in pieces) == pytest.approx(whole.from_k[-1])
    assert sum(p.from_lambda[-1] for p in pieces) == pytest.approx(whole.from_lambda[-1])


def test_of_several_matrices_the_logarithms_are_averaged() -> None:
    k, lambda_ = np.array([[1.2, 1.2], [1.1, 0.9]]), np.array([[0.02, 0.01], [0.03, 0.04]])
    both = attribute_sigma(k, lambda_)
    each = [attribute_sigma(k[:, i], lambda_[:, i]) for i in (0, 1)]
    assert both.total[-1] == pytest.approx((each[0].total[-1] + each[1].total[-1]) / 2)
    assert both.total[-1] == pytest.approx(both.from_k[-1] + both.from_lambda[-1])


@pytest.mark.parametrize(
    ("k", "lambda_", "expected"),
    [
        ([1.2054, 1.19], [0.01, 0.03], "lambda"),  # k by 1.3 %: "mixed" by the published thresholds on k alone
        ([1.2054, 1.195], [0.01, 0.01], "k"),  # k by 0.9 %, and nothing else: "λ-dominated" by those
        ([1.2054, 0.81], [0.0178, 0.035], "both"),
        ([1.2054, 1.2056], [0.01, 0.010002], "unchanged"),
        ([1.0, 2.0], [0.01, 0.0216], "both"),  # σ stays what it was, by two large and opposite movements
    ],
)
def test_what_dominates_is_told_from_what_each_part_does_to_sigma(
    k: list[float], lambda_: list[float], expected: str
) -> None:
    assert attribute_sigma(k, lambda_).dominated_by == expected


def test_a_published_run_grew_by_its_scale() -> None:
    """λ_wd = 0.2, steps 1 and 20,000 (T. Ding, arXiv:2606.19367, data CC BY 4.0), against the measured σ of w."""
    growth = attribute_sigma([1.20585, 1.18197], [0.017762, 0.033860])
    assert growth.dominated_by == "lambda"
    assert 0.9 < growth.share_of_lambda < 0.99
    assert growth.total[-1] == pytest.approx(math.log(0.039542 / 0.020001), abs=0.02)


def test_what_has_no_logarithm_or_no_partner_is_refused() -> None:
    with pytest.raises(ValueError, match="lambda_ must be finite and above 0"):
        attribute_sigma([1.2, 1.1], [0.1, 0.0])
    with pytest.raises(ValueError, match="k must be finite"):
        attribute_sigma([1.2, float("nan")], [0.1, 0.1])
    with pytest.raises(ValueError, match="two points or more"):
        attribute_sigma([1.2], [0.1])
    with pytest.raises(ValueError, match=r"\(2,\), lambda_ \(3,\)"):
        attribute_sigma([1.2, 1.1], [0.1, 0.2, 0.3])
