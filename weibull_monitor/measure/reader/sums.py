"""Counts of components: parts of a parameter are counted, and the whole is their sum. Each element is read once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from weibull_monitor.errors import text_of
from weibull_monitor.measure.bins import Bins, bins_of
from weibull_monitor.measure.choose import count_magnitudes, sum_places
from weibull_monitor.measure.grid import evidence, offsets_from, on_grid, tally
from weibull_monitor.model.components.component import Component
from weibull_monitor.model.components.storage import ordinary
from weibull_monitor.model.sharding.layout import whole
from weibull_monitor.model.upload import on_device

ROWS_AT_ONCE = 128
"""Rows of counts that are made at a time: 17 MiB. A model of 128 experts has tens of thousands of rows."""


@dataclass(frozen=True)
class CountedRows:
    """Some components' counts.

    Attributes:
        indices: Which components, by their place in the sequence that was asked for.
        counts: int64, shape (len(indices), bins.columns).
        bins: The layout of the counts.
        offsets: Where values on a grid lie within their bins, int64 (len(indices), 2, bins.columns), as
            `weibull_monitor.measure.grid.offsets_from` returns it; None if there are no such values.
    """

    indices: tuple[int, ...]
    counts: Tensor
    bins: Bins
    offsets: Tensor | None = None


class Sums:
    """Which components are read, and which are integer sums of those.

    If the parts of a parameter make it up completely, the row of the whole is the sum of their rows and costs no read of its
    own. If parts are missing, the whole is read itself.

    Args:
        components: As `discover_components` returns them: all, some, or in another order.

    Attributes:
        read: The components that are read, by their place in the sequence.
        makes_up: The wholes that each of those is a part of, by their place.
    """

    def __init__(self, components: Sequence[Component]) -> None:
        self.makes_up = _makes_up(components)
        self._waiting: dict[int, int] = {}  # how many rows each sum waits for
        for parents in self.makes_up.values():
            for parent in parents:
                self._waiting[parent] = self._waiting.get(parent, 0) + 1
        self.read = tuple(index for index in range(len(components)) if index not in self._waiting)

    def complete(self, batches: Iterable[CountedRows]) -> Iterator[CountedRows]:
        """The same rows, and those of each whole after its last part.

        Args:
            batches: The rows of components in `read`, in any order. If a part is missing, so is its whole.
        """
        waiting, sums, offsets = dict(self._waiting), dict[int, Tensor](), dict[int, Tensor]()
        for batch in batches:
            done: list[int] = []
            for place, index in enumerate(batch.indices):
                for parent in self.makes_up.get(index, ()):
                    _add(sums, parent, batch.counts[place])
                    if batch.offsets is not None:
                        _add(offsets, parent, batch.offsets[place])
                    waiting[parent] -= 1
                    if not waiting[parent]:
                        done.append(parent)
            plain = tuple(parent for parent in done if parent not in offsets)
            if plain and batch.offsets is None:
                counts = torch.cat([batch.counts, torch.stack([sums.pop(parent) for parent in plain])])
                yield CountedRows((*batch.indices, *plain), counts, batch.bins)
            else:
                yield batch
                if plain:
                    yield CountedRows(plain, torch.stack([sums.pop(parent) for parent in plain]), batch.bins)
            if on_grid := tuple(parent for parent in done if parent in offsets):
                counts, moved = (torch.stack([of.pop(parent) for parent in on_grid]) for of in (sums, offsets))
                yield CountedRows(on_grid, counts, batch.bins, moved)


def _add(sums: dict[int, Tensor], index: int, row: Tensor) -> None:
    if index in sums:
        sums[index] += row
    else:
        sums[index] = row.clone()


def count_components(
    pieces: Mapping[int, Sequence[Tensor]],
    rows_at_once: int = ROWS_AT_ONCE,
    problems: dict[int, str] | None = None,
    some: Callable[[int], Tensor] | None = None,
    grids: Grids | None = None,
) -> Iterator[CountedRows]:
    """Counts |w| of components, in batches of a bounded number of rows, grouped by device and dtype.

    Args:
        pieces: The elements of each component in one or several tensors, by its index; without tensors it gets no row.
        rows_at_once: How many rows to count together.
        problems: Receives why components cannot be counted; the others are. By default such a failure is raised.
        some: Gives the values of a component that tell whether it lies on a grid; by default, those of its pieces.
        grids: Which components lie on a grid; by default that is found, for which a device is waited for.

    >>> from torch import nn
    >>> from weibull_monitor.model.components import discover_components
    >>> model = nn.ModuleDict({"attn": nn.ModuleDict({"qkv": nn.Linear(8, 24), "proj": nn.Linear(8, 8)})})
    >>> found, weights = discover_components(model), dict(model.named_parameters())
    >>> sums = Sums(found)
    >>> def pieces(c):
    ...     return [c.part.select(weights[c.parameter]) if c.part else weights[c.parameter]]
    >>> [batch] = sums.complete(count_components({i: pieces(found[i]) for i in sums.read}))
    >>> {found[i].name: int(row.sum()) for i, row in zip(batch.indices, batch.counts)}  # doctest: +NORMALIZE_WHITESPACE
    {'attn.qkv.weight[q]': 64, 'attn.qkv.weight[k]': 64, 'attn.qkv.weight[v]': 64, 'attn.proj.weight': 64,
     'attn.qkv.weight': 192}
    """
    some = some or (lambda index: torch.cat([whole(piece) for piece in pieces[index]]))
    for batch in tallied(pieces, some, rows_at_once, problems):
        if batch.bins.shift and grids is not None:
            grids.note(batch.indices, batch.bins, evidence(batch.tallies, batch.counts, batch.bins))
        if grids is not None and grids.known is not None:
            moved = {index for index in batch.indices if index in grids.known}
        else:
            moved = batch.on_grid()
        row_of = {index: row for row, index in enumerate(batch.indices)}
        smooth = tuple(index for index in batch.indices if index not in moved)
        if smooth:
            chosen = batch.counts if not moved else _rows(batch.counts, [row_of[index] for index in smooth])
            yield CountedRows(smooth, chosen, batch.bins)
        apart = {index: pieces[index] for index in batch.indices if index in moved}
        for indices, bins, places in _in_batches(apart, max(1, rows_at_once // 3), problems, _places):  # wide rows
            counts = _rows(batch.counts, [row_of[index] for index in indices])
            yield CountedRows(indices, counts, bins, offsets_from(places, counts, bins))


def _rows(counts: Tensor, rows: Sequence[int]) -> Tensor:
    """Some rows; with a list as the index, a device would be waited for."""
    return counts.index_select(0, on_device(torch.tensor(rows, device="cpu"), counts.device))


@dataclass(frozen=True)
class TalliedRows:
    """Some components' counts, and what is to be added up to find which of them lie on a grid.

    Attributes:
        indices: Which components.
        counts: int64, shape (len(indices), bins.columns).
        tallies: As `weibull_monitor.measure.grid.tally` returns them, int64 (len(indices), TALLIES).
        bins: The layout of the counts.
    """

    indices: tuple[int, ...]
    counts: Tensor
    tallies: Tensor
    bins: Bins

    def on_grid(self) -> set[int]:
        """Those of the components that lie on a grid, if these are all of their values. A device is waited for."""
        if not self.bins.shift:  # a bin of fp8 is a single value
            return set()
        found = on_grid(evidence(self.tallies, self.counts, self.bins).tolist(), self.bins)
        return {index for index, grid in zip(self.indices, found, strict=True) if grid}


class Grids(Protocol):
    """Which components lie on a grid, where that is known from the sample before; what they are now is noted."""

    @property
    def known(self) -> Container[int] | None:
        """The components on a grid; None if that is not known yet, so that a device has to be waited for."""

    def note(self, indices: Sequence[int], bins: Bins, found: Tensor) -> None:
        """Receives what `weibull_monitor.measure.grid.on_grid` judges by, for some components."""


def tallied(
    pieces: Mapping[int, Sequence[Tensor]],
    some: Callable[[int], Tensor],
    rows_at_once: int = ROWS_AT_ONCE,
    problems: dict[int, str] | None = None,
) -> Iterator[TalliedRows]:
    """Counts and tallies components; arguments as for `count_components`."""

    def both(
        indices: Sequence[int], tensors: Sequence[Tensor], rows: Sequence[int], bins: Bins
    ) -> tuple[Tensor, Tensor]:
        looked_at = [some(index) if bins.shift else tensors[0].new_empty(0) for index in indices]
        return count_magnitudes(tensors, bins, rows), tally(looked_at, bins)

    for indices, bins, (counts, tallies) in _in_batches(pieces, rows_at_once, problems, both):
        yield TalliedRows(indices, counts, tallies, bins)


def place_components(
    pieces: Mapping[int, Sequence[Tensor]], rows_at_once: int, problems: dict[int, str]
) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    """Where the values of components lie within their bins: sums as `sum_places` returns them.

    Column 0 holds how many values there are. Arguments as for `count_components`.
    """
    for indices, _, places in _in_batches(pieces, rows_at_once, problems, _places):
        numels = torch.tensor([sum(piece.numel() for piece in pieces[index]) for index in indices], device="cpu")
        places[:, :, 0] = numels.unsqueeze(1).to(places.device)
        yield indices, places


def _places(indices: Sequence[int], tensors: Sequence[Tensor], rows: Sequence[int], bins: Bins) -> Tensor:
    return sum_places(tensors, bins, rows)


Result = TypeVar("Result")


def _in_batches(
    pieces: Mapping[int, Sequence[Tensor]],
    rows_at_once: int,
    problems: dict[int, str] | None,
    work: Callable[[Sequence[int], Sequence[Tensor], Sequence[int], Bins], Result],
) -> Iterator[tuple[tuple[int, ...], Bins, Result]]:
    """Does some work on components of one device and dtype together, or on each by itself if that fails.

    Args:
        pieces: As for `count_components`.
        rows_at_once: How many components to work on together.
        problems: As for `count_components`.
        work: Takes the components, their tensors, the row of each tensor among the components, and the layout of their bins.
    """
    groups: dict[tuple[torch.device, torch.dtype, bool], list[int]] = {}
    for index, here in pieces.items():
        if here:  # tensors of other libraries by themselves: reading them may fail
            groups.setdefault((here[0].device, here[0].dtype, ordinary(here[0])), []).append(index)
    waiting = deque(
        members[start : start + rows_at_once]
        for members in groups.values()
        for start in range(0, len(members), rows_at_once)
    )
    while waiting:
        batch = waiting.popleft()
        flat = [(row, piece.detach()) for row, index in enumerate(batch) for piece in pieces[index]]
        bins = bins_of(flat[0][1].dtype)
        try:
            result = work(batch, [piece for _, piece in flat], [row for row, _ in flat], bins)
        except Exception as error:
            if problems is None:
                raise
            if len(batch) > 1:
                waiting.extendleft([index] for index in reversed(batch))
            else:
                problems[batch[0]] = f"counting it failed ({type(error).__name__}: {text_of(error)})"
        else:
            yield tuple(batch), bins, result


def _makes_up(components: Sequence[Component]) -> dict[int, tuple[int, ...]]:
    """For each component that is counted the wholes that its row is added to: those that their parts make up completely."""
    place = {(c.parameter, c.part.label if c.part else ""): index for index, c in enumerate(components)}
    above: dict[int, int] = {}  # the whole that a part is directly within
    elements: dict[int, int] = {}  # of all parts of a whole together
    for index, component in enumerate(components):
        parent = place.get((component.parameter, component.part.within)) if component.part else None
        if parent is not None:
            above[index] = parent
            elements[parent] = elements.get(parent, 0) + component.numel
    made_up = {parent for parent, numel in elements.items() if numel == components[parent].numel}
    out: dict[int, tuple[int, ...]] = {}
    for index in above.keys() - made_up:
        chain, at = [], index
        while (at := above.get(at, -1)) in made_up:
            chain.append(at)
        if chain:
            out[index] = tuple(chain)
    return dict(sorted(out.items()))
