"""Values of a sample: read from what is held for each matrix, and their median."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from weibull_monitor.measure.rows import Numbers, Rows

MANY: Final = 500
"""Above so many values, NumPy finds a median sooner than Python."""


def median_of(values: Iterable[float | None]) -> float | None:
    """Median of the values that exist, or None."""
    present = [value for value in values if value is not None]
    if not present or len(present) > MANY or math.isnan(sum(present)):
        return float(np.median(present)) if present else None
    present.sort()  # several times as fast for few values
    return float(present[(len(present) - 1) // 2] + present[len(present) // 2]) / 2.0


def read(held: Mapping[str, Any], names: Iterable[str], path: str) -> list[float | None]:
    """An attribute of what is held for each name, or an attribute of it, written with a dot; None if one of them is None."""
    if not held:
        return [None for _ in names]
    first, _, second = path.partition(".")
    found = [getattr(held.get(name), first, None) for name in names]
    return [getattr(one, second, None) for one in found] if second else found


def aligned(held: Mapping[str, Any], path: str, names: tuple[str, ...]) -> Numbers:
    """As `read`, float64 (names,): NaN where there is none."""
    if isinstance(held, Rows):
        return held.aligned(path, names)
    if not held:
        return np.full(len(names), np.nan)
    return np.array(read(held, names, path), dtype=np.float64)  # None becomes NaN


def present(held: Mapping[str, Any], names: tuple[str, ...]) -> npt.NDArray[np.bool_]:
    """Whether something is held for each name, bool (names,)."""
    if isinstance(held, Rows) and (held.names is names or held.names == names):
        return held.here
    return np.array([name in held for name in names], dtype=bool)


def finite(value: float | None) -> float | None:
    """The value; None for Inf and NaN."""
    return value if value is not None and math.isfinite(value) else None
