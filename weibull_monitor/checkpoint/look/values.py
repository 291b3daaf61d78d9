"""Few distinct values: whether a matrix was quantised and then dequantised, and with what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

import torch
from torch import Tensor

from weibull_monitor.model.components.storage import MANTISSA

NF4: Final = (0.07958, 0.09105, 0.1609, 0.18477, 0.2461, 0.28444, 0.33792, 0.39492, 0.44071, 0.52507)
NF4_LARGE: Final = (0.5626, 0.69619, 0.72296, 1.0)
"""Magnitudes of NormalFloat with 4 bits, as shares of the largest of 64 values: T. Dettmers et al., arXiv:2305.14314 (2023)."""
FP4: Final = (1 / 12, 1 / 6, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 1.0)
"""Those of a float with 2 bits of exponent and 1 of mantissa; bitsandbytes' variant has 0.0052 for the least."""
GROUPS: Final = (32, 64, 128)
"""Values of a row that share a scale, in formats with scales by group."""
FEWER: Final = 0.7
"""Distinct values as a share of those that continuous ones of the same dtype would have, below which they are few."""
LEAST: Final = 24
"""Values that are needed to say that few of them are distinct."""


@dataclass(frozen=True)
class FewValues:
    """The few distinct values of a matrix.

    Attributes:
        distinct: Distinct values that are not zero in a unit, median.
        of: Values of a unit that are not zero, median.
        unit: ``row``, ``column``, or ``group of 64``: where they are fewest.
        looks: What it looks like: ``ternary``, ``two values``, ``NF4``, ``FP4``, ``4-bit integers``, ``8-bit integers``,
            ``bfloat16``, ``float16`` or ``fp8`` kept in a wider dtype; empty if nothing known.
    """

    distinct: int
    of: int
    unit: str
    looks: str

    @property
    def quantised(self) -> bool:
        """Whether they are fewer than those of a float of 16 bits."""
        return self.looks not in ("bfloat16", "float16")


def few_values(rows: Tensor, columns: Tensor, dtype: torch.dtype) -> FewValues | None:
    """What the values of some rows and columns say of a matrix; None if they are as many as those of continuous ones.

    Args:
        rows: Some whole rows, (some rows, columns).
        columns: Some whole columns, (some columns, rows).
        dtype: Their dtype. A dtype of 8 bits has few values by itself, and is left alone.

    >>> import torch
    >>> noise = torch.randn(16, 256, generator=torch.Generator().manual_seed(0))
    >>> few_values(noise, noise.T, torch.float32) is None
    True
    >>> step = noise.abs().amax(1, keepdim=True) / 127
    >>> few_values((noise / step).round() * step, noise.T, torch.float32).looks
    '8-bit integers'
    """
    if dtype.itemsize < 2:
        return None
    units = {"row": rows, "column": columns}
    for size in GROUPS:
        if rows.shape[1] % size == 0:
            units[f"group of {size}"] = rows.reshape(len(rows), -1, size)[:, :4].reshape(-1, size)
    found = [one for unit, members in units.items() if (one := _of_unit(unit, members, dtype))]
    return min(found, key=lambda one: (_RANK.get(one.looks, 9), one.distinct / one.of), default=None)


def _of_unit(unit: str, values: Tensor, dtype: torch.dtype) -> FewValues | None:
    """The same of one unit: values, (units, elements)."""
    used = values[torch.isfinite(values).all(1)]
    used = used[(used != 0).sum(1) >= LEAST]
    if not len(used):
        return None
    generator = torch.Generator().manual_seed(used.shape[1])
    filled = used.double().where(used != 0, torch.nan)
    middle = filled.nanmean(1, keepdim=True)  # (units, 1): of what is not zero, as the spread
    spread = (filled - middle).square().nanmean(1, keepdim=True).sqrt()
    normal = torch.randn(used.shape, generator=generator, dtype=torch.float32, device="cpu") * spread + middle
    distinct, expected = _distinct(used), _distinct(normal.to(dtype).where(used != 0, 0.0))
    if float((distinct / expected).median()) > FEWER:
        return None
    kept = [one[one != 0] for one in used]
    looks = [_looks(one, dtype) for one in kept]
    usual = max(set(looks), key=looks.count)
    agreed = usual if looks.count(usual) > 0.6 * len(looks) else ""
    return FewValues(round(median(distinct.tolist())), round(median(map(len, kept))), unit, agreed)


def _distinct(values: Tensor) -> Tensor:
    """How many distinct values that are not zero each row has, (rows,)."""
    ordered = values.float().sort(dim=1).values if values.dtype != torch.float64 else values.sort(dim=1).values
    return 1 + (ordered.diff(dim=1) != 0).sum(1) - (values == 0).any(1).long()


def _looks(values: Tensor, dtype: torch.dtype) -> str:
    """What the values of one unit look like."""
    return next((name for name, test in _TESTS.items() if test(values, dtype)), "")


def _one_magnitude(values: Tensor, dtype: torch.dtype) -> bool:
    return len(torch.unique(values.abs())) == 1


def _close(values: Tensor, book: Sequence[float], dtype: torch.dtype) -> bool:
    """Whether all values are in a table of shares of the largest."""
    shares = (values.abs() / values.abs().max()).double()
    away = (shares[:, None] - torch.tensor(book, dtype=torch.float64, device="cpu")).abs().amin(1)
    return bool((away < 2.0 ** -min(9, MANTISSA[dtype])).all()) and len(torch.unique(values)) > 2


def _multiples(values: Tensor, most: int, dtype: torch.dtype) -> bool:
    """Whether values are whole multiples of a step, up to a largest one."""
    sizes = torch.unique(values.abs().double())
    error = 2.0 ** -(MANTISSA[dtype] + 1)
    for first in range(1, 9):  # the least magnitude may be 1, 2, … steps
        step = float(sizes[0]) / first
        if float(sizes[-1]) / step > most + 0.5:
            return False
        for size in sizes.tolist():  # a larger value tells the step more precisely
            step = size / max(1, round(size / step))
        steps = sizes / step
        near = (steps - steps.round()).abs()
        if bool((near <= 0.02 + 2.0 * error * steps).all()) and bool((steps.round().diff() > 0.5).all()):
            return True
    return False


def _mantissa(bits: int, least: float, largest: float) -> Callable[[Tensor, torch.dtype], bool]:
    """Whether values have so few bits of mantissa, in a dtype that has more, and lie in its range."""

    def test(values: Tensor, dtype: torch.dtype) -> bool:
        if MANTISSA[dtype] <= bits:
            return False
        mantissa, _ = torch.frexp(values.double())
        scaled = mantissa * 2.0 ** (bits + 1)
        sizes = values.abs().double()
        return bool((scaled == scaled.round()).all()) and bool((sizes >= least).all() and (sizes <= largest).all())

    return test


_TESTS: Final[dict[str, Callable[[Tensor, torch.dtype], bool]]] = {
    "ternary": _one_magnitude,
    "NF4": lambda values, dtype: _close(values, (*NF4, *NF4_LARGE), dtype),
    "FP4": lambda values, dtype: _close(values, (*FP4, 0.0052), dtype),
    "4-bit integers": lambda values, dtype: _multiples(values, 15, dtype),
    "fp8": lambda values, dtype: any(
        _mantissa(*form)(values, dtype) for form in ((3, 2.0**-9, 448.0), (2, 2.0**-16, 57344.0))
    ),
    "8-bit integers": lambda values, dtype: _multiples(values, 255, dtype),
    "bfloat16": _mantissa(7, 0.0, 3.4e38),
    "float16": _mantissa(10, 2.0**-24, 65504.0),
}
_RANK: Final = {name: rank for rank, name in enumerate(_TESTS)}
