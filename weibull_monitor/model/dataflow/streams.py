"""Residual streams of which there are several: copies that are mixed (hyper-connections), or the states after earlier blocks."""

from __future__ import annotations

import torch
from torch import Tensor

from weibull_monitor.model.dataflow.graph import Graph, coded, copies, events_in
from weibull_monitor.model.dataflow.traced import spread


def are_streams(graph: Graph, codes: Tensor | None, dim: int) -> bool:
    """Whether the elements along a dimension are one stream at several places, or several streams and branches of blocks."""
    found = [graph.events[event] for event in events_in(codes)]
    types = {event.type for event in found}
    if codes is None or not types & {"stream", "embedding"} or not types <= {"stream", "embedding", "product"}:
        return False
    return copies(codes, dim) and not any(_state(graph, event.id) for event in found)


def several(graph: Graph, codes: Tensor | None) -> bool:
    """Whether codes are of more than one stream or branch."""
    return len({graph.events[event].base for event in events_in(codes)}) > 1


def weighed(graph: Graph, codes: Tensor, dim: int, shape: torch.Size) -> Tensor | None:
    """Codes of a weighted sum of streams along a dimension, which is a stream itself; in a shape."""
    found = events_in(codes)
    if not several(graph, codes):
        return spread(codes.narrow(dim, 0, 1), shape)
    total = graph.new("stream", found)
    graph.added += [(total.id, (one, other)) for one in found[:1] for other in found[1:]]
    return coded(total.id, torch.arange(shape[-1])).expand(shape)


def outer(graph: Graph, a: Tensor, b: Tensor, shape: torch.Size) -> Tensor:
    """Codes of the products of all features of one thing with all features of another.

    It is the state of a linear attention, unless it is added to copies of a stream: then it is the branch of a block, times one
    number for each copy, and `meant` finds the branch.
    """
    found = events_in(a), events_in(b)
    made = graph.new("mixed", (*found[0], *found[1]))
    graph.mixes.append(made.id)
    sizes = [max((n for n in x.shape[-2:]), default=1) for x in (a, b)]
    wide = found[0] if sizes[0] > sizes[1] else found[1]
    if len(wide) == 1:
        graph.outer[made.id] = wide[0]
    return coded(made.id, torch.arange(shape[-1])).expand(shape)


def meant(graph: Graph, event: int, other: int) -> int:
    """The event that another one is added to: the branch of a block, where the sum is that of a stream with an `outer`."""
    base = graph.events[event].base
    if base not in graph.outer or graph.events[other].type not in ("stream", "embedding") or _state(graph, other):
        return event
    if base in graph.mixes:
        graph.mixes.remove(base)
    return graph.outer[base]


def _state(graph: Graph, event: int) -> bool:
    """Whether a sum is the state of a recurrence, to which an `outer` is added at every step."""
    return any(graph.events[source].base in graph.outer for source in graph.base(event).sources)
