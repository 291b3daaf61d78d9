"""The fits of a model's matrices as one array."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

from weibull_monitor.measure.fit import FIELDS, WeibullFit, unpacked
from weibull_monitor.measure.rows import Numbers, Rows, fitted

_PLACES = {name: place for place, name in enumerate(FIELDS)}


class FitRows(Rows[WeibullFit]):
    """The fits of matrices by name.

    Args:
        names: The names of all matrices.
        numbers: The columns of the result of `weibull_monitor.measure.solve`, float64 (RESULT_COLUMNS, matrices).
        here: Whether a matrix has such a result, bool (matrices,). It may still say that there is no fit.
    """

    def __init__(self, names: tuple[str, ...], numbers: Numbers, here: npt.NDArray[np.bool_]) -> None:
        super().__init__(names, here)
        self.numbers = numbers

    def column(self, path: str) -> Numbers:
        """An attribute of each fit, float64 (matrices,); NaN for matrices that have none."""
        values: Numbers = self.numbers[_PLACES[path]]
        return values

    @cached_property
    def available(self) -> npt.NDArray[np.bool_]:
        """`WeibullFit.available` of each matrix, bool (matrices,)."""
        return fitted(self.column("k"), self.column("lambda_"))

    def _make(self, row: int) -> WeibullFit:
        return unpacked(self.numbers[:, row].tolist())
