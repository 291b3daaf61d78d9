from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest
import torch
from oracle import exact_fit
from scipy import stats

from weibull_monitor.measure import weibull

SHAPES = [0.3, 0.76, 1.0, 1.2054, 2.0]


@pytest.mark.parametrize("k", SHAPES)
def test_closed_forms_agree_with_scipy(k: float) -> None:
    scale = 0.019
    law = stats.weibull_min(k, scale=scale)
    p = np.array([0.001, 0.1, 0.5, 0.9, 0.999])
    np.testing.assert_allclose(weibull.quantile(p, k, scale), law.ppf(p), rtol=1e-10)
    np.testing.assert_allclose(weibull.std(k, scale), law.std(), rtol=1e-9)


def test_closed_forms_broadcast_over_arrays() -> None:
    k = np.array(SHAPES)
    assert weibull.std(k, 0.02).shape == k.shape
    assert weibull.quantile(np.array([[0.1], [0.9]]), k).shape == (2, len(k))


# Population values of the middle-80 % plot, computed independently of this package.
PUBLISHED = {
    "normal": (1.205434, 0.887487, 0.997740),
    "truncated_normal_2": (1.227173, 0.830310, 0.996342),
    "truncated_normal_3": (1.206839, 0.883947, 0.997659),
    "uniform": (1.375118, 0.607365, 0.983063),
    "laplace": (1.0, 1.0, 1.0),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_anchors_to_six_digits(name: str) -> None:
    anchor = weibull.anchors()[name]
    assert (anchor.k, anchor.lambda_, anchor.r2) == pytest.approx(PUBLISHED[name], abs=1.1e-6)


def test_anchors_are_those_of_the_quadrature() -> None:
    computed = weibull.computed_anchors()
    assert computed.keys() == weibull.anchors().keys()
    for name, anchor in weibull.anchors().items():
        assert astuple(anchor) == pytest.approx(astuple(computed[name]), rel=1e-12)


@pytest.mark.parametrize(
    ("dof", "expected"),
    [
        (3, (1.105730, 1.068074, 0.999833)),
        (5, (1.148275, 0.988085, 0.999571)),
        (10, (1.177934, 0.935093, 0.998833)),
    ],
)
def test_anchor_of_any_quantile_function(dof: int, expected: tuple[float, float, float]) -> None:
    anchor = weibull.anchor(lambda f: stats.t.ppf((1 + f) / 2, dof))
    assert (anchor.k, anchor.lambda_, anchor.r2) == pytest.approx(expected, abs=1.1e-6)


def test_noise_constants_agree_with_simulation() -> None:
    """2,000 draws of 4,096 normal values gave 1.137 and 0.863; the constants must be within the error of that."""
    normal = weibull.anchors()["normal"]
    assert normal.k_noise == pytest.approx(1.137, rel=0.03)
    assert normal.lambda_noise == pytest.approx(0.863, rel=0.03)
    generator = torch.Generator().manual_seed(7)
    n, draws = 2048, 600
    for name, draw in {
        "laplace": lambda: torch.empty(n).exponential_(generator=generator),
        "uniform": lambda: torch.rand(n, generator=generator),
    }.items():
        fits = np.array([exact_fit(draw())[:2] for _ in range(draws)])
        spread = fits.std(axis=0) / fits.mean(axis=0) * np.sqrt(n)
        anchor = weibull.anchors()[name]
        assert spread == pytest.approx([anchor.k_noise, anchor.lambda_noise], rel=5 / np.sqrt(2 * draws)), name
