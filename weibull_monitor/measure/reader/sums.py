"""Counts of components: parts of a parameter are counted, and the whole is their sum. Each element is read once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weibull_monitor.measure.bins import Bins, bins_of
from weibull_monitor.measure.choose import count_magnitudes
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
    """

    indices: tuple[int, ...]
    counts: Tensor
    bins: Bins


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
        waiting, sums = dict(self._waiting), dict[int, Tensor]()
        for batch in batches:
            done: list[int] = []
            for index, row in zip(batch.indices, batch.counts, strict=True):
                for parent in self.makes_up.get(index, ()):
                    if parent in sums:
                        sums[parent] += row
                    else:
                        sums[parent] = row.clone()
                    waiting[parent] -= 1
                    if not waiting[parent]:
                        done.append(parent)
            if done:
                counts = torch.cat([batch.counts, torch.stack([sums.pop(parent) for parent in done])])
                batch = CountedRows((*batch.indices, *done), counts, batch.bins)
            yield batch


def count_components(
    pieces: Mapping[int, Sequence[Tensor]], rows_at_once: int = ROWS_AT_ONCE, problems: dict[int, str] | None = None
) -> Iterator[CountedRows]:
    """Counts |w| of components, in batches of a bounded number of rows, grouped by device and dtype.

    Args:
        pieces: The elements of each component in one or several tensors, by its index; without tensors it gets no row.
        rows_at_once: How many rows to count together.
        problems: Receives why components cannot be counted; the others are. By default such a failure is raised.

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
            yield from _counted(members[start : start + rows_at_once], pieces, bins, problems)


def _counted(
    batch: Sequence[int], pieces: Mapping[int, Sequence[Tensor]], bins: Bins, problems: dict[int, str] | None
) -> Iterator[CountedRows]:
    """Counts some components together, or each by itself if that fails."""
    flat = [(row, piece) for row, index in enumerate(batch) for piece in pieces[index]]
    try:
        counts = count_magnitudes([piece.detach() for _, piece in flat], bins, [row for row, _ in flat])
    except Exception as error:
        if problems is None:
            raise
        if len(batch) > 1:
            for index in batch:
                yield from _counted([index], pieces, bins, problems)
        else:
            problems[batch[0]] = f"counting it failed ({type(error).__name__}: {error})"
        return
    yield CountedRows(tuple(batch), counts, bins)


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
