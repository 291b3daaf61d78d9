"""Labels from effects: runs a model with real numbers, and sees by derivatives which matrix has which effect. Reads no names.

Every product with a parameter is cut from what comes before and after it. What is then left between two products is a small
function, and its derivatives say what each of them does: what the weights of an attention multiply are values, and the operand
of the scores along which they are summed belongs to the keys; a product of which the next input is a linear function is an
up-projection if another one is there of which it is not. Norms are taken out (they become divisions by a constant), and
activations with a kink are replaced by smooth ones, of which second derivatives exist.

It follows no storage, has no tables and shares no code with `weibull_monitor.model.dataflow`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from kinds_parts.cutting import Cutting, Event, variables, without_norms
from kinds_parts.judge import Label

PROBES: Final = 16
FEW: Final = 2
"""A feed-forward input is made of at most so many products."""


def labels(model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Label]:
    """The label of every matrix whose effect in a run shows what it is, by its name.

    Args:
        model: The model, with real weights.
        inputs: The arguments of its ``forward``, by name.
    """
    torch.manual_seed(0)
    for p in model.parameters():
        p.requires_grad_(p.is_floating_point())
    cutting = Cutting(model)
    with torch.enable_grad(), without_norms(model), cutting:
        out = model(**inputs)
    seen = cutting.seen
    seen.outputs = [t for t in _tensors(out) if t.requires_grad]
    _Reader(model, cutting).read()
    names: dict[int, list[str]] = defaultdict(list)
    for name, p in model.named_parameters(remove_duplicate=False):
        names[id(p)].append(name)
    of = {id(p): p for p in model.parameters()}
    made = {i: _label(of[i], roles) for i, roles in seen.roles.items() if i in of}
    return {name: label for i, label in made.items() if label is not None for name in names[i]}


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for v in value.values():
            yield from _tensors(v)
    elif isinstance(value, (list, tuple)):
        for v in value:
            yield from _tensors(v)


def _label(parameter: Tensor, roles: Mapping[str, Tensor]) -> Label | None:
    """The label of a parameter, or None where its roles are at odds."""
    masks = {}
    for role, mask in roles.items():
        if parameter.dim() == 3:  # experts that no token came to are as the others are
            mask = mask.any(0).expand_as(mask) if not mask.all() else mask
        masks[role] = mask
    total = sum(mask.long() for mask in masks.values())
    assert isinstance(total, Tensor)
    if bool((total > 1).any()) or not all(bool(mask.any()) for mask in masks.values()):
        return None
    if len(masks) == 1:
        return Label(tuple(masks)) if bool((total == 1).all()) else None
    numbers = torch.arange(parameter.numel())
    return Label(tuple(masks), {role: numbers[mask.flatten()] for role, mask in masks.items()})


class _Reader:
    """Reads the roles of parameters off the cuts."""

    def __init__(self, model: nn.Module, cutting: Cutting) -> None:
        self.seen, self.cutting = cutting.seen, cutting
        self.parameters = [p for p in model.parameters() if p.dim() > 1]
        self.reached = {id(e): [self.cutting.reach(t) for t in e.reads] for e in self.seen.events}
        self.ends = [self.cutting.reach(t) for t in self.seen.outputs]
        self.users: dict[int, list[Event]] = defaultdict(list)
        for event in self.seen.events:
            for source in self.reached[id(event)]:
                for s in source:
                    self.users[id(s)].append(event)

    def read(self) -> None:
        attended = [e for e in self.seen.events if e.type == "attended"]
        for event in attended:
            self.attention(event)
        for event in self.seen.events:
            if event.type == "product" and event.name not in ("embedding", "wide"):
                self.product(event)
        self.latents()

    def attention(self, event: Event) -> None:
        if len(event.reads) == 3:
            roles = list(zip(event.reads, ("attn_q", "attn_k", "attn_v"), strict=True))
        else:
            roles = [(event.reads[1], "attn_v")]
            for weights in self.reached[id(event)][0]:
                for scores in self.cutting.reach(weights.reads[0]) if weights.type == "weights" else ():
                    key = self.key_of(event, weights, scores)
                    if key is not None:
                        roles += [(scores.reads[key], "attn_k"), (scores.reads[1 - key], "attn_q")]
        for operand, role in roles:
            sources = self.cutting.reach(operand)
            if any(s.type != "product" or s.name in ("embedding", "wide") for s in sources) or len(sources) > FEW:
                continue  # the stream itself
            if any(self.multiplies(operand, a, b) is not None for a in sources for b in sources if a is not b):
                continue  # one of them only weighs the other
            for source in sources:
                self.say(source, role, self.touches(operand, source))

    def key_of(self, event: Event, weights: Event, scores: Event) -> int | None:
        """Which operand of scores belongs to the keys: it has the dimension along which values are summed."""
        if weights.type != "weights" or scores.type != "scores":
            return None
        first = self.dimension(event.reads[0], event.dims[0], weights.leaf)
        if first is None:
            return None
        second = self.dimension(weights.reads[0], first, scores.leaf)
        return None if second is None or scores.dims[second] < 0 else scores.dims[second]

    def dimension(self, tensor: Tensor, dim: int, leaf: Tensor) -> int | None:
        """Which of the last two dimensions of a leaf is a dimension of a tensor: one index there touches one slice."""
        grad = self.gradient(tensor.select(dim, 0), leaf)
        if grad is None:
            return None
        hit = (grad != 0).double()  # a maximum that is subtracted touches some elements elsewhere
        touched = {d: float(hit.select(d, 0).mean()) for d in (-1, -2) if hit.shape[d] > 1}
        best = max(touched, key=touched.__getitem__, default=-1)
        most = touched.get(best, 0.0)
        return best if most > 0.4 and sum(share > most / 2 for share in touched.values()) == 1 else None

    def touches(self, tensor: Tensor, source: Event) -> Tensor | None:
        grad = self.gradient(tensor, source.leaf)
        return None if grad is None else grad != 0

    @staticmethod
    def gradient(tensor: Tensor, leaf: Tensor) -> Tensor | None:
        weighing = torch.rand_like(tensor) + 0.5
        (grad,) = torch.autograd.grad((tensor * weighing).sum(), leaf, retain_graph=True, allow_unused=True)
        return grad if grad is not None and bool(grad.isfinite().all()) else None

    def say(self, source: Event, role: str, mask: Tensor | None) -> None:
        """Gives a role to the elements of parameters that elements of a product come from."""
        if mask is None or not bool(mask.any()):
            return
        assert source.made is not None
        wanted = (mask * (torch.rand_like(source.leaf) + 0.5)).sum_to_size(mask.shape)
        grads = torch.autograd.grad((source.made * wanted).sum(), self.parameters, retain_graph=True, allow_unused=True)
        for parameter, grad in zip(self.parameters, grads, strict=True):
            if grad is not None:
                before = self.seen.roles[id(parameter)].get(role)
                now = grad != 0
                self.seen.roles[id(parameter)][role] = now if before is None else before | now

    def product(self, event: Event) -> None:
        (sources,) = self.reached[id(event)] or [[]]
        attended = [s for s in sources if s.type == "attended"]
        products = [s for s in sources if s.type == "product"]
        if any(s.type in ("scores", "weights") for s in sources) or not sources or len(products) > FEW:
            return
        if attended:
            gates = [self.multiplies(event.reads[0], attended[0], p) for p in products]
            if all(g is not None for g in gates) and self.vanishes(event.reads[0], attended):
                self.say(event, "attn_o", torch.ones(event.leaf.shape, dtype=torch.bool))
                for source, mask in zip(products, gates, strict=True):
                    self.say(source, "attn_gate", mask)
            return
        if any(p.name in ("embedding", "wide", "heads") for p in products) or not self.in_stream(event, products):
            return
        self.feed_forward(event, products)

    def multiplies(self, tensor: Tensor, one: Event, two: Event) -> Tensor | None:
        """The elements of ``two`` that a tensor's slope in ``one`` depends on; None if it does not depend on them."""
        weighing = torch.rand_like(tensor) + 0.5
        (first,) = torch.autograd.grad((tensor * weighing).sum(), one.leaf, create_graph=True, allow_unused=True)
        if first is None or not first.requires_grad:
            return None
        grad = self.gradient(first, two.leaf)
        return None if grad is None or not bool((grad != 0).any()) else grad != 0

    @staticmethod
    def vanishes(tensor: Tensor, sources: list[Event]) -> bool:
        """Whether a tensor is a linear function of its sources: nothing is left of it without them (Euler's theorem)."""
        weighing = torch.rand_like(tensor) + 0.5
        leaves = [s.leaf for s in sources]
        grads = torch.autograd.grad((tensor * weighing).sum(), leaves, retain_graph=True, allow_unused=True)
        by_parts = sum(float((g * leaf).sum()) for g, leaf in zip(grads, leaves, strict=True) if g is not None)
        whole = float((tensor * weighing).sum())
        return abs(by_parts - whole) <= 1e-3 * float((tensor * weighing).abs().sum())

    def in_stream(self, event: Event, products: list[Event]) -> bool:
        """Whether a product is added to what the products before it read: the block stands in a residual stream."""
        read = [{id(s) for source in self.reached[id(p)] for s in source} for p in products]
        if any(r != read[0] for r in read) or not read[0]:
            return False
        tensors = [
            (t, source) for e in self.seen.events for t, source in zip(e.reads, self.reached[id(e)], strict=True)
        ]
        tensors += list(zip(self.seen.outputs, self.ends, strict=True))
        for tensor, sources in tensors:
            beside = [s for s in sources if id(s) in read[0]]
            if event in sources and beside:  # added to it; squeeze-and-excite is multiplied with it
                return any(self.multiplies(tensor, event, s) is None for s in beside)
        return False

    def feed_forward(self, event: Event, products: list[Event]) -> None:
        bent: list[Tensor] = []
        linear: list[Tensor] = []
        for source in products:
            found = self.by_position(event, source) and self.curvature(event.reads[0], source, products)
            if not found:
                return
            bent.append(found[0])
            linear.append(found[1])
        gated = any(bool(mask.any()) for mask in linear)
        if not any(bool(mask.any()) for mask in bent):
            return  # a product of products without an activation, or none of both
        features = self.lines(event, event.reads[0]).shape[1]
        for masks in (bent, linear) if gated else (bent,):
            if sum(int(self.lines(p, m)[0].sum()) for p, m in zip(products, masks, strict=True)) != features:
                return  # two features that bend together: neither is the gate
        for source, act, plain in zip(products, bent, linear, strict=True):
            self.say(source, "ffn_gate" if gated else "ffn_in", act)
            self.say(source, "ffn_up", plain)
        self.say(event, "ffn_down" if gated else "ffn_out", torch.ones(event.leaf.shape, dtype=torch.bool))

    def by_position(self, event: Event, source: Event) -> bool:
        """Whether what a product reads at one position comes from one position of another."""
        read = self.lines(event, event.reads[0])
        touched = self.touches(read[0], source)
        return touched is not None and int(self.lines(source, touched).any(-1).sum()) <= 1

    def lines(self, event: Event, tensor: Tensor) -> Tensor:
        """A tensor of a product as (positions, features)."""
        axis = next((d for d in range(tensor.dim()) if self._features(event, d)), tensor.dim() - 1)
        return tensor.movedim(axis, -1).reshape(-1, tensor.shape[axis])

    def curvature(self, tensor: Tensor, source: Event, products: list[Event]) -> tuple[Tensor, Tensor] | None:
        """The elements of a product that a tensor bends with, and those it is linear in while others change the slope."""
        leaf = source.leaf
        weighing = torch.rand_like(tensor) + 0.5
        (slope,) = torch.autograd.grad((tensor * weighing).sum(), leaf, create_graph=True, allow_unused=True)
        if slope is None or not slope.requires_grad:
            return None
        bends = torch.ones(leaf.shape, dtype=torch.bool)
        coupled = torch.zeros(leaf.shape, dtype=torch.bool)
        generator = torch.Generator().manual_seed(0)
        for _ in range(PROBES):
            mine = torch.rand(leaf.shape, generator=generator) < 0.5
            grads = torch.autograd.grad(
                (slope * mine * (torch.rand_like(slope) + 0.5)).sum(),
                [p.leaf for p in products],
                retain_graph=True,
                allow_unused=True,
            )
            for product, grad in zip(products, grads, strict=True):
                if grad is None:
                    if product is source:
                        bends &= ~mine
                    continue
                if not bool(grad.isfinite().all()):
                    return None
                if product is source:
                    bends &= ~mine | (grad != 0)
                    coupled |= grad != 0
                elif bool((grad != 0).any()):
                    coupled |= torch.ones_like(coupled)
        # One number for each feature: what most of the positions say.
        axis = next((d for d in range(leaf.dim()) if self._features(source, d)), leaf.dim() - 1)
        others = [d for d in range(leaf.dim()) if d != axis]
        share = (bends & coupled).double().mean(others, keepdim=True) if others else (bends & coupled).double()
        some = coupled.double().mean(others, keepdim=True) if others else coupled.double()
        act = (share > 0.5).expand(leaf.shape)
        plain = ((some > 0) & (share <= 0.5)).expand(leaf.shape)
        return act & coupled.any().expand(leaf.shape), plain

    @staticmethod
    def _features(source: Event, dim: int) -> bool:
        return source.name.startswith("conv") and dim == 1

    def latents(self) -> None:
        """Products that only queries, keys and values are made of."""
        made = {"attn_q": "attn_q_a", "attn_k": "attn_kv_a", "attn_v": "attn_kv_a"}
        role_of = {id(e): self.role_of(e) for e in self.seen.events if e.type == "product"}
        for event in self.seen.events:
            if event.type != "product" or event.name in ("embedding", "wide", "heads"):
                continue
            users = self.users[id(event)]
            found = {role for u in users if u.type == "product" for role in role_of[id(u)]}
            alone = all(len(source) == 1 for u in users for source in self.reached[id(u)] if u.type == "product")
            if not found or not found <= set(made) or not alone or any(id(event) in map(id, end) for end in self.ends):
                continue
            latent = {made[role] for role in found}
            if len(latent) == 1:
                whole = torch.ones(event.leaf.shape, dtype=torch.bool)
                for parameter in self.made_of(event):
                    self.seen.roles[id(parameter)].clear()
                self.say(event, latent.pop(), whole)

    def made_of(self, event: Event) -> list[Tensor]:
        own = set(variables(event.made))
        return [p for p in self.parameters if id(p) in own]

    def role_of(self, event: Event) -> set[str]:
        found = {role for p in self.made_of(event) for role in self.seen.roles.get(id(p), {})}
        return found or {""}
