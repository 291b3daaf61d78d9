"""The two-parameter Weibull distribution of weight magnitudes: closed forms and initialisation anchors.

Throughout, ``k`` is the (dimensionless) shape and ``lambda_`` the scale in the unit of the weights;
``F(x) = 1 - exp(-(x / lambda_)**k)`` for ``x >= 0``. Every function broadcasts over numpy arrays.

The *anchors* answer the question "what do k, lambda and R² read before any training?": they are the population values
of the middle-80 % probability plot for the distributions that weights are initialised with.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Numeric = float | Array

F_LOW, F_HIGH = 0.1, 0.9
"""The part of the probability plot that is fitted: T. Ding, arXiv:2605.18898 (2026)."""

# fmt: off
LEVELS = (
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.035, 0.055, 0.075,
    0.1, 0.12, 0.14, 0.165, 0.19, 0.22, 0.25, 0.29, 0.33, 0.38, 0.43, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.84, 0.87, 0.9,
    0.925, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999,
)
# fmt: on
"""The shares F at which quantiles are kept: enough to draw the probability plot of a matrix, about even in ln(-ln(1-F))."""

_lgamma = np.vectorize(math.lgamma, otypes=[np.float64])


def _moment(k: Numeric, lambda_: Numeric, order: int) -> Any:
    """E[X**order] = lambda_**order · Γ(1 + order/k)."""
    return np.asarray(lambda_, float) ** order * np.exp(_lgamma(1.0 + order / np.asarray(k, float)))


def quantile(p: Numeric, k: Numeric, lambda_: Numeric = 1.0) -> Any:
    """The value below which a share ``p`` lies: ``lambda_ · (-ln(1 - p))**(1/k)``.

    >>> float(round(quantile(0.5, k=1.0, lambda_=2.0), 6))  # an exponential of mean 2
    1.386294
    """
    return lambda_ * (-np.log1p(-np.asarray(p, float))) ** (1.0 / np.asarray(k, float))


def std(k: Numeric, lambda_: Numeric = 1.0) -> Any:
    """Standard deviation of |w| under the fit: ``lambda_ · sqrt(Γ(1 + 2/k) - Γ(1 + 1/k)²)``.

    >>> round(float(std(k=1.0, lambda_=3.0)), 9)
    3.0
    """
    return np.sqrt(_moment(k, lambda_, 2) - _moment(k, lambda_, 1) ** 2)


@dataclass(frozen=True)
class Anchor:
    """What the middle-80 % probability plot reads on an infinitely large matrix of a known distribution.

    Attributes:
        k: Shape.
        lambda_: Scale, in units of the distribution's own scale parameter.
        r2: R² of the plot's straight line.
        k_noise: ``sd(k) · sqrt(n) / k`` of a matrix of ``n`` independent values.
        lambda_noise: ``sd(lambda) · sqrt(n) / lambda``.
    """

    k: float
    lambda_: float
    r2: float
    k_noise: float
    lambda_noise: float


def anchor(magnitude_quantile: Callable[[Array], Array], nodes: int = 400) -> Anchor:
    """The population values of the middle-80 % plot, by Gauss-Legendre quadrature in F.

    The plot is the curve (ln Q(F), ln(-ln(1-F))), 0.1 <= F <= 0.9; its least-squares line is
    ``k = Cov(x, y) / Var(x)``, ``lambda = exp(mean(x) - mean(y)/k)``. The noise constants follow from the same integrals
    by the delta method: a sample moves the quantile function by a Brownian bridge (A. W. van der Vaart, *Asymptotic
    Statistics*, 1998, §21), and both estimates are smooth functionals of it.

    Args:
        magnitude_quantile: Q, the quantile function of |w|, vectorised over float64 arrays of F in (0, 1).
        nodes: Number of quadrature nodes.

    Returns:
        The anchor, accurate to about 1e-10 in ``k``, ``lambda_`` and ``r2`` for smooth quantile functions.

    >>> exponential = anchor(lambda p: -np.log1p(-p))  # |w| of a Laplace distribution
    >>> round(exponential.k, 9), round(exponential.lambda_, 9), round(exponential.r2, 9)
    (1.0, 1.0, 1.0)
    """
    points, weights = _nodes(nodes)
    f = F_LOW + (F_HIGH - F_LOW) * (points + 1.0) / 2.0
    w = weights / 2.0  # so that sums are means over the fitted range
    x, y = np.log(magnitude_quantile(f)), np.log(-np.log1p(-f))
    x_mean, y_mean = float(w @ x), float(w @ y)
    dx, dy = x - x_mean, y - y_mean
    sxx, sxy, syy = float(w @ dx**2), float(w @ (dx * dy)), float(w @ dy**2)
    k = sxy / sxx

    def noise(gradient: Array) -> float:
        """sd · sqrt(n) of a functional with derivative `gradient` (per unit of mean over the range) in x(F)."""
        slope = np.gradient(x, f)
        tail = np.cumsum((gradient * slope * w)[::-1])[::-1] - gradient * slope * w / 2.0
        ends = F_LOW * float((gradient * slope * w).sum())
        first = (F_HIGH - F_LOW) * float(w @ tail) + ends
        second = (F_HIGH - F_LOW) * float(w @ tail**2) + ends**2 / F_LOW
        return math.sqrt(second - first**2)

    grad_k = (dy - 2.0 * k * dx) / sxx
    grad_log_lambda = 1.0 + grad_k * y_mean / k**2
    return Anchor(
        k=k,
        lambda_=math.exp(x_mean - y_mean / k),
        r2=sxy**2 / (sxx * syy),
        k_noise=noise(grad_k) / k,
        lambda_noise=noise(grad_log_lambda),
    )


@lru_cache(maxsize=4)
def _nodes(count: int) -> tuple[Array, Array]:
    """Nodes and weights of the quadrature, (count,) each: the eigenvalues of a matrix, so they are computed once."""
    return np.polynomial.legendre.leggauss(count)


def normal_quantile(p: Array) -> Array:
    """The quantiles of the standard normal distribution, shape (n,)."""
    return np.array([NormalDist().inv_cdf(one) for one in p.tolist()])


def computed_anchors() -> dict[str, Anchor]:
    """What `anchors` returns, computed anew: a tenth of a second, which is long for a program that only reads a history."""

    def truncated(at: float) -> Callable[[Array], Array]:
        half = math.erf(at / math.sqrt(2.0)) / 2.0
        return lambda f: normal_quantile(0.5 + f * half)

    return {
        "normal": anchor(lambda f: normal_quantile((1.0 + f) / 2.0)),
        "truncated_normal_2": anchor(truncated(2.0)),
        "truncated_normal_3": anchor(truncated(3.0)),
        "uniform": anchor(lambda f: f),
        "laplace": anchor(lambda f: -np.log1p(-f)),
    }


_ANCHORS = {
    "normal": Anchor(
        1.2054343190174532,
        0.8874870398322677,
        0.9977403672326515,
        1.1321548303288678,
        0.862080021001968,
    ),
    "truncated_normal_2": Anchor(
        1.2271737111744996,
        0.8303102520879425,
        0.9963425107068247,
        1.1533393398151714,
        0.827715649693969,
    ),
    "truncated_normal_3": Anchor(
        1.2068391393977635,
        0.8839471040616446,
        0.9976588336098259,
        1.1334674704825107,
        0.8597031290731071,
    ),
    "uniform": Anchor(
        1.3751188053625618,
        0.6073655966474613,
        0.9830633575388067,
        1.309064747635834,
        0.6676907091157998,
    ),
    "laplace": Anchor(1.0, 1.0, 1.0, 1.0207056822984926, 1.1065226289395582),
}
"""The result of `computed_anchors`, which a test compares with it."""


def anchors() -> dict[str, Anchor]:
    """Anchors of the usual initialisations, by name; ``lambda_`` in units of the parameter that the name implies.

    ``normal`` (unit: standard deviation σ), ``truncated_normal_2`` and ``truncated_normal_3`` (cut at ±2σ and ±3σ; unit:
    σ before truncation), ``uniform`` on ±b (unit: b; PyTorch's default for ``nn.Linear``), ``laplace`` (unit: its scale).

    >>> round(anchors()["normal"].k, 6), round(anchors()["uniform"].k, 6)
    (1.205434, 1.375119)
    """
    return _ANCHORS
