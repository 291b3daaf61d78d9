"""What becomes of codes where two tensors are contracted: products with weights, scores, attention."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weibull_monitor.model.dataflow.elementwise import flagged
from weibull_monitor.model.dataflow.graph import LOW_BITS, LOW_MASK, Graph, coded, compact, copies, events_in, varies
from weibull_monitor.model.dataflow.sampled import are_sampled, sampled
from weibull_monitor.model.dataflow.streams import are_streams, outer, several, weighed
from weibull_monitor.model.dataflow.sums import added_up
from weibull_monitor.model.dataflow.traced import spread, untracked
from weibull_monitor.model.dataflow.weights import Weights


def product(
    graph: Graph,
    weights: Weights,
    x: Tensor | None,
    w: Tensor,
    x_dim: int,
    w_dim: int,
    kernel: int = 1,
    groups: int = 1,
) -> Tensor:
    """Codes of the rows of a weight that a tensor is multiplied with.

    Args:
        graph: The events so far.
        weights: Where weights lie.
        x: Codes of the tensor, or None if no weight is in it.
        w: The weight, on the meta device.
        x_dim: The dimension of the tensor that is summed over.
        w_dim: That of the weight.
        kernel: For a convolution: how many positions it reads.
        groups: For a convolution: in how many groups it keeps features apart.

    Returns:
        Codes of the shape of ``w``, with size 1 in ``w_dim``.
    """
    starts, step = weights.rows(w, w_dim)
    reads = events_in(x)
    columns = None
    tokens = x is not None and bool(reads) and kernel == 1 and x.shape[x_dim] > 1 and not varies(x, x_dim)
    if x is not None:
        line = compact(x.movedim(x_dim, -1).reshape(-1, x.shape[x_dim])[:1]) if x.numel() else None
        columns = line.flatten() if line is not None else None
    out = starts
    numbers = starts >> LOW_BITS
    one = int(numbers.flatten()[0])
    for number in [one] if bool((numbers == one).all()) else torch.unique(numbers).tolist():
        if number < 0:
            continue
        places = (starts if starts.dim() < 3 or starts.numel() < 1 << 16 else starts[:1]).flatten() & LOW_MASK
        event = graph.new(
            "product",
            reads,
            parameter=number,
            step=step,
            width=w.shape[w_dim] * kernel,
            columns=columns,
            kernel=kernel,
            groups=groups,
            tokens=tokens,
            places=places if one == number else (starts[numbers == number] & LOW_MASK),
            summed=weights.axes(number, step, step * w.shape[w_dim], kernel),
        )
        mine = (starts & LOW_MASK) | (event.id << LOW_BITS)
        out = torch.where(numbers == number, mine, out)
    return out


def matmul(graph: Graph, a: Tensor | None, b: Tensor | None, shape: torch.Size) -> Tensor | None:
    """Codes of a @ b for two tensors that are not weights.

    Args:
        graph: The events so far.
        a: Codes of the first, (…, i, c).
        b: Codes of the second, (…, c, j).
        shape: Shape of the result, (…, i, j).
    """
    in_a, in_b = events_in(a), events_in(b)
    if a is None or b is None or not in_a or not in_b:
        return _by_fixed(graph, a if in_a else None, b if in_b else None, shape)
    kinds_a, kinds_b = {graph.events[e].type for e in in_a}, {graph.events[e].type for e in in_b}
    if kinds_a == {"scores"} and "scores" not in kinds_b:
        return _weighted(graph, in_a, a, b, shape)
    if kinds_b == {"scores"} and "scores" not in kinds_a:
        flipped = _weighted(graph, in_b, b.mT, a.mT, torch.Size((*shape[:-2], shape[-1], shape[-2])))
        return flipped.mT if flipped is not None else None
    for one, other, dim in ((a, b, -2), (b, a, -1)):
        if are_sampled(graph, other) and not varies(other, dim):
            made = sampled(graph, other.narrow(dim, 0, 1), events_in(one))
            if made is not None:
                return spread(made, shape)
        if (kind := _numbers_for(graph, one, other, dim)) is not None:
            if {graph.events[e].type for e in events_in(one)} == {"product"}:
                _note_weighing(graph, one, other)
            if kind == "streams":
                return weighed(graph, other, dim, shape)
            return spread(added_up(graph, other, [dim % other.dim()], True), shape)
    if kinds_b == {"attention"} and _of_scores(graph, in_a):  # several sets of weights, one after the other (Nyström)
        return spread(b.narrow(-2, 0, 1), shape)
    state = 1 in shape[-2:] and not kinds_a.isdisjoint({"mixed", "stream"})  # of a recurrence, with what reads it
    if not state and a.shape[-1] > 1 and varies(a, -1) and varies(b, -2):
        return scores(graph, a, b.mT, shape)
    for one, other, summed in ((a, b, -2), (b, a, -1)):  # positions weighed by single numbers, as of a router
        if not varies(one, -1) and not varies(one, -2) and varies(other, -3 - summed):
            return _combined(graph, one, other, summed, shape)
    # Sums over positions, not over numbers that a product made of one position to weigh its neighbours (outlooks).
    positions = copies(a, -1) and copies(b, -2)
    if positions and a.shape[-1] > 1 and varies(a, -2) and varies(b, -1):
        made = scores(graph, a, b.mT, shape)
        graph.events[events_in(made)[0]].channels = True
        return made
    if a.shape[-1] == 1 and varies(a, -2) and varies(b, -1):
        return outer(graph, a, b, shape)
    made = _mixed(graph, (a, b), shape)
    graph.mixes.append(events_in(made)[0])
    return made


def _by_fixed(graph: Graph, a: Tensor | None, b: Tensor | None, shape: torch.Size) -> Tensor | None:
    """Codes of a product of which one side is known by nothing: constant, or a vector of parameters."""
    known, dim = (a, -1) if a is not None else (b, -2)
    if known is None:
        return None
    if a is None and shape[-2] == 1 and several(graph, known) and are_streams(graph, known, -1):
        return spread(flagged(graph, known.narrow(dim, 0, 1), "stat"), shape)  # how much of each stream is taken
    if not varies(known, dim):  # a mean over positions with fixed weights
        return spread(known.narrow(dim, 0, 1), shape)
    if known.shape == shape:  # a rotation of features
        return known
    return _mixed(graph, (known,), shape)


def _numbers_for(graph: Graph, numbers: Tensor, values: Tensor, dim: int) -> str | None:
    """What single numbers weigh in a product: ``streams`` along a dimension of the values, ``experts``, or none of both.

    Args:
        graph: The events so far.
        numbers: Codes of one operand.
        values: Codes of the other.
        dim: The dimension of the values that is summed over; of the numbers it is the one that is left.
    """
    events = [graph.events[event] for event in events_in(numbers)]
    products, free = all(event.type == "product" for event in events), -3 - dim
    alone = all("stat" in event.flags for event in events)
    if (products or alone) and are_streams(graph, values, dim) and varies(values, free):
        return "streams" if alone or numbers.shape[dim] == 1 or not copies(numbers, dim) else None
    chosen = products and all("act" in event.flags for event in events)
    experts = chosen and all(graph.events[e].type == "product" for e in events_in(values))
    # The rows of experts differ, and their features do.
    return "experts" if experts and copies(numbers, dim) and varies(values, dim) and not copies(values, free) else None


def _of_scores(graph: Graph, events: list[int]) -> bool:
    """Whether something unknown was made of nothing but scores, such as their inverse."""
    bases = [graph.base(event) for event in events]
    return bool(bases) and all(
        base.type == "scores" or (base.type == "mixed" and _of_scores(graph, list(base.sources))) for base in bases
    )


def _combined(graph: Graph, weights: Tensor, values: Tensor, dim: int, shape: torch.Size) -> Tensor | None:
    """Codes of a sum of values over positions, weighed by numbers that another product made."""
    _note_weighing(graph, weights, values)
    return spread(values.narrow(dim, 0, 1), shape)


def _note_weighing(graph: Graph, weights: Tensor, values: Tensor) -> None:
    for event in events_in(weights):
        base = graph.events[event].base
        larger, codes = graph.weighs.setdefault(base, (set(), []))
        larger.update(graph.events[e].base for e in events_in(values))
        codes.append(compact(weights).flatten())


def scores(graph: Graph, query: Tensor, key: Tensor, shape: torch.Size) -> Tensor:
    """Codes of the products of queries (…, i, c) with keys (…, j, c); the place of a score is the position of its key."""
    made = graph.new("scores", (*events_in(query), *events_in(key)), first=query, second=key)
    made.size = (shape[-2] if len(shape) > 1 else 1, shape[-1] if len(shape) else 1)
    low = torch.arange(shape[-1]) if len(shape) else torch.zeros((), dtype=torch.int64)
    return coded(made.id, low).expand(shape)


def _weighted(
    graph: Graph, events: list[int], probabilities: Tensor, value: Tensor, shape: torch.Size
) -> Tensor | None:
    """Codes of probabilities (…, i, j) @ values (…, j, c)."""
    soft = [e for e in events if "act" in graph.events[e].flags]
    base = graph.base(events[0])
    if base.channels and not soft:  # keys meet values before they meet queries: linear attention
        made = _mixed(graph, (probabilities, value), shape)
        graph.mixes.append(events_in(made)[0])
        return made
    queries, keys = base.size
    transposed = probabilities.shape[-1] > 1 and not varies(probabilities, -1) and varies(probabilities, -2)
    # Scores summed over heads, as an indexer does, are none: queries and keys are positions, whose rows are the same.
    heads = transposed and base.first is not None and varies(base.first, -2)
    # Of windows that were put side by side, each query has keys of its own: diagonals have become columns.
    windows = bool(soft) and varies(probabilities, -1) and varies(probabilities, -2)
    if heads or (probabilities.shape[-1] != (queries if transposed else keys) and not windows):
        return _mixed(graph, (probabilities, value), shape)
    if (
        not copies(value, -2) and not transposed and not base.channels
    ):  # scores that are contracted with features: not an attention
        return _mixed(graph, (probabilities, value), shape)
    query, key = (base.second, base.first) if transposed else (base.first, base.second)
    if not soft:
        made = _mixed(graph, (probabilities, value), shape)
        graph.mixes.append(events_in(made)[0])
        return made
    made = _attention(query=query, key=key, value=value, also=base.also, shape=shape, graph=graph)
    graph.events[events_in(made)[0]].causal = base.causal
    return made


def attention(graph: Graph, query: Tensor, key: Tensor, value: Tensor, shape: torch.Size) -> Tensor:
    """Codes of the output of an attention, of a query (…, i, c), a key (…, j, c) and a value (…, j, d)."""
    return _attention(graph, query, key, value, [], shape)


def _attention(
    graph: Graph,
    query: Tensor | None,
    key: Tensor | None,
    value: Tensor,
    also: list[int],
    shape: torch.Size,
) -> Tensor:
    if all(graph.constant(e) for e in events_in(query)) and several(graph, value) and are_streams(graph, value, -2):
        return weighed(graph, value, -2, shape)  # type: ignore[return-value]
    sources = (*events_in(query), *events_in(key), *events_in(value))
    made = graph.new("attention", sources, first=query, second=key, third=value, also=also)
    lead = 1
    for n in shape[:-2]:
        lead *= n
    # The place of an element of the output: its head, and its feature of the head.
    low = torch.arange(lead * shape[-1]).view(*shape[:-2], 1, shape[-1])
    return coded(made.id, low).expand(shape)


def _mixed(graph: Graph, operands: tuple[Tensor, ...], shape: torch.Size) -> Tensor:
    sources = [event for codes in operands for event in events_in(codes)]
    if not sources:
        return untracked(shape)
    made = graph.new("mixed", sources)
    return coded(made.id, torch.arange(shape[-1]) if len(shape) else torch.zeros((), dtype=torch.int64)).expand(shape)


def mixed(graph: Graph, operands: Sequence[Tensor | None], shape: torch.Size) -> Tensor | None:
    """Codes of an operation that is not known: its elements come from all operands, and nothing is said about how."""
    known = tuple(codes for codes in operands if codes is not None)
    return _mixed(graph, known, shape) if known else None
