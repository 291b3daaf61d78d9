"""What each parameter did in a forward pass: the roles of its rows."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from weibull_monitor.model.dataflow.blocks import BlockRoles
from weibull_monitor.model.dataflow.follow import Pass
from weibull_monitor.model.dataflow.graph import LOW_MASK, Event, events_in
from weibull_monitor.model.dataflow.reading import Use


class Roles(BlockRoles):
    """Reads the roles of all parameters off a pass: see `Reading` for its attributes."""

    def __init__(self, found: Pass) -> None:
        super().__init__(found)
        self.attention_roles()
        self.block_roles()
        self.latent_roles()
        self._others()

    def _others(self) -> None:
        graph, events = self._graph, self._events
        for gate, found in graph.gates.items():
            event = events[gate]
            if event.type == "product" and self._role.get(gate) in (None, "q", "k", "v"):
                places = torch.unique(torch.cat([codes.flatten() for codes in found]) & LOW_MASK)
                for use in [
                    u for u in self.uses[event.parameter] if u.event == gate
                ]:  # a value that is taken out again
                    places = places[~torch.isin(places, use.places)]
                if len(places):
                    self._add(event, Use("attn_gate", places, why="it multiplies the output of an attention"))
        outs = {p for p, role in self._role.items() if role in ("out", "down")}
        outs |= {e.base for e in events if e.type == "gated"}
        for base, (larger, found) in graph.weighs.items():
            event = events[base]
            if event.type == "product" and larger & outs and self._role.get(base) in (None, "gate", "up", "in"):
                places = torch.unique(torch.cat([codes.flatten() for codes in found]) & LOW_MASK)
                if base not in self._role and (base in graph.routed or len(places) > 1):
                    places = self._rows_of(event)
                self._add(event, Use("router", places, why="it weighs feed-forward blocks"))
        of_attention = {p for p, role in self._role.items() if role in ("v", "o")}
        for base in graph.routed:
            weighed = graph.scales.get(base, set())
            if base not in self._role and weighed & (outs | of_attention):
                what = "feed-forward blocks" if weighed & outs else "experts of an attention"
                self._add(events[base], Use("router", self._rows_of(events[base]), why=f"it chooses and weighs {what}"))
            elif base not in self._role and graph.weighs.get(base, (set(), []))[0] & self._read_in_blocks():
                why = "it chooses feed-forward blocks and weighs what they read"
                self._add(events[base], Use("router", self._rows_of(events[base]), why=why))
        self._before_routers()
        for b, inner in self._adapters():
            if b.base in self._role or not inner or inner[0].base in self._role:
                continue
            self._add(b, Use("adapter_b", self._rows_of(b), why="the second matrix of an adapter"))
            for a in inner:
                self._add(a, Use("adapter_a", self._rows_of(a), why="the first matrix of an adapter"))
        for pair in graph.merged:
            for parameter, role, which in zip(pair, ("adapter_b", "adapter_a"), ("second", "first"), strict=True):
                why = f"the {which} matrix of an adapter, which is added to a weight"
                self.uses[parameter].append(Use(role, torch.zeros(0, dtype=torch.int64), why=why))
        self._excited()
        self._mixers()
        embeddings = {e.parameter for e in events if e.type == "embedding"}
        for parameter in embeddings:
            self.uses[parameter].append(
                Use("embedding", torch.zeros(0, dtype=torch.int64), why="its rows are looked up")
            )
        for event in events:
            if event.type != "parameter" or event.base != event.id:
                continue
            others = {self._events[other].type for _, other in self._sums.get(event.base, ())}
            begins = any(graph.first_hand(o) for _, o in self._sums.get(event.base, ()))
            if begins or others & {"stream", "embedding"}:
                why = "it is added to a stream as it is"
                self.uses[event.parameter].append(Use("embedding", torch.zeros(0, dtype=torch.int64), why=why))
        rows = {self._pass.shapes[p][0] for p in embeddings}
        read = self._stream_bases()
        streams = read | {base for base, sums in self._sums.items() if any(total in read for total, _ in sums)}
        for product in self._products:
            if graph.first_hand(product.base) and product.base in streams and product.base not in graph.idle:
                why = "it makes the stream of the model's input"
                if product.base not in self._role:
                    self._add(product, Use("embedding", torch.zeros(0, dtype=torch.int64), why=why))
                    if product.kernel == 1 and len(self._pass.shapes[product.parameter]) == 2:
                        rows.add(product.width)
        self._heads(max(rows, default=0))
        for mixed in graph.heads_mixed:
            event = events[mixed]
            self._add(event, Use("other", self._rows_of(event), why="it mixes the scores of heads"))
        for bias in graph.biases:
            if events[bias].type == "parameter":
                why = "it is added to the scores of an attention"
                self.uses[events[bias].parameter].append(Use("embedding", torch.zeros(0, dtype=torch.int64), why=why))

    def _heads(self, vocabulary: int) -> None:
        """The last matrices: nothing reads their products, which are what the model returns, or what its loss is made of."""
        graph = self._graph
        ends: set[int] = set()
        sums: set[int] = set()
        for output in graph.outputs:
            base = graph.base(output)
            ends.add(base.base)
            if base.type == "scores":  # of pictures with texts, say
                ends.update(graph.events[e].base for codes in (base.first, base.second) for e in events_in(codes))
            added = {graph.base(source).base for source in base.sources if base.type == "stream"}
            if all(graph.events[e].type == "product" for e in added):  # the mean of two heads
                ends |= added
                sums |= added
        inner = self._role.keys() | graph.routed | graph.scales.keys() | graph.weighs.keys() | graph.gates.keys()
        last = [
            p
            for p in self._products
            if p.base not in inner | graph.biases
            and not self._readers.get(p.base)
            and (p.base not in self._sums or p.base in sums)
        ]
        # A square matrix whose activation is returned makes no classes and no logits: it pools, for a head to come.
        pooled = {graph.events[output].base for output in graph.outputs if "act" in graph.events[output].flags}
        shapes = self._pass.shapes
        heads = [
            p
            for p in last
            if p.base in ends and len(shapes[p.parameter]) == 2 and self._follows_a_stream(p)
            if p.base not in pooled or len(set(shapes[p.parameter])) > 1
        ]
        if not heads and self._pass.returned:  # what it returns came out of an operation that is not known
            alike = [p for p in last if len(self._rows_of(p)) == vocabulary and self._follows_a_stream(p)]
            heads = alike if len({p.parameter for p in alike}) == 1 else []
        for head in heads:
            logits = len(self._rows_of(head)) == vocabulary
            why = (
                "it makes the logits"
                if logits
                else "its product is what the model returns, or what its loss is made of"
            )
            self._add(head, Use("lm_head", self._rows_of(head), why=why))

    def _follows_a_stream(self, product: Event) -> bool:
        """Whether a product reads, if indirectly, what blocks or an embedding made, not only what the model was given."""
        seen, todo = set(), list(product.sources)
        while todo:
            here = self._graph.base(todo.pop())
            if here.type in ("stream", "attention", "embedding"):
                return True
            if here.base not in seen and here.type in ("product", "gated", "mixed", "weighted"):
                seen.add(here.base)
                todo += here.sources
        return False

    def _stream_bases(self) -> set[int]:
        """Bases of the events that queries, keys and first feed-forward matrices read."""
        firsts = [p for p in self._products if self._role.get(p.base) in ("q", "k", "v", "in", "gate", "up")]
        return {self._events[s].base for p in firsts for s in p.sources}

    def _before_routers(self) -> None:
        """The hidden layers of a router that has several, which nothing else reads."""
        for product in reversed(self._products):
            totals = [total for total, _ in self._sums.get(product.base, ())]
            readers = [r for base in (product.base, *totals) for r in self._readers.get(base, [])]
            new = product.base not in self._role and product.sources and product.kernel == 1
            if new and readers and all(self._role.get(r.base) == "router" for r in readers):
                why = "only a router reads it, which weighs feed-forward blocks"
                self._add(product, Use("router", self._rows_of(product), why=why))

    def _read_in_blocks(self) -> set[int]:
        """Bases of the events that first feed-forward matrices read."""
        firsts = [p for p in self._products if self._role.get(p.base) in ("in", "gate", "up")]
        return {self._events[s].base for p in firsts for s in p.sources}

    def _excited(self) -> None:
        """Squeeze-and-excite, and networks that make a position bias: they look like feed-forward blocks and are none."""
        for product in self._products:
            if product.base in self._role:
                continue
            sources = [self._events[s] for s in product.sources]
            pooled = any("pool" in s.flags or (s.type == "input" and "stat" in s.flags) for s in sources)
            readers = self._readers.get(product.base, [])
            if pooled and any(r.base in self._graph.scales for r in readers):
                for one in (product, *readers):
                    why = "it scales channels by their mean (squeeze and excite)"
                    self._add(one, Use("other", self._rows_of(one), why=why))
            inner = [self._graph.base(s) for s in product.sources if self._graph.base(s).type == "product"]
            if product.base in self._graph.biases and not any(one.sources for one in inner or [product]):
                for one in (product, *inner):
                    if one.base not in self._role:
                        self._add(
                            one, Use("other", self._rows_of(one), why="it makes a bias of the attention's scores")
                        )

    def _mixers(self) -> None:
        """Products whose outputs meet along positions otherwise than in an attention, and those that read the result."""
        below: set[int] = set()
        for mix in self._graph.mixes:
            for product in self._nearest(mix):
                # The second step of an attention's output may meet other streams (hyper-connections).
                output = any(self._role.get(self._graph.base(s).base) == "o" for s in product.sources)
                if product.base not in self._role and not output:
                    self._add(
                        product,
                        Use("mixer", self._rows_of(product), why="it takes part in a recurrence or linear attention"),
                    )
            below.add(mix)
        for event in self._events:
            made = {self._events[s].base for s in event.sources}
            if not made & below:
                continue
            # A sum of what a recurrence gave, and of what went into it (Mamba-2), is not a residual stream.
            summed = event.type == "stream" and all(s in below or self._role.get(s) == "mixer" for s in made)
            if event.type in ("mixed", "gated", "weighted") or summed:
                below.add(event.base)
        for product in self._products:
            if product.base in self._role or not product.sources:
                continue
            if all(self._events[source].base in below for source in product.sources):
                use = Use("mixer", self._rows_of(product), why="it reads a recurrence or linear attention")
                self._add(product, use)

    def _nearest(self, event: int) -> Iterable[Event]:
        seen, todo = set(), [event]
        while todo:
            here = self._graph.base(todo.pop())
            if here.base in seen:
                continue
            seen.add(here.base)
            if here.type == "product":
                yield here
            elif here.type in ("mixed", "gated", "weighted", "scores") or (
                here.type == "stream"
                and not self._readers.get(here.base)  # a difference of two, say, within a recurrence
            ):
                todo += here.sources
