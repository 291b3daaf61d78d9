from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from oracle import exact_fit, samples
from scipy import stats
from torch.utils._python_dispatch import TorchDispatchMode

from weibull_monitor import fit_weibull
from weibull_monitor.measure import LEVELS, bins_of, count_magnitudes, solve
from weibull_monitor.measure.plain.count import count_by_scatter
from weibull_monitor.measure.plain.solve import solve_on_device
from weibull_monitor.measure.weibull import anchors

DISTRIBUTIONS = [
    "normal",
    "weibull 0.76",
    "weibull 0.3",
    "student t 3",
    "laplace",
    "uniform",
    "two scales",
    "half zeros",
    "huge",
    "tiny",
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("n", [2**16, 2**20])
def test_agrees_with_the_exact_sort(name: str, dtype: torch.dtype, n: int) -> None:
    tolerance = 3e-4 if name == "uniform" else 1e-4
    stored = samples(name, 2 * n if name == "half zeros" else n).to(dtype)
    fit = fit_weibull(stored)
    k, lambda_, r2 = exact_fit(stored)
    assert fit.k == pytest.approx(k, abs=tolerance)
    assert fit.lambda_ == pytest.approx(lambda_, rel=tolerance)
    assert fit.r2 == pytest.approx(r2, abs=tolerance)
    assert fit.n == int(torch.count_nonzero(stored))


def test_rounded_storage_does_not_bias_the_scale() -> None:
    """bf16 against the values before rounding: midpoints between representable values keep λ to 1e-4 instead of 4e-3."""
    exact = samples("normal", 2**20)
    fit = fit_weibull(exact.to(torch.bfloat16))
    k, lambda_, _ = exact_fit(exact)
    assert fit.k == pytest.approx(k, abs=1e-4)
    assert fit.lambda_ == pytest.approx(lambda_, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_eight_bits_are_coarse_but_unbiased_to_two_percent(dtype: torch.dtype) -> None:
    exact = samples("normal", 2**18) * 50
    fit = fit_weibull(exact.to(torch.float32).to(dtype))
    k, lambda_, _ = exact_fit(exact)
    assert fit.k == pytest.approx(k, rel=0.02)
    assert fit.lambda_ == pytest.approx(lambda_, rel=0.02)


def test_a_hundred_million_normal_values_read_the_anchor() -> None:
    weights = torch.empty(100_000_000).normal_(generator=torch.Generator().manual_seed(3))
    fit = fit_weibull(weights)
    normal = anchors()["normal"]
    assert abs(fit.k - normal.k) <= 4 * fit.k_se
    assert abs(fit.lambda_ - normal.lambda_) <= 4 * fit.lambda_se
    assert fit.k_se == pytest.approx(normal.k_noise * fit.k / 1e4, rel=0.01)


@pytest.mark.parametrize("name", ["normal", "weibull 0.76", "laplace", "student t 3"])  # of uniform it misses k by 6e-3
def test_agrees_with_the_published_library_within_its_error(name: str) -> None:
    npm_weibull = pytest.importorskip("npm_weibull", reason="the published library is a development dependency")
    weights = samples(name, 2**18).to(torch.float32)
    published = npm_weibull.weibull_fit(npm_weibull.extract_to_histogram(weights))
    fit = fit_weibull(weights)
    assert fit.k == pytest.approx(published["k"], abs=2e-3)
    assert fit.lambda_ == pytest.approx(published["lambda"], rel=5e-3)


@pytest.mark.parametrize("name", ["normal", "weibull 0.76", "student t 3", "uniform", "two scales"])
def test_standard_errors_are_the_spread_of_repeated_fits(name: str) -> None:
    n, draws = 4096, 400
    fits = fit_weibull([samples(name, n, seed) for seed in range(draws)])
    for estimate, error in (("k", "k_se"), ("lambda_", "lambda_se")):
        spread = np.std([getattr(fit, estimate) for fit in fits])
        stated = np.mean([getattr(fit, error) for fit in fits])
        assert stated == pytest.approx(spread, rel=5 / np.sqrt(2 * draws)), estimate


@pytest.mark.parametrize("name", ["normal", "weibull 0.76", "student t 3", "half zeros"])
def test_statistics_from_the_same_counts(name: str) -> None:
    weights = samples(name, 200_000).to(torch.float32)
    fit = fit_weibull(weights)
    a = np.abs(weights.double().numpy())
    positive = np.sort(a[a > 0])
    q10, q50, q90, q999 = np.quantile(positive, [0.1, 0.5, 0.9, 0.999])
    assert fit.q90_q10 == pytest.approx(q90 / q10, rel=2e-3)
    assert fit.p999_p50 == pytest.approx(q999 / q50, rel=5e-3)
    assert fit.rms == pytest.approx(np.sqrt((a**2).mean()), rel=2e-4)
    ordered = np.sort(a)
    gini = 2 * (np.arange(1, len(a) + 1) * ordered).sum() / (len(a) * ordered.sum()) - (len(a) + 1) / len(a)
    assert fit.gini == pytest.approx(gini, abs=2e-4)
    ks = stats.kstest(positive, stats.weibull_min(fit.k, scale=fit.lambda_).cdf).statistic
    assert fit.ks == pytest.approx(ks, abs=2e-3)


@pytest.mark.parametrize(
    ("name", "best"), [("normal", "weibull"), ("weibull 0.76", "weibull"), ("lognormal", "lognormal")]
)
def test_aic_agrees_with_maximum_likelihood_in_scipy(name: str, best: str) -> None:
    n = 50_000
    if name == "lognormal":
        weights = torch.from_numpy(np.random.default_rng(0).lognormal(-4, 0.7, n)).float()
    else:
        weights = samples(name, n).to(torch.float32)
    fit = fit_weibull(weights)
    a = np.abs(weights.double().numpy())
    for law, ours in (
        (stats.weibull_min, fit.aic_weibull),
        (stats.lognorm, fit.aic_lognormal),
        (stats.gamma, fit.aic_gamma),
    ):
        theirs = 4 - 2 * law.logpdf(a, *law.fit(a, floc=0)).sum()
        assert ours == pytest.approx(theirs, abs=1e-3 * n), law.name
    ranked = {"weibull": fit.aic_weibull, "lognormal": fit.aic_lognormal, "gamma": fit.aic_gamma}
    assert min(ranked, key=lambda model: ranked[model]) == best


def test_counts_add() -> None:
    parts = [samples("normal", 10_000, seed).float() for seed in range(4)]
    bins = bins_of(torch.float32)
    added = count_magnitudes(parts, bins).sum(0, keepdim=True)
    whole = count_magnitudes([torch.cat(parts)], bins)
    assert torch.equal(added, whole)
    assert torch.equal(solve(added, bins), solve(whole, bins))


def test_a_power_of_two_scales_lambda_and_nothing_else() -> None:
    weights = samples("student t 3", 30_000).float()
    fit, scaled = fit_weibull([weights, weights * 2.0**-20])
    assert scaled.k == pytest.approx(fit.k, abs=1e-12)
    assert scaled.lambda_ == pytest.approx(fit.lambda_ * 2.0**-20, rel=1e-12)
    assert scaled.gini == pytest.approx(fit.gini, abs=1e-12)


def test_batches_do_not_change_a_fit() -> None:
    tensors = [samples(name, 3000, seed).float() for seed, name in enumerate(DISTRIBUTIONS * 3)]
    together = fit_weibull(tensors)
    for fit, tensor in zip(together, tensors, strict=True):
        alone = fit_weibull(tensor)
        assert (fit.k, fit.lambda_, fit.n, fit.checksum) == pytest.approx(
            (alone.k, alone.lambda_, alone.n, alone.checksum), rel=1e-12
        )


def test_checksum_tells_equal_counts_from_others() -> None:
    weights = samples("normal", 5000).float()
    moved = weights.clone()
    moved[0] *= 1.5
    a, b, c = fit_weibull([weights, weights.flip(0), moved])
    assert a.checksum == b.checksum != c.checksum


def test_checksum_is_of_the_matrix_whatever_is_fitted_beside_it() -> None:
    weights = torch.cat([samples("normal", 500).float(), torch.zeros(3), torch.tensor([float("inf")])])
    fewer_zeros = weights[:-2]
    alone = fit_weibull(weights).checksum
    assert fit_weibull([torch.full((9,), 1e-45), weights, torch.full((9,), 3e38)])[1].checksum == alone
    assert fit_weibull(fewer_zeros).checksum != alone


class NoWaiting(TorchDispatchMode):
    """Refuses every operation whose result on the host, or whose shape, depends on values: a device is waited for there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "item", "nonzero", "equal", "is_nonzero", "bincount", "unique"), name
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_what_is_queued_on_a_device_waits_for_nothing_and_gives_the_same(dtype: torch.dtype) -> None:
    """The operations of the CUDA path, run here on the CPU: none depends on a value, and the fits are the same."""
    bins = bins_of(dtype)
    tensors = [samples(name, 3000).float().to(dtype) for name in ("normal", "student t 3", "half zeros")]
    tensors += [torch.zeros(500, dtype=dtype), torch.randn(60, 60).to(dtype).t()[::2]]
    with NoWaiting():
        counts = count_by_scatter(tensors, bins)
        queued = solve_on_device(counts, bins, trim=False)
    assert torch.equal(counts, count_magnitudes(tensors, bins))
    torch.testing.assert_close(queued, solve(counts, bins), rtol=1e-9, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["normal", "two scales", "half zeros", "huge"])
def test_quantiles_are_those_of_the_sorted_values(name: str, dtype: torch.dtype) -> None:
    """Within half of a bin, but in the tails, where a quantile is itself uncertain."""
    stored = samples(name, 2**18).to(dtype)
    values = stored.double().abs()
    exact = np.log(np.quantile(values[values > 0].numpy(), LEVELS[2:-3]))
    assert fit_weibull(stored).quantiles[2:-3] == pytest.approx(exact, abs=0.008)


def test_without_values_there_are_no_quantiles() -> None:
    assert fit_weibull(torch.zeros(200)).quantiles == ()
