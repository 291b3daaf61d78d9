"""Statistics that a few wild values do not move, down the columns of an array, passing over NaN. All quick for many columns."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

SIGMA = 1.4826
"""Standard deviation of a normal distribution in units of its median absolute deviation."""


def median_of(values: Floats) -> Floats:
    """Median of each column of ``values`` (n, m), shape (m,); NaN where a column has no value.

    >>> median_of(np.array([[1.0, np.nan], [2.0, np.nan], [np.nan, np.nan], [9.0, np.nan]])).tolist()
    [2.0, nan]
    """
    if not len(values):
        return np.full(values.shape[1:], np.nan)
    ordered = np.sort(values, axis=0)  # NaN goes last
    if not np.isnan(ordered[-1]).any():
        whole: Floats = (ordered[(len(values) - 1) // 2] + ordered[len(values) // 2]) / 2.0
        return whole
    count = np.isfinite(ordered).sum(axis=0)
    lower, upper = np.maximum(count - 1, 0) // 2, count // 2
    upper = np.minimum(upper, len(values) - 1)
    columns = np.arange(values.shape[1])
    with quiet():
        middle = (ordered[lower, columns] + ordered[upper, columns]) / 2.0
    return np.where(count > 0, middle, np.nan)


def spread_of(values: Floats, centre: Floats) -> Floats:
    """Robust standard deviation of each column about ``centre``: 1.4826 times the median absolute deviation."""
    return SIGMA * median_of(np.abs(values - centre))


@contextmanager
def quiet() -> Iterator[None]:
    """Silences what numpy says of NaN and of division by zero: here both mean that there is no value."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield
