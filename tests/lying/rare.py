"""Rarer attentions, as papers and code bases write them. Every class works on (batch, time, width) of `WIDTH` features."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lying.attention import HEADS, INNER, NARROW, SIZE, WIDTH, Separate, attention, causal, heads, together
from lying.base import Lying, Names, Role, fused, grid, linear, weight


@attention
class LearnedScale(Separate):
    """Cosine attention with a learned scale for each head (Swin v2)."""

    def __init__(self, names: Names):
        super().__init__(names)
        self.put(scale=(weight(HEADS, 1, 1), None))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        scale = torch.clamp(self["scale"], max=math.log(100.0)).exp()
        scores = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)) * scale
        return (scores + causal(x)).softmax(-1) @ v


@attention
class PositionNetwork(Separate):
    """A bias of the scores from a network of relative positions (Swin v2)."""

    def __init__(self, names: Names):
        super().__init__(names)
        self.put(none1=linear(1, 24, bias=True), none2=linear(24, HEADS))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        t = x.shape[1]
        table = torch.arange(1 - t, t)[:, None] / t
        bias = self["none2"](F.relu(self["none1"](table)))
        index = torch.arange(t)[:, None] - torch.arange(t) + t - 1
        bias = 16 * torch.sigmoid(bias[index.view(-1)].view(t, t, -1)).permute(2, 0, 1)
        return torch.softmax(q @ k.mT / 2 + bias, -1) @ v


@attention
class Disentangled(Separate):
    """DeBERTa: content to position and position to content, by the query's and key's own matrices."""

    def __init__(self, names: Names):
        super().__init__(names)
        self.put(table=weight(9, WIDTH))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        t = torch.arange(x.shape[1])
        index = (t[:, None] - t).clamp(-4, 4) + 4
        to = self["k"](self["table"]).view(-1, HEADS, SIZE).transpose(0, 1)[None]
        of = self["q"](self["table"]).view(-1, HEADS, SIZE).transpose(0, 1)[None]
        scores = q @ k.mT
        scores = scores + torch.gather(q @ to.mT, -1, index.expand(*scores.shape))
        scores = scores + torch.gather(k @ of.mT, -1, index.expand(*scores.shape)).mT
        return torch.softmax(scores / math.sqrt(3 * SIZE), -1) @ v


@attention
class Linformer(Separate):
    """Keys and values are shortened over positions by a matrix."""

    def __init__(self, names: Names):
        super().__init__(names)
        self.put(any1=weight(4, 7), any2=weight(4, 7))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        k, v = self["any1"] @ k, self["any2"] @ v
        return torch.softmax(q @ k.mT / 3, -1) @ v


@attention
class Compressed(Separate):
    """Keys and values of blocks (NSA): means over blocks beside a window, weighed by gates of the input."""

    def __init__(self, names: Names):
        super().__init__(names)
        self.put(head_gate=linear(WIDTH, 2 * HEADS))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        t = x.shape[1]
        k2, v2 = (F.pad(y, (0, 0, 0, -t % 4)).unflatten(2, (-1, 4)).mean(3) for y in (k, v))
        gate = self["head_gate"](x).sigmoid().view(x.shape[0], t, HEADS, 2).permute(3, 0, 2, 1)[..., None]
        one = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return gate[0] * one + gate[1] * F.scaled_dot_product_attention(q, k2, v2)


@attention
class LocalAndGlobal(Lying):
    """Longformer: the first token attends to all with a query, key and value of its own."""

    def __init__(self, names: Names):
        super().__init__(names, o=linear(INNER, WIDTH), **{r: linear(WIDTH, INNER) for r in ("q1", "k1", "v1")})
        self.put(**{r: linear(WIDTH, INNER) for r in ("q2", "k2", "v2")})

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (heads(self[r](x)) for r in ("q1", "k1", "v1"))
        t = torch.arange(x.shape[1])
        near = (t[:, None] - t).abs() < 3
        out = torch.softmax((q / 2 @ k.mT).masked_fill(~near, -1e4), -1) @ v
        q, k, v = heads(self["q2"](x[:, :1])), heads(self["k2"](x)), heads(self["v2"](x))
        out[:, :, :1] = torch.softmax(q @ k.mT, -1) @ v
        return self["o"](together(out))


@attention
class StickBreaking(Separate):
    """Probabilities by sigmoids and what the keys before left over."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        scores = q @ k.mT / math.sqrt(SIZE)
        seen = causal(x) == 0
        left = F.logsigmoid(-scores).masked_fill(~seen, 0.0)
        left = left.flip(-1).cumsum(-1).flip(-1) - left
        return (F.logsigmoid(scores) + left).masked_fill(~seen, -torch.inf).exp() @ v


@attention
class Retention(Lying):
    """RetNet, in parallel: scores times a decay, no softmax, and a gate."""

    def __init__(self, names: Names):
        super().__init__(names, scan_q=linear(WIDTH, INNER), scan_k=linear(WIDTH, INNER), scan_v=linear(WIDTH, INNER))
        self.put(any=linear(WIDTH, INNER), scan_o=linear(INNER, WIDTH), norm=(nn.GroupNorm(HEADS, INNER), None))
        self.roles[self.called["any"]] = Role("head_gate")

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (heads(self[f"scan_{r}"](x)) for r in "qkv")
        t = torch.arange(x.shape[1])
        decay = (0.9 ** (t[:, None] - t)).tril()
        y = together((q @ k.mT * decay) @ v)
        y = self["norm"](y.flatten(0, 1)).view_as(y)
        return self["scan_o"](F.silu(self["any"](x)) * y)


@attention
class Performer(Lying):
    """Random features of queries and keys: a linear attention."""

    def __init__(self, names: Names):
        super().__init__(names, **{f"scan_{r}": linear(WIDTH, INNER) for r in "qkv"}, scan_o=linear(INNER, WIDTH))
        self.register_buffer("features", torch.randn(SIZE, 9))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (heads(self[f"scan_{r}"](x)) for r in "qkv")
        q, k = (torch.exp(y @ self.features - y.square().sum(-1, keepdim=True) / 2) for y in (q, k))
        up = torch.einsum("bhtm,bhte->bhme", k, v)
        down = torch.einsum("bhtm,bhm->bht", q, k.sum(-2))
        return self["scan_o"](together(torch.einsum("bhtm,bhme,bht->bhte", q, up, 1 / down)))


@attention
class DeltaRule(Lying):
    """DeltaNet, step by step."""

    def __init__(self, names: Names):
        super().__init__(names, **{f"scan_{r}": linear(WIDTH, INNER) for r in "qkv"}, scan_o=linear(INNER, WIDTH))
        self.put(scan_b=linear(WIDTH, HEADS))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (heads(self[f"scan_{r}"](x)) for r in "qkv")
        k, beta = F.normalize(k, dim=-1), self["scan_b"](x).sigmoid().transpose(1, 2)
        state, out = torch.zeros(x.shape[0], HEADS, SIZE, SIZE), []
        for t in range(x.shape[1]):
            read = torch.einsum("bhij,bhj->bhi", state, k[:, :, t])
            write = beta[:, :, t, None] * (v[:, :, t] - read)
            state = state + write[..., :, None] * k[:, :, t, None, :]
            out.append((state @ q[:, :, t, :, None]).squeeze(-1))
        return self["scan_o"](together(torch.stack(out, 2)))


@attention
class OneKeyWithoutHeads(Lying):
    """Multi-query attention whose key and value have no dimension of heads."""

    def __init__(self, names: Names):
        super().__init__(names, q=linear(WIDTH, INNER), k=linear(WIDTH, SIZE), v=linear(WIDTH, SIZE))
        self.put(o=linear(INNER, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        q = self["q"](x).view(*x.shape[:2], HEADS, SIZE)
        scores = torch.einsum("b i h d, b j d -> b h i j", q, self["k"](x))
        w = scores.masked_fill(causal(x) < 0, -torch.finfo(scores.dtype).max).softmax(-1)
        return self["o"](torch.einsum("b h i j, b j d -> b i h d", w, self["v"](x)).flatten(2))


@attention
class QueriesAsRows(Lying):
    """PaLM's multi-query attention: heads of the query are further rows, (B, H·T, d) by (B, T, d)."""

    def __init__(self, names: Names):
        sizes = {"q": INNER, "k": SIZE, "v": SIZE}
        self.order = names.order(*sizes)
        start, rows = 0, {}
        for role in self.order:
            rows[role] = range(start, start + sizes[role])
            start += sizes[role]
        super().__init__(names, all=(linear(WIDTH, start), fused(**rows)), o=linear(INNER, WIDTH))
        self.sizes = sizes

    def forward(self, x: Tensor) -> Tensor:
        parts = self["all"](x).split([self.sizes[r] for r in self.order], -1)
        f = dict(zip(self.order, parts, strict=True))
        b, t, _ = x.shape
        q = heads(f["q"]).reshape(b, HEADS * t, SIZE)
        w = torch.bmm(q, f["k"].mT).view(b, HEADS, t, t) + causal(x)
        out = torch.bmm(w.softmax(-1).view(b, HEADS * t, t), f["v"]).view(b, HEADS, t, SIZE)
        return self["o"](together(out))


@attention
class GraphAttention(Lying):
    """Scores over the edges of a graph, with a softmax by scatter: all positions before are neighbours."""

    def __init__(self, names: Names):
        super().__init__(names, **{r: linear(WIDTH, INNER) for r in "qkv"}, o=linear(INNER, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        to, of = torch.ones(t, t).tril().nonzero().unbind(1)
        to, of = (torch.cat([n + i * t for i in range(b)]) for n in (to, of))
        q, k, v = (self[r](x).reshape(b * t, HEADS, SIZE) for r in "qkv")
        w = ((q[to] * k[of]).sum(-1) / math.sqrt(SIZE)).exp()
        total = torch.zeros(b * t, HEADS).index_add_(0, to, w)
        w = w / total[to]
        out = torch.zeros(b * t, HEADS, SIZE).index_add(0, to, w[..., None] * v[of])
        return self["o"](out.reshape(b, t, INNER))


@attention
class KeysOfTheInput(Lying):
    """One matrix instead of query and key: (x W) xᵀ."""

    def __init__(self, names: Names):
        super().__init__(names, qk=linear(WIDTH, WIDTH), v=linear(WIDTH, INNER), o=linear(INNER, WIDTH))
        self.roles[self.called["qk"]] = Role("q")

    def forward(self, x: Tensor) -> Tensor:
        w = (self["qk"](x) @ x.mT / 6 + causal(x)).softmax(-1)
        return self["o"](w @ self["v"](x))


@attention
class Interleaved3(Lying):
    """One row of q, one of k, one of v, again and again, in any order."""

    def __init__(self, names: Names):
        self.order = names.order("q", "k", "v")
        super().__init__(names, all=(linear(WIDTH, 3 * INNER), grid((INNER, 3), 1, self.order)), o=linear(INNER, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        y = self["all"](x)
        f = {r: heads(y[..., i::3]) for i, r in enumerate(self.order)}
        w = torch.softmax(f["q"] @ f["k"].mT / math.sqrt(SIZE) + causal(x), -1)
        return self["o"](together(w @ f["v"]))


@attention
class RankAndHead(Lying):
    """Stored as (2 shards, q k v of each): a layout for two ranks."""

    def __init__(self, names: Names):
        self.order = names.order("q", "k", "v")
        super().__init__(names, all=(linear(WIDTH, 3 * INNER), grid((2, 3, INNER // 2), 1, self.order)))
        self.put(o=linear(INNER, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        y = self["all"](x).view(*x.shape[:2], 2, 3, HEADS // 2, SIZE)
        f = {r: y[:, :, :, i].flatten(2, 3).transpose(1, 2) for i, r in enumerate(self.order)}
        return self["o"](together(F.scaled_dot_product_attention(f["q"], f["k"], f["v"], is_causal=True)))


@attention
class ConcatenatedWeights(Lying):
    """Three parameters that are put together for one product."""

    def __init__(self, names: Names):
        super().__init__(names, q=weight(INNER, WIDTH), k=weight(NARROW, WIDTH), v=weight(NARROW, WIDTH))
        self.put(o=weight(WIDTH, INNER))

    def forward(self, x: Tensor) -> Tensor:
        v, q, k = F.linear(x, torch.cat((self["v"], self["q"], self["k"]))).split((NARROW, INNER, NARROW), -1)
        k, v = (heads(y, 2).repeat_interleave(2, 1) for y in (k, v))
        return together(F.scaled_dot_product_attention(heads(q), k, v)) @ self["o"].T


@attention
class QueryGateKeyValue(Lying):
    """All of an attention in one matrix: each head's q with its gate, then keys and values of groups."""

    def __init__(self, names: Names):
        rows = {"q": [], "attn_gate": [], "k": [], "v": []}
        n = 0
        for _ in range(HEADS):
            for r in ("q", "attn_gate"):
                rows[r] += range(n, n + SIZE)
                n += SIZE
        for _ in range(2):
            for r in ("v", "k"):
                rows[r] += range(n, n + SIZE)
                n += SIZE
        super().__init__(names, all=(linear(WIDTH, n), fused(**rows)), o=linear(INNER, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        y = self["all"](x)
        qg, kv = y.split((2 * INNER, 2 * NARROW), -1)
        q, gate = qg.view(*x.shape[:2], HEADS, 2, SIZE).unbind(3)
        v, k = kv.view(*x.shape[:2], 2, 2, SIZE).unbind(3)
        k, v = (z.transpose(1, 2)[:, :, None].expand(-1, -1, 2, -1, -1).flatten(1, 2) for z in (k, v))
        out = F.scaled_dot_product_attention(F.rms_norm(q, (SIZE,)).transpose(1, 2), k, v, is_causal=True)
        return self["o"](together(out) * gate.flatten(2).sigmoid())


@attention
class ConvolvedScores(Separate):
    """Multi-token attention: a convolution over scores before the softmax."""

    def __init__(self, names: Names):
        super().__init__(names)
        self.put(any=nn.Conv2d(HEADS, HEADS, 3, padding=1, groups=HEADS))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        scores = self["any"]((q @ k.mT / 2).masked_fill(causal(x) < 0, 0.0))
        return torch.softmax(scores + causal(x), -1) @ v


@attention
class ShortConvolutions(Lying):
    """Short convolutions over time after the projections (Canon layers, Primer)."""

    def __init__(self, names: Names):
        super().__init__(names, **{r: linear(WIDTH, INNER) for r in "qkv"}, o=linear(INNER, WIDTH))
        self.put(**{f"any{i}": nn.Conv1d(INNER, INNER, 3, groups=INNER, bias=False) for i in range(3)})

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (heads(self[f"any{i}"](F.pad(self[r](x).mT, (2, 0))).mT + self[r](x)) for i, r in enumerate("qkv"))
        return self["o"](together(F.scaled_dot_product_attention(q, k, v, is_causal=True)))


@attention
class TwoSoftmaxes(Separate):
    """Nyström: three small attentions with landmarks."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        t = q.shape[2]
        few = [F.pad(y, (0, 0, 0, -t % 3)).unflatten(2, (-1, 3)).mean(3) for y in (q, k)]
        one = torch.softmax(q @ few[1].mT, -1)
        two = torch.softmax(few[0] @ few[1].mT, -1)
        three = torch.softmax(few[0] @ k.mT, -1)
        return one @ torch.linalg.pinv(two) @ (three @ v)
