"""Counts of components: the parts of a parameter are counted, and the parameter is their sum. Each element is read once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weibull_monitor.components.component import Component
from weibull_monitor.measure.bins import Bins, bins_of
from weibull_monitor.measure.count import count_magnitudes

ROWS_AT_ONCE = 128
"""Rows of counts that are made together: 17 MiB. A model of 128 experts has tens of thousands of them."""


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


def count_components(
    components: Sequence[Component], parameter: Callable[[str], Tensor], rows_at_once: int = ROWS_AT_ONCE
) -> Iterator[CountedRows]:
    """Counts |w| of every component, in pieces of a bounded number of rows, grouped by device and dtype.

    Where the parts of a parameter make it up completely, the row of the whole is the integer sum of their rows and costs no
    read of its own. A whole of which parts are missing from ``components`` is read as it is.

    Args:
        components: As `discover_components` returns them: all, some, or in another order.
        parameter: Gives the stored parameter by the name in `Component.parameter`, whole and not a shard.
        rows_at_once: How many rows to count together.

    Yields:
        Every component's row exactly once.

    Raises:
        ValueError: If a parameter does not have the elements that its parts were found in.

    >>> from torch import nn
    >>> from weibull_monitor.components import discover_components
    >>> model = nn.ModuleDict({"attn": nn.ModuleDict({"qkv": nn.Linear(8, 24), "proj": nn.Linear(8, 8)})})
    >>> found = discover_components(model)
    >>> [batch] = count_components(found, dict(model.named_parameters()).__getitem__)
    >>> {found[i].name: int(row.sum()) for i, row in zip(batch.indices, batch.counts)}  # doctest: +NORMALIZE_WHITESPACE
    {'attn.qkv.weight[q]': 64, 'attn.qkv.weight[k]': 64, 'attn.qkv.weight[v]': 64, 'attn.proj.weight': 64,
     'attn.qkv.weight': 192}
    """
    makes_up = _makes_up(components)
    waiting: dict[int, int] = {}  # rows that a sum still waits for
    for parents in makes_up.values():
        for parent in parents:
            waiting[parent] = waiting.get(parent, 0) + 1
    groups: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for index, component in enumerate(components):
        if index not in waiting:
            tensor = parameter(component.parameter)
            groups.setdefault((tensor.device, tensor.dtype), []).append(index)
    for (_, dtype), members in groups.items():
        bins = bins_of(dtype)
        sums: dict[int, Tensor] = {}
        for start in range(0, len(members), rows_at_once):
            counted = members[start : start + rows_at_once]
            counts = count_magnitudes([_elements(components[i], parameter) for i in counted], bins)
            done: list[int] = []
            for index, row in zip(counted, counts, strict=True):
                for parent in makes_up.get(index, ()):
                    if parent in sums:
                        sums[parent] += row
                    else:
                        sums[parent] = row.clone()
                    waiting[parent] -= 1
                    if not waiting[parent]:
                        done.append(parent)
            if done:
                counts = torch.cat([counts, torch.stack([sums.pop(parent) for parent in done])])
            yield CountedRows((*counted, *done), counts, bins)


def _elements(component: Component, parameter: Callable[[str], Tensor]) -> Tensor:
    tensor = parameter(component.parameter).detach()
    if component.part is None:
        return tensor
    try:
        return component.part.select(tensor)
    except ValueError as error:
        raise ValueError(f"{component.name}: {error}") from error


def _makes_up(components: Sequence[Component]) -> dict[int, tuple[int, ...]]:
    """For every component that is counted the components whose rows it is added to: those that their pieces make up."""
    place = {
        (component.parameter, component.part.label if component.part else ""): index
        for index, component in enumerate(components)
    }
    pieces: dict[int, list[int]] = {}
    above: dict[int, int] = {}
    for index, component in enumerate(components):
        if component.part is None:
            continue
        parent = place.get((component.parameter, component.part.within))
        if parent is not None:
            above[index] = parent
            pieces.setdefault(parent, []).append(index)
    made_up = {
        parent
        for parent, members in pieces.items()
        if sum(components[i].numel for i in members) == components[parent].numel
    }
    out: dict[int, tuple[int, ...]] = {}
    for index in range(len(components)):
        if index in made_up:
            continue
        chain, at = [], index
        while at in above and above[at] in made_up:
            at = above[at]
            chain.append(at)
        if chain:
            out[index] = tuple(chain)
    return out
