"""Values of a sample: read from what is held for each matrix, and their median."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np


def median_of(values: Iterable[float | None]) -> float | None:
    """Median of the values that exist, or None."""
    present = [value for value in values if value is not None]
    if not present or len(present) > 500 or math.isnan(sum(present)):
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


def finite(value: float | None) -> float | None:
    """The value; None for Inf and NaN."""
    return value if value is not None and math.isfinite(value) else None
