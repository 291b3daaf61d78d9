"""Columns of a history as arrays, and arrays as short strings that a page decodes into typed arrays."""

from __future__ import annotations

import base64
import warnings
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from weibull_monitor.history.record import History, RecordedSnapshot, as_array
from weibull_monitor.model.components import Component

Array = npt.NDArray[np.float64]

MISSING: Final = 65535
"""The 16-bit integer for a missing value."""


def matrix(snapshots: Sequence[RecordedSnapshot], components: tuple[Component, ...], column: str) -> Array:
    """One column of a run.

    Args:
        snapshots: Samples; their components may differ from those of the result.
        components: The components of the result, one per column.
        column: One of `weibull_monitor.history.columns.COLUMNS`.

    Returns:
        Shape (samples, components), NaN where there is no value.
    """
    out = np.full((len(snapshots), len(components)), np.nan)
    for row, snapshot in enumerate(snapshots):
        if column not in snapshot.columns:
            continue
        if snapshot.components is components or snapshot.components == components:
            out[row] = as_array(snapshot.columns, (column,))[0]
        else:  # parameters have come or gone
            by_name = snapshot.values(column)
            out[row] = [by_name.get(component.name, np.nan) for component in components]
    return out


class Columns:
    """The columns of a history, each made into an array once.

    Args:
        history: A history with samples.
    """

    def __init__(self, history: History) -> None:
        self.history = history
        self.components = history.components
        self._known: dict[str, Array] = {}

    def __getitem__(self, column: str) -> Array:
        """Shape (samples, components of the last sample)."""
        if column not in self._known:
            self._known[column] = matrix(self.history.snapshots, self.components, column)
        return self._known[column]


def median(values: Array) -> Array:
    """Median over the second axis, without missing values; NaN where there is none."""
    return _over(np.nanmedian, values)


def lowest(values: Array) -> Array:
    """The lowest value over the second axis; NaN where there is none."""
    return _over(np.nanmin, values)


def highest(values: Array) -> Array:
    """The highest value over the second axis; NaN where there is none."""
    return _over(np.nanmax, values)


def error_of_median(errors: Array) -> Array:
    """Standard error of the median over the second axis, from the errors of the single values.

    1.2533 (= √(π/2)) times that of the mean, for three or more normal values.

    >>> error_of_median(np.array([[0.01, 0.01, 0.01, 0.01], [0.01, np.nan, np.nan, np.nan]])).round(5).tolist()
    [0.00627, 0.01]
    """
    n = np.isfinite(errors).sum(axis=1)
    total = np.sqrt(np.nansum(errors**2, axis=1)) / np.maximum(n, 1)
    return np.where(n > 0, np.where(n > 2, 1.2533, 1.0) * total, np.nan)


def floats(values: npt.ArrayLike) -> str:
    """Numbers as base64 of 32-bit floats, little-endian: seven digits, NaN where there is none."""
    return base64.b64encode(np.asarray(values, dtype="<f4").tobytes()).decode()


def integers(values: Array) -> dict[str, Any]:
    """Rows of numbers as base64 of 16-bit integers, each column over its own range: off by 1/131,068 of it at most.

    Args:
        values: Shape (rows, columns).

    Returns:
        ``low`` and ``high``, the range of each column, as `floats` gives them, and ``data``, the integers row by row:
        0 is ``low``, 65534 is ``high``, and 65535 stands where there is no value.
    """
    low, high = lowest(values.T), highest(values.T)
    low, high = (np.asarray(np.asarray(end, "<f4"), np.float64) for end in (low, high))  # as the page will know them
    span = np.where(high > low, high - low, 1.0)
    steps = np.clip(np.round((values - low) / span * (MISSING - 1)), 0, MISSING - 1)
    data = np.where(np.isfinite(values), np.nan_to_num(steps), MISSING).astype("<u2")
    return {"low": floats(low), "high": floats(high), "data": base64.b64encode(data.tobytes()).decode()}


def _over(of: Any, values: Array) -> Array:
    if not values.size:
        return np.full(len(values), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # rows without a value give NaN, as they should
        return np.asarray(of(values, axis=1), dtype=np.float64)
