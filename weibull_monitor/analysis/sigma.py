"""How much of the growth of σ comes from λ, and how much from k: an exact decomposition of its logarithm.

Under the fit the standard deviation of |w| is σ = λ·C(k), C(k) = √(Γ(1 + 2/k) − Γ²(1 + 1/k)) (T. Ding, arXiv:2605.18898,
2026). It is a product, so ln σ₁/σ₀ = ln λ₁/λ₀ + ln C(k₁)/C(k₀): nothing is left over, and the order does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from weibull_monitor.measure.weibull import Array, std

MINOR_SHARE = 0.1
"""If one part has less than this share of the movement, the other part dominates."""
NO_GROWTH = 1e-3
"""If neither part moves ln σ by more than this, σ is unchanged: se(ln λ) of a 1024 × 1024 matrix is 0.0008."""

Dominated = Literal["lambda", "k", "both", "unchanged"]


@dataclass(frozen=True)
class SigmaGrowth:
    """The growth of σ from the first point of a trajectory to each point, and its two parts.

    Everything is a logarithm of a ratio to the first point: 0.1 is about 10 %. At every point ``total == from_lambda + from_k``
    up to rounding. The parts of consecutive pieces of a trajectory add up as well.

    Attributes:
        total: ln σ/σ₀, float64, shape (points,).
        from_lambda: ln λ/λ₀.
        from_k: ln C(k)/C(k₀). Positive where k falls: the same scale with heavier tails is a larger σ.
    """

    total: Array
    from_lambda: Array
    from_k: Array

    @property
    def share_of_lambda(self) -> float:
        """The share of λ in the movement to the last point, |from_lambda|/(|from_lambda| + |from_k|); NaN if nothing moved.

        Not the share in ``total``, which may be small while its parts are large and opposite.
        """
        a, b = abs(float(self.from_lambda[-1])), abs(float(self.from_k[-1]))
        return a / (a + b) if a + b > 0 else float("nan")

    @property
    def dominated_by(self) -> Dominated:
        """What moved σ to the last point: ``lambda`` or ``k`` if it has over 90 % of the movement, else ``both``."""
        if max(abs(float(self.from_lambda[-1])), abs(float(self.from_k[-1]))) < NO_GROWTH:
            return "unchanged"
        share = self.share_of_lambda
        return "lambda" if share > 1 - MINOR_SHARE else "k" if share < MINOR_SHARE else "both"


def attribute_sigma(k: npt.ArrayLike, lambda_: npt.ArrayLike) -> SigmaGrowth:
    """Attributes the growth of σ over a trajectory to λ and to k.

    Args:
        k: Shapes, shape (points,) with two points or more; of several matrices (points, matrices), whose logarithms are
            averaged, which keeps the parts adding up.
        lambda_: Scales, in any unit, of the same shape.

    Returns:
        The growth from the first point to each.

    Raises:
        ValueError: If the shapes differ, there are fewer than two points, or a value is not finite and above 0.

    >>> growth = attribute_sigma([2.0, 2.0, 1.0], [0.01, 0.02, 0.02])  # λ doubles; then C(k) rises from √(1 − π/4) to 1
    >>> [round(float(x), 3) for x in (growth.total[-1], growth.from_lambda[-1], growth.from_k[-1])], growth.dominated_by
    ([1.463, 0.693, 0.769], 'both')
    """
    shapes, scales = np.asarray(k, float), np.asarray(lambda_, float)
    if shapes.shape != scales.shape or shapes.ndim not in (1, 2) or len(shapes) < 2:
        raise ValueError(
            f"k has shape {shapes.shape}, lambda_ {scales.shape}; both must be (points,) or (points, matrices), with two points "
            "or more"
        )
    for name, values in (("k", shapes), ("lambda_", scales)):
        if not (np.isfinite(values).all() and (values > 0).all()):
            raise ValueError(f"{name} must be finite and above 0 everywhere; leave out points without a fit")
    # Each factor of σ as a log ratio to the first point, (points,) or (points, matrices); then the mean over matrices.
    parts = [x - x[0] for x in (np.log(scales), np.log(std(shapes)))]
    from_lambda, from_k = (x.mean(axis=1) if x.ndim == 2 else x for x in parts)  # (points,)
    return SigmaGrowth(from_lambda + from_k, from_lambda, from_k)
