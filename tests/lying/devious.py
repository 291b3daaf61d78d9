"""Attentions and feed-forward blocks that are stored or written in devious ways."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lying.attention import HEADS, INNER, NARROW, SIZE, WIDTH, Separate, attention, causal, heads, together
from lying.base import Lying, Names, Role, fused, grid, linear, weight
from lying.feed_forward import WIDE, feed_forward


@attention
class MultiDot(Separate):
    """Queries by a chain of two matrices, in one call."""

    def __init__(self, names: Names):
        super().__init__(names)
        self.put(q1=weight(WIDTH, 8), q2=weight(8, INNER))
        self.roles[self.called["q1"]], self.roles[self.called["q2"]] = Role("q_a or q"), Role("q_b")
        self.roles[self.called["q"]] = Role("any")

    def forward(self, x: Tensor) -> Tensor:
        q = torch.stack([torch.linalg.multi_dot((y, self["q1"], self["q2"])) for y in x])
        return self["o"](together(self.attend(heads(q), heads(self["k"](x)), heads(self["v"](x)), x)))


@attention
class KeysByIndex(Separate):
    """Grouped keys, repeated by an index."""

    kv = NARROW

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        index = torch.arange(HEADS) // 2
        return F.scaled_dot_product_attention(q, k[:, index], torch.index_select(v, 1, index), is_causal=True)


@attention
class GroupsStrided(Separate):
    """Grouped keys of which every second head of the query uses the same one."""

    kv = NARROW

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        q = q.unflatten(1, (2, 2))
        w = torch.softmax(torch.einsum("brgid,bgjd->brgij", q, k) / 2 + causal(x), -1)
        return torch.einsum("brgij,bgjd->brgid", w, v).flatten(1, 2)


@attention
class Padded(Lying):
    """Fused storage, in any order, with rows that nobody uses between the parts."""

    def __init__(self, names: Names):
        self.order = names.order("q", "k", "v")
        step = INNER + 8
        rows: dict[str, Any] = {r: range(i * step, i * step + INNER) for i, r in enumerate(self.order)}
        super().__init__(names, all=(linear(WIDTH, 3 * step), fused(**rows)), o=linear(INNER, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        y = self["all"](x).unflatten(-1, (3, -1))[..., :INNER]
        f = {r: heads(y[:, :, i]) for i, r in enumerate(self.order)}
        return self["o"](together(F.scaled_dot_product_attention(f["q"], f["k"], f["v"], is_causal=True)))


@attention
class HeadsLast(Lying):
    """Features outside and heads inside, with values and keys in one matrix."""

    def __init__(self, names: Names):
        self.order = names.order("k", "v")
        super().__init__(names, q=linear(WIDTH, INNER), o=linear(INNER, WIDTH))
        self.put(kv=(linear(WIDTH, 2 * INNER), grid((SIZE, 2, HEADS), 1, self.order)))

    def forward(self, x: Tensor) -> Tensor:
        q = self["q"](x).unflatten(-1, (SIZE, HEADS))
        y = self["kv"](x).unflatten(-1, (SIZE, 2, HEADS)).unbind(3)
        f = dict(zip(self.order, y, strict=True))
        w = torch.einsum("bidh,bjdh->bhij", q, f["k"]).softmax(-1)
        return self["o"](torch.einsum("bhij,bjdh->bidh", w, f["v"]).flatten(2))


@attention
class DeepQuery(Separate):
    """The query comes from a small network."""

    def __init__(self, names: Names):
        super().__init__(names)
        self.put(none=linear(WIDTH, 32))
        old = self.called["q"]
        setattr(self, old, linear(32, INNER))

    def forward(self, x: Tensor) -> Tensor:
        q = heads(self["q"](F.gelu(self["none"](x))))
        return self["o"](together(self.attend(q, heads(self["k"](x)), heads(self["v"](x)), x)))


@attention
class TensorProducts(Lying):
    """Queries as sums of products of a factor of heads and a factor of features (TPA)."""

    def __init__(self, names: Names):
        super().__init__(names, **{f"factor_q{i}": linear(WIDTH, 3 * n) for i, n in enumerate((HEADS, SIZE))})
        self.put(k=linear(WIDTH, INNER), v=linear(WIDTH, INNER), o=linear(INNER, WIDTH))
        for i in range(2):
            self.roles[self.called[f"factor_q{i}"]] = Role("factor of q")

    def forward(self, x: Tensor) -> Tensor:
        a, b = (self[f"factor_q{i}"](x).unflatten(-1, (3, -1)) for i in range(2))
        q = torch.einsum("btrh,btrd->bthd", a, b).transpose(1, 2) / 3
        return self["o"](together(F.scaled_dot_product_attention(q, heads(self["k"](x)), heads(self["v"](x)))))


@attention
class Skewed(Separate):
    """Relative positions by a shift of the memory (Music Transformer)."""

    def __init__(self, names: Names):
        super().__init__(names)
        self.put(rel=weight(HEADS, 7, SIZE))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        r = torch.einsum("bhid,hjd->bhij", q, self["rel"])
        r = F.pad(r, (1, 0)).view(*r.shape[:2], r.shape[3] + 1, r.shape[2])[:, :, 1:]
        return torch.softmax((q @ k.mT + r) / math.sqrt(SIZE) + causal(x), -1) @ v


@attention
class BesideAScan(Separate):
    """Half of the heads attend, half are a running mean; both go into one output (Hymba)."""

    def __init__(self, names: Names):
        super().__init__(names)
        self.put(scan_a=linear(WIDTH, INNER))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        y = self["scan_a"](x).cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None]
        return (F.rms_norm(a, (SIZE,)) + F.rms_norm(heads(y), (SIZE,))) / 2


@attention
class Prefixes(Separate):
    """Keys and values of learned vectors stand before the others (prefix tuning), made by a small network."""

    def __init__(self, names: Names):
        super().__init__(names)
        self.put(any1=weight(3, 10), any2=linear(10, 16), any3=linear(16, 2 * INNER))
        self.roles[self.called["any3"]] = fused(k=range(INNER), v=range(INNER, 2 * INNER))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        more = self["any3"](torch.tanh(self["any2"](self["any1"]))).view(3, 2, HEADS, SIZE).permute(1, 2, 0, 3)
        k, v = (torch.cat((m[None].expand(x.shape[0], -1, -1, -1), y), 2) for m, y in zip(more, (k, v), strict=True))
        return torch.softmax(q @ k.mT, -1) @ v


@attention
class FromWindows(Separate):
    """Local attention by unfolding keys and values, one window for each query."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        k, v = (F.pad(y, (0, 0, 2, 0)).unfold(2, 3, 1) for y in (k, v))  # (B, H, T, d, 3)
        w = (q[..., None] * k).sum(3) / math.sqrt(SIZE)
        return (w.softmax(-1)[:, :, :, None] * v).sum(-1)


@attention
class TimeAndSpace(Lying):
    """One attention along each of two axes, one after the other, with an own residual (TimeSformer)."""

    def __init__(self, names: Names):
        super().__init__(names, one=Separate(names), two=Separate(names))

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        y = F.pad(x, (0, 0, 0, -t % 4)).view(b, 4, -1, WIDTH)
        z = y + self["one"](y.transpose(1, 2).flatten(0, 1)).view(b, -1, 4, WIDTH).transpose(1, 2)
        return self["two"](F.layer_norm(z, (WIDTH,)).flatten(0, 1)).view(b, -1, WIDTH)[:, :t]


@attention
class KeysInLatentSpace(Lying):
    """One down-projection for queries, one for keys and values, heads made by batched products with 3-D parameters."""

    def __init__(self, names: Names):
        super().__init__(names, q_a=linear(WIDTH, 12), kv_a=linear(WIDTH, 10), o=linear(INNER, WIDTH))
        self.put(q_b=weight(HEADS, 12, SIZE), k=weight(HEADS, 10, SIZE), v=weight(HEADS, 10, SIZE))

    def forward(self, x: Tensor) -> Tensor:
        q, c = F.rms_norm(self["q_a"](x), (12,)), F.rms_norm(self["kv_a"](x), (10,))
        q = torch.einsum("btc,hcd->bhtd", q, self["q_b"])
        k, v = (torch.einsum("btc,hcd->bhtd", c, self[r]) for r in "kv")
        return self["o"](together(F.scaled_dot_product_attention(q, k, v, is_causal=True)))


@feed_forward
class GatheredExperts(Lying):
    """Weights of the chosen experts are gathered for each token (gpt-oss, in its first code)."""

    def __init__(self, names: Names):
        self.order = names.order("gate", "up")
        rows = {r: range(i * 16, i * 16 + 16) for i, r in enumerate(self.order)}
        super().__init__(names, router=linear(WIDTH, 3), both=(weight(3, 32, WIDTH), fused(1, **rows)))
        self.put(down=weight(3, WIDTH, 16))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, 1)
        best, at = torch.topk(self["router"](flat), 2, -1)
        y = torch.einsum("tefd,td->tef", self["both"][at], flat)
        f = dict(zip(self.order, y.chunk(2, -1), strict=True))
        y = torch.einsum("tedf,tef->ted", self["down"][at], F.silu(f["gate"]) * f["up"])
        return torch.einsum("ted,te->td", y, best.softmax(-1)).view_as(x)


@feed_forward
class WeighedSum(Lying):
    """All experts of a list, stacked, and weighed in one product."""

    def __init__(self, names: Names):
        super().__init__(names, router=linear(WIDTH, 3))
        self.put(experts=(nn.ModuleList(_Two(names) for _ in range(3)), None))

    def forward(self, x: Tensor) -> Tensor:
        w = self["router"](x).softmax(-1)
        return torch.einsum("bte,bted->btd", w, torch.stack([e(x) for e in self["experts"]], 2))


class _Two(Lying):
    def __init__(self, names: Names):
        super().__init__(names, ffn_out=linear(18, WIDTH), **{"in": linear(WIDTH, 18)})

    def forward(self, x: Tensor) -> Tensor:
        return self["ffn_out"](F.relu(self["in"](x)))


@feed_forward
class ExpertsInOneMatrix(Lying):
    """Gate and up of all experts in one 2-D parameter, and down in another."""

    def __init__(self, names: Names):
        self.order = names.order("gate", "up")
        super().__init__(names, router=linear(WIDTH, 3), down=weight(3 * 16, WIDTH))
        self.put(both=(weight(3 * 32, WIDTH), grid((3, 2, 16), 1, self.order)))

    def forward(self, x: Tensor) -> Tensor:
        w = self["router"](x).softmax(-1)
        y = F.linear(x, self["both"]).unflatten(-1, (3, 2, 16)).unbind(3)
        f = dict(zip(self.order, y, strict=True))
        y = F.silu(f["gate"]) * f["up"] * w[..., None]
        return y.flatten(2) @ self["down"]


@feed_forward
class ExpertsInTheMiddle(Lying):
    """Parameters (D, E, F) and (F, E, D)."""

    def __init__(self, names: Names):
        super().__init__(names, router=weight(3, WIDTH), gate=weight(WIDTH, 3, 16), up=weight(WIDTH, 3, 16))
        self.put(down=weight(16, 3, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        w = torch.softmax(x @ self["router"].T, -1)
        y = F.silu(torch.einsum("btd,def->btef", x, self["gate"])) * torch.einsum("btd,def->btef", x, self["up"])
        return torch.einsum("btef,fed,bte->btd", y, self["down"], w)


@feed_forward
class InPieces(Lying):
    """Hidden features in pieces, with a sum of the results (tensor parallelism by hand)."""

    def __init__(self, names: Names):
        super().__init__(names, gate=linear(WIDTH, WIDE), up=linear(WIDTH, WIDE), down=linear(WIDE, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        for g, u, d in zip(
            *(self[r].weight.chunk(2, i) for r, i in (("gate", 0), ("up", 0), ("down", 1))), strict=True
        ):
            out += F.linear(F.silu(F.linear(x, g)) * F.linear(x, u), d)
        return out


@feed_forward
class ByConvolution(Lying):
    """1x1 convolutions over time, gate and up in one with groups of channels last."""

    def __init__(self, names: Names):
        self.order = names.order("gate", "up")
        super().__init__(names, both=(nn.Conv1d(WIDTH, 2 * WIDE, 1, bias=False), grid((2, WIDE), 0, self.order)))
        self.put(down=nn.Conv1d(WIDE, WIDTH, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        f = dict(zip(self.order, self["both"](x.mT).chunk(2, 1), strict=True))
        return self["down"](F.silu(f["gate"]) * f["up"]).mT
