"""Attention written in many ways. Every class takes names and works on (batch, time, width) of `WIDTH` features."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lying.base import Lying, Names, Role, fused, grid, linear, packed, weight

WIDTH, HEADS, SIZE, GROUPS = 40, 4, 6, 2
INNER, NARROW = HEADS * SIZE, GROUPS * SIZE

ATTENTION: dict[str, type[Lying]] = {}


def attention(cls: type[Lying]) -> type[Lying]:
    ATTENTION[cls.__name__] = cls
    return cls


def heads(x: Tensor, n: int = HEADS) -> Tensor:
    """(B, T, n·d) -> (B, n, T, d)."""
    return x.view(*x.shape[:2], n, -1).transpose(1, 2)


def together(x: Tensor) -> Tensor:
    """(B, n, T, d) -> (B, T, n·d)."""
    return x.transpose(1, 2).flatten(2)


def causal(x: Tensor) -> Tensor:
    t = x.shape[1]
    return torch.full((t, t), float("-inf"), device=x.device).triu(1)


class Separate(Lying):
    """q, k, v and o stored apart; `attend` is how they meet."""

    kv = INNER

    def __init__(self, names: Names):
        super().__init__(
            names, q=linear(WIDTH, INNER), k=linear(WIDTH, self.kv), v=linear(WIDTH, self.kv), o=linear(INNER, WIDTH)
        )

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self["q"](x), self["k"](x), self["v"](x)
        n = k.shape[-1] // SIZE
        return self["o"](together(self.attend(heads(q), heads(k, n), heads(v, n), x)))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


@attention
class Sdpa(Separate):
    pass


@attention
class SdpaByNames(Separate):
    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(value=v, key=k, query=q, attn_mask=causal(x), scale=0.3)


@attention
class SdpaGrouped(Separate):
    kv = NARROW

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


@attention
class FlexAttention(Separate):
    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        from torch.nn.attention.flex_attention import flex_attention

        return flex_attention(q, k, v, score_mod=lambda score, b, h, i, j: score + (i - j))


@attention
class Matmul(Separate):
    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        return ((q @ k.transpose(-1, -2)) / math.sqrt(SIZE) + causal(x)).softmax(-1) @ v


@attention
class KeysFirst(Separate):
    """The scores the other way round: keys by queries, softmax over the rows."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        weights = torch.softmax(k @ q.mT + causal(x).mT, dim=-2)
        return (v.mT @ weights).mT


@attention
class Bmm(Separate):
    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        b = q.shape[0]
        q, k, v = (y.reshape(b * HEADS, -1, SIZE) for y in (q * SIZE**-0.5, k, v))
        scores = torch.bmm(q, k.transpose(1, 2)).masked_fill(causal(x) < 0, torch.finfo(q.dtype).min)
        return torch.bmm(F.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype), v).view(b, HEADS, -1, SIZE)


@attention
class Baddbmm(Separate):
    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        b, _, t, _ = q.shape
        slopes = torch.arange(b * HEADS, device=x.device).view(-1, 1, 1) * torch.arange(t, device=x.device)
        q, k, v = (y.flatten(0, 1) for y in (q, k, v))
        scores = slopes.to(q.dtype).baddbmm(q, k.mT, beta=1.0, alpha=0.4)
        return torch.baddbmm(torch.zeros_like(v), scores.softmax(-1), v).unflatten(0, (b, HEADS))


@attention
class Einsum(Separate):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self[role](x).unflatten(-1, (HEADS, SIZE)) for role in "qkv")
        scores = torch.einsum("bihd,bjhd->bhij", q, k) * SIZE**-0.5
        return self["o"](torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v).flatten(-2))


@attention
class Einops(Separate):
    def forward(self, x: Tensor) -> Tensor:
        from einops import einsum, rearrange

        q, k, v = (rearrange(self[role](x), "b t (h d) -> b h t d", h=HEADS) for role in "qkv")
        scores = einsum(q, k, "b h i d, b h j d -> b h i j")
        out = einsum(scores.softmax(-1), v, "b h i j, b h j d -> b h i d")
        return self["o"](rearrange(out, "b h t d -> b t (h d)"))


@attention
class ExpAndSum(Separate):
    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        scores = q @ k.mT + causal(x)
        weights = (scores - scores.amax(-1, keepdim=True)).exp()
        return (weights / weights.sum(-1, keepdim=True)) @ v


@attention
class NormaliseLast(Separate):
    """The sum is divided out after the values."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        weights = torch.exp(q @ k.mT / 3 + causal(x))
        return (weights @ v) / (1.0 + weights.sum(-1, keepdim=True))


@attention
class LogSumExp(Separate):
    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        scores = q @ k.mT + causal(x)
        return torch.exp(scores - scores.logsumexp(-1, keepdim=True)) @ v


@attention
class Sigmoid(Separate):
    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        return (q @ k.mT / math.sqrt(SIZE) - math.log(x.shape[1])).sigmoid() @ v


@attention
class Relu(Separate):
    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        return (F.relu(q @ k.mT / math.sqrt(SIZE)) / x.shape[1]) @ v


@attention
class LogitCap(Separate):
    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        scores = 30.0 * torch.tanh((q @ k.mT) / 30.0)
        return F.dropout(F.softmax(scores + causal(x), -1), 0.1, self.training) @ v


@attention
class Alibi(Separate):
    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        t = torch.arange(x.shape[1], device=x.device)
        slopes = 2.0 ** -torch.arange(1.0, HEADS + 1, device=x.device)
        bias = slopes[:, None, None] * (t[None, None] - t[:, None]).abs()
        return F.scaled_dot_product_attention(q, k, v, attn_mask=-bias[None])


@attention
class ComplexRope(Separate):
    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        angles = torch.outer(torch.arange(x.shape[1], device=x.device), 1.0 / torch.arange(1, 4, device=x.device))
        turn = torch.polar(torch.ones_like(angles), angles)
        q, k = (torch.view_as_real(torch.view_as_complex(y.unflatten(-1, (-1, 2))) * turn).flatten(-2) for y in (q, k))
        return F.scaled_dot_product_attention(q, k, v)


def rotated(x: Tensor) -> Tensor:
    angles = torch.arange(x.shape[-2], device=x.device)[:, None] * torch.ones(x.shape[-1], device=x.device)
    a, b = x.chunk(2, -1)
    return x * angles.cos() + torch.cat((-b, a), -1) * angles.sin()


@attention
class RotateHalf(Separate):
    kv = NARROW

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        q, k = rotated(q), rotated(k)
        k, v = (y.repeat_interleave(HEADS // GROUPS, dim=1) for y in (k, v))
        return (q @ k.mT).softmax(-1) @ v


@attention
class PartialInterleavedRope(Separate):
    """Two features of six are turned, pairs next to each other."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        def turn(y: Tensor) -> Tensor:
            turned, kept = y[..., :2], y[..., 2:]
            even, odd = turned[..., ::2], turned[..., 1::2]
            return torch.cat([torch.stack((even * 0.8 - odd * 0.6, even * 0.6 + odd * 0.8), -1).flatten(-2), kept], -1)

        return F.scaled_dot_product_attention(turn(q), turn(k), v, is_causal=True)


@attention
class Cosine(Separate):
    def __init__(self, names: Names):
        super().__init__(names)
        self.temperature = nn.Parameter(torch.ones(HEADS, 1, 1))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT
        return (scores * self.temperature.clamp(max=4.0).exp()).softmax(-1) @ v


@attention
class FunctionalNorms(Separate):
    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        q, k = (F.rms_norm(y, (SIZE,)) for y in (q, k))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


@attention
class NormsByHand(Separate):
    """Root mean square by hand over all heads together, before they are taken apart."""

    def forward(self, x: Tensor) -> Tensor:
        q, k = (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6) for y in (self["q"](x), self["k"](x)))
        return self["o"](together(Sdpa.attend(self, heads(q), heads(k), heads(self["v"](x)), x)))


@attention
class GroupedExpand(Separate):
    kv = NARROW

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        b, g, t, d = k.shape
        k, v = (y[:, :, None].expand(b, g, HEADS // g, t, d).reshape(b, HEADS, t, d) for y in (k, v))
        return F.scaled_dot_product_attention(q.contiguous(), k.contiguous(), v.contiguous(), is_causal=True)


@attention
class GroupedEinsum(Separate):
    kv = NARROW

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        q = q.unflatten(1, (GROUPS, -1))
        scores = torch.einsum("bgnid,bgjd->bgnij", q, k)
        return torch.einsum("bgnij,bgjd->bgnid", scores.softmax(-1), v).flatten(1, 2)


@attention
class MultiQuery(Separate):
    kv = SIZE

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        return (q @ k.mT + causal(x)).softmax(-1) @ v  # one head of keys goes with all


@attention
class HeadsInALoop(Separate):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self[role](x).split(SIZE, dim=-1) for role in "qkv")
        out = [torch.softmax(a @ b.mT, -1) @ c for a, b, c in zip(q, k, v, strict=True)]
        return self["o"](torch.cat(out, -1))


@attention
class OutputOfHeadsAdded(Separate):
    """Each head's output goes through its own columns of the output, and they are added."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (heads(self[role](x)) for role in "qkv")
        mixed = F.scaled_dot_product_attention(q, k, v)
        columns = self["o"].weight.view(WIDTH, HEADS, SIZE)
        return sum((mixed[:, h] @ columns[:, h].T for h in range(HEADS)), torch.zeros((), device=x.device))


@attention
class TalkingHeads(Separate):
    def __init__(self, names: Names):
        super().__init__(names)
        self.put(none1=linear(HEADS, HEADS), none2=linear(HEADS, HEADS))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        scores = self["none1"]((q @ k.mT).permute(0, 2, 3, 1)).softmax(-2)
        return self["none2"](scores).permute(0, 3, 1, 2) @ v


@attention
class GatedOutput(Separate):
    def __init__(self, names: Names):
        super().__init__(names)
        self.put(attn_gate=linear(WIDTH, INNER))

    def forward(self, x: Tensor) -> Tensor:
        out = self.attend(heads(self["q"](x)), heads(self["k"](x)), heads(self["v"](x)), x)
        return self["o"](together(out) * torch.sigmoid(self["attn_gate"](x)))


@attention
class GatedHeads(Separate):
    """One gate for each head."""

    def __init__(self, names: Names):
        super().__init__(names)
        self.put(attn_gate=linear(WIDTH, HEADS))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        gate = self["attn_gate"](x).sigmoid().transpose(1, 2)[..., None]
        return F.scaled_dot_product_attention(q, k, v) * gate


@attention
class Cached(Separate):
    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        past = torch.zeros_like(k[:, :, :3])
        k, v = torch.cat((past, k), 2), torch.cat((past, v), 2)
        return F.scaled_dot_product_attention(q, k, v)


@attention
class WrittenIntoACache(Separate):
    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        keys, values = (torch.zeros(*y.shape[:2], 16, SIZE, dtype=y.dtype, device=y.device) for y in (k, v))
        t = k.shape[2]
        keys[:, :, :t] = k
        values[:, :, torch.arange(t, device=x.device)] = v
        return F.scaled_dot_product_attention(q, keys[:, :, :t], values[:, :, :t], is_causal=True)


@attention
class Checkpointed(Separate):
    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(super().forward, x, use_reentrant=False)  # type: ignore[no-any-return]


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, v)
        return torch.softmax(q @ k.mT, -1) @ v

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient, gradient, gradient


@attention
class OwnFunction(Separate):
    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        return _Attend.apply(q, k, v)  # type: ignore[no-any-return]


@attention
class Additive(Separate):
    """Bahdanau's: the scores are a vector's product with tanh(q + k); which of the two is the query, the softmax says."""

    def __init__(self, names: Names):
        super().__init__(names)
        self.vector = nn.Parameter(torch.ones(SIZE))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        scores = torch.tanh(q[:, :, :, None] + k[:, :, None]) @ self.vector
        return scores.softmax(-1) @ v


@attention
class TransformerXl(Separate):
    """Two biases of the query, and keys of relative positions."""

    def __init__(self, names: Names):
        super().__init__(names)
        self.put(k1=(linear(WIDTH, INNER), Role("rel")), u=(weight(HEADS, SIZE), None), w=(weight(HEADS, SIZE), None))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        t = x.shape[1]
        positions = torch.arange(t, device=x.device)[:, None] / torch.arange(1, WIDTH + 1, device=x.device)
        r = self["k1"](positions.sin()[None])
        r = heads(r)
        content = (q + self["u"][:, None]) @ k.mT
        position = (q + self["w"][:, None]) @ r.mT
        position = F.pad(position, (1, 0)).view(*q.shape[:2], t + 1, t)[:, :, 1:].view_as(position)
        return ((content + position) * 0.4).softmax(-1) @ v


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
