"""What becomes of codes where elements are summed, or figures of them are made, along dimensions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weibull_monitor.model.dataflow.crossed import attended, scores_of
from weibull_monitor.model.dataflow.elementwise import changed, flagged, merged
from weibull_monitor.model.dataflow.graph import Graph, coded, copies, events_in, varies
from weibull_monitor.model.dataflow.sampled import are_sampled, sampled
from weibull_monitor.model.dataflow.traced import spread


def summed(graph: Graph, codes: Tensor | None, dims: Sequence[int], keep: bool, mean: bool) -> Tensor | None:
    """Codes of a sum or a mean over dimensions, or of any other figure of the elements along them."""
    if codes is None:
        return None
    over_features = any(varies(codes, dim) for dim in dims)
    rest = [d for d in range(codes.dim()) if d not in {x % codes.dim() for x in dims}]
    met = None
    if len(dims) == 1 and codes.shape[dims[0]] > 0:
        one = codes.narrow(dims[0], 0, 1)
        met = attended(graph, codes, dims[0]) if over_features else scores_of(graph, one)
    if met is not None:
        return met if keep else met.squeeze(dims[0])
    total = over_features and not mean
    queries = all("met" in graph.events[e].flags for e in events_in(codes))  # with the keys around them
    if total and not queries and codes.dim() - 1 in rest and any(varies(codes, d) for d in rest):
        return added_up(graph, codes, sorted(d % codes.dim() for d in dims), keep)
    out = codes
    for dim in sorted({d % codes.dim() for d in dims}, reverse=True):
        if out.shape[dim] == 0:
            return None
        out = out.narrow(dim, 0, 1)
        if not keep:
            out = out.squeeze(dim)
    if not mean and len(dims) == 1 and (made := _convolved(graph, codes, out, dims[0], keep)) is not None:
        return made
    single = all(codes.shape[dim] == 1 and graph.events[e].type == "scores" for dim in dims for e in events_in(codes))
    if over_features or single:  # of one key, too
        if not mean and (dotted := _dotted(graph, codes, out, dims, keep)) is not None:
            return dotted
        return flagged(graph, out, "stat")
    products = {e for e in events_in(out) if graph.events[e].type == "product"}
    if mean:
        return flagged(graph, out, "pool")
    if are_sampled(graph, out) and (made := sampled(graph, out)) is not None:
        return made
    return changed(graph, out, lambda e: graph.derive(e, "pool") if e in products else e)


def _convolved(graph: Graph, codes: Tensor, out: Tensor, dim: int, keep: bool) -> Tensor | None:
    """Codes of the sum of neighbours, each times a number of its own, as in a convolution whose weights a product makes."""
    found = [graph.events[e] for e in events_in(out)]
    operands = graph.operands.get(found[0].base) if len(found) == 1 and found[0].type == "gated" else None
    if operands is None or operands[0].dim() != codes.dim():
        return None
    for one, other in (operands, operands[::-1]):
        if one.shape[dim] > 1 and copies(one, dim) and varies(other, dim):
            kept = one.narrow(dim, 0, 1)
            return spread(flagged(graph, kept if keep else kept.squeeze(dim), "expanded"), out.shape)
    return None


def _dotted(graph: Graph, codes: Tensor, out: Tensor, dims: Sequence[int], keep: bool) -> Tensor | None:
    """Codes of sums of products of two different things over features, of which ``out`` has the first element."""
    found = [graph.events[e] for e in events_in(out)]
    if len(found) != 1 or len(dims) != 1:
        return None
    if "scaled" in found[0].flags:  # of a state with what reads it
        made = graph.new("mixed", found[0].sources)
        graph.mixes.append(made.id)
        return coded(made.id, torch.arange(out.shape[-1]) if out.dim() else torch.zeros((), dtype=torch.int64)).expand(
            out.shape
        )
    operands = graph.operands.get(found[0].id if "met" in found[0].flags else found[0].base)
    if operands is None or operands[0].dim() != codes.dim():
        return None
    # A query, or one at each position, with the keys of some positions: (…, 1, c) and (…, j, c).
    few, many = operands if operands[0].numel() <= operands[1].numel() else operands[::-1]
    if not all(varies(x, dims[0]) for x in (few, many)):
        return None
    key = (found[0].id if "met" in found[0].flags else found[0].base, -1, -4)
    if key not in graph._sums:
        graph._sums[key] = graph.new(
            "scores",
            (*events_in(few), *events_in(many)),
            first=few.movedim(dims[0], -1),
            second=many.movedim(dims[0], -1),
        ).id
    wide = [d for d in range(codes.dim()) if many.shape[d] > few.shape[d]] or [codes.dim() - 1]
    size = codes.shape[wide[-1]] if wide[-1] != dims[0] % codes.dim() else 1
    low = torch.arange(size).view([-1 if d == wide[-1] else 1 for d in range(codes.dim())])
    low = coded(graph._sums[key], low)
    return (low if keep else low.squeeze(dims[0])).expand(out.shape)


def added_up(graph: Graph, codes: Tensor, dims: list[int], keep: bool) -> Tensor:
    """Codes of a sum over heads or experts, whose rows differ: of the first of them, or a sum of all if they are products."""
    out = codes
    for dim in reversed(dims):
        slices = [out.narrow(dim, n, 1) for n in range(min(out.shape[dim], 64))]
        total = slices[0]
        for n, one in enumerate(slices[1:]):
            if set(events_in(one)) - set(events_in(total)) and len(graph.events) < 1 << 20:
                made = merged(graph, "add", total, one, total.shape, -len(graph.events) - n)
                total = made if made is not None else total
        out = total if keep else total.squeeze(dim)
    return out
