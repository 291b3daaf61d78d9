"""How much less a matrix tells of k than as many independent values, since values of one row, or column, are alike."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

SHARE: Final = 0.1
"""Values below and above these shares count as if they lay there, as the fit leaves them out."""
FEWEST: Final = 8
"""Rows or columns that are needed."""


def design_effect(rows: Tensor, columns: Tensor, shape: tuple[int, int]) -> float:
    """Var(k) over that of as many independent values, from some rows and columns: its root is the factor on ``k_se``.

    k is about (π/√6)/sd(ln|w|), so a value x = ln|w| moves it by -k/2·((x - μ)²/σ² - 1)/n. Means of that over rows scatter
    more than those of independent values do by the variance between rows. A matrix of C columns with the share ρ of the variance
    between rows has 1 + Cρ times the variance (L. Kish, "Survey Sampling", 1965, chapter 5.4), and columns add the same.

    Args:
        rows: Some rows, (some, elements along a row).
        columns: Some columns, (some, elements along a column).
        shape: Rows and columns of the matrix.

    Returns:
        1 or more.

    >>> noise = torch.randn(24, 512, generator=torch.Generator().manual_seed(0))
    >>> design_effect(noise, noise, (512, 512)) < 2.5
    True
    >>> design_effect(noise * torch.linspace(0.5, 2.0, 24)[:, None], noise, (512, 512)) > 3
    True
    """
    return 1.0 + shape[1] * _between(rows) + shape[0] * _between(columns)


def _between(units: Tensor) -> float:
    """The share of the variance of the influence on k that lies between rows, or columns; 0 if there are too few."""
    if len(units) < FEWEST or units.shape[1] < FEWEST:
        return 0.0
    sizes = units.double().nan_to_num(0.0, 0.0, 0.0).abs()
    x = sizes.clamp_min(torch.finfo(torch.float32).tiny).log()  # (units, elements)
    ordered = x.flatten().sort().values
    low, high = ordered[int(SHARE * len(ordered))], ordered[int((1.0 - SHARE) * len(ordered)) - 1]
    x = x.clamp(low, high)
    influence = (x - x.mean()).square()
    total = float(influence.var())
    if not total > 0.0:
        return 0.0
    # Means of independent values scatter by total/elements.
    return max(0.0, float(influence.mean(1).var()) / total - 1.0 / units.shape[1])
