"""What is needed to read roles off a pass: which product reads what, and which branches are added to which stream."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from weibull_monitor.model.dataflow.follow import Pass
from weibull_monitor.model.dataflow.graph import Event, event_of

MOST_SUMS = 6
"""How many sums a branch may pass before it meets the residual stream."""


@dataclass
class Use:
    """One role of some rows of a parameter.

    Attributes:
        role: ``q``, ``k``, ``v``, ``o``, ``gate``, ``up``, ``down``, ``in``, ``out``, ``attn_gate``, ``q_a``, ``kv_a``,
            ``router``, ``embedding``, ``lm_head``, ``mixer``, ``adapter_a``, ``adapter_b``, or ``other``.
        places: Where each of the rows begins in the flat parameter.
        columns: The columns of these rows that have the role; None for all.
        heads: The same for each head, where heads are known.
        attention: The event of the attention that it belongs to, or -1.
        event: The event of the product.
        latent: Whether the product reads a latent.
        why: How that is known, in words.
    """

    role: str
    places: Tensor
    columns: Tensor | None = None
    heads: list[Tensor] = field(default_factory=list)
    attention: int = -1
    event: int = -1
    latent: bool = False
    why: str = ""


@dataclass(frozen=True)
class AttentionUse:
    """An attention of a pass.

    Attributes:
        event: Its event.
        query_heads: Number of different heads of the query; 0 if it is not known.
        key_value_heads: Number of different heads of the key.
        head_size: Features of a head of the query.
        qk_norm: Whether the query and the key were normalised.
        cross: Whether key and query come from different streams.
        causal: Whether later keys were hidden from each query.
    """

    event: int
    query_heads: int
    key_value_heads: int
    head_size: int
    qk_norm: bool
    cross: bool
    causal: bool = False


class Reading:
    """A pass, and what is asked of it again and again.

    Attributes:
        uses: The uses of each parameter, by its number.
        attentions: The attentions, by their events.
    """

    def __init__(self, found: Pass) -> None:
        self._pass, self._graph = found, found.graph
        self._events = found.graph.events
        self.uses: dict[int, list[Use]] = defaultdict(list)
        self.attentions: dict[int, AttentionUse] = {}
        self._products = [e for e in self._events if e.type == "product" and e.base == e.id]
        self._readers: dict[int, list[Event]] = defaultdict(list)
        for product in self._products:
            for source in {self._events[s].base for s in product.sources}:
                self._readers[source].append(product)
        self._sums: dict[int, list[tuple[int, int]]] = defaultdict(list)  # base of a summand → (sum, base of the other)
        for total, (a, b) in self._graph.added:
            base_a, base_b = self._events[a].base, self._events[b].base
            for one, other, event in ((base_a, base_b, self._events[a]), (base_b, base_a, self._events[b])):
                if "act" not in event.flags or event.type != "product":
                    self._sums[one].append((total, other))
        self._lineages: dict[int, frozenset[int]] = {}
        self._role: dict[int, str] = {}

    def event(self, use: Use) -> Event:
        """The product that a use is of."""
        return self._events[use.event]

    def _add(self, event: Event, use: Use) -> None:
        use.event = event.base
        self.uses[event.parameter].append(use)
        self._role.setdefault(event.base, use.role)

    def _adapters(self) -> Iterator[tuple[Event, list[Event]]]:
        """The products of low-rank adapters: that of the second matrix, and those of the first that it reads."""
        for second, _ in self._graph.adapters:
            inner = [self._graph.base(source) for source in self._events[second].sources]
            yield self._events[second], [event for event in inner if event.type == "product"]

    def _read_by(self, event: Event) -> set[int]:
        """Bases of the events that a product reads, through latents; the event itself if it is not a product."""
        if event.type != "product":
            return {event.base}
        out: set[int] = set()
        for source in event.sources:
            base = self._graph.base(source)
            deeper = base.type == "product" and base.base not in self._sums and "act" not in self._events[source].flags
            out |= {self._events[s].base for s in base.sources} if deeper and base.sources else {base.base}
        return out

    def _lineage(self, event: int) -> frozenset[int]:
        """The events that were summed to make an event of a stream, itself included."""
        todo = [event]
        while todo:
            here = todo[-1]
            if here in self._lineages:
                todo.pop()
                continue
            event_here = self._events[here]
            # A product over copies of a stream (fixed hyper-connections) is a state of it.
            mixing = event_here.type == "product" and event_here.tokens and here in self._sums
            below = [self._events[s].base for s in event_here.sources] if event_here.type == "stream" or mixing else []
            missing = [b for b in below if b not in self._lineages]
            if missing:
                todo += missing
                continue
            self._lineages[here] = frozenset({here}).union(*(self._lineages[b] for b in below))
            todo.pop()
        return self._lineages[event]

    def _reaches(self, product: int, read: set[int], depth: int = MOST_SUMS) -> bool:
        """Whether a branch is added to the stream that it began with."""
        for total, other in self._sums.get(product, ()):
            lineage = self._lineage(other)
            if any(r == other or r in lineage or other in self._lineage(r) for r in read):
                return True
            if any(self._events[c].type == "stream" for r in read for c in lineage & self._lineage(r)):
                return True  # both begin with one stream: what the branch reads was modulated
            if depth and self._reaches(total, read, depth - 1):
                return True
        return False

    def _read_now(self, event: Event, depth: int = 2) -> set[int]:
        """Bases of what a product reads, if it reads a stream: itself, or through other matrices of its block."""
        base = self._graph.base(event.id)
        if base.type != "product" or base.tokens:
            return set()
        found = set()
        for source in base.sources:
            one = self._events[source]
            if one.flags & {"pool", "stat"}:
                return set()
            if one.type == "product" and ("act" in one.flags or (one.base not in self._sums and one.sources)):
                below = self._read_now(one, depth - 1) if depth and self._graph.base(one.id).kernel == 1 else set()
                if not below and "act" in one.flags:
                    return set()
                found |= below or {one.base}
            else:
                found.add(one.base)
        return found

    def _column_types(self, product: Event) -> dict[str, tuple[Tensor, int]]:
        """For each type of event that columns of a product read: the columns, and one of the events."""
        out: dict[str, tuple[Tensor, int]] = {}
        types: dict[str, list[int]] = defaultdict(list)
        for source in product.sources:
            event = self._events[source]
            types["attention" if event.type in ("attention",) else event.type].append(source)
        if len(types) == 1:
            ((kind, sources),) = types.items()
            return {kind: (torch.zeros(0, dtype=torch.int64), sources[0])}
        if product.columns is None:
            return {}
        found = event_of(product.columns)
        for kind, sources in types.items():
            mine = torch.zeros_like(found, dtype=torch.bool)
            for source in sources:
                mine |= found == source
            if mine.any():
                out[kind] = mine.nonzero().flatten(), sources[0]
        return out

    def _rows_of(self, product: Event) -> Tensor:
        """The places of all rows of a product."""
        return product.places if product.places is not None else torch.zeros(1, dtype=torch.int64)
