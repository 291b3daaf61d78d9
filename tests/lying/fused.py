"""Attention whose weights are parameters, or stored together in one of many layouts."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lying.attention import GROUPS, HEADS, INNER, NARROW, SIZE, WIDTH, attention, causal, heads, together
from lying.base import Lying, Names, Role, fused, grid, linear, packed, weight


@attention
class SharedQueryAndKey(Lying):
    def __init__(self, names: Names):
        super().__init__(names, qk=linear(WIDTH, INNER), v=linear(WIDTH, INNER), o=linear(INNER, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        both = heads(self["qk"](x))
        return self["o"](together(F.scaled_dot_product_attention(both, F.normalize(both, dim=-1), heads(self["v"](x)))))


@attention
class SharedKeyAndValue(Lying):
    def __init__(self, names: Names):
        super().__init__(names, q=linear(WIDTH, INNER), kv=linear(WIDTH, INNER), o=linear(INNER, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        both = heads(self["kv"](x))
        return self["o"](together((heads(self["q"](x)) @ both.mT).softmax(-1) @ both))


@attention
class Parameters(Lying):
    """Weights that are parameters of the attention itself, by `F.linear`."""

    def __init__(self, names: Names):
        shapes = dict.fromkeys("qkv", (INNER, WIDTH)) | {"o": (WIDTH, INNER)}
        super().__init__(names, **{role: weight(*shape) for role, shape in shapes.items()})

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (heads(F.linear(x, self[role])) for role in "qkv")
        return F.linear(together(F.scaled_dot_product_attention(q, k, v, is_causal=True)), self["o"])


@attention
class Transposed(Lying):
    """Weights of (in, out), by ``x @ W``."""

    def __init__(self, names: Names):
        shapes = dict.fromkeys("qkv", (WIDTH, INNER)) | {"o": (INNER, WIDTH)}
        super().__init__(names, **{role: weight(*shape) for role, shape in shapes.items()})

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (heads(x @ self[role]) for role in "qkv")
        return together(F.scaled_dot_product_attention(q, k, v, is_causal=True)) @ self["o"]


@attention
class MatrixOfEachHead(Lying):
    """(H, D, d) for q, k and v, (H, d, D) for the output."""

    def __init__(self, names: Names):
        shapes = dict.fromkeys("qkv", (HEADS, WIDTH, SIZE)) | {"o": (HEADS, SIZE, WIDTH)}
        super().__init__(names, **{role: weight(*shape) for role, shape in shapes.items()})

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (torch.einsum("btc,hcd->bhtd", x, self[role]) for role in "qkv")
        return torch.einsum("bhtd,hdc->btc", (q @ k.mT).softmax(-1) @ v, self["o"])


@attention
class LinearsOfEachHead(Lying):
    """Three small layers for each head, in a list."""

    def __init__(self, names: Names):
        super().__init__(names, o=linear(INNER, WIDTH))
        for role in "qkv":
            self.put(**{role: nn.ModuleList(linear(WIDTH, SIZE) for _ in range(HEADS))})

    def forward(self, x: Tensor) -> Tensor:
        out = []
        for q, k, v in zip(self["q"], self["k"], self["v"], strict=True):
            out.append(F.scaled_dot_product_attention(q(x), k(x), v(x)))
        return self["o"](torch.cat(out, dim=-1))


@attention
class StackedParameter(Lying):
    """One (4, ...) parameter with q, k, v and o in any order."""

    def __init__(self, names: Names):
        super().__init__(names)
        self.order = names.order("q", "k", "v", "o")
        self.put(all=(weight(4, INNER, INNER), fused(0, **{role: [i] for i, role in enumerate(self.order)})))
        self.put(any1=(linear(WIDTH, INNER), Role("any")), any2=(linear(INNER, WIDTH), Role("through")))

    def forward(self, x: Tensor) -> Tensor:
        w = {role: self["all"][i] for i, role in enumerate(self.order)}
        x = self["any1"](x)
        q, k, v = (heads(F.linear(x, w[role])) for role in "qkv")
        return self["any2"](F.linear(together(F.scaled_dot_product_attention(q, k, v)), w["o"]).tanh())


class Fused(Lying):
    """One matrix for q, k and v; `layout` gives its role, `taken` the three of (B, H, T, d)."""

    def __init__(self, names: Names):
        super().__init__(names, o=linear(INNER, WIDTH))
        self.order = names.order("q", "k", "v")
        role = self.layout()
        self.put(qkv=(linear(WIDTH, sum(len(rows) for _, rows in role.rows)), role))

    def forward(self, x: Tensor) -> Tensor:
        return self["o"](together(F.scaled_dot_product_attention(*self.taken(self["qkv"](x)), is_causal=True)))

    def named(self, three: Any) -> list[Tensor]:
        found = dict(zip(self.order, three, strict=True))
        return [found[role] for role in "qkv"]

    def layout(self) -> Role:
        raise NotImplementedError

    def taken(self, x: Tensor) -> list[Tensor]:
        raise NotImplementedError


@attention
class FusedOneAfterTheOther(Fused):
    def layout(self) -> Role:
        return grid((3, INNER), 0, self.order)

    def taken(self, x: Tensor) -> list[Tensor]:
        return [heads(y) for y in self.named(x.chunk(3, dim=-1))]


@attention
class FusedInEachHead(Fused):
    """(H, 3, d), as in GPT-NeoX and BLOOM, and cut along the last dimension."""

    def layout(self) -> Role:
        return grid((HEADS, 3, SIZE), 1, self.order)

    def taken(self, x: Tensor) -> list[Tensor]:
        x = x.view(*x.shape[:-1], HEADS, 3 * SIZE).transpose(1, 2)
        return self.named(x.split(SIZE, dim=-1))


@attention
class FusedInEachFeature(Fused):
    """(H, d, 3)."""

    def layout(self) -> Role:
        return grid((HEADS, SIZE, 3), 2, self.order)

    def taken(self, x: Tensor) -> list[Tensor]:
        return self.named(x.unflatten(-1, (HEADS, SIZE, 3)).permute(4, 0, 2, 1, 3).unbind(0))


@attention
class FusedHeadsInside(Fused):
    """(d, 3, H): the head runs fastest."""

    def layout(self) -> Role:
        return grid((SIZE, 3, HEADS), 1, self.order)

    def taken(self, x: Tensor) -> list[Tensor]:
        from einops import rearrange

        return self.named(rearrange(x, "b t (d k h) -> k b h t d", k=3, h=HEADS))


@attention
class FusedGroups(Fused):
    """Each group's queries, then its key and its value, as in Megatron and InternLM2; any order."""

    def layout(self) -> Role:
        per = HEADS // GROUPS
        slots = [slot for role in self.order for slot in ([role] * per if role == "q" else [role])]
        return grid((GROUPS, per + 2, SIZE), 1, slots)

    def taken(self, x: Tensor) -> list[Tensor]:
        per = HEADS // GROUPS
        x = x.view(*x.shape[:2], GROUPS, (per + 2) * SIZE)
        q, k, v = self.named(x.split([(per if role == "q" else 1) * SIZE for role in self.order], dim=-1))
        q = q.reshape(*q.shape[:2], HEADS, SIZE).transpose(1, 2)
        return [q, *(y.transpose(1, 2).repeat_interleave(per, dim=1) for y in (k, v))]


@attention
class FusedUnequal(Fused):
    """H heads of queries and G of keys and of values, one after the other, in any order, cut by indexing."""

    def layout(self) -> Role:
        sizes = {"q": INNER, "k": NARROW, "v": NARROW}
        start, rows = 0, {}
        for role in self.order:
            rows[role] = range(start, start + sizes[role])
            start += sizes[role]
        return fused(**rows)

    def taken(self, x: Tensor) -> list[Tensor]:
        rows = dict(self.layout().rows)
        q, k, v = (x[..., rows[role][0] : rows[role][-1] + 1] for role in "qkv")
        k, v = (heads(y, GROUPS).repeat_interleave(HEADS // GROUPS, 1) for y in (k, v))
        return [heads(q), k, v]


@attention
class FusedTransposed(Lying):
    """A `Conv1D` as in GPT-2: the weight is (in, out), by `addmm`."""

    def __init__(self, names: Names):
        super().__init__(names)
        self.order = names.order("q", "k", "v")
        self.put(qkv=(weight(WIDTH, 3 * INNER), grid((3, INNER), 0, self.order, dim=1)), o=weight(INNER, WIDTH))
        self.put(bias=nn.Parameter(torch.zeros(3 * INNER)))

    def forward(self, x: Tensor) -> Tensor:
        fused = torch.addmm(self["bias"], x.reshape(-1, WIDTH), self["qkv"]).view(*x.shape[:2], -1)
        three = dict(zip(self.order, fused.split(INNER, -1), strict=True))
        q, k, v = (heads(three[role]) for role in "qkv")
        out = together((q @ k.mT + causal(x)).softmax(-1) @ v)
        return torch.mm(out.view(-1, INNER), self["o"]).view_as(x)


@attention
class FusedKeyValue(Lying):
    def __init__(self, names: Names):
        super().__init__(names, q=linear(WIDTH, INNER), o=linear(INNER, WIDTH))
        self.order = names.order("k", "v")
        self.put(kv1=(linear(WIDTH, 2 * INNER), grid((2, INNER), 0, self.order)))

    def forward(self, x: Tensor) -> Tensor:
        both = dict(zip(self.order, self["kv1"](x).unflatten(-1, (2, HEADS, SIZE)).unbind(2), strict=True))
        q, k, v = self["q"](x).unflatten(-1, (HEADS, SIZE)), both["k"], both["v"]
        return self["o"](
            F.scaled_dot_product_attention(*(y.transpose(1, 2) for y in (q, k, v))).transpose(1, 2).flatten(2)
        )


@attention
class FusedQueryKey(Lying):
    """q and k of each head together; v apart."""

    def __init__(self, names: Names):
        super().__init__(names, v=linear(WIDTH, INNER), o=linear(INNER, WIDTH))
        self.order = names.order("q", "k")
        self.put(qk1=(linear(WIDTH, 2 * INNER), grid((HEADS, 2, SIZE), 1, self.order)))

    def forward(self, x: Tensor) -> Tensor:
        both = self["qk1"](x).view(*x.shape[:2], HEADS, 2, SIZE).transpose(1, 2)
        found = dict(zip(self.order, (both[..., 0, :], both[..., 1, :]), strict=True))
        return self["o"](together((found["q"] @ found["k"].mT).softmax(-1) @ heads(self["v"](x))))


@attention
class QueryWithGate(Lying):
    """Each head's query and its gate in one matrix, as in Qwen3-Next."""

    def __init__(self, names: Names):
        super().__init__(names, k=linear(WIDTH, INNER), v=linear(WIDTH, INNER), o=linear(INNER, WIDTH))
        self.order = names.order("q", "attn_gate")
        self.put(q1=(linear(WIDTH, 2 * INNER), grid((HEADS, 2, SIZE), 1, self.order)))

    def forward(self, x: Tensor) -> Tensor:
        both = self["q1"](x).view(*x.shape[:2], HEADS, 2 * SIZE).chunk(2, dim=-1)
        found = dict(zip(self.order, both, strict=True))
        q, k, v = found["q"].transpose(1, 2), heads(self["k"](x)), heads(self["v"](x))
        out = together(F.scaled_dot_product_attention(q, k, v, is_causal=True))
        return self["o"](out * found["attn_gate"].flatten(2).sigmoid())


@attention
class WithBlocks(Lying):
    """Attention and feed-forward in parallel: one matrix for q, k, v, gate and up, as in PaLM."""

    def __init__(self, names: Names):
        super().__init__(names, o=linear(INNER, WIDTH), down=linear(50, WIDTH))
        sizes = {"q": INNER, "k": NARROW, "v": NARROW, "gate": 50, "up": 50}
        self.order, role = packed(names, sizes)
        self.sizes = [sizes[r] for r in self.order]
        self.put(all=(linear(WIDTH, sum(self.sizes)), role))

    def forward(self, x: Tensor) -> Tensor:
        found = dict(zip(self.order, self["all"](x).split(self.sizes, dim=-1), strict=True))
        q, k, v = heads(found["q"]), heads(found["k"], GROUPS), heads(found["v"], GROUPS)
        k, v = (y.repeat_interleave(HEADS // GROUPS, 1) for y in (k, v))
        out = self["o"](together(F.scaled_dot_product_attention(q, k, v, is_causal=True)))
        return out + self["down"](F.silu(found["gate"]) * found["up"])
