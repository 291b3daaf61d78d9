"""More ways to write attention and feed-forward blocks, of which no table could know."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lying.attention import GROUPS, HEADS, INNER, NARROW, SIZE, WIDTH, Separate, attention, causal, heads, together
from lying.base import Lying, Names, Role, fused, grid, linear, packed, weight
from lying.feed_forward import WIDE, feed_forward


@attention
class AbsorbedLatent(Lying):
    """MLA as it is decoded: the matrix of the keys is multiplied with the query, that of the values after the attention."""

    def __init__(self, names: Names):
        super().__init__(names, q=linear(WIDTH, INNER), kv_a=linear(WIDTH, 10), o=linear(INNER, WIDTH))
        self.put(kv_b=(weight(HEADS, 2 * SIZE, 10), fused(1, k=range(SIZE), v=range(SIZE, 2 * SIZE))))

    def forward(self, x: Tensor) -> Tensor:
        q = heads(self["q"](x))
        latent = F.rms_norm(self["kv_a"](x), (10,))
        k, v = self["kv_b"][:, :SIZE], self["kv_b"][:, SIZE:]
        q = torch.einsum("bhtd,hdc->bhtc", q, k)
        scores = torch.einsum("bhtc,bsc->bhts", q, latent) + causal(x)
        out = torch.einsum("bhts,bsc->bhtc", scores.softmax(-1), latent)
        return self["o"](together(torch.einsum("bhtc,hdc->bhtd", out, v)))


@attention
class ByEinsumOfTwo(Lying):
    """Weights (D, H, d) and (H, d, D), einsum in one spelling or another."""

    def __init__(self, names: Names):
        super().__init__(
            names, q=weight(WIDTH, HEADS, SIZE), k=weight(WIDTH, HEADS, SIZE), v=weight(WIDTH, HEADS, SIZE)
        )
        self.put(o=weight(HEADS, SIZE, WIDTH))
        self.spelling = names.random.randrange(3)

    def forward(self, x: Tensor) -> Tensor:
        if self.spelling == 0:
            q, k, v = (torch.einsum("...td,dhk->...htk", x, self[r]) for r in "qkv")
            w = torch.einsum("...hqk,...hsk->...hqs", q, k).softmax(-1)
            return torch.einsum("...hqs,...hsk,hkd->...qd", w, v, self["o"])
        if self.spelling == 1:
            q, k, v = (torch.tensordot(x, self[r], dims=([2], [0])) for r in "qkv")
            w = torch.einsum("b q h d, b k h d -> b h q k", q, k).softmax(-1)
            return torch.tensordot(torch.einsum("bhqk,bkhd->bqhd", w, v), self["o"], dims=([2, 3], [0, 1]))
        q, k, v = (torch.einsum("bti,ihd->bhtd", x, self[r]) for r in "qkv")
        w = torch.einsum(q, [0, 1, 2, 4], k, [0, 1, 3, 4], [0, 1, 2, 3]).softmax(-1)
        return torch.einsum("b h q k, b h k d, h d o -> b q o", w, v, self["o"])


@attention
class ByVmap(Separate):
    """One head of one sequence at a time, mapped over both."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        def one(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return torch.softmax(q @ k.T / math.sqrt(SIZE), dim=-1) @ v

        return torch.vmap(torch.vmap(one))(q, k, v)


@attention
class SlicesOfOne(Lying):
    """`F.linear` on slices of one matrix that also holds the transposed output."""

    def __init__(self, names: Names):
        super().__init__(names)
        self.order = names.order("q", "k", "v")
        rows = {r: range(i * INNER, (i + 1) * INNER) for i, r in enumerate(self.order)}
        self.put(all=(weight(3 * INNER, WIDTH), fused(**rows)), o=weight(INNER, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        n = {r: i for i, r in enumerate(self.order)}
        q, k, v = (heads(F.linear(x, self["all"][n[r] * INNER : (n[r] + 1) * INNER])) for r in "qkv")
        return together(F.scaled_dot_product_attention(q, k, v)) @ self["o"]


@attention
class HeadsInALoop(Lying):
    """A list of small matrices for each head, in a loop."""

    def __init__(self, names: Names):
        super().__init__(names, o=linear(INNER, WIDTH))
        for role in "qkv":
            self.put(**{f"{role}s": (nn.ModuleList(linear(WIDTH, SIZE) for _ in range(HEADS)), None)})
            self.roles |= {f"{self.called[role + 's']}.{h}.weight": Role(role) for h in range(HEADS)}

    def forward(self, x: Tensor) -> Tensor:
        out = []
        for h in range(HEADS):
            q, k, v = (self[f"{r}s"][h](x) for r in "qkv")
            out.append(torch.bmm((torch.bmm(q, k.transpose(1, 2)) / 3).softmax(2), v))
        return self["o"](torch.cat(out, dim=-1))


@attention
class Differential(Lying):
    """Two softmaxes, one subtracted from the other; a query and a key of twice as many heads."""

    def __init__(self, names: Names):
        super().__init__(names, q=linear(WIDTH, 2 * INNER), k=linear(WIDTH, 2 * INNER), v=linear(WIDTH, INNER))
        self.put(o=linear(INNER, WIDTH), none1=weight(2, SIZE))

    def forward(self, x: Tensor) -> Tensor:
        q, k = (self[r](x).view(*x.shape[:2], 2, HEADS, SIZE).permute(2, 0, 3, 1, 4) for r in "qk")
        a, b = (q[i].matmul(k[i].transpose(-1, -2)).softmax(-1) for i in (0, 1))
        share = (self["none1"][0] * self["none1"][1]).sum().exp()
        return self["o"](together((a - share * b) @ heads(self["v"](x))))


@attention
class CausalByLoop(Separate):
    """One query after the other, with the keys so far in lists, as a cache has them."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        keys, values, out = [], [], []
        for t in range(q.shape[2]):
            keys.append(k[:, :, t])
            values.append(v[:, :, t])
            seen, held = torch.stack(keys, 2), torch.stack(values, 2)
            w = (q[:, :, t : t + 1] @ seen.transpose(-1, -2) / 2.4).softmax(-1)
            out.append(w @ held)
        return torch.cat(out, 2)


@attention
class CacheWrittenInto(Separate):
    """Keys and values are written into a cache that is longer than the sequence."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        t = x.shape[1]
        cache = torch.zeros(2, *k.shape[:2], 16, SIZE)
        cache[0, :, :, :t] = k
        cache[1, :, :, :t] = v
        mask = torch.arange(16)[None] <= torch.arange(t)[:, None]
        w = (q @ cache[0].mT).masked_fill(~mask, float("-inf")).softmax(-1)
        return w @ cache[1]


@attention
class GroupedByReshape(Separate):
    """Grouped queries without repeating keys: (B, G, H/G, T, d)."""

    kv = NARROW

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        q = q.unflatten(1, (GROUPS, -1))
        scores = torch.einsum("bgrqd,bgkd->bgrqk", q, k) + causal(x)
        return torch.einsum("bgrqk,bgkd->bgrqd", scores.softmax(-1), v).flatten(1, 2)


@attention
class OneHeadExpanded(Separate):
    """One key and value for all heads, expanded."""

    kv = SIZE

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        k, v = k.expand(-1, HEADS, -1, -1), v.expand(-1, HEADS, -1, -1)
        return (
            torch.baddbmm(torch.zeros(1), q.flatten(0, 1), k.flatten(0, 1).mT)
            .softmax(-1)
            .bmm(v.flatten(0, 1))
            .unflatten(0, q.shape[:2])
        )


@attention
class SigmoidWithBias(Separate):
    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        w = 1 / (1 + torch.exp(-(q @ k.mT * 0.4 - math.log(x.shape[1]))))
        return (w * torch.ones(x.shape[1], x.shape[1]).tril()) @ v


@attention
class SquaredRelu(Separate):
    """Primer's: no softmax."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        w = torch.relu(torch.einsum("bhid,bhjd->bhij", q, k)) ** 2
        return (w / w.sum(-1, keepdim=True).clamp(min=1e-6)) @ v


@attention
class SoftmaxByHand(Separate):
    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        s = torch.matmul(q, k.permute(0, 1, 3, 2)) / SIZE**0.5
        s = s.masked_fill(torch.ones_like(s).triu(1) > 0, -1e4)
        e = torch.exp(s - s.max(dim=-1, keepdim=True)[0])
        return torch.matmul(e / e.sum(dim=-1, keepdim=True), v)


@attention
class CosineOfBoth(Separate):
    """Normalised by hand, with a learned scale for each head."""

    def __init__(self, names: Names):
        super().__init__(names)
        self.put(scale=(weight(HEADS, 1, 1), None))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        q, k = (y / y.pow(2).sum(-1, keepdim=True).sqrt().clamp_min(1e-6) for y in (q, k))
        return ((q @ k.mT) * self["scale"].exp()).softmax(-1) @ v


@attention
class TalkingHeadsByHand(Separate):
    """Scores of heads are mixed before and after the softmax, by einsum."""

    def __init__(self, names: Names):
        super().__init__(names)
        self.put(none1=weight(HEADS, HEADS), none2=weight(HEADS, HEADS))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        s = torch.einsum("hg,bhqk->bgqk", self["none1"], q @ k.mT)
        w = torch.einsum("bhqk,hg->bgqk", s.softmax(-1), self["none2"])
        return torch.einsum("bhqk,bhkd->bhqd", w, v)


@attention
class ValueMixing(Separate):
    """Values get a part of an embedding of the words, gated by a token's own number for each head (nanochat)."""

    def __init__(self, names: Names):
        super().__init__(names)
        self.put(extra=(linear(WIDTH, INNER), Role("v")), share=(linear(8, HEADS), Role("any")))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self[r](x).unflatten(-1, (HEADS, SIZE)) for r in "qkv")
        gate = 2 * torch.sigmoid(self["share"](x[..., :8]))
        v = v + gate[..., None] * self["extra"](x).unflatten(-1, (HEADS, SIZE))
        return self["o"](together(F.scaled_dot_product_attention(*(y.transpose(1, 2) for y in (q, k, v)))))


@attention
class QueryOfAll(Lying):
    """Queries come from the mean of all positions through no matrix of their own (GCViT): only k, v and o are there."""

    def __init__(self, names: Names):
        super().__init__(names, o=linear(INNER, WIDTH))
        order, role = packed(names, {"k": INNER, "v": INNER})
        self.order = order
        self.put(kv=(linear(WIDTH, 2 * INNER), role))
        self.put(n=(nn.LayerNorm(INNER), None))

    def forward(self, x: Tensor) -> Tensor:
        q = heads(x[..., :INNER].mean(1, keepdim=True).expand(-1, x.shape[1], -1))
        found = dict(zip(self.order, self["kv"](x).chunk(2, -1), strict=True))
        w = (q @ heads(found["k"]).mT).softmax(-1)
        return self["o"](together(w @ heads(found["v"])))


@attention
class ParallelInOne(Lying):
    """q, k, v and gate and up of a block in one matrix, in any order; o and down in another, side by side."""

    def __init__(self, names: Names):
        super().__init__(names)
        sizes = {"q": INNER, "k": NARROW, "v": NARROW, "gate": WIDE, "up": WIDE}
        self.order, role = packed(names, sizes)
        self.sizes = [sizes[r] for r in self.order]
        self.back, back = packed(names, {"o": INNER, "down": WIDE})
        self.put(all=(linear(WIDTH, sum(self.sizes)), role))
        self.put(end=(linear(INNER + WIDE, WIDTH), Role(rows=back.rows, dim=1)))

    def forward(self, x: Tensor) -> Tensor:
        f = dict(zip(self.order, self["all"](x).split(self.sizes, -1), strict=True))
        y = F.scaled_dot_product_attention(
            heads(f["q"]), heads(f["k"], GROUPS), heads(f["v"], GROUPS), is_causal=True, enable_gqa=True
        )
        both = {"o": together(y), "down": F.silu(f["gate"]) * f["up"]}
        return self["end"](torch.cat([both[r] for r in self.back], -1))


@attention
class InterleavedHeads(Lying):
    """Rows (d, 3, H) or (d, H, 3), through `rearrange`-like views."""

    def __init__(self, names: Names):
        super().__init__(names, o=linear(INNER, WIDTH))
        self.order = names.order("q", "k", "v")
        self.axis = names.random.choice((1, 2))
        self.shape = (SIZE, 3, HEADS) if self.axis == 1 else (SIZE, HEADS, 3)
        self.put(qkv=(weight(WIDTH, 3 * INNER), grid(self.shape, self.axis, self.order, 1)))

    def forward(self, x: Tensor) -> Tensor:
        y = (x @ self["qkv"]).view(*x.shape[:2], *self.shape)
        y = y.movedim(2 + self.axis, 0)  # (3, B, T, d, H)
        f = dict(zip(self.order, y.permute(0, 1, 4, 2, 3), strict=True))
        return self["o"](together(F.scaled_dot_product_attention(f["q"], f["k"], f["v"])))


@feed_forward
class GeluByHand(Lying):
    """GELU in its tanh form, written out; gate after up."""

    def __init__(self, names: Names):
        super().__init__(names, gate=linear(WIDTH, WIDE), up=linear(WIDTH, WIDE), down=linear(WIDE, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        g = self["gate"](x)
        g = 0.5 * g * (1 + torch.tanh(0.7978845608 * (g + 0.044715 * torch.pow(g, 3))))
        return self["down"](self["up"](x) * g)


@feed_forward
class ClampedGate(Lying):
    """A gate by clamp: x · clamp(x / 6 + 0.5, 0, 1)."""

    def __init__(self, names: Names):
        super().__init__(names, down=linear(WIDE, WIDTH))
        self.first = names.random.choice(("gate", "up"))
        order = [self.first, "up" if self.first == "gate" else "gate"]
        self.put(both=(linear(WIDTH, 2 * WIDE), grid((2, WIDE), 0, order)))

    def forward(self, x: Tensor) -> Tensor:
        a, b = self["both"](x).chunk(2, -1)
        gate, up = (a, b) if self.first == "gate" else (b, a)
        return self["down"](up.clamp(-7, 7) * (gate * (gate / 6 + 0.5).clamp(0, 1)))


@feed_forward
class ReluByWhere(Lying):
    """Leaky, squared, by `where`."""

    def __init__(self, names: Names):
        super().__init__(names, ffn_out=weight(WIDE, WIDTH), **{"in": weight(WIDTH, WIDE)})

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self["in"]
        y = torch.where(y > 0, y * y, -0.01 * y)
        return torch.einsum("...f,fd->...d", y, self["ffn_out"])
