"""The roles of matrices in feed-forward blocks: gate, up and down, or in and out."""

from __future__ import annotations

import torch
from torch import Tensor

from weibull_monitor.model.dataflow.attention import AttentionRoles
from weibull_monitor.model.dataflow.graph import LOW_MASK, Event, event_of, events_in
from weibull_monitor.model.dataflow.reading import Use


class BlockRoles(AttentionRoles):
    """Adds the roles of feed-forward blocks."""

    def block_roles(self) -> None:
        """Gates, up- and down-projections; first and second matrices."""
        for gated in [e for e in self._events if e.type == "gated" and e.base == e.id]:
            for total, other in self._sums.get(gated.base, ()):  # a gate on the output of a block
                for source in gated.sources:
                    if self._events[source].type == "product" and "act" not in self._events[source].flags:
                        self._sums[self._events[source].base].append((total, other))
        for product in self._products:
            if product.kernel != 1:
                continue
            for kind, (columns, _) in self._column_types(product).items():
                if kind in ("product", "gated"):
                    self._block(product, kind, columns)

    def _block(self, product: Event, kind: str, columns: Tensor) -> None:
        sources = [self._events[s] for s in product.sources if self._events[s].type == kind]
        everything = len(columns) == 0
        for source in sources:
            if source.flags & {"expanded", "pool", "stat"}:
                return
        if kind == "gated":
            made = self._graph.base(sources[0].id)
            halves = [self._events[e] for codes in (made.first, made.second) for e in events_in(codes)[:1]]
            moved = {"depthwise", "expanded", "pool"}  # over positions
            below = [self._events[s] for h in halves for s in self._graph.base(h.id).sources]
            around = [e for e in below if e.type == "product"]  # focal modulation: by what is around each position
            if len(halves) != 2 or any(e.flags & moved for e in (*halves, *around)):
                return
            if any(self._graph.base(h.id).kernel != 1 for h in halves):
                return
            reads = [self._read_now(h) for h in halves]
            if not reads[0] or reads[0] != reads[1] or not self._returns(product, halves, reads[0]):
                return
            for source in sources:
                self._pair(source)
            use = Use("down", self._rows_of(product), None if everything else columns)
            use.why = "it reads the product of a gate and an up-projection"
            self._add(product, use)
            return
        if not all("act" in s.flags for s in sources):
            return
        firsts = [self._graph.base(s.id) for s in sources]
        if any(f.kernel != 1 for f in firsts):
            return
        if any(f.tokens for f in firsts) and product.base in self._sums:
            for f in firsts:
                self._add(f, Use("mixer", self._rows_of(f), why="it mixes positions"))
            self._add(product, Use("mixer", self._rows_of(product), why="it mixes positions"))
            return
        read = self._read_now(firsts[0])
        if not read or not self._returns(product, firsts, read):
            return
        for first, source in zip(firsts, sources, strict=True):
            before = [self._events[s] for s in first.sources if self._events[s].type == "product"]
            hidden = [b for b in before if "act" in b.flags]
            for one, places in (
                [(self._graph.base(b.id), self._used(first, b)) for b in hidden]  # two hidden layers, or more
                if hidden
                else [(first, self._used(product, source))]
            ):
                self._add(one, Use("in", places, why="its output goes through an activation into a second matrix"))
        use = Use("out", self._rows_of(product), None if everything else columns)
        use.why = "it reads the activation of a feed-forward block"
        self._add(product, use)

    def _returns(self, product: Event, firsts: list[Event], read: set[int]) -> bool:
        """Whether the block that a product ends is added to the stream that it began with.

        A block may follow an attention without a sum between them, and another matrix may follow it (Zamba2): then the stream
        is that of the attention's queries.
        """
        if self._reaches(product.base, read):
            return True
        attentions = [self._events[r] for r in read]
        if any(a.type != "attention" for a in attentions) or any(self._role.get(f.base) for f in firsts):
            return False
        queries = {self._graph.base(e) for a in attentions for e in events_in(a.first)}
        began = set().union(*(self._read_by(query) for query in queries))
        following, last = self._readers[product.base], product
        if product.base not in self._sums and len(following) == 1 and following[0].sources == (product.base,):
            last = following[0]
        return self._reaches(last.base, began)

    def _used(self, product: Event, source: Event) -> Tensor:
        """The rows of a first matrix that a second one reads."""
        if product.columns is None:
            return self._rows_of(self._graph.base(source.id))
        mine = product.columns[event_of(product.columns) == source.id]
        return torch.unique(mine & LOW_MASK) if len(mine) else self._rows_of(self._graph.base(source.id))

    def _pair(self, gated: Event) -> None:
        """Gate and up-projection of a product of two."""
        made = self._graph.base(gated.id)
        if made.first is None or made.second is None:
            return
        if "unclear" in made.flags:  # nothing tells which of the two is the gate
            for event in (e for codes in (made.first, made.second) for e in events_in(codes)):
                base = self._graph.base(event)
                whole = (
                    self._graph.base(events_in(made.first)[0]).parameter
                    == self._graph.base(events_in(made.second)[0]).parameter
                )
                for role in ("gate", "up") if whole else ("up",):
                    self._add(
                        base,
                        Use(
                            role, self._rows_of(base), why="it is multiplied with another projection of the same input"
                        ),
                    )
            return
        for role, codes in (("gate", made.first), ("up", made.second)):
            for event in events_in(codes):
                places = torch.unique(codes[event_of(codes) == event] & LOW_MASK)
                why = (
                    "its output goes through an activation and multiplies another"
                    if role == "gate"
                    else "a gate multiplies it"
                )
                self._add(self._graph.base(event), Use(role, places, why=why))
