"""Numbers as a history keeps them: nine significant digits, far below the sampling noise of the largest matrix."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from weibull_monitor.measure.rows import Numbers

_TENS: Final = 10.0 ** np.arange(23)  # these powers of ten are exact, and so is their quotient with nine digits, once rounded


def nine_digits(values: Numbers) -> Numbers:
    """Each value rounded to nine significant digits, as ``float(f"{value:.9g}")`` is; NaN and Inf as they are.

    >>> nine_digits(np.array([0.12345678949, -2.5e-7, 3.0, 0.0, np.nan])).tolist()
    [0.123456789, -2.5e-07, 3.0, 0.0, nan]
    """
    digits, exponent, exact = _split(values)
    with np.errstate(invalid="ignore"):
        found: Numbers = np.copysign(digits / _TENS[8 - exponent], values)
    for place in np.flatnonzero(~exact).tolist():
        found.flat[place] = float(f"{values.flat[place]:.9g}")
    return found


def _split(values: Numbers) -> tuple[Numbers, npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Nine digits of |v|, as a whole number from 10⁸ on; the exponent of the first; and whether they are certain.

    A product with a power of ten is off by half a unit in its last place at most, 2⁻²⁴ for nine digits: only next to the middle
    between two of them it does not say which is nearer.
    """
    size = np.abs(values)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        logarithm = np.floor(np.log10(size))
        inside = (logarithm >= -14) & (logarithm <= 8)
        exponent = np.where(inside, logarithm, 0.0).astype(np.int64)
        scaled = size * _TENS[8 - exponent]
        digits = np.rint(scaled)
        certain = np.abs(np.abs(scaled - digits) - 0.5) > 1e-6
        exact = inside & certain & (digits >= 1e8) & (digits < 1e9)
    zero = size == 0.0
    return np.where(exact, digits, 0.0), exponent, exact | zero
