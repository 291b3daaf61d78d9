"""Attention written in many ways. Every class takes names and works on (batch, time, width) of `WIDTH` features."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lying.base import Lying, Names, linear

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
