"""Independent implementations that the package is held to. None of them shares code with it."""

from __future__ import annotations

import numpy as np
import torch


def exact_fit(weights: torch.Tensor) -> tuple[float, float, float]:
    """(k, lambda, R²) of the published protocol by a full sort in float64; NaN where no two values differ."""
    a = np.sort(np.abs(weights.detach().double().numpy().ravel()))
    a = a[(a > 0) & np.isfinite(a)]
    f = (np.arange(1, len(a) + 1) - 0.5) / len(a)
    kept = (f >= 0.1) & (f <= 0.9)
    x, y = np.log(a[kept]), np.log(-np.log1p(-f[kept]))
    if len(x) == 0 or x[0] == x[-1]:
        return np.nan, np.nan, np.nan
    dx, dy = x - x.mean(), y - y.mean()
    k = (dx @ dy) / (dx @ dx)
    return float(k), float(np.exp(x.mean() - y.mean() / k)), float((dx @ dy) ** 2 / ((dx @ dx) * (dy @ dy)))


def samples(name: str, n: int, seed: int = 0) -> torch.Tensor:
    """float64 draws of a named distribution."""
    rng = np.random.default_rng(seed)
    values = {
        "normal": lambda: rng.standard_normal(n) * 0.02,
        "weibull 0.76": lambda: rng.weibull(0.76, n) * 0.01,
        "weibull 0.3": lambda: rng.weibull(0.3, n),
        "student t 3": lambda: rng.standard_t(3, n),
        "laplace": lambda: rng.laplace(size=n),
        "uniform": lambda: rng.uniform(-0.05, 0.05, n),
        "two scales": lambda: rng.standard_normal(n) * np.where(rng.random(n) < 0.5, 1.0, 0.01),
        "half zeros": lambda: rng.standard_normal(n) * (rng.random(n) < 0.5),
        "huge": lambda: rng.standard_normal(n) * 1e30,
        "tiny": lambda: rng.standard_normal(n) * 1e-30,
    }[name]()
    return torch.from_numpy(values)
