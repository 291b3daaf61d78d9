"""Counting a model on many ranks: the same rows of counts as on one, integer by integer, in two all-reduces and no gather.

The first all-reduce is small. It says whether all ranks are at the same step and hold what they agreed on, and carries the
notes on parameters that the main rank does not have. The second adds up the counts. (Counts of several dtypes, or of more than
`weibull_monitor.measure.reader.packing.BYTES_AT_ONCE`, take one each. A third adds up where the values of matrices on a grid lie
within their bins, if there are any.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from weibull_monitor.errors import text_of
from weibull_monitor.measure.reader.counter import NOTE_NUMBERS, CountResult, Notes, readable
from weibull_monitor.measure.reader.inventory import Inventory, merged
from weibull_monitor.measure.reader.local_weights import LocalWeights
from weibull_monitor.measure.reader.packing import ABOVE, BELOW, BYTES_AT_ONCE, LOOKED_AT, MISSING, Bucket, buckets
from weibull_monitor.measure.reader.sums import ROWS_AT_ONCE, CountedRows, Sums, count_components
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
                    offsets: dict[int, Tensor] = {}
                    packed = self._ranks.sum_(self._packed(bucket, components, weights, problems, offsets))
                    yield from self._received(bucket, packed, self._offsets(bucket, packed, offsets), problems, outside)
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
            raise RuntimeError(f"{failed} of {self._ranks.size} ranks could not look at their parameters, and say why")
        if table[0, _CHANGED]:
            return None
        # Equal steps, and only they, have (Σ step)² = ranks · Σ step²: so all ranks come to the same result.
        if int(table[0, _STEP]) ** 2 != self._ranks.size * int(table[0, _SQUARE]):
            raise RuntimeError(
                f"this rank samples at step {step}, and others at other steps: all ranks have to count the same optimizer steps"
            )
        rows = zip(self._noted, table[1:].tolist(), strict=True) if self.is_main else ()
        return {name: tuple(row) for name, row in rows if row[0]}

    def _packed(
        self,
        bucket: Bucket,
        components: Sequence[Component],
        weights: LocalWeights,
        problems: dict[int, str],
        offsets: dict[int, Tensor],
    ) -> Tensor:
        """This rank's counts, (rows, width). Whatever goes wrong is noted in them, so that this rank can go on to the sum.

        Where values on a grid lie within their bins comes into ``offsets``, by the row.
        """
        out = torch.zeros(len(bucket.indices), bucket.sent.width, dtype=bucket.dtype, device=self._ranks.device)
        row_of = {index: row for row, index in enumerate(bucket.indices)}
        unread: dict[int, str] = {}
        try:
            for batch in (
                counted
                for pieces in readable(components, bucket.indices, weights, unread)
                for counted in count_components(pieces, ROWS_AT_ONCE, unread)
            ):
                rows = [row_of[index] for index in batch.indices]
                out[rows] = bucket.sent.pack(batch.counts).to(out)
                if batch.offsets is not None:
                    out[rows, LOOKED_AT] = 1
                    offsets.update(zip(rows, bucket.sent.pack_offsets(batch.offsets).to(out.device), strict=True))
        except Exception as error:  # whatever it is, the other ranks wait at the sum
            out.zero_()
            offsets.clear()
            unread = dict.fromkeys(bucket.indices, f"counting it failed ({type(error).__name__}: {text_of(error)})")
        out[[row_of[index] for index in unread], MISSING] = 1
        problems.update(unread)
        return out

    def _offsets(self, bucket: Bucket, packed: Tensor, offsets: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """The sums of the offsets of all ranks, by the row; one more all-reduce if any rank has some."""
        rows = packed[:, LOOKED_AT].nonzero().flatten().tolist()  # the same on all ranks
        most = max(1, BYTES_AT_ONCE // (16 * bucket.sent.width))
        out: dict[int, Tensor] = {}
        for start in range(0, len(rows), most):
            here = rows[start : start + most]
            shape = (len(here), 2, 1 + bucket.sent.last - bucket.sent.first)
            mine = torch.zeros(shape, dtype=torch.int64, device=self._ranks.device)
            for place, row in enumerate(here):
                if row in offsets:
                    mine[place] = offsets[row]
            out.update(zip(here, self._ranks.sum_(mine), strict=True))
        return out

    def _received(
        self,
        bucket: Bucket,
        packed: Tensor,
        offsets: Mapping[int, Tensor],
        problems: dict[int, str],
        outside: list[int],
    ) -> Iterator[CountedRows]:
        """The complete rows of a sum (rows, width), on the main rank; adds to the problems, and to what has to be sent again."""
        complete = []
        flags = packed[:, [MISSING, BELOW, ABOVE]].tolist()
        for row, (index, (missing, below, above)) in enumerate(zip(bucket.indices, flags, strict=True)):
            if missing:
                problems.setdefault(
                    index, f"it could not be read on {missing} of {self._ranks.size} ranks, which say why"
                )
            elif below or above:
                outside.append(index)
            else:
                complete.append(row)
        if not self.is_main:
            return
        sent = bucket.sent
        for on_grid, at_once in (
            (False, ROWS_AT_ONCE),
            (True, ROWS_AT_ONCE // 3),
        ):  # unpacked rows are wide: some at a time
            rows = [row for row in complete if (row in offsets) == on_grid]
            for start in range(0, len(rows), at_once):
                chosen = rows[start : start + at_once]
                moved = sent.unpack_offsets(torch.stack([offsets[row] for row in chosen])) if on_grid else None
                indices = tuple(bucket.indices[row] for row in chosen)
                yield CountedRows(indices, sent.unpack(packed[chosen]), sent.bins, moved)
