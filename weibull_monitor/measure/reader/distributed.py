"""Counting a model on many ranks: the same rows of counts as on one, integer by integer, with one all-reduce and no gather."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from weibull_monitor.measure.reader.counter import NOTE_NUMBERS, CountResult, Notes, readable
from weibull_monitor.measure.reader.inventory import Inventory, merged
from weibull_monitor.measure.reader.local_weights import LocalWeights
from weibull_monitor.measure.reader.packing import ABOVE, BELOW, MISSING, Bucket, buckets
from weibull_monitor.measure.reader.sums import ROWS_AT_ONCE, CountedRows, Sums, count_components
from weibull_monitor.model.components import Component
from weibull_monitor.model.sharding import Ranks
from weibull_monitor.model.sharding.division import Agreement, agree

_HEADER = 2
_UNSETTLED, _STEP = range(_HEADER)
"""The first numbers of a buffer: ranks whose holdings have changed; the sum of their steps, which tells if they differ."""
_STEPS = 1 << 14
"""Steps are compared modulo this, so that their sum over 2¹⁶ ranks fits int32."""


class DistributedCounter:
    """Counts a model on many ranks: each counts its share, and one all-reduce a sample adds them up.

    Besides the counts, the sum carries what the ranks have to know of each other: whether all are at the same step, whether
    what they hold has changed, which rows somebody could not count, and the notes on parameters that the main rank does not
    have. A rank that fails takes part all the same, so that the others do not wait for it.

    Args:
        ranks: The ranks.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._whole_rows: set[str] = set()
        self._noted: tuple[str, ...] = ()
        self._mine: frozenset[str] = frozenset()
        self._buffer: Tensor | None = None
        self.is_main = ranks.is_main

    def agree(self, table: Inventory, holdings: LocalWeights) -> tuple[Inventory, Agreement]:
        """What is measured on all ranks together, and who counts what of it: two small collectives, if all have the same."""
        tables, holders = self._ranks.tables(table)
        everything = merged(tables)
        agreement = agree(everything.parameters, holdings.held, holders, self._ranks)
        main = self._ranks.members[0]
        self._noted = tuple(name for name, lowest in agreement.lowest.items() if lowest != main)
        self._mine = frozenset(name for name in self._noted if agreement.lowest[name] == self._ranks.me)
        return everything, agreement

    def count(
        self, components: Sequence[Component], holdings: LocalWeights, settled: bool, step: int, notes: Notes
    ) -> CountResult | None:
        """Counts components. The rows come only on the main rank, but every rank has to go through them.

        Raises:
            RuntimeError: If the ranks are at different steps.
        """
        sums = Sums(components)
        try:
            pieces, problems = readable(components, sums.read, holdings)
        except Exception as error:  # as below: what matters is to come to the sum
            pieces, problems = {}, dict.fromkeys(sums.read, f"looking at it failed ({type(error).__name__}: {error})")
        asked = [
            (i, components[i].dtype, components[i].numel, components[i].name in self._whole_rows) for i in sums.read
        ]
        first, *others = buckets(asked, _HEADER + 2 * NOTE_NUMBERS * len(self._noted))
        buffer = self._filled(first, pieces, problems)
        self._note(buffer, notes)
        buffer[_UNSETTLED], buffer[_STEP] = 0 if settled else 1, step % _STEPS
        self._ranks.sum_(buffer)
        unsettled, steps = buffer[:_HEADER].tolist()
        if unsettled:
            return None
        if steps != step % _STEPS * self._ranks.size:
            raise RuntimeError(
                f"this rank samples at step {step}, and others at other steps: all ranks have to count the same optimizer steps"
            )

        def rows() -> Iterator[CountedRows]:
            outside: list[int] = []
            yield from self._received(first, buffer, problems, outside)
            for bucket in others:
                more = self._ranks.sum_(self._filled(bucket, pieces, problems))
                yield from self._received(bucket, more, problems, outside)
            if outside:
                self._whole_rows.update(components[i].name for i in outside)
                for bucket in buckets([(i, components[i].dtype, components[i].numel, True) for i in outside], 0):
                    more = self._ranks.sum_(self._filled(bucket, pieces, problems))
                    yield from self._received(bucket, more, problems, [])

        return CountResult(sums.complete(rows()), problems, {**notes, **self._told(buffer)})

    def _filled(self, bucket: Bucket, pieces: Mapping[int, Sequence[Tensor]], problems: dict[int, str]) -> Tensor:
        """A buffer with this rank's counts. Whatever goes wrong is said in the buffer, so that this rank can go on to the sum."""
        if self._buffer is None or (self._buffer.dtype, len(self._buffer)) != (bucket.dtype, bucket.size):
            self._buffer = torch.empty(bucket.size, dtype=bucket.dtype, device=self._ranks.device)
        buffer = self._buffer.zero_()
        runs = bucket.runs()
        try:
            place = {bucket.indices[row]: (run, row - run[0]) for run in runs for row in range(run[0], run[1])}
            for batch in count_components({i: pieces[i] for i in bucket.indices if i in pieces}):
                members: dict[tuple[int, int, int], list[tuple[int, int]]] = {}
                for at, index in enumerate(batch.indices):
                    run, row = place[index]
                    members.setdefault(run, []).append((at, row))
                for run, pairs in members.items():
                    window = bucket.windows[run[0]]
                    packed = torch.empty(len(pairs), window.width, dtype=bucket.dtype, device=batch.counts.device)
                    window.pack(batch.counts[[at for at, _ in pairs]], packed)
                    bucket.rows(buffer, *run)[[row for _, row in pairs]] = packed.to(buffer.device)
        except Exception as error:  # entering the collective matters more than what went wrong: the others wait there
            buffer.zero_()
            problems.update(dict.fromkeys(bucket.indices, f"counting it failed ({type(error).__name__}: {error})"))
        for run in runs:
            lost = [row - run[0] for row in range(run[0], run[1]) if bucket.indices[row] in problems]
            if lost:
                bucket.rows(buffer, *run)[lost, MISSING] = 1
        return buffer

    def _received(
        self, bucket: Bucket, buffer: Tensor, problems: dict[int, str], outside: list[int]
    ) -> Iterator[CountedRows]:
        """The rows that are complete, on the main rank; notes those with values outside of their window."""
        for first, last, place in bucket.runs():
            rows = bucket.rows(buffer, first, last, place)
            flags = rows[:, [MISSING, BELOW, ABOVE]].tolist()
            complete = []
            for at, (missing, below, above) in enumerate(flags):
                index = bucket.indices[first + at]
                if missing:
                    problems.setdefault(
                        index, f"it could not be read on {missing} of {self._ranks.size} ranks, which say why"
                    )
                elif below or above:
                    outside.append(index)
                else:
                    complete.append(at)
            if self.is_main:
                window = bucket.windows[first]
                for start in range(0, len(complete), ROWS_AT_ONCE):
                    chosen = complete[start : start + ROWS_AT_ONCE]
                    indices = tuple(bucket.indices[first + at] for at in chosen)
                    yield CountedRows(indices, window.unpack(rows[chosen]), window.bins)

    def _note(self, buffer: Tensor, notes: Notes) -> None:
        """Writes the notes that fall to this rank, as the bits of float64: no other rank writes there, so the sum keeps them."""
        if self._mine:
            absent = [float("nan")] * NOTE_NUMBERS
            told = [list(notes.get(name, absent)) for name in self._noted if name in self._mine]
            values = torch.tensor(told, dtype=torch.float64, device="cpu")
            mine = [row for row, name in enumerate(self._noted) if name in self._mine]
            self._noted_rows(buffer)[mine] = _bits(values, buffer.dtype).to(buffer.device)

    def _told(self, buffer: Tensor) -> dict[str, tuple[float, ...]]:
        """The notes of the other ranks."""
        if not self._noted or not self.is_main:
            return {}
        values = self._noted_rows(buffer).cpu()
        values = values.to(torch.int32) if values.dtype == torch.int64 else values
        told = values.contiguous().view(torch.float64).tolist()
        return {name: tuple(row) for name, row in zip(self._noted, told, strict=True) if row[0] == row[0]}

    def _noted_rows(self, buffer: Tensor) -> Tensor:
        size = 2 * NOTE_NUMBERS
        return buffer[_HEADER : _HEADER + size * len(self._noted)].view(len(self._noted), size)


def _bits(values: Tensor, dtype: torch.dtype) -> Tensor:
    """float64 (rows, n) as its bits in int32 (rows, 2n), in a dtype at least as wide."""
    return values.contiguous().view(torch.int32).to(dtype)
