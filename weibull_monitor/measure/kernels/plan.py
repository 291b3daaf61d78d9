"""The few launches that measure a model's matrices, prepared once and used at every sample.

Launches share rows of counts: as many as fit in `COUNT_BYTES`. The solve empties the rows that it has fitted, and the next launch
uses them again. A matrix that is the sum of its parts has a row of its own, into which each part is counted too; it is solved
after its last part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from weibull_monitor.measure.bins import bins_of
from weibull_monitor.measure.grid import TALLIES
from weibull_monitor.measure.kernels.table import ROWS, looked_at, rows_of
from weibull_monitor.measure.plain.solve import RESULT_COLUMNS
from weibull_monitor.model.sharding.layout import Elements

if TYPE_CHECKING:
    from weibull_monitor.measure.kernels.launch import Kernels

COUNT_BYTES = 40 << 20
"""Bytes of counts on the device at most: 321 rows of bf16 or fp32, more than a dense model of 45 blocks has."""


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

    The tables hold addresses: when a tensor has moved, a new plan has to be made.

    Args:
        kernels: The device.
        dtype: The dtype of all pieces.
        pieces: The tensors that hold the elements of each component, by its place.
        makes_up: The places of the matrices that each component is a part of, as in `Sums.makes_up`.
        count_bytes: Bytes that the rows of counts may take.
        some: The elements of a component that are looked at, by its place; None to look at none.

    Attributes:
        indices: The component that each row of a result belongs to.
        read: Those of them that are not sums of others.
        bins: The layout of their counts.
    """

    def __init__(
        self,
        kernels: Kernels,
        dtype: torch.dtype,
        pieces: Mapping[int, Sequence[Tensor]],
        makes_up: Mapping[int, Sequence[int]],
        count_bytes: int = COUNT_BYTES,
        some: Callable[[int], Elements] | None = None,
    ) -> None:
        self._kernels, self.bins = kernels, bins_of(dtype)
        rows = _Rows(max(2 * ROWS, count_bytes // (8 * self.bins.columns)), makes_up)
        launches, self.indices = [], list[int]()
        for members in rows.share(pieces):
            # Each tensor is counted into the rows of its component and of the wholes above it; rows that are complete after
            # the launch are solved into the next rows of the result.
            flat = [(tensor, members.into[index]) for index in members.into for tensor in pieces[index]]
            table = kernels.table([tensor for tensor, _ in flat], [into for _, into in flat])
            solved = rows_of([(row, len(self.indices) + n) for n, (_, row) in enumerate(members.done)])
            self.indices += [index for index, _ in members.done]
            launches.append(Launch(*map(kernels.upload, (table.pieces, table.starts, solved))))
        self._launches = tuple(launches)
        self._unfinished = bool(rows.waiting)
        # (rows, columns) of counts, empty between two runs; (components, RESULT_COLUMNS) of results.
        self._counts = torch.zeros(rows.used, self.bins.columns, dtype=torch.int64, device=kernels.device)
        self._out = torch.empty(len(self.indices), RESULT_COLUMNS, dtype=torch.float64, device=kernels.device)
        self._rough = torch.zeros(len(self.indices), 2, dtype=torch.int64, device=kernels.device)
        self.read = tuple(index for index in self.indices if index in pieces)
        place = {index: row for row, index in enumerate(self.indices)}
        self._read = kernels.upload(np.array([place[index] for index in self.read], dtype=np.int64))
        values, places = looked_at([some(index) for index in self.read] if some else [])
        self._looked_at, self._places = kernels.upload(values), kernels.upload(places)
        self._tallies = torch.zeros(len(self.read), TALLIES, dtype=torch.int64, device=kernels.device)

    @property
    def bytes(self) -> int:
        """Memory that it holds on the device."""
        tables = [t for launch in self._launches for t in (launch.pieces, launch.starts, launch.solved)]
        looked_at = (self._looked_at, self._places, self._tallies, self._rough, self._read)
        return sum(tensor.nbytes for tensor in (self._counts, self._out, *tables, *looked_at))

    def evidence(self) -> Tensor:
        """What `weibull_monitor.measure.grid.evidence` says of each of `read` in the last run, int64 (read, TALLIES + 2)."""
        return torch.cat([self._tallies, self._rough[self._read]], dim=1)

    def run(self) -> Tensor:
        """Queues the measurement. Returns the result of `solve` for each of `indices`, which the next run overwrites."""
        try:
            for launch in self._launches:
                self._kernels.count(launch.pieces, launch.starts, self._counts, self.bins)
                self._kernels.solve(self._counts, launch.solved, self.bins, self._out, True, self._rough)
            self._kernels.tally(self._looked_at, self._places, self._tallies, self.bins)
        except BaseException:
            self._counts.zero_()  # or the next run would add to what was not solved
            raise
        if self._unfinished:  # rows of wholes that lack a part are never solved, and so never emptied
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
        waiting: Wholes that still lack parts, and how many.
    """

    def __init__(self, limit: int, makes_up: Mapping[int, Sequence[int]]) -> None:
        self._limit, self._makes_up = limit, makes_up
        self._free: list[int] = []
        self._row: dict[int, int] = {}
        self.used = 0
        self.waiting: dict[int, int] = {}

    def share(self, pieces: Mapping[int, Sequence[Tensor]]) -> list[_Members]:
        """Divides components among launches, in their order."""
        # How many parts each whole waits for, whether or not they are among the pieces.
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
            # There has to be room for the component's row, and for one per whole above it.
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
