"""Values by name that are kept as arrays: those of a sample are computed with together, and hardly ever looked at one by one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]
Value = TypeVar("Value", covariant=True)


def fitted(k: Numbers, lambda_: Numbers) -> npt.NDArray[np.bool_]:
    """`WeibullFit.available` of many fits, bool of their shape."""
    found: npt.NDArray[np.bool_] = np.isfinite(k) & np.isfinite(lambda_) & (k > 0)
    return found


class Rows(Mapping[str, Value]):
    """Objects by name whose attributes are kept as columns; an object is made when it is asked for.

    Args:
        names: The names, one for each row.
        here: Whether a row has a value, bool (rows,); None if all have.
    """

    def __init__(self, names: tuple[str, ...], here: npt.NDArray[np.bool_] | None = None) -> None:
        self.names = names
        self.here = np.ones(len(names), dtype=bool) if here is None else here
        self._all = bool(self.here.all())
        self._places: dict[str, int] | None = None
        self._made: dict[str, Any] = {}

    @abstractmethod
    def column(self, path: str) -> Numbers:
        """An attribute of each row, or an attribute of it, written with a dot: float64 (rows,); NaN where there is none."""

    @abstractmethod
    def _make(self, row: int) -> Value:
        """The object of a row."""

    def aligned(self, path: str, names: tuple[str, ...]) -> Numbers:
        """A column in the order of other names, NaN for those that are not here."""
        values = self.column(path)
        if names is self.names or names == self.names:
            return values
        places = self._place()
        found = [places.get(name, -1) for name in names]
        return np.append(values, np.nan)[found]

    def __getitem__(self, name: str) -> Value:
        """The object of a name."""
        if name not in self._made:
            self._made[name] = self._make(self._place()[name])
        made: Value = self._made[name]
        return made

    def __contains__(self, name: object) -> bool:
        return name in self._place()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names if self._all else self._place())

    def __len__(self) -> int:
        return len(self.names) if self._all else int(self.here.sum())

    def __repr__(self) -> str:
        return repr(dict(self))

    def _place(self) -> dict[str, int]:
        """The row of each name that has a value."""
        if self._places is None:
            here = range(len(self.names)) if self._all else np.flatnonzero(self.here).tolist()
            self._places = {self.names[row]: row for row in here}
        return self._places
