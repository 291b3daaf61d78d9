"""What becomes of codes where elements are combined one by one: sums, products of elements, nonlinearities, means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from weibull_monitor.model.dataflow.crossed import crossed
from weibull_monitor.model.dataflow.graph import (
    LOW_MASK,
    Event,
    Graph,
    coded,
    compact,
    event_of,
    events_in,
    folded,
    one_event,
)
from weibull_monitor.model.dataflow.streams import meant
from weibull_monitor.model.dataflow.traced import spread

KEPT: Final = 1 << 16
"""Number of elements up to which operands are kept as they lay."""


def changed(graph: Graph, codes: Tensor | None, change: Callable[[int], int]) -> Tensor | None:
    """Codes with every event replaced by what a function makes of it."""
    if codes is None:
        return None
    shape, few = codes.shape, compact(codes)
    found = event_of(few)
    out = few
    for event in events_in(few):
        now = change(event)
        if now != event:
            out = (
                torch.where(found == event, (few & LOW_MASK) | (now << 40), out)
                if now >= 0
                else torch.where(found == event, -1, out)
            )
    return spread(out, shape)


def flagged(graph: Graph, codes: Tensor | None, flag: str) -> Tensor | None:
    """Codes of elements that passed a nonlinearity, a norm, … without meeting other features."""
    return changed(graph, codes, lambda event: graph.derive(event, flag))


def merged(
    graph: Graph, operation: str, a: Tensor | None, b: Tensor | None, shape: torch.Size, call: int
) -> Tensor | None:
    """Codes of the sum or the product, element by element, of two tensors.

    Args:
        graph: The events so far.
        operation: ``add``, or ``mul``.
        a: Codes of the first operand, not broadcast.
        b: Codes of the second.
        shape: Shape of the result.
        call: Number of the operation, so that sums of the same two events in two operations are two sums.
    """
    if a is None or b is None:
        known = a if b is None else b
        if operation == "mul" and _only_figures_of_scores(graph, known):
            return None  # a constant times a maximum or a sum of scores: no scores
        return spread(known, shape)
    a, b = _of_rank(a, len(shape)), _of_rank(b, len(shape))
    wide_a, wide_b = spread(a, shape), spread(b, shape)
    if wide_a is None or wide_b is None:
        return wide_a if wide_b is None else wide_b
    met = crossed(graph, operation, a, b, shape) if len(shape) > 1 else None
    if met is not None:
        return met
    few_a, few_b = compact(a), compact(b)
    scale = _scale(a, b, shape) if operation == "mul" else 0
    smaller = {1: a, 2: b}.get(scale)
    narrow = smaller is not None and len(shape) > 0 and smaller.shape[-1] == 1 and shape[-1] > 1
    one_a, one_b = one_event(few_a), one_event(few_b)
    few_a, few_b = torch.broadcast_tensors(few_a, few_b)  # type: ignore[no-untyped-call]

    def met_at(first: int, second: int, mine_a: Tensor, mine_b: Tensor) -> Tensor:
        """Codes of a sum or product where the operands have these events, for all elements."""
        decide = _add if operation == "add" else _mul
        event, from_first = decide(graph, first, second, mine_a, mine_b, scale, call, narrow)
        if event >= 0 and few_a.numel() < KEPT:
            made = graph.events[event]
            if made.type in ("gated", "stream"):
                graph.operands.setdefault(made.base, (a, b))
            elif "met" in made.flags:
                graph.operands[made.id] = a, b
        if operation == "add" and graph.events[first].base == graph.events[second].base:
            from_first = _other_half(graph, event, mine_a, mine_b, call, from_first)
        low = few_a if from_first else few_b
        if event >= 0 and graph.events[event].type == "stream" and low.dim() and low.shape[-1] == shape[-1] > 1:
            low = torch.arange(shape[-1]).expand(low.shape)
        return coded(event, low)

    if one_a is not None and one_b is not None:  # as nearly always: no element is asked for its own
        if min(one_a, one_b) < 0:
            return spread(few_a if one_b < 0 else few_b, shape)
        wide = spread(met_at(one_a, one_b, few_a.flatten(), few_b.flatten()), shape)
        return folded(wide) if wide is not None and few_a.numel() > 1 else wide
    event_a, event_b = event_of(few_a), event_of(few_b)
    out = torch.where(event_b < 0, few_a, few_b)
    both = (event_a >= 0) & (event_b >= 0)
    pairs = ((event_a << 31) | event_b)[both]
    for pair in torch.unique(pairs).tolist():
        first, second = pair >> 31, pair & 0x7FFFFFFF
        here = both & (event_a == first) & (event_b == second)
        out = torch.where(here, met_at(first, second, few_a[here], few_b[here]), out)
    wide = spread(out, shape)
    return folded(wide) if wide is not None and len(pairs) > 1 else wide


def _only_figures_of_scores(graph: Graph, codes: Tensor | None) -> bool:
    found = [graph.events[e] for e in events_in(codes)]
    return bool(found) and all(e.type == "scores" and "stat" in e.flags for e in found)


def _other_half(graph: Graph, event: int, a: Tensor, b: Tensor, call: int, from_first: bool) -> bool:
    """Whether the sum of two pieces of one product stands for the first of them.

    A rotary embedding by halves adds the same two pieces twice: ``a cos + b sin`` and ``b cos - a sin``. An element of a sum has
    one place, so the second sum stands for the piece that the first one did not stand for, and no row is lost.
    """
    one, two = int(a.flatten()[0]) & LOW_MASK, int(b.flatten()[0]) & LOW_MASK
    if one == two:
        return from_first
    key = (graph.events[event].base, min(one, two), max(one, two))
    before, place = graph.halves.setdefault(key, (call, one if from_first else two))
    return from_first if before == call else place != one


def real(graph: Graph, codes: Tensor) -> Tensor:
    """Codes of the real parts; notes how far the places of imaginary parts are from these: a complex number has one code."""
    real, imaginary = codes[..., 0], codes[..., 1]
    steps = torch.unique((imaginary - real)[event_of(real) >= 0])
    if steps.numel() == 1 and bool((event_of(real) == event_of(imaginary)).all()):
        for event in events_in(codes):
            graph.imaginary[graph.events[event].base] = int(steps[0])
    return real


def imaginary(graph: Graph, codes: Tensor) -> Tensor:
    """Codes of the imaginary parts of complex numbers that have these."""
    steps = {graph.imaginary.get(graph.events[event].base, 0) for event in events_in(codes)}
    step = steps.pop() if len(steps) == 1 else 0
    return torch.where(event_of(codes) >= 0, codes + step, codes)


def _of_rank(codes: Tensor, rank: int) -> Tensor:
    return codes.reshape((1,) * (rank - codes.dim()) + tuple(codes.shape)) if codes.dim() < rank else codes


def _scale(a: Tensor, b: Tensor, shape: torch.Size) -> int:
    """1 if the first of two operands is broadcast along a dimension to multiply the second, 2 for the other way round."""
    wide_a = sum(n > 1 for n in a.shape)
    wide_b = sum(n > 1 for n in b.shape)
    if a.numel() < b.numel() and wide_a < wide_b:
        return 1
    return 2 if b.numel() < a.numel() and wide_b < wide_a else 0


def _add(
    graph: Graph, a: int, b: int, first: Tensor, second: Tensor, scale: int, call: int, one_for_all: bool = False
) -> tuple[int, bool]:
    """The event of a sum of two tracked elements, and whether their place is that of the first."""
    a, b = meant(graph, a, b), meant(graph, b, a)
    ea, eb = graph.events[a], graph.events[b]
    if ea.base == eb.base:
        if "stat" in eb.flags or "stat" in ea.flags:
            return (a, True) if "stat" in eb.flags else (b, False)
        return (a if _more(ea, eb) else b), True
    for one, other, is_first in ((ea, eb, True), (eb, ea, False)):
        if "stat" in other.flags and "stat" not in one.flags:
            return one.id, is_first
    for one, other, is_first in ((ea, eb, True), (eb, ea, False)):
        if one.type == "scores":
            if other.type == "scores":
                graph.base(one.id).also.append(other.base)
            else:
                graph.biases.add(other.base)
            return one.id, is_first
    for one, other, is_first in ((ea, eb, True), (eb, ea, False)):
        if one.type == "pair":
            return one.id, is_first
        if one.type in ("attention", "weighted") and not _reads(graph, one.id, other.id):
            values = {graph.events[e].base for e in events_in(graph.base(one.id).third)}
            if other.type != "stream" or other.base in values:  # a part of the value is taken out again
                if other.type == "attention":
                    graph.joined.setdefault(one.base, []).append(other.base)
                return one.id, is_first
    for one, other, is_first in ((ea, eb, True), (eb, ea, False)):
        factors = {graph.events[source].base for source in graph.base(one.id).sources}
        if one.type == "gated" and other.type == "product" and other.base in factors:
            return one.id, is_first  # g · u + g is g · (u + 1)
    for one, other, is_first in ((ea, eb, True), (eb, ea, False)):
        if _adapts(graph, other, one):
            graph.adapters.append((other.base, one.base))
            return one.id, is_first
    for one, other, is_first in ((ea, eb, True), (eb, ea, False)):
        if (
            one.type == "product"
            and other.type == "parameter"
            and not graph.first_hand(one.base)
            and not any(graph.events[s].type == "attention" and _reads(graph, s, other.id) for s in one.sources)
        ):  # a bias for each head or expert
            return one.id, is_first
    # One event for the whole operation, whatever its parts are made of (a class token beside patches, several experts).
    key = (-1, -1, call)
    if key not in graph._sums:
        graph._sums[key] = graph.new("stream").id
    total = graph.events[graph._sums[key]]
    total.sources = tuple(dict.fromkeys((*total.sources, a, b)))
    few = first.flatten(), second.flatten()
    total.first = few[0] if total.first is None else torch.cat([total.first, few[0]])
    total.second = few[1] if total.second is None else torch.cat([total.second, few[1]])
    graph.added.append((total.id, (a, b)))
    return total.id, ea.type != "product" or eb.type == "product"


def _reads(graph: Graph, attention: int, other: int) -> bool:
    """Whether an attention without an output matrix is added to what its queries read, as a branch is to the residual."""
    base = graph.base(attention)
    for codes in (base.first, base.second):
        for event in events_in(codes):
            source = graph.base(event)
            if graph.events[other].base in {graph.events[s].base for s in source.sources}:
                return True
    return False


def _adapts(graph: Graph, other: Event, one: Event) -> bool:
    """Whether a product is that of a low-rank adapter beside another product: it reads a narrower product of the same input."""
    if other.type != "product" or one.type != "product" or "act" in one.flags:
        return False
    for source in other.sources:
        inner = graph.base(source)
        alike = set(_bases(graph, inner)) & set(_bases(graph, graph.base(one.id)))
        if inner.type == "product" and inner.base != one.base and alike and inner.parameter != one.parameter:
            return graph.base(other.id).width < graph.base(one.id).width  # a head of two classes has fewer rows
    return False


def _bases(graph: Graph, event: Event) -> list[int]:
    return [graph.events[s].base for s in event.sources]


def _mul(
    graph: Graph, a: int, b: int, first: Tensor, second: Tensor, scale: int, call: int, one_for_all: bool = False
) -> tuple[int, bool]:
    """The event of a product of two tracked elements, and whether their place is that of the first."""
    ea, eb = graph.events[a], graph.events[b]
    if ea.base == eb.base:
        if ("stat" in ea.flags) != ("stat" in eb.flags):  # x / rms(x)
            keep, whole_first = (a, True) if "stat" in eb.flags else (b, False)
            return graph.derive(keep, "norm"), whole_first
        if "stat" in ea.flags:
            return a, True
        if scale:  # x / sqrt(sum(x²))
            return graph.derive(b if scale == 1 else a, "norm"), scale == 2
        more = a if _more(ea, eb) else b
        if ea.type != "product":
            return more, more == a
        if first.shape == second.shape and bool(((first ^ second) & LOW_MASK == 0).all()):
            return graph.derive(graph.derive(more, "act"), "self"), True  # x·sigmoid(x), x·x
        if scale == 0 and _halves(first, second):
            return _gated(graph, ea, eb, first, second, call)
        return a, True
    for one, other, is_first in ((ea, eb, True), (eb, ea, False)):
        if "stat" in other.flags or one.type == "pair":
            if other.base in graph.routed:  # the largest of the numbers that choose an expert (Switch Transformers)
                graph.scales.setdefault(other.base, set()).add(one.base)
            return one.id, is_first
        if one.type == "scores":
            narrow = (
                scale == (1 if is_first else 2) and "act" not in one.flags
            )  # a number for each query, not for a key
            return (other.id, not is_first) if narrow else (one.id, is_first)
    for smaller, larger, is_first in ((ea, eb, True), (eb, ea, False)):
        if scale == (1 if is_first else 2):
            graph.scales.setdefault(smaller.base, set()).add(larger.base)
            low = first if is_first else second
            if larger.type == "attention" and smaller.type == "product":
                graph.gates.setdefault(smaller.base, []).append(low)
            elif one_for_all:
                whole, codes = graph.weighs.setdefault(smaller.base, (set(), []))
                whole.add(larger.base)
                codes.append(low)
            if smaller.type == larger.type == "product" and "act" not in smaller.flags | larger.flags:
                return graph.derive(larger.id, "met"), not is_first  # a query and the keys around it, perhaps
            scaled = larger.type == "stream" and not one_for_all
            return graph.derive(larger.id, "scaled") if scaled else larger.id, not is_first
    for one, other, is_first in ((ea, eb, True), (eb, ea, False)):
        if one.type == "attention" and other.type == "product":
            graph.gates.setdefault(other.base, []).append(second if is_first else first)
            return one.id, is_first
    for one, other, is_first in ((ea, eb, True), (eb, ea, False)):
        if one.type == "gated" and "unclear" in one.flags and "act" in other.flags and other.type == "product":
            halves = [graph.events[s].base for s in one.sources]  # (up · gate) · sigmoid(gate)
            if other.base in halves:
                return _clear(graph, one, other, second if is_first else first, call), is_first
    if ea.type == eb.type == "product":
        return _gated(graph, ea, eb, first, second, call)
    for one, is_first in ((ea, True), (eb, False)):
        if one.type == "stream":
            graph.scales.setdefault((eb if is_first else ea).base, set()).add(one.base)
            return graph.derive(one.id, "scaled"), is_first
    return _once(graph, "mixed", a, b, call), True


def _more(one: Event, other: Event) -> bool:
    """Whether of two variants of one event the first says more; a mean over positions beside the thing itself says less."""
    return ("pool" not in one.flags, len(one.flags)) >= ("pool" not in other.flags, len(other.flags))


def _halves(first: Tensor, second: Tensor) -> bool:
    """Whether two operands are different rows of one matrix, not the same rows in another order (as in a rotation)."""
    a, b = torch.unique(first & LOW_MASK), torch.unique(second & LOW_MASK)
    return not bool(torch.isin(a, b).any())


def _once(graph: Graph, type: str, a: int, b: int, call: int) -> int:
    key = (a, b, -1 - call)
    if key not in graph._sums:
        graph._sums[key] = graph.new(type, (a, b)).id
    return graph._sums[key]


def _gated(graph: Graph, ea: Event, eb: Event, first: Tensor, second: Tensor, call: int) -> tuple[int, bool]:
    """The product of two projections: the one that passed a nonlinearity is the gate.

    Of two that did (a swish beside a soft cap), it is the one that was multiplied with its own nonlinearity.
    """
    flag = "self" if "act" in ea.flags and "act" in eb.flags else "act"
    gate_first = flag in ea.flags
    clear = gate_first != (flag in eb.flags)
    key = (ea.id, eb.id, -1 - call)
    if key not in graph._sums:
        made = graph.new("gated", (ea.id, eb.id))
        gate, up = (first, second) if gate_first else (second, first)
        made.first, made.second = gate, up
        if not clear:
            made.flags = frozenset({"unclear"})
        graph._sums[key] = made.id
    else:  # the same product for other features or experts
        made = graph.events[graph._sums[key]]
    return graph._sums[key], not gate_first


def _clear(graph: Graph, gated: Event, act: Event, codes: Tensor, call: int) -> int:
    """The product of two projections after it was multiplied with the activation of one of them."""
    key = (gated.id, act.id, -1 - call)
    if key not in graph._sums:
        base = graph.base(gated.id)
        first, second = base.first, base.second
        lows = torch.unique(codes & LOW_MASK)
        if first is not None and second is not None and torch.equal(torch.unique(second & LOW_MASK), lows):
            first, second = second, first
        graph._sums[key] = graph.new("gated", base.sources, first=first, second=second).id
    return graph._sums[key]
