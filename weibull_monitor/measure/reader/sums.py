"""Counts of components: parts of a parameter are counted, and the whole is their sum. Each element is read once."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weibull_monitor.measure.bins import Bins, bins_of
from weibull_monitor.measure.choose import count_magnitudes, measure_offsets
from weibull_monitor.measure.grid import grids_among
from weibull_monitor.model.components.component import Component
from weibull_monitor.model.components.storage import ordinary

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
            `weibull_monitor.measure.choose.measure_offsets` returns it; None if there are no such values.
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
    on_grid: Container[int] | None = None,
) -> Iterator[CountedRows]:
    """Counts |w| of components, in batches of a bounded number of rows, grouped by device and dtype.

    Args:
        pieces: The elements of each component in one or several tensors, by its index; without tensors it gets no row.
        rows_at_once: How many rows to count together.
        problems: Receives why components cannot be counted; the others are. By default such a failure is raised.
        on_grid: The components whose values lie on a grid; None to find them, for which a device is waited for.

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
    groups: dict[tuple[torch.device, torch.dtype, bool], list[int]] = {}
    for index, here in pieces.items():
        if here:  # tensors of other libraries by themselves: counting them may fail
            groups.setdefault((here[0].device, here[0].dtype, ordinary(here[0])), []).append(index)
    for (_, dtype, _), members in groups.items():
        bins = bins_of(dtype)
        for start in range(0, len(members), rows_at_once):
            batch = members[start : start + rows_at_once]
            grids = _grids(batch, pieces, problems) if on_grid is None else on_grid
            yield from _counted([index for index in batch if index not in grids], pieces, bins, problems, False)
            moved = [index for index in batch if index in grids]  # three rows of integers each
            for at in range(0, len(moved), max(1, rows_at_once // 3)):
                yield from _counted(moved[at : at + max(1, rows_at_once // 3)], pieces, bins, problems, True)


def _grids(
    batch: Sequence[int], pieces: Mapping[int, Sequence[Tensor]], problems: dict[int, str] | None
) -> frozenset[int]:
    try:
        return components_on_grid({index: pieces[index] for index in batch})
    except Exception:  # a tensor that cannot be read: counting it says so
        if problems is None:
            raise
        return (
            frozenset[int]().union(*(_grids([index], pieces, problems) for index in batch))
            if len(batch) > 1
            else frozenset()
        )


def components_on_grid(pieces: Mapping[int, Sequence[Tensor]]) -> frozenset[int]:
    """Components of one dtype and device that have values on a grid, by their index. A device is waited for."""
    flat = [(index, piece.detach()) for index, here in pieces.items() for piece in here]
    if not flat:
        return frozenset()
    found = grids_among([piece for _, piece in flat], bins_of(flat[0][1].dtype))
    return frozenset(index for (index, _), grid in zip(flat, found, strict=True) if grid)


def _counted(
    batch: Sequence[int],
    pieces: Mapping[int, Sequence[Tensor]],
    bins: Bins,
    problems: dict[int, str] | None,
    on_grid: bool,
) -> Iterator[CountedRows]:
    """Counts some components together, or each by itself if that fails."""
    if not batch:
        return
    flat = [(row, piece) for row, index in enumerate(batch) for piece in pieces[index]]
    try:
        tensors, rows = [piece.detach() for _, piece in flat], [row for row, _ in flat]
        counts = count_magnitudes(tensors, bins, rows)
        offsets = measure_offsets(tensors, bins, counts, rows) if on_grid else None
    except Exception as error:
        if problems is None:
            raise
        if len(batch) > 1:
            for index in batch:
                yield from _counted([index], pieces, bins, problems, on_grid)
        else:
            problems[batch[0]] = f"counting it failed ({type(error).__name__}: {error})"
        return
    yield CountedRows(tuple(batch), counts, bins, offsets)


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
