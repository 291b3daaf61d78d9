"""A model's matrices as the few launches that measure them, prepared once and used at every sample.

Rows of counts are shared: a launch has as many as fit in `COUNT_BYTES`, the solve empties those that it is done with, and the
next launch takes them. A matrix that parts make up has a row of its own, into which each part is counted too; it waits for its
last part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from weibull_monitor.measure.bins import Bins, bins_of
from weibull_monitor.measure.kernels.table import ROWS, rows_of
from weibull_monitor.measure.plain.solve import RESULT_COLUMNS

if TYPE_CHECKING:
    from weibull_monitor.measure.kernels.launch import Kernels

COUNT_BYTES = 40 << 20
"""What rows of counts may take on the device: 321 rows of bf16 or fp32, more than a dense model of 45 blocks has."""


@dataclass(frozen=True)
class Launch:
    """What one launch of each kernel does.

    Attributes:
        pieces: What is counted, on the device.
        starts: How the programs share it, on the device.
        solved: (n, 2): rows of counts that are complete after it, and the rows of the result, on the device.
    """

    pieces: Tensor
    starts: Tensor
    solved: Tensor


class Plan:
    """The launches that measure some matrices of one dtype on one device, again and again.

    The tables hold addresses: whoever keeps a plan has to make another one when a tensor has moved.

    Args:
        kernels: The device.
        dtype: The dtype of all pieces.
        pieces: By the place of a component the tensors that hold its elements.
        makes_up: By the place of a component those of the matrices that it is a part of, as `Sums.makes_up` has it.
        count_bytes: What rows of counts may take.

    Attributes:
        indices: The component that each row of a result belongs to.
    """

    def __init__(
        self,
        kernels: Kernels,
        dtype: torch.dtype,
        pieces: Mapping[int, Sequence[Tensor]],
        makes_up: Mapping[int, Sequence[int]],
        count_bytes: int = COUNT_BYTES,
    ) -> None:
        self._kernels, self._bins = kernels, bins_of(dtype)
        rows = _Rows(max(2 * ROWS, count_bytes // (8 * self._bins.columns)), makes_up)
        launches, self.indices = [], list[int]()
        for members in rows.share(pieces):
            flat = [(tensor, members.into[index]) for index in members.into for tensor in pieces[index]]
            table = kernels.table([tensor for tensor, _ in flat], [into for _, into in flat])
            solved = rows_of([(row, len(self.indices) + n) for n, (_, row) in enumerate(members.done)])
            self.indices += [index for index, _ in members.done]
            launches.append(Launch(*map(kernels.upload, (table.pieces, table.starts, solved))))
        self._launches = tuple(launches)
        self._unfinished = bool(rows.waiting)
        self._counts = torch.zeros(rows.used, self._bins.columns, dtype=torch.int64, device=kernels.device)
        self._out = torch.empty(len(self.indices), RESULT_COLUMNS, dtype=torch.float64, device=kernels.device)

    @property
    def bins(self) -> Bins:
        """The layout of the counts."""
        return self._bins

    @property
    def bytes(self) -> int:
        """Memory that it holds on the device."""
        tables = sum(t.nbytes for launch in self._launches for t in (launch.pieces, launch.starts, launch.solved))
        return self._counts.nbytes + self._out.nbytes + tables

    def run(self) -> Tensor:
        """Queues the measurement, and gives the result of `solve` for each of `indices`; the next run writes over it."""
        try:
            for launch in self._launches:
                self._kernels.count(launch.pieces, launch.starts, self._counts, self._bins)
                self._kernels.solve(self._counts, launch.solved, self._bins, self._out, clear=True)
        except BaseException:
            self._counts.zero_()  # what was not solved is not for the next run
            raise
        if self._unfinished:
            self._counts.zero_()
        return self._out


@dataclass(frozen=True)
class _Members:
    """What a launch counts: the rows that each component goes into, and the components that are complete, with their rows."""

    into: dict[int, tuple[int, ...]]
    done: list[tuple[int, int]]


class _Rows:
    """Gives out rows of counts, and takes back those that have been solved.

    Attributes:
        used: How many rows there are.
        waiting: Matrices whose parts have not all come, with the parts that are still to come.
    """

    def __init__(self, limit: int, makes_up: Mapping[int, Sequence[int]]) -> None:
        self._limit, self._makes_up = limit, makes_up
        self._free: list[int] = []
        self._row: dict[int, int] = {}
        self.used = 0
        self.waiting: dict[int, int] = {}

    def share(self, pieces: Mapping[int, Sequence[Tensor]]) -> list[_Members]:
        """Divides components, in their order, among launches."""
        wanted = {parent for index in pieces for parent in self._makes_up.get(index, ())}
        for parents in self._makes_up.values():
            for parent in wanted.intersection(parents):
                self.waiting[parent] = self.waiting.get(parent, 0) + 1
        out: list[_Members] = []
        into: dict[int, tuple[int, ...]] = {}
        done: list[int] = []

        def close() -> None:
            if into:
                out.append(_Members(dict(into), [(index, self._row[index]) for index in done]))
            self._free += [self._row.pop(index) for index in done]
            into.clear()
            done.clear()

        for index, tensors in pieces.items():
            if not tensors:
                continue
            parents = self._makes_up.get(index, ())
            if into and self._limit - self.used + len(self._free) < 1 + len(parents):
                close()
            into[index] = tuple(self._take(member) for member in (index, *parents))
            done.append(index)
            for parent in parents:
                self.waiting[parent] -= 1
                if not self.waiting[parent]:
                    del self.waiting[parent]
                    done.append(parent)
        close()
        return out

    def _take(self, index: int) -> int:
        """The row of a component: the one that it has, one that is free, or one more."""
        if index not in self._row:
            if not self._free:
                self._free.append(self.used)
                self.used += 1
            self._row[index] = self._free.pop()
        return self._row[index]
