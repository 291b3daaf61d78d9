from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from oracle import samples
from scipy import stats

from weibull_monitor import UnsupportedTensorError, fit_weibull
from weibull_monitor.measure.ranking import quantiles, rank_distributions

SCIPY = {"weibull": stats.weibull_min, "lognormal": stats.lognorm, "gamma": stats.gamma}


@pytest.mark.parametrize("name", ["normal", "weibull 0.76", "laplace", "student t 3", "uniform"])
def test_agrees_with_scipys_maximum_likelihood_on_the_values_themselves(name: str) -> None:
    values = samples(name, 2**15)
    x = values.abs().numpy()
    ranked = {one.name: one for one in rank_distributions(values)}
    for distribution, one in ranked.items():
        shape, _, scale = SCIPY[distribution].fit(x, floc=0)
        law = SCIPY[distribution](shape, scale=scale)
        aic = 4 - 2 * law.logpdf(x).sum()
        assert one.aic == pytest.approx(aic, abs=1e-3 * len(x))
        assert one.ks == pytest.approx(stats.kstest(x, law.cdf).statistic, abs=1.5e-3)
        first, second = (np.log(scale), shape) if distribution == "lognormal" else (shape, scale)
        assert (one.first, one.second) == pytest.approx((first, second), rel=2e-3)
    assert [one.name for one in rank_distributions(values)] == sorted(ranked, key=lambda n: ranked[n].aic)
    assert min(one.delta_aic for one in ranked.values()) == 0.0


@pytest.mark.parametrize(
    ("draw", "expected"),
    [
        (lambda rng: rng.weibull(0.8, 50_000), "weibull"),
        (lambda rng: rng.lognormal(-4, 1.2, 50_000), "lognormal"),
        (lambda rng: rng.gamma(0.6, 0.01, 50_000), "gamma"),
    ],
)
def test_the_true_distribution_is_best_and_fits(
    draw: Callable[[np.random.Generator], np.ndarray], expected: str
) -> None:
    best = rank_distributions(torch.from_numpy(draw(np.random.default_rng(0))))[0]
    assert best.name == expected
    assert best.ks < 1.63 / np.sqrt(50_000)  # the 1 % point of Kolmogorov's distribution


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_aic_is_that_of_the_live_fit(dtype: torch.dtype) -> None:
    weights = samples("normal", 2**16).to(dtype)
    fit = fit_weibull(weights)
    for one in rank_distributions(weights):
        assert one.aic == pytest.approx(getattr(fit, f"aic_{one.name}"), rel=1e-6)


@pytest.mark.parametrize("name", ["huge", "tiny", "half zeros"])
def test_any_scale_and_zeros(name: str) -> None:
    values = samples(name, 2**14)
    ranked = rank_distributions(values)
    assert ranked[0].name == "weibull"
    x = values[values != 0].abs().numpy()
    shape, _, scale = stats.weibull_min.fit(x / np.median(x), floc=0)
    assert (ranked[0].first, ranked[0].second / np.median(x)) == pytest.approx((shape, scale), rel=2e-3)


def test_what_cannot_be_ranked() -> None:
    assert rank_distributions(torch.zeros(500)) == ()
    assert rank_distributions(torch.ones(500)) == ()
    assert rank_distributions(torch.randn(99)) == ()
    with pytest.raises(UnsupportedTensorError):
        rank_distributions(torch.ones(500, dtype=torch.int64))


def test_quantiles_are_those_of_the_sorted_values_within_a_bin() -> None:
    values = samples("weibull 0.76", 2**16)
    shares = [0.1, 0.5, 0.9, 0.99, 0.999]
    assert quantiles(values, shares) == pytest.approx(np.quantile(values.abs().numpy(), shares), rel=0.011)
    assert all(np.isnan(quantiles(torch.zeros(5), [0.5])))
