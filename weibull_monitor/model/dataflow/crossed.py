"""Attention that is written out element by element: operands that are broadcast along each other's dimensions."""

from __future__ import annotations

import torch
from torch import Tensor

from weibull_monitor.model.dataflow.graph import LOW_MASK, Event, Graph, coded, compact, event_of, events_in, varies
from weibull_monitor.model.dataflow.streams import outer

_OPERANDS = frozenset({"product", "parameter", "embedding", "stream"})


def crossed(graph: Graph, operation: str, a: Tensor, b: Tensor, shape: torch.Size) -> Tensor | None:
    """Codes of ``a + b`` or ``a * b`` for two tensors of one rank, where they meet as in an attention; else None.

    Three ways to meet: queries (…, i, 1, c) and keys (…, 1, j, c), each with each; scores (…, j, 1), or (…, i, j, 1), and the
    values (…, j, d), or (…, 1, j, d), that they weigh; and features with features, (…, c, 1) and (…, 1, d), as in the state of a
    linear attention.
    """
    if operation == "mul":
        for scores, value in ((a, b), (b, a)):
            events = [graph.events[e] for e in events_in(scores)]
            others = {graph.events[e].type for e in events_in(value)}
            if events and others and all(e.type == "scores" and "stat" not in e.flags for e in events):
                return None if "scores" in others else _weighted(graph, scores, value, shape)
    only_a = [d for d in range(len(shape)) if a.shape[d] > 1 and b.shape[d] == 1]
    only_b = [d for d in range(len(shape)) if b.shape[d] > 1 and a.shape[d] == 1]
    if not only_a or not only_b:
        return None
    types = {graph.events[e].type for x in (a, b) for e in events_in(x)}
    if not types or not types <= _OPERANDS:
        return None
    at_a, at_b = ([d for d in only if not varies(x, d)] for x, only in ((a, only_a), (b, only_b)))
    features = [d for d in range(len(shape)) if varies(a, d) and varies(b, d)]
    if at_a and at_b and features:
        return _pair(graph, operation, a, b, (at_a[-1], at_b[-1], features[-1]), shape)
    if operation == "mul" and any(varies(a, d) for d in only_a) and any(varies(b, d) for d in only_b):
        return outer(graph, a, b, shape)
    return None


def _pair(
    graph: Graph, operation: str, a: Tensor, b: Tensor, dims: tuple[int, int, int], shape: torch.Size
) -> Tensor | None:
    """Every query with every key. The place of an element says which: i · J + j."""
    i, j, c = dims
    each = [{graph.events[e].type for e in events_in(x)} for x in (a, b)]
    if operation == "add" and {"parameter"} in each and {"product"} in each:
        return None  # a bias, of which nothing says that it is a query
    if operation == "add" and {graph.events[e].base for e in events_in(a)} == {
        graph.events[e].base for e in events_in(b)
    }:
        low_a, low_b = (torch.unique(compact(x) & LOW_MASK) for x in (a, b))
        if bool(torch.isin(low_a, low_b).any()):
            return None  # differences of positions
    query = a.movedim((i, c), (-2, -1)).squeeze(j if j < min(i, c) else j - (j > i) - (j > c))
    key = b.movedim((j, c), (-2, -1)).squeeze(i if i < min(j, c) else i - (i > j) - (i > c))
    made = graph.new("pair", (*events_in(a), *events_in(b)), first=query, second=key)
    made.size = (shape[i], shape[j])
    if operation == "mul":
        made.flags = frozenset({"act"})  # a product of two is no longer linear in each
    rows = torch.arange(shape[i]).view([-1 if d == i else 1 for d in range(len(shape))])
    columns = torch.arange(shape[j]).view([-1 if d == j else 1 for d in range(len(shape))])
    return coded(made.id, rows * shape[j] + columns).expand(shape)


def scores_of(graph: Graph, codes: Tensor) -> Tensor | None:
    """Codes of scores, which pairs become when their features are summed, in the same shape; None if they are not pairs."""
    found = events_in(codes)
    if len(found) != 1 or graph.events[found[0]].type != "pair" or "act" not in graph.events[found[0]].flags:
        return None
    pair = graph.base(found[0])
    key = (pair.id, -1, -3)
    if key not in graph._sums:
        made = graph.new("scores", pair.sources, first=pair.first, second=pair.second)
        made.size = pair.size
        graph._sums[key] = made.id
    few = compact(codes)
    return coded(graph._sums[key], (few & LOW_MASK) % max(pair.size[1], 1)).expand(codes.shape)


def _weighted(graph: Graph, scores: Tensor, value: Tensor, shape: torch.Size) -> Tensor | None:
    """Values, each times a score. The place of an element: its key times the number of features, plus its feature."""
    features = [d for d in range(len(shape)) if scores.shape[d] == 1 and value.shape[d] > 1 and varies(value, d)]
    both = [d for d in range(len(shape)) if scores.shape[d] > 1 and value.shape[d] > 1 and not varies(value, d)]
    if not features or not both:
        return None
    along = [d for d in both if varies(scores, d)]
    keys, d = (along or both)[-1], features[-1]
    transposed = not along and any(varies(scores, x) for x in range(len(shape)))
    lead = [n for n in range(len(shape)) if varies(value, n) and n != d]
    count = shape[d]
    low = torch.arange(shape[d]).view([-1 if n == d else 1 for n in range(len(shape))])
    for n in reversed(lead):
        low = low + count * torch.arange(shape[n]).view([-1 if m == n else 1 for m in range(len(shape))])
        count *= shape[n]
    low = low + count * torch.arange(shape[keys]).view([-1 if n == keys else 1 for n in range(len(shape))])
    made = graph.new("weighted", (*events_in(scores), *events_in(value)))
    made.third = value.movedim((keys, d), (-2, -1))
    made.size = (count, int(transposed))
    return coded(made.id, low).expand(shape)


def attended(graph: Graph, codes: Tensor, dim: int) -> Tensor | None:
    """Codes of weighed values after a sum over a dimension, which keeps size 1; None if it is not that of the keys."""
    found = events_in(codes)
    if len(found) != 1 or graph.events[found[0]].type != "weighted" or codes.shape[dim] < 2:
        return None
    first, second = (compact(codes.narrow(dim, n, 1)) & LOW_MASK for n in (0, 1))
    if not bool((second - first == graph.base(found[0]).size[0]).all()):
        return None
    return _summed(graph, found[0], codes.narrow(dim, 0, 1))


def gathered(graph: Graph, codes: Tensor) -> Tensor:
    """Codes of weighed values that are added up where an index says, as over the edges of a graph; others stay as they are."""
    found = events_in(codes)
    if len(found) != 1 or graph.events[found[0]].type != "weighted":
        return codes
    return _summed(graph, found[0], codes)


def _summed(graph: Graph, event: int, codes: Tensor) -> Tensor:
    """Codes of weighed values (of one event, in any shape) after they were summed over keys."""
    weighted = graph.base(event)
    base, soft = _scores_in(graph, weighted)
    key = (weighted.id, -1, -2)
    if key not in graph._sums:
        if soft:
            query, keys = (base.second, base.first) if weighted.size[1] else (base.first, base.second)
            made = graph.new("attention", weighted.sources, first=query, second=keys, also=base.also)
            made.third, made.causal = weighted.third, base.causal
        else:
            made = graph.new("mixed", weighted.sources)
            graph.mixes.append(made.id)
        graph._sums[key] = made.id
    few = compact(codes)
    low = (few & LOW_MASK) % max(weighted.size[0], 1)
    return torch.where(event_of(few) < 0, few, coded(graph._sums[key], low)).expand(codes.shape)


def _scores_in(graph: Graph, weighted: Event) -> tuple[Event, bool]:
    """The scores among what weighed values are made of, and whether these passed a softmax or the like."""
    found = [graph.events[s] for s in weighted.sources if graph.events[s].type == "scores"]
    return graph.base(found[0].id), any("act" in f.flags for f in found)
