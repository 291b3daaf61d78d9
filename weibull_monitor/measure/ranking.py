"""Which of three distributions describes |w| best, and the quantiles of |w| themselves: from the same counts, on demand.

A live fit carries the AIC of each. The Kolmogorov-Smirnov distances need the incomplete gamma function at every bin edge,
which is too slow for every sample of a run, so they are computed here, when asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from weibull_monitor.measure.bins import bins_of
from weibull_monitor.measure.choose import count_magnitudes
from weibull_monitor.measure.fit import _checked
from weibull_monitor.measure.plain.solve import MIN_BINS, MIN_VALUES
from weibull_monitor.measure.weibull import Array

Distribution = Literal["weibull", "lognormal", "gamma"]


@dataclass(frozen=True)
class RankedDistribution:
    """One distribution at its maximum likelihood.

    Attributes:
        name: The distribution.
        aic: Akaike's criterion 2·2 − 2 ln L, with the density of |w| in the unit of the weights.
        delta_aic: AIC above that of the best.
        ks: Kolmogorov-Smirnov distance to it, at the bin edges, over the whole range.
        first: Its first parameter: shape k; mean μ of ln|w|; shape of the gamma distribution.
        second: Its second: scale λ; standard deviation of ln|w|; scale of the gamma distribution.
    """

    name: Distribution
    aic: float
    delta_aic: float
    ks: float
    first: float
    second: float


def rank_distributions(weights: Tensor) -> tuple[RankedDistribution, ...]:
    """Ranks Weibull, log-normal and gamma distributions of |w| by AIC, best first, with the KS distance of each.

    All three have two parameters, so their AIC differ as their likelihoods do. Of millions of weights every difference is
    significant, so the ranking says which is nearest and not that it is right: the KS distance says how near.

    Args:
        weights: A tensor as `fit_weibull` takes it. Zeros and non-finite values are left out.

    Returns:
        The three, by rising AIC; none if there are fewer than 100 usable values or they fill fewer than 5 bins.

    Raises:
        UnsupportedTensorError: For a tensor whose values cannot be read as floats where they are.

    >>> generator = torch.Generator().manual_seed(0)
    >>> best, second, third = rank_distributions(torch.randn(512, 512, generator=generator))
    >>> best.name, second.name, third.name, best.delta_aic
    ('weibull', 'gamma', 'lognormal', 0.0)
    """
    count, edges = _counts(weights)
    if count.sum() < MIN_VALUES or (count > 0).sum() < MIN_BINS:
        return ()
    share = count / count.sum()
    f = np.cumsum(share)
    low, high = np.log(edges[:-1]), np.log(edges[1:])
    unit = float(np.interp(0.5, f, high))  # everything in units of the median, so that no scale overflows
    low, high = np.clip(low - unit, -300.0, 299.0), np.clip(high - unit, -299.0, 300.0)
    width = high - low
    u, within = (low + high) / 2.0, width**2 / 12.0  # |w| is log-uniform within a bin
    mean_log = float(share @ u)
    sd_log = math.sqrt(float(share @ ((u - mean_log) ** 2 + within)))
    mean = float(share @ ((np.exp(high) - np.exp(low)) / width))
    k, scale = _weibull(share, u, mean_log)
    shape = _gamma(math.log(mean) - mean_log)
    x = np.exp(high)
    candidates: list[tuple[Distribution, float, float, float, Callable[[], Array]]] = [
        (
            "weibull",
            k,
            scale,
            math.log(k) - k * math.log(scale) + (k - 1) * mean_log - 1,
            lambda: -np.expm1(-((x / scale) ** k)),
        ),
        (
            "lognormal",
            mean_log,
            sd_log,
            -math.log(sd_log * math.sqrt(2 * math.pi)) - 0.5 - mean_log,
            lambda: np.asarray(torch.special.ndtr(torch.from_numpy((high - mean_log) / sd_log))),
        ),
        (
            "gamma",
            shape,
            mean / shape,
            shape * math.log(shape / mean) - math.lgamma(shape) + (shape - 1) * mean_log - shape,
            lambda: np.asarray(
                torch.special.gammainc(
                    torch.tensor(shape, dtype=torch.float64, device="cpu"), torch.from_numpy(x * shape / mean)
                )
            ),
        ),
    ]
    n = float(count.sum())
    aic = {name: 4.0 - 2.0 * n * (log_likelihood - unit) for name, _, _, log_likelihood, _ in candidates}
    ranked = [
        RankedDistribution(
            name=name,
            aic=aic[name],
            delta_aic=aic[name] - min(aic.values()),
            ks=float(np.abs(f - cdf()).max()),
            first=first + unit if name == "lognormal" else first,
            second=second if name == "lognormal" else second * math.exp(unit),
        )
        for name, first, second, _, cdf in candidates
    ]
    return tuple(sorted(ranked, key=lambda one: one.aic))


def quantiles(weights: Tensor, shares: Sequence[float]) -> tuple[float, ...]:
    """Quantiles of the non-zero finite |w|, from the same counts and without a model; within the width of a bin, 1 %.

    Args:
        weights: A tensor as `fit_weibull` takes it.
        shares: Shares, each from 0 to 1.

    Returns:
        One value a share, in the unit of the weights; NaN if there is no usable value.

    >>> median, q99 = quantiles(torch.linspace(0.001, 1.0, 1000), [0.5, 0.99])
    >>> round(median, 2), round(q99, 2)
    (0.5, 0.99)
    """
    count, edges = _counts(weights)
    if not count.sum():
        return (float("nan"),) * len(shares)
    f = np.concatenate([[0.0], np.cumsum(count) / count.sum()])
    return tuple(float(value) for value in np.exp(np.interp(shares, f, np.log(edges))))


def _counts(weights: Tensor) -> tuple[Array, Array]:
    """Counts of the bins from the first that is used to the last, shape (bins,), and their edges, (bins + 1,)."""
    tensor = _checked(weights, 0)
    bins = bins_of(tensor.dtype)
    count = count_magnitudes([tensor], bins)[0, 1:-1].cpu().numpy().astype(np.float64)
    used = np.flatnonzero(count)
    first, last = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)
    return count[first:last], bins.edges[first : last + 1].cpu().numpy()


def _weibull(share: Array, u: Array, mean_log: float) -> tuple[float, float]:
    """Maximum likelihood of k and λ: Newton's method on E[x^k ln x]/E[x^k] − E[ln x] − 1/k = 0."""
    k = 1.0
    for _ in range(100):
        power = share * np.exp(k * (u - u.max()))
        e0, e1, e2 = power.sum(), power @ u, power @ u**2
        step = (e1 / e0 - mean_log - 1 / k) / (e2 / e0 - (e1 / e0) ** 2 + 1 / k**2)
        k = max(k - float(step), k / 4)
        if abs(step) < 1e-12 * k:
            break
    return k, float(np.exp(u.max() + np.log((share * np.exp(k * (u - u.max()))).sum()) / k))


def _gamma(s: float) -> float:
    """Maximum likelihood of the shape a: ln a − ψ(a) = s = ln E[x] − E[ln x], by Newton's method from T. Minka's start (2002)."""
    a = torch.tensor((3 - s + math.sqrt((s - 3) ** 2 + 24 * s)) / (12 * s), dtype=torch.float64, device="cpu")
    for _ in range(5):
        a = a - (a.log() - a.digamma() - s) / (1 / a - torch.polygamma(1, a))
    return float(a)
