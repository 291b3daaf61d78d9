"""`MatrixLook`: what is seen of the rows of a matrix while they are read once, in memory of a few numbers a row and column."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from weibull_monitor.checkpoint.look.correlation import design_effect
from weibull_monitor.checkpoint.look.values import FewValues, few_values
from weibull_monitor.model.sharding.layout import Flat, Grid

DIRECTIONS: Final = 16
"""Random directions that rows are projected on."""
SKETCHED: Final = 1 << 21
"""Elements of a matrix, at most, that are projected: its rows are taken evenly."""
SAMPLED: Final = 24
"""Rows, and columns, whose values are compared with one another."""
ALONG: Final = 1024
"""Elements of a sampled row or column that are compared."""
IN_CACHE: Final = 1 << 17
"""Elements that are worked on together."""
LONGEST: Final = 1 << 22
"""Elements of a row. Matrices with longer ones are not looked at."""
SMALLEST: Final = 16
"""Rows and columns of the smallest matrix that is compared with an identity, and elements of a row that can be faint."""
MOST: Final = 3.0
"""Lengths of rows, in those of the median row, are cut there before they are projected."""
DEAD: Final = 0.01
"""A row is dead if its RMS is below this share of the median RMS of the rows that are not zero."""


@dataclass(frozen=True)
class Structure:
    """What a matrix is beyond its distribution.

    Attributes:
        rows: Its rows: elements of the last dimension, of a convolution all but the first.
        columns: Its columns.
        dead_rows: Indices of the rows that are zero, or whose RMS is below 1 % of the median.
        dead_columns: The same for columns.
        identity: The share of Σ w² that lies in c·I, with the best c; 0 if it is not square.
        equal_rows: Whether all rows have the same length, which is not zero.
        directions: Shares of the rows' lengths within their 1, 2, 3, … largest common directions, at most half of `DIRECTIONS`.
            Rows of more than three times the median length are shortened to that, so that a few do not decide. Empty for a
            small matrix.
        design_effect: Variance of k over that of as many independent values; 1 where it is not known.
        values: The few values that it has; None if they are as many as its dtype makes of continuous ones.
    """

    rows: int
    columns: int
    dead_rows: tuple[int, ...] = ()
    dead_columns: tuple[int, ...] = ()
    identity: float = 0.0
    equal_rows: bool = False
    directions: tuple[float, ...] = ()
    design_effect: float = 1.0
    values: FewValues | None = None


class MatrixLook:
    """Takes the rows of a matrix in the order in which they arrive.

    Args:
        shape: Shape of the parameter.
        dtype: Its dtype.
        stacked: Whether the leading dimensions are a stack of matrices, as of experts, and not those of a kernel.
    """

    def __init__(self, shape: Sequence[int], dtype: torch.dtype, stacked: bool = False) -> None:
        self._shape, self._dtype = tuple(shape), dtype
        self.columns = shape[-1] if stacked else math.prod(shape[1:])
        self.rows = math.prod(shape) // max(1, self.columns)
        self._whole = len(shape) > 1 and 0 < self.columns <= LONGEST
        self._flat_rows = self.rows == shape[0] if shape else False
        self._carry: list[Tensor] = []  # the beginning of a row whose end is in the next window
        self._next = 0  # element that a stretch must begin with
        self._seen = 0
        self._squares = torch.zeros(self.rows if self._whole else 0, dtype=torch.float64, device="cpu")
        self._by_column = torch.zeros(self.columns if self._whole else 0, dtype=torch.float64, device="cpu")
        self._trace = 0.0
        self._some = _evenly(self.rows, SAMPLED)
        self._columns = _evenly(self.columns, SAMPLED)
        self._kept: list[Tensor] = []
        self._down: list[Tensor] = []
        self._projected: list[Tensor] = []
        self._stride = max(1, self.rows * self.columns // SKETCHED)
        self._onto: Tensor | None = None

    def add(self, layout: Flat | Grid, local: Tensor) -> None:
        """Looks at a shard of the parameter; one that is not made of whole rows ends the look."""
        if not self._whole:
            return
        if isinstance(layout, Flat):
            self._stretch(layout.start, local.reshape(-1))
        elif self._flat_rows and _of_whole_rows(layout, self._shape):
            first = layout.ranges[0][0][0]
            self._stretch(first * self.columns, local.reshape(-1))
        else:
            self._whole = False

    def _stretch(self, start: int, data: Tensor) -> None:
        if self._carry and start != self._next:
            self._whole = False
            return
        self._next = start + len(data)
        if not self._carry and start % self.columns:
            self._whole = False
            return
        before = sum(map(len, self._carry))
        first = (start - before) // self.columns
        data = torch.cat([*self._carry, data]) if self._carry else data
        complete = len(data) // self.columns
        rest = data[complete * self.columns :]
        self._carry = [rest.clone()] if len(rest) else []  # the window is used again
        at_once = max(1, IN_CACHE // self.columns)
        whole = data[: complete * self.columns].view(complete, self.columns)
        for rows in torch.split(whole, at_once) if complete else ():
            self._look(first, rows)
            first += len(rows)

    def _look(self, first: int, stored: Tensor) -> None:
        """Whole rows, (rows, columns)."""
        rows = stored.float() if stored.dtype != torch.float64 else stored
        squares = rows * rows
        by_row, by_column = squares.sum(1), squares.sum(0)  # (rows,), (columns,): of a window, so fp32 is enough
        if not bool(torch.isfinite(by_column).all()):
            rows = rows.nan_to_num(0.0, 0.0, 0.0).double()
            by_row, by_column = rows.square().sum(1), rows.square().sum(0)
        last = first + len(rows)
        self._seen += len(rows)
        self._squares[first:last] = by_row
        self._by_column += by_column
        if self.rows == self.columns:
            self._trace += float(rows[:, first:last].diagonal().sum())
        wanted = [row - first for row in self._some if first <= row < last]
        self._kept += [stored[row, :ALONG].clone() for row in wanted]
        if first < ALONG:
            self._down.append(stored[: ALONG - first, self._columns].clone())
        offset = -first % self._stride
        if min(self.rows, self.columns) >= 2 * DIRECTIONS and offset < len(rows):
            if self._onto is None:
                generator = torch.Generator().manual_seed(self.columns)
                self._onto = torch.randn(
                    self.columns, DIRECTIONS, generator=generator, dtype=torch.float32, device="cpu"
                )
            chosen = rows[offset :: self._stride].float()
            lengths = chosen.norm(dim=1, keepdim=True)  # (rows, 1)
            cut = lengths.clamp_max(MOST * float(lengths.median())) / lengths.clamp_min(1e-30)
            self._projected.append((chosen * cut) @ self._onto)  # (rows, DIRECTIONS)

    def result(self) -> Structure | None:
        """What was seen; None if the rows were not seen whole, each once."""
        if not self._whole or self._carry or self._seen != self.rows:
            return None
        total = float(self._squares.sum())
        square = self.rows == self.columns >= SMALLEST and total > 0
        along, down = torch.stack(self._kept), torch.cat(self._down).T.contiguous()
        return Structure(
            rows=self.rows,
            columns=self.columns,
            dead_rows=_dead(self._squares, self.columns),
            dead_columns=_dead(self._by_column, self.rows),
            identity=self._trace**2 / (self.rows * total) if square else 0.0,
            equal_rows=total > 0 and bool((self._squares == self._squares[0]).all()),
            directions=_directions(self._projected),
            design_effect=design_effect(along, down, (self.rows, self.columns)),
            values=few_values(along, down, self._dtype),
        )


def _of_whole_rows(layout: Grid, shape: tuple[int, ...]) -> bool:
    return (
        len(layout.ranges) == len(shape)
        and len(layout.ranges[0]) == 1
        and all(here == ((0, size),) for here, size in zip(layout.ranges[1:], shape[1:], strict=True))
    )


def _evenly(of: int, some: int) -> list[int]:
    """At most so many places, evenly over a length."""
    return sorted({place * of // min(of, some) for place in range(min(of, some))})


def _dead(squares: Tensor, elements: int) -> tuple[int, ...]:
    """Places of the rows that are nothing beside the others; none if all are zero, which is said of the matrix.

    Rows of few elements are dead only if they are zero, and single values never.
    """
    alive = squares[squares > 0]
    if not len(alive) or elements < 2:
        return ()
    least = DEAD**2 * alive.median() if elements >= SMALLEST else alive.min()
    return tuple((squares < least).nonzero().flatten().tolist())


def _directions(projected: Sequence[Tensor]) -> tuple[float, ...]:
    """Shares of the length of rows in their largest common directions.

    Rows x of a rank r that is less than the number s of random directions Ω have projections xΩ of rank r. Length that is
    spread evenly over many more directions is spread evenly over the s as well: r of them hold r/s of it, which is taken off.

    Args:
        projected: Projections of rows, each (some rows, `DIRECTIONS`).
    """
    rows = torch.cat(list(projected)).double() if projected else torch.empty(0, DIRECTIONS, device="cpu")
    if len(rows) < SMALLEST or not (rows.any() and rows.isfinite().all()):
        return ()
    energy = torch.linalg.eigvalsh(rows.T @ rows).flip(0).clamp_min(0.0)  # (DIRECTIONS,), the largest first
    share = (energy.cumsum(0) / energy.sum())[: DIRECTIONS // 2].tolist()
    by_chance = [r / DIRECTIONS for r in range(1, DIRECTIONS // 2 + 1)]
    return tuple(max(0.0, (p - c) / (1.0 - c)) for p, c in zip(share, by_chance, strict=True))
