"""Deformable attention: values at positions that a query chooses, weighed by numbers that it makes. It has no keys."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from weibull_monitor.model.dataflow.elementwise import changed
from weibull_monitor.model.dataflow.graph import LOW_MASK, Graph, coded, event_of, events_in, varies


def at_chosen(graph: Graph, codes: Tensor | None) -> Tensor | None:
    """Codes of elements that were taken from positions which other products chose."""
    return changed(graph, codes, lambda e: graph.derive(e, "sampled") if graph.events[e].type == "product" else e)


def are_sampled(graph: Graph, codes: Tensor | None) -> bool:
    """Whether all elements are products with matrices, at positions that other products chose."""
    found = [graph.events[event] for event in events_in(codes)]
    return bool(found) and all(event.type == "product" and "sampled" in event.flags for event in found)


def sampled(graph: Graph, codes: Tensor, weights: Collection[int] = ()) -> Tensor | None:
    """Codes of the output of an attention that summed sampled values over their positions; None if it was none.

    Args:
        graph: The events so far.
        codes: Codes of the values at one position, in the shape of the result.
        weights: Events of what weighed the values; if there are none, products that multiplied all features of a position.
    """
    bases = {graph.events[event].base for event in events_in(codes)}
    weights = weights or [base for base, larger in graph.scales.items() if larger & bases]
    weights = [event for event in weights if graph.events[event].type == "product"]
    if not weights:
        return None
    if any(graph.events[source].base in bases for event in graph.events for source in event.sources):
        return None  # pictures as they are, which other matrices read, too
    # Features lie next to each other in the matrix, and heads farther apart.
    steps = {dim: _step(codes, dim) for dim in range(codes.dim()) if varies(codes, dim)}
    features = min(steps, key=lambda dim: steps[dim], default=-1)
    made = graph.new("attention", (*events_in(codes), *weights), third=codes.movedim(features, -1))
    return torch.where(event_of(codes) < 0, codes, coded(made.id, codes & LOW_MASK))


def _step(codes: Tensor, dim: int) -> int:
    """How far apart neighbours along a dimension lie in a matrix."""
    return int((codes.select(dim, 1) - codes.select(dim, 0)).abs().max())
