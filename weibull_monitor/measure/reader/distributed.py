"""Counting a model on many ranks: the same rows of counts as on one, integer by integer, in two all-reduces and no gather.

The first all-reduce is small. It says whether all ranks are at the same step and hold what they agreed on, and carries the
notes on parameters that the main rank does not have. The second adds up the counts. (Counts of several dtypes, or of more than
`weibull_monitor.measure.reader.packing.BYTES_AT_ONCE`, take one each. A third adds up where the values of matrices on a grid lie
within their bins, if there are any.)
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weibull_monitor.errors import say, text_of
from weibull_monitor.measure.grid import offsets_from, on_grid
from weibull_monitor.measure.reader.counter import NOTE_NUMBERS, CountResult, Notes, readable
from weibull_monitor.measure.reader.inventory import Inventory, merged
from weibull_monitor.measure.reader.local_weights import LocalWeights
from weibull_monitor.measure.reader.packing import ABOVE, BELOW, BYTES_AT_ONCE, MISSING, Bucket, buckets
from weibull_monitor.measure.reader.sums import ROWS_AT_ONCE, CountedRows, Sums, place_components, tallied
from weibull_monitor.model.components import Component
from weibull_monitor.model.sharding import Ranks
from weibull_monitor.model.sharding.division import Agreement, agree

_CHANGED, _STEP, _SQUARE, _FAILED = range(4)
"""Columns of the first row of the small all-reduce: ranks whose parameters have changed, Σ step, Σ step², ranks that failed."""
_STEPS = 1 << 14
"""Steps are compared modulo this, so that the sum of their squares over 2¹⁶ ranks is exact in float64."""


class DistributedCounter:
    """Counts a model on many ranks: each counts its share, and an all-reduce adds the counts up.

    A rank that fails to count takes part in the all-reduce all the same, so that the others do not wait for it, and says in it
    which rows it could not count.

    Args:
        ranks: The ranks.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._whole: set[str] = set()  # components with values outside of the bins that are usually sent
        self._noted: Mapping[
            str, int
        ] = {}  # parameters that the main rank does not have, and the rank that notes on them
        self.is_main = ranks.is_main

    def agree(self, table: Inventory, weights: LocalWeights) -> tuple[Inventory, Agreement]:
        """What is measured on all ranks together, and who counts what: two small collectives if all ranks have the same."""
        tables, holders = self._ranks.tables(table)
        everything = merged(tables)
        agreement = agree(everything.parameters, weights.held, holders, self._ranks)
        main = self._ranks.members[0]
        self._noted = {name: lowest for name, lowest in agreement.lowest.items() if lowest != main}
        return everything, agreement

    def count(
        self, components: Sequence[Component], weights: LocalWeights, step: int, notes: Notes, moved: bool = False
    ) -> CountResult | None:
        """Counts components. Only the main rank gets rows, but every rank has to go through them.

        Raises:
            RuntimeError: If the ranks are at different steps, or one of them cannot look at its parameters.
        """
        failure: Exception | None = None
        try:
            unchanged = weights.refresh() and not moved
        except Exception as error:  # whatever it is, the other ranks wait at the sum
            unchanged, failure = True, error
        others = self._exchange(unchanged, step, notes, failure)
        if others is None:
            return None
        sums, problems = Sums(components), dict[int, str]()

        def rows() -> Iterator[CountedRows]:
            due: Sequence[int] = sums.read
            while due:
                outside: list[int] = []
                for bucket in buckets(components, due, self._whole):
                    share = _RankShare(self._ranks, bucket, components, weights, problems)
                    yield from share.rows(outside)
                # Every rank sees the same sums, so all of them send the same components again.
                self._whole.update(components[index].name for index in outside)
                due = outside

        return CountResult(sums.complete(rows()), problems, {**notes, **others})

    def _exchange(self, unchanged: bool, step: int, notes: Notes, failure: Exception | None = None) -> Notes | None:
        """The notes of the other ranks, on the main rank; None if the parameters of any rank have changed."""
        table = torch.zeros(1 + len(self._noted), NOTE_NUMBERS, dtype=torch.float64, device="cpu")
        short = step % _STEPS
        table[0, _CHANGED], table[0, _STEP], table[0, _SQUARE] = float(not unchanged), short, short * short
        # One row per parameter. One rank writes it and the others send zeros, so the sum is what that rank wrote.
        try:
            for row, (name, rank) in enumerate(self._noted.items(), start=1):
                if rank == self._ranks.me and name in notes:
                    table[row] = torch.tensor(notes[name], dtype=torch.float64, device="cpu")
        except Exception as error:
            failure = failure or error
        table[0, _FAILED] = float(failure is not None)
        table = self._ranks.sum_(table.to(self._ranks.device)).cpu()
        if failed := int(table[0, _FAILED]):
            if failure is not None:
                raise failure
            raise RuntimeError(
                f"{failed} of {self._ranks.size} ranks could not list their parameters; their logs say why"
            )
        if table[0, _CHANGED]:
            return None
        # Equal steps, and only they, have (Σ step)² = ranks · Σ step²: so all ranks come to the same result.
        if int(table[0, _STEP]) ** 2 != self._ranks.size * int(table[0, _SQUARE]):
            raise RuntimeError(
                f"this rank samples at step {step}, and others at other steps: all ranks have to count the same optimizer steps"
            )
        rows = zip(self._noted, table[1:].tolist(), strict=True) if self.is_main else ()
        return {name: tuple(row) for name, row in rows if row[0]}


@dataclass(frozen=True)
class _RankShare:
    """What a rank adds to a bucket, and what comes of all ranks' shares.

    Attributes:
        ranks: The ranks.
        bucket: Which components.
        components: Those that it points into.
        weights: What this rank holds.
        problems: Receives why components cannot be counted.
    """

    ranks: Ranks
    bucket: Bucket
    components: Sequence[Component]
    weights: LocalWeights
    problems: dict[int, str]

    def rows(self, outside: list[int]) -> Iterator[CountedRows]:
        """The complete rows, on the main rank; one sum over the ranks, and one more if any of them lie on a grid.

        Args:
            outside: Receives the components that have to be sent again with all of their bins.
        """
        packed, sent = self.ranks.sum_(self._counted()), self.bucket.sent  # (rows, width)
        smooth, moved = self._sorted_out(packed, outside)  # the same on all ranks
        if self.ranks.is_main:
            for chosen in _divided(smooth, ROWS_AT_ONCE):  # unpacked rows are wide: some at a time
                yield CountedRows(self._indices(chosen), sent.unpack(packed[chosen]), sent.bins)
        for chosen in _divided(moved, max(1, BYTES_AT_ONCE // (16 * sent.width))):
            places = self.ranks.sum_(self._placed(chosen))  # (rows, 2, sent)
            if not self.ranks.is_main:
                continue
            for at in _divided(range(len(chosen)), ROWS_AT_ONCE // 3):
                rows = [chosen[n] for n in at]
                counts, sums = sent.unpack(packed[rows]), sent.unpack_places(places[at])
                if torch.equal(sums[:, 0, 0], counts.sum(1)):
                    yield CountedRows(self._indices(rows), counts, sent.bins, offsets_from(sums, counts, sent.bins))
                else:  # a rank failed, and said why
                    yield CountedRows(self._indices(rows), counts, sent.bins)

    def _indices(self, rows: Sequence[int]) -> tuple[int, ...]:
        return tuple(self.bucket.indices[row] for row in rows)

    def _counted(self) -> Tensor:
        """This rank's counts, (rows, width). Whatever goes wrong is noted in them, so that this rank can go on to the sum."""
        bucket = self.bucket
        out = torch.zeros(len(bucket.indices), bucket.sent.width, dtype=bucket.dtype, device=self.ranks.device)
        row_of = {index: row for row, index in enumerate(bucket.indices)}
        unread: dict[int, str] = {}
        try:
            for pieces in readable(self.components, bucket.indices, self.weights, unread):
                for batch in tallied(pieces, self._some, ROWS_AT_ONCE, unread):
                    out[[row_of[i] for i in batch.indices]] = bucket.sent.pack(batch.counts, batch.tallies).to(out)
        except Exception as error:  # whatever it is, the other ranks wait at the sum
            out.zero_()
            unread = dict.fromkeys(bucket.indices, f"counting it failed ({type(error).__name__}: {text_of(error)})")
        out[[row_of[index] for index in unread], MISSING] = 1
        self.problems.update(unread)
        return out

    def _some(self, index: int) -> Tensor:
        return self.weights.some(self.components[index]).values()

    def _sorted_out(self, packed: Tensor, outside: list[int]) -> tuple[list[int], list[int]]:
        """The complete rows of a sum (rows, width) that lie on no grid, and those that do; notes what is wrong with others."""
        complete = []
        flags = packed[:, [MISSING, BELOW, ABOVE]].tolist()
        for row, (index, (missing, below, above)) in enumerate(zip(self.bucket.indices, flags, strict=True)):
            if missing:
                why = f"it could not be read on {missing} of {self.ranks.size} ranks; their logs say why"
                self.problems.setdefault(index, why)
            elif below or above:
                outside.append(index)
            else:
                complete.append(row)
        sent = self.bucket.sent
        if not sent.bins.shift:  # a bin of fp8 is a single value
            return complete, []
        grids: list[bool] = []
        for chosen in _divided(complete, ROWS_AT_ONCE):
            grids += on_grid(sent.evidence(packed[chosen]).tolist(), sent.bins)
        found = list(zip(complete, grids, strict=True))
        return [row for row, grid in found if not grid], [row for row, grid in found if grid]

    def _placed(self, rows: Sequence[int]) -> Tensor:
        """Where the values that this rank counts of some rows lie within their bins, int64 (rows, 2, sent)."""
        sent = self.bucket.sent
        shape = (len(rows), 2, 1 + sent.last - sent.first)
        out = torch.zeros(shape, dtype=torch.int64, device=self.ranks.device)
        row_of = {index: n for n, index in enumerate(self._indices(rows))}
        unread: dict[int, str] = {}
        try:
            for pieces in readable(self.components, row_of, self.weights, unread):
                for indices, places in place_components(pieces, ROWS_AT_ONCE // 3, unread):
                    out[[row_of[i] for i in indices]] = sent.pack_places(places).to(out.device)
        except Exception as error:  # as above
            out.zero_()
            unread = dict.fromkeys(row_of, f"{type(error).__name__}: {text_of(error)}")
        for index, why in unread.items():
            name = self.components[index].name
            say(logging.WARNING, f"weibull_monitor: {name} lies on a grid that cannot be read: {why}")
        return out


def _divided(rows: Sequence[int], at_once: int) -> Iterator[list[int]]:
    for start in range(0, len(rows), at_once):
        yield list(rows[start : start + at_once])
