"""The roles of matrices in attentions: queries, keys, values, outputs, and the latents that they are made of."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor

from weibull_monitor.model.dataflow.graph import LOW_MASK, Event, compact, event_of, events_in
from weibull_monitor.model.dataflow.reading import AttentionUse, Reading, Use


class AttentionRoles(Reading):
    """Adds the roles of attentions to what is read off a pass."""

    def attention_roles(self) -> None:
        """Queries, keys, values and outputs."""
        attentions = [e for e in self._events if e.type == "attention" and e.base == e.id]
        users: Counter[int] = Counter()  # attentions that use a key of relative positions
        for attention in attentions:
            keys = [self._events[more].second for more in attention.also]
            users.update({self._events[e].base for codes in keys for e in events_in(codes)})
        for attention in attentions:
            self._of_attention(attention, users)
        self._outputs()
        for attention in attentions:
            self._absorbed(attention)

    def _absorbed(self, attention: Event) -> None:
        """Latent attention as it is decoded: the keys' matrix is applied to the query, the values' to what was attended to."""
        mine = [(p, u) for p, uses in self.uses.items() for u in uses if u.attention == attention.id]
        queries, keys, values, outs = ([(p, u) for p, u in mine if u.role == role] for role in "qkvo")
        shared = {u.event for _, u in values} & {u.event for _, u in keys}
        if len(shared) != 1 or {u.event for _, u in values} != shared or not outs:
            return
        before = [
            (parameter, use, inner)
            for parameter, use in queries
            # A norm between the two would make the first a latent of the query.
            for inner in {self._graph.base(s) for s in self._events[use.event].sources if not self._events[s].flags}
            if inner.type == "product" and inner.base not in self._sums and self._readers[inner.base]
        ]
        after = [r for _, use in outs for r in self._readers[use.event] if use.event not in self._sums]
        if not before or not after or any(use.event in self._sums for _, use in outs):
            return
        for _, use, inner in before:
            use.role, use.latent, use.why = (
                "k",
                True,
                "it is applied to the query instead of the latents that keys are made of",
            )
            self._role[use.event] = "k"
            self._add(inner, Use("q", self._rows_of(inner), attention=attention.id, why=_WHY["q"]))
        for _, use in (*keys, *values):
            if use.event in shared:
                use.role, use.why = "kv_a", "a latent that an attention reads as its keys and its values"
                self._role[use.event] = "kv_a"
        for _, use in outs:
            use.role, use.latent, use.why = "v", True, "it makes values of the latents that were attended to"
            self._role[use.event] = "v"
        for product in after:
            if product.base not in self._role:
                use = Use(
                    "o", self._rows_of(product), attention=attention.id, why="it reads the output of an attention"
                )
                self._add(product, use)

    def _of_attention(self, attention: Event, users: Mapping[int, int]) -> None:
        if attention.first is None and attention.second is None:
            self._of_samples(attention)
            return
        sides = [("q", attention.first), ("k", attention.second), ("v", attention.third)]
        for more in attention.also:  # queries and keys of relative positions
            sides += [("q", self._events[more].first), ("k", self._events[more].second)]
        reads: dict[str, set[int]] = {"q": set(), "k": set(), "v": set()}
        heads = {"q": 0, "k": 0, "v": 0}
        size, normed = 0, {"q": False, "k": False}
        main: dict[int, str] = {}
        for number, (role, codes) in enumerate(sides):
            if codes is None:
                continue
            whole = self._by_product(codes)
            if number < 3 and role in normed:  # also a sum, before it is taken apart
                normed[role] |= any("norm" in self._events[event].flags for event in whole)
            grouped = self._expanded(whole)
            for event, (places, by_head) in grouped.items():
                base = self._graph.base(event)
                if number < 3:
                    reads[role] |= self._read_by(base)
                    if role in normed:
                        normed[role] |= "norm" in self._events[event].flags
                if (
                    number > 2 and role == "k" and users[base.base] > 1
                ):  # of positions in all attentions: it belongs to none
                    continue
                if main.setdefault(base.parameter, role) != role and number > 2:
                    continue  # a query's matrix that positions are multiplied with, too (DeBERTa)
                elsewhere = base.kernel != 1 and (self._readers.get(base.base) or base.base in self._sums)
                if base.type == "product" and not elsewhere:  # a convolution makes the stream, not only the query
                    self._add(base, Use(role, places, None, by_head, attention.id, why=_WHY[role]))
            if number < 3:
                per = [len(by_head) for _, by_head in grouped.values()]
                heads[role] = max(per, default=0)
                if role == "q" and codes.dim():
                    size = codes.shape[-1]
        own = any(
            self._same_stream(reads["q"], {key}) for key in reads["k"]
        )  # also beside the keys of another sequence
        cross = bool(reads["q"]) and bool(reads["k"]) and not own
        self.attentions[attention.id] = AttentionUse(
            attention.id, heads["q"], heads["k"], size, normed["q"] and normed["k"], cross, attention.causal
        )

    def _of_samples(self, attention: Event) -> None:
        """The values of a deformable attention. What chooses positions and weighs them is neither a query nor a key."""
        values = self._by_product(attention.third) if attention.third is not None else {}
        bases = {self._graph.base(event) for event in values}
        read = set().union(*(self._read_by(base) for base in bases))
        by = [self._graph.base(event) for event in attention.sources if event not in values]
        began = set().union(*(self._read_by(base) for base in by))
        cross = bool(read) and bool(began) and not self._same_stream(began, read)
        self.attentions[attention.id] = AttentionUse(attention.id, 0, 0, 0, False, cross)
        for event, (places, by_head) in values.items():
            why = "an attention weighs its product at the positions that it chose"
            self._add(self._graph.base(event), Use("v", places, None, by_head, attention.id, why=why))

    def _by_product(self, codes: Tensor) -> dict[int, tuple[Tensor, list[Tensor]]]:
        """The places of the rows in codes (…, positions, features), for each event, with those of each head."""
        few = compact(codes)
        lines = few.reshape(-1, few.shape[-1]) if few.dim() > 1 else few.reshape(1, -1)
        firsts, inverse = torch.unique(lines[:, 0], return_inverse=True)
        order = torch.empty_like(firsts).scatter_(0, inverse, torch.arange(len(inverse)))
        rows = lines[order]  # (heads, features), each head once
        out: dict[int, tuple[Tensor, list[Tensor]]] = {}
        for event in events_in(rows):
            mine = event_of(rows) == event
            by_head = [torch.unique(row[here] & LOW_MASK) for row, here in zip(rows, mine, strict=True) if here.any()]
            places = torch.unique(rows[mine] & LOW_MASK)
            if few.dim() < 2 or sum(len(h) for h in by_head) != len(places):  # one for all heads
                by_head = [places] if few.dim() > 1 and len({tuple(h.tolist()) for h in by_head}) == 1 else []
            out[event] = places, by_head
        return out

    def _expanded(
        self, grouped: dict[int, tuple[Tensor, list[Tensor]]], depth: int = 3
    ) -> dict[int, tuple[Tensor, list[Tensor]]]:
        """With sums of projections that no other matrix reads (a query plus a bias of each head) replaced by these.

        So are convolutions that leave heads apart; projections that are added to these once more are those that they read.
        """
        out: dict[int, tuple[Tensor, list[Tensor]]] = {}
        for number, (places, heads) in grouped.items():
            event = self._graph.base(number)
            if read := self._convolved(event, places, heads):
                out |= read
                continue
            added = any(self._events[e].type != "attention" for _, e in self._sums.get(event.base, ()))
            if event.type != "stream" or added or self._readers.get(event.base) or not depth:
                out[number] = places, heads
                continue
            parts: dict[int, tuple[Tensor, list[Tensor]]] = {}
            for codes in (event.first, event.second):
                for inner in events_in(codes):
                    base = self._graph.base(inner)
                    if base.type in ("product", "stream") and codes is not None:
                        rows = torch.unique(codes[event_of(codes) == inner] & LOW_MASK)
                        parts[inner] = rows, heads if torch.equal(rows, places) else []
            for codes in self._graph.operands.get(event.base, ()):  # as the two lay when they were added
                whole = self._by_product(codes)
                parts |= {e: it for e, it in whole.items() if e in parts and len(it[0]) == len(parts[e][0])}
            read = {e: it for n, part in parts.items() for e, it in self._convolved(self._graph.base(n), *part).items()}
            if read:
                out |= read
                continue
            flat = self._expanded(parts, depth - 1)
            products = [self._graph.base(e) for e in flat]
            if flat and all(p.type == "product" and not self._readers.get(p.base) for p in products):
                out |= flat
            else:
                out[number] = places, heads
        return out

    def _convolved(self, event: Event, places: Tensor, heads: list[Tensor]) -> dict[int, tuple[Tensor, list[Tensor]]]:
        """The projections that a convolution over positions reads for some of its rows, if its groups keep heads apart."""
        sources = [self._events[source] for source in event.sources]
        projections = all(
            s.type == "product" and "act" not in s.flags and self._graph.base(s.id).kernel == 1 for s in sources
        )
        if event.groups < 2 or event.columns is None or not sources or not projections:
            return {}
        columns = event.columns.view(event.groups, -1)
        size = math.prod(self._pass.shapes[event.parameter]) // event.groups

        def read(some: Tensor, source: int) -> Tensor:
            found: Tensor = columns[torch.unique(some // size).clamp(max=event.groups - 1)]
            places: Tensor = torch.unique(found[event_of(found) == source] & LOW_MASK)
            return places

        if event.base not in self._role:
            self._add(
                event, Use("mixer", self._rows_of(event), why="it mixes the positions of queries, keys or values")
            )
        each = ((s.id, read(places, s.id), [read(head, s.id) for head in heads]) for s in sources)
        return {source: (found, by_head) for source, found, by_head in each if len(found)}

    def _same_stream(self, a: set[int], b: set[int]) -> bool:
        """Whether what keys read is what queries read, an earlier or later state of it, or made of these alone."""
        of_a = a.union(*(self._origins(one, _POOLED) for one in a))
        for other in b:
            origins = self._origins(other, _MADE)
            if not (self._state_of(a, other) or (origins and all(self._state_of(of_a, origin) for origin in origins))):
                return False
        return True

    def _state_of(self, a: set[int], other: int) -> bool:
        """Whether an event is one of some, or an earlier or later state of one."""
        lineage = self._lineage(other)
        return any(
            other == one or other in self._lineage(one) or one in lineage or self._shared(one, other) for one in a
        )

    def _origins(self, event: int, through: frozenset[str]) -> set[int]:
        """The streams and inputs that keys compressed over positions, or queries pooled over them, were made of."""
        seen: set[int] = set()
        out: set[int] = set()
        todo = [event]
        while todo:
            here = self._events[self._events[todo.pop()].base]
            if here.id in seen or self._graph.constant(here.id):
                continue
            seen.add(here.id)
            if here.type in through and here.sources:
                todo += here.sources
            else:
                out.add(here.id)
        return out

    def _shared(self, one: int, other: int) -> bool:
        """Whether two states of a stream have a summand in common that is not a parameter (x + positions, x)."""
        common = self._lineage(one) & self._lineage(other)
        return any(self._events[c].type not in ("parameter", "embedding") or len(common) > 2 for c in common)

    def _recurs(self, product: Event) -> bool:
        """Whether a product only makes the gates of a recurrent cell, with another one of its state."""
        sums = self._sums.get(product.base, [])
        idle = any(other in self._graph.idle for _, other in sums)
        if len({total for total, _ in sums}) < 2 and not idle:
            return False
        read = {s for p in self._products for s in p.sources} | {e for _, pair in self._graph.added for e in pair}
        bare = {self._events[e].base for e in read | self._graph.outputs if "act" not in self._events[e].flags}
        return not any(total in bare for total, _ in sums)

    def _outputs(self) -> None:
        adapting = {first.base for _, firsts in self._adapters() for first in firsts}  # beside an output matrix
        for product in self._products:
            columns = self._column_types(product)
            if product.base in adapting:
                continue
            if "attention" in columns and self._recurs(product):
                self._add(product, Use("mixer", self._rows_of(product), why="it makes the gates of a recurrent cell"))
            elif "attention" in columns:
                share = columns["attention"]
                attention = self._events[int(share[1])].base
                both = (attention, *self._graph.joined.get(attention, ()))
                attention = next((a for a in both if a in self.attentions and not self.attentions[a].cross), attention)
                everything = len(columns) == 1
                use = Use("o", self._rows_of(product), None if everything else share[0], attention=attention)
                use.why = "it reads the output of an attention"
                self._add(product, use)
        for product in self._products:  # an output in two steps
            for source in product.sources:
                inner = self._graph.base(source)
                if (
                    inner.type == "product"
                    and self._role.get(inner.base) == "o"
                    and "act" not in self._events[source].flags
                    and inner.base not in self._sums
                    and product.base in self._sums
                    and product.base not in self._role
                ):
                    self._add(product, Use("o", self._rows_of(product), why="it follows an output of an attention"))

    def latent_roles(self) -> None:
        """Products that a query, a key or a value is made of, and that nothing else reads."""
        for product in list(self._products):
            readers = self._readers.get(product.base, [])
            if not readers or product.base in self._sums or not product.sources or product.kernel != 1:
                continue
            if self._role.get(product.base) == "q":
                continue
            roles = {self._role.get(r.base) for r in readers}
            beside = [r for r in readers if r.base not in self._role]  # an indexer, which chooses what is attended to
            if not roles - {None} or not roles <= {"q", "k", "v", None} or any(r.base in self._sums for r in beside):
                continue
            readers = [r for r in readers if r.base in self._role]
            if any(
                "act" in self._events[s].flags
                for r in readers
                for s in r.sources
                if self._events[s].base == product.base
            ):
                continue
            uses = [u for r in readers for u in self.uses[r.parameter] if u.event == r.base]
            attentions = {u.attention for u in uses}
            places = torch.unique(torch.cat([self._columns_from(r, product) for r in readers]))
            if len(attentions) != 1 or self.attentions[next(iter(attentions))].cross:
                continue
            if len(places) >= product.width and not self._normed(product, readers):
                continue
            made = {u.role for u in uses}
            of_query = [self._columns_from(r, product) for r in readers if self._role[r.base] == "q"]
            of_others = [self._columns_from(r, product) for r in readers if self._role[r.base] != "q"]
            shared = of_query and of_others and bool(torch.isin(torch.cat(of_query), torch.cat(of_others)).any())
            for use in uses:
                use.latent = not shared  # a narrow input of queries and keys alike is a latent of neither
            role = "q_a" if made <= {"q", "attn_gate"} else "kv_a" if made <= {"k", "v"} else "qkv_a"
            self._add(
                product,
                Use(
                    role,
                    places,
                    attention=next(iter(attentions)),
                    why="a latent that queries, keys or values are made of",
                ),
            )

    def _normed(self, product: Event, readers: list[Event]) -> bool:
        """Whether a product is normalised before others read it."""
        read = [self._events[s] for r in readers for s in r.sources]
        return any("norm" in e.flags for e in read if e.base == product.base)

    def _columns_from(self, reader: Event, product: Event) -> Tensor:
        if reader.columns is None:
            return self._rows_of(product)
        found = event_of(reader.columns)
        mine = torch.zeros_like(found, dtype=torch.bool)
        for source in reader.sources:
            if self._events[source].base == product.base:
                mine |= found == source
        return reader.columns[mine] & LOW_MASK


_POOLED = frozenset({"gated", "weighted", "mixed"})
"""Types of events that one sequence makes of another without a matrix, as a mean over positions."""
_MADE = _POOLED | {"product"}
"""The same with matrices: keys stay those of the sequence, but queries that a matrix made are a sequence of their own."""
_WHY = {
    "q": "its product meets keys in the scores of an attention",
    "k": "its product meets queries in the scores of an attention",
    "v": "an attention weighs its product",
}
