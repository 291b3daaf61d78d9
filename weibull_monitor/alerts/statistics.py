"""Robust statistics down the columns of an array, ignoring NaN; fast for many columns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

SIGMA = 1.4826
"""Standard deviation of a normal distribution, in units of its median absolute deviation."""

IN_BINS = 0.02
"""Resolution of the RMS, times √n: values may lie anywhere in bins of 1 %, which is 0.0045 of noise between two samples."""
ON_GRIDS = 2e-5
"""Resolution of the RMS beside that: a few values on a grid that do not fill their bins are not noticed."""

MOST_TEN = 324
"""Exponents up to this are in `TENS`."""
TENS = np.power(10.0, np.arange(-MOST_TEN, MOST_TEN + 1.0).clip(-308, 308))
"""Powers of ten, that with exponent 0 in the middle; finite and not 0."""


def median_of(values: Floats) -> Floats:
    """Median of each column of ``values`` (n, m) or (n, …), shape (m,) or (…); NaN where a column has no value.

    >>> median_of(np.array([[1.0, np.nan], [2.0, np.nan], [np.nan, np.nan], [9.0, np.nan]])).tolist()
    [2.0, nan]
    """
    if not len(values):
        return np.full(values.shape[1:], np.nan)
    if values.ndim > 2:
        return median_of(values.reshape(len(values), -1)).reshape(values.shape[1:])
    ordered = np.sort(values, axis=0)  # (n, m), NaN last
    if not np.logical_or.reduce(
        np.isnan(ordered[-1]), axis=None
    ):  # nearly always: one row or two are the medians of all columns
        whole: Floats = (ordered[(len(values) - 1) // 2] + ordered[len(values) // 2]) / 2.0
        return whole
    # Otherwise each column has its own number of values, and so its own middle rows.
    count = np.add.reduce(np.isfinite(ordered), axis=0)  # (m,)
    lower, upper = np.maximum(count - 1, 0) // 2, count // 2
    upper = np.minimum(upper, len(values) - 1)
    columns = np.arange(values.shape[1])
    with quiet():
        middle = (ordered[lower, columns] + ordered[upper, columns]) / 2.0
    return np.where(count > 0, middle, np.nan)


def median_along(values: Floats) -> Floats:
    """Median of ``values`` (…, n) along the last dimension, shape (…, 1); NaN where there is no value.

    >>> median_along(np.array([[1.0, 2.0, 9.0], [np.nan, 3.0, 4.0]])).tolist()
    [[2.0], [3.5]]
    >>> median_along(np.zeros((2, 0))).tolist()
    [[nan], [nan]]
    """
    if not values.size:
        return np.full((*values.shape[:-1], 1), np.nan)
    flat = values.reshape(-1, values.shape[-1]).T  # (n, …)
    return median_of(flat).reshape(*values.shape[:-1], 1)


def lengths_of(steps: Sequence[Any]) -> npt.NDArray[np.int64]:
    """Steps of each interval between samples, shape (intervals, 1); of many places at once, (intervals, places, 1).

    >>> lengths_of([0, 10, 30]).tolist()
    [[10], [20]]
    """
    lengths = np.diff(np.array(steps), axis=0)
    return lengths[:, None] if lengths.ndim == 1 else lengths


def rates_of(spent: Floats, steps: Sequence[Any]) -> Floats:
    """Mean η of each interval, (intervals, …, components), from Σ η at the samples (samples, …, components) and their steps."""
    rates: Floats = (spent[1:] - spent[:-1]) / lengths_of(steps)
    return rates


def resolution(elements: Floats) -> Floats:
    """What bins cannot tell of the logarithm of an RMS between two samples, for matrices of so many elements."""
    return ON_GRIDS + IN_BINS / np.sqrt(np.fmax(elements, 1.0))


def spread_of(values: Floats, centre: Floats) -> Floats:
    """Robust standard deviation of each column of ``values`` (n, m) about ``centre`` (m,), shape (m,).

    It is 1.4826 times the median absolute deviation.
    """
    return SIGMA * median_of(np.abs(values - centre))


def or_zero(values: Floats) -> Floats:
    """`np.nan_to_num`, several times as fast where no value is infinite; one value or shape (n,).

    >>> or_zero(np.array([1.0, np.nan])).tolist()
    [1.0, 0.0]
    """
    out = np.where(values == values, values, 0.0)
    return out if np.logical_and.reduce(np.isfinite(out), axis=None) else np.nan_to_num(values)


def reaches(strength: Floats) -> bool:
    """Whether one of some strengths (components,), of which none is NaN, is at least 1."""
    return bool(len(strength)) and bool(np.maximum.reduce(strength) >= 1.0)


_QUIET: ContextVar[bool] = ContextVar("quiet", default=False)


class quiet:
    """Silences numpy's warnings about NaN and division by zero: here both mean that there is no value.

    Not with `warnings.catch_warnings`, after which Python forgets which warnings of the user it has shown. So functions that warn
    by themselves (`np.nanmin` of nothing but NaN) are not called within.
    """

    __slots__ = ("_errors", "_token")

    def __enter__(self) -> None:
        self._token: Token[bool] | None = None
        if not _QUIET.get():  # the engine is quiet as a whole: a replay comes here millions of times
            self._token = _QUIET.set(True)
            self._errors = np.errstate(all="ignore")
            self._errors.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is not None:
            self._errors.__exit__(kind, error, trace)
            _QUIET.reset(self._token)


def rounded(values: Floats) -> Floats:
    """Rounds to nine significant digits, as the history does; rounded values do not change.

    >>> rounded(np.array([0.0123456789012, 0.0, np.nan])).tolist()
    [0.0123456789, 0.0, nan]
    """
    with quiet():
        size = np.abs(values)
        # Powers of ten from a table: logarithms and powers would take most of the time of a sample.
        binary = np.frexp(np.where(np.isfinite(size), size, 1.0))[1]
        power = np.floor((binary - 1) * math.log10(2.0)).astype(np.int64)  # that of log10, or one less
        power += size * (1.0 + 1e-15) >= TENS[np.minimum(power + 1 + MOST_TEN, 2 * MOST_TEN)]
        scale = TENS[np.minimum(np.maximum(8 - power, -290), 290) + MOST_TEN]
        result = np.round(values * scale) / scale
    return np.where(np.isfinite(result), result, values)
