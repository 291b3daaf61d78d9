"""Rarer feed-forward blocks and experts, and blocks that look like one and are none."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lying.attention import WIDTH
from lying.base import Lying, Names, Role, fused, grid, linear, weight
from lying.feed_forward import WIDE, feed_forward


@feed_forward
class RowByRow(Lying):
    """Gate and up row by row, in any order, limited, as in gpt-oss."""

    def __init__(self, names: Names):
        self.order = names.order("gate", "up")
        super().__init__(
            names, both=(linear(WIDTH, 2 * WIDE), grid((WIDE, 2), 1, self.order)), down=linear(WIDE, WIDTH)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self["both"](x)
        f = {r: y[..., i::2] for i, r in enumerate(self.order)}
        gate, up = f["gate"].clamp(min=None, max=7.0), f["up"].clamp(min=-7.0, max=7.0)
        return self["down"]((up + 1) * (gate * torch.sigmoid(gate * 1.702)))


@feed_forward
class BlockDiagonal(Lying):
    """Both matrices in blocks (Monarch): (blocks, out, in)."""

    def __init__(self, names: Names):
        super().__init__(names, **{"in": weight(4, 16, WIDTH // 4)}, ffn_out=weight(4, WIDTH // 4, 16))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.einsum("btgi,goi->btgo", x.unflatten(-1, (4, -1)), self["in"])
        return torch.einsum("btgi,goi->btgo", F.gelu(y), self["ffn_out"]).flatten(2)


@feed_forward
class Shifted(Lying):
    """RWKV's channel mix: in and out around a squared relu, of the position before, too, times a gate of the input."""

    def __init__(self, names: Names):
        super().__init__(names, receptance=linear(WIDTH, WIDTH), ffn_out=linear(WIDE, WIDTH))
        self.put(**{"in": linear(WIDTH, WIDE)})
        self.share = nn.Parameter(torch.rand(2, WIDTH))
        self.roles["share"] = Role("any")

    def forward(self, x: Tensor) -> Tensor:
        before = F.pad(x, (0, 0, 1, -1))
        a, b = (x * m + before * (1 - m) for m in self.share)
        return torch.sigmoid(self["receptance"](b)) * self["ffn_out"](torch.relu(self["in"](a)) ** 2)


@feed_forward
class SpatialGate(Lying):
    """gMLP: half of the hidden layer is mixed over positions and multiplies the other half."""

    def __init__(self, names: Names):
        super().__init__(names, any1=linear(WIDTH, 2 * WIDE), any2=linear(WIDE, WIDTH), any3=nn.Conv1d(7, 7, 1))
        self.roles[self.called["any1"]] = self.roles[self.called["any2"]] = Role("over time")
        self.roles[self.called["any3"]] = Role("over time")
        self.put(norm=(nn.LayerNorm(WIDE), None))

    def forward(self, x: Tensor) -> Tensor:
        u, v = F.gelu(self["any1"](x)).chunk(2, -1)
        return self["any2"](u * self["any3"](self["norm"](v)))


@feed_forward
class ConvolutionModule(Lying):
    """Conformer's convolution: a gated pointwise one, one of each channel over time, and a pointwise one."""

    def __init__(self, names: Names):
        super().__init__(
            names, any1=nn.Conv1d(WIDTH, 2 * WIDE, 1), any2=nn.Conv1d(WIDE, WIDE, 3, padding=1, groups=WIDE)
        )
        self.put(any3=nn.Conv1d(WIDE, WIDTH, 1), norm=(nn.BatchNorm1d(WIDE), None))
        for r in ("any1", "any2", "any3"):
            self.roles[self.called[r]] = Role("over time")

    def forward(self, x: Tensor) -> Tensor:
        y = F.glu(self["any1"](x.mT), dim=1)
        return self["any3"](F.silu(self["norm"](self["any2"](y)))).mT


@feed_forward
class Bottleneck(Lying):
    """A block and a Houlsby adapter after it."""

    def __init__(self, names: Names):
        super().__init__(names, **{"in": linear(WIDTH, WIDE)}, ffn_out=linear(WIDE, WIDTH))
        self.put(bottleneck1=linear(WIDTH, 5), bottleneck2=linear(5, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        y = self["ffn_out"](F.relu(self["in"](x)))
        return y + self["bottleneck2"](F.gelu(self["bottleneck1"](y)))


@feed_forward
class AdaptersByHand(Lying):
    """LoRA by hand on gate and down; the base of gate is frozen."""

    def __init__(self, names: Names):
        super().__init__(names, gate=linear(WIDTH, WIDE), up=linear(WIDTH, WIDE), down=linear(WIDE, WIDTH))
        self.put(lora_a1=weight(4, WIDTH), lora_b1=weight(WIDE, 4), lora_a2=weight(WIDE, 4), lora_b2=weight(4, WIDTH))
        self["gate"].weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        gate = self["gate"](x) + 2.0 * (F.dropout(x, 0.05) @ self["lora_a1"].T @ self["lora_b1"].T)
        y = F.silu(gate) * self["up"](x)
        return self["down"](y) + (y @ self["lora_a2"]) @ self["lora_b2"]


@feed_forward
class Dora(Lying):
    """A weight of direction and magnitude, with an adapter (DoRA by hand)."""

    def __init__(self, names: Names):
        super().__init__(names, **{"in": linear(WIDTH, WIDE)}, ffn_out=linear(WIDE, WIDTH))
        self.put(lora_a=weight(3, WIDTH), lora_b=weight(WIDE, 3))
        self.size = nn.Parameter(torch.ones(WIDE, 1))
        self.roles["size"] = Role("any")

    def forward(self, x: Tensor) -> Tensor:
        w = self["in"].weight + self["lora_b"] @ self["lora_a"]
        w = self.size * (w / w.norm(p=2, dim=1, keepdim=True))
        return self["ffn_out"](F.relu(F.linear(x, w, self["in"].bias)))


@feed_forward
class SoftExperts(Lying):
    """Soft MoE: slots are mixtures of tokens, tokens mixtures of slots."""

    def __init__(self, names: Names):
        super().__init__(
            names, router=weight(WIDTH, 3, 2), **{"in": weight(3, WIDTH, 16)}, ffn_out=weight(3, 16, WIDTH)
        )
        self.roles[self.called["router"]] = Role("any")

    def forward(self, x: Tensor) -> Tensor:
        scores = torch.einsum("bmd,dnp->bmnp", x, self["router"])
        to, back = scores.softmax(1), scores.flatten(2).softmax(2).view_as(scores)
        slots = torch.einsum("bmd,bmnp->bnpd", x, to)
        y = torch.einsum("bnpi,nid->bnpd", F.gelu(torch.einsum("bnpd,ndi->bnpi", slots, self["in"])), self["ffn_out"])
        return torch.einsum("bnpd,bmnp->bmd", y, back)


@feed_forward
class ExpertsChoose(Lying):
    """Expert choice: each expert takes the tokens that it likes best."""

    def __init__(self, names: Names):
        super().__init__(names, router=linear(WIDTH, 3), gate=weight(3, WIDTH, 16), up=weight(3, WIDTH, 16))
        self.put(down=weight(3, 16, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, 1)
        weights, index = self["router"](flat).softmax(-1).t().topk(4, -1)
        y = flat[index]
        y = torch.bmm(F.silu(torch.bmm(y, self["gate"])) * torch.bmm(y, self["up"]), self["down"]) * weights[..., None]
        return torch.zeros_like(flat).index_add_(0, index.flatten(), y.flatten(0, 1)).view_as(x)


@feed_forward
class AccumulatedExperts(Lying):
    """Results are put back with ``index_put_(…, accumulate=True)``; experts are a stack in which gate and up lie row by row."""

    def __init__(self, names: Names):
        self.order = names.order("gate", "up")
        rows = {r: [2 * j + i for j in range(16)] for i, r in enumerate(self.order)}
        super().__init__(names, router=weight(3, WIDTH), both=(weight(3, 32, WIDTH), fused(1, **rows)))
        self.put(down=weight(3, WIDTH, 16))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, WIDTH)
        weights, chosen = torch.topk(F.softmax(flat @ self["router"].T, -1), 2, -1)
        out = torch.zeros_like(flat)
        for e in range(3):
            token, place = (chosen == e).nonzero(as_tuple=True)
            y = F.linear(flat[token], self["both"][e])
            f = {r: y[:, i::2] for i, r in enumerate(self.order)}
            y = F.linear(F.silu(f["gate"]) * f["up"], self["down"][e]) * weights[token, place, None]
            out.index_put_((token,), y, accumulate=True)
        return out.view_as(x)


@feed_forward
class ScatteredExperts(Lying):
    """Tokens are repeated, sorted by expert, multiplied slice by slice, put back in order and summed; one expert is shared."""

    def __init__(self, names: Names):
        super().__init__(names, router=linear(WIDTH, 3), gate1=linear(WIDTH, 20), up1=linear(WIDTH, 20))
        self.put(down1=linear(20, WIDTH), **{"in": weight(3, 16, WIDTH)}, ffn_out=weight(3, WIDTH, 16))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.view(-1, WIDTH)
        scores = self["router"](flat).sigmoid()
        chosen = scores.topk(2, sorted=False).indices
        weights = scores.gather(1, chosen)
        weights = weights / weights.sum(-1, keepdim=True)
        order = chosen.flatten().argsort()
        counts = torch.bincount(chosen.flatten(), minlength=3).tolist()
        parts = flat[order // 2].split(counts)
        y = torch.cat([F.gelu(p @ a.T) @ b.T for p, a, b in zip(parts, self["in"], self["ffn_out"], strict=True)])
        back = torch.empty_like(y)
        back[order] = y
        y = (back.view(len(flat), 2, WIDTH) * weights[..., None]).sum(1)
        shared = self["down1"](F.silu(self["gate1"](flat)) * self["up1"](flat))
        return (y + shared).view_as(x)


@feed_forward
class DenseExperts(Lying):
    """All experts on all tokens, in a ModuleList; the weights of those not chosen are zero."""

    def __init__(self, names: Names):
        super().__init__(names, router=linear(WIDTH, 3))
        self.put(experts=(nn.ModuleList(_Expert(names) for _ in range(3)), None))

    def forward(self, x: Tensor) -> Tensor:
        scores = self["router"](x)
        kept = torch.full_like(scores, float("-inf")).scatter(-1, scores.topk(2, -1).indices, scores.topk(2, -1).values)
        w = kept.softmax(-1)
        return torch.stack([e(x) * w[..., i, None] for i, e in enumerate(self["experts"])]).sum(0)


class _Expert(Lying):
    def __init__(self, names: Names):
        super().__init__(names, gate=linear(WIDTH, 18), up=linear(WIDTH, 18), down=linear(18, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return self["down"](F.silu(self["gate"](x)) * self["up"](x))


@feed_forward
class ProductKeys(Lying):
    """A memory of values that are looked up by products of two halves of a query."""

    def __init__(self, names: Names):
        super().__init__(
            names, any1=linear(WIDTH, 16), any2=weight(2, 6, 8), any3=nn.EmbeddingBag(36, WIDTH, mode="sum")
        )
        for r in ("any1", "any2", "any3"):
            self.roles[self.called[r]] = Role("memory")

    def forward(self, x: Tensor) -> Tensor:
        q = self["any1"](x).view(-1, 2, 8)
        scores = torch.einsum("npd,pkd->npk", q, self["any2"])
        best, at = scores.topk(2, -1)
        total = (best[:, 0, :, None] + best[:, 1, None, :]).flatten(1)
        index = (at[:, 0, :, None] * 6 + at[:, 1, None, :]).flatten(1)
        best, place = total.topk(2, -1)
        y = self["any3"](index.gather(1, place), per_sample_weights=best.softmax(-1))
        return y.view_as(x)


@feed_forward
class Excited(Lying):
    """A block with squeeze-and-excite on the hidden layer (as MobileNet has)."""

    def __init__(self, names: Names):
        super().__init__(names, **{"in": linear(WIDTH, WIDE)}, ffn_out=linear(WIDE, WIDTH))
        self.put(none1=linear(WIDE, 6), none2=linear(6, WIDE))

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self["in"](x))
        y = y * torch.sigmoid(self["none2"](F.relu(self["none1"](y.mean(1, keepdim=True)))))
        return self["ffn_out"](y)


@feed_forward
class GatedByTwo(Lying):
    """Its two factors both go through an activation: sigmoid(a) * tanh(b)."""

    def __init__(self, names: Names):
        super().__init__(names, either1=linear(WIDTH, WIDE), either2=linear(WIDTH, WIDE), down=linear(WIDE, WIDTH))
        for r in ("either1", "either2"):
            self.roles[self.called[r]] = Role("either")

    def forward(self, x: Tensor) -> Any:
        return self["down"](torch.sigmoid(self["either1"](x)) * torch.tanh(self["either2"](x)))
