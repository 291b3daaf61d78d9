"""Still more ways to write attention and feed-forward blocks, blocks that are neither, and whole models around them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lying.attention import HEADS, INNER, SIZE, WIDTH, Separate, attention, causal, heads, together
from lying.base import Lying, Names, Role, fused, linear, weight
from lying.feed_forward import WIDE, feed_forward
from lying.whole import TIME, WORDS, Model, ids, whole


@attention
class LinearByLoop(Lying):
    """A state of outer products, step by step: no attention."""

    def __init__(self, names: Names):
        super().__init__(names, scan_o=linear(INNER, WIDTH), scan_f=linear(WIDTH, INNER))
        self.put(**{f"scan_{role}": linear(WIDTH, INNER) for role in "qkv"})

    def forward(self, x: Tensor) -> Tensor:
        q, k, v, f = (heads(self[f"scan_{role}"](x)) for role in "qkvf")
        state = torch.zeros(x.shape[0], HEADS, SIZE, SIZE)
        out = []
        for t in range(x.shape[1]):
            state = state * f[:, :, t].sigmoid()[..., None] + k[:, :, t, :, None] * v[:, :, t, None]
            out.append(torch.einsum("bhd,bhde->bhe", q[:, :, t], state))
        return self["scan_o"](together(torch.stack(out, 2)))


@attention
class RunningMean(Lying):
    """minGRU: a candidate and a gate, with a running sum."""

    def __init__(self, names: Names):
        super().__init__(names, scan_a=linear(WIDTH, INNER), scan_b=linear(WIDTH, INNER), scan_end=linear(INNER, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        gate, new = self["scan_a"](x).sigmoid(), self["scan_b"](x)
        keep = torch.cumsum(torch.log1p(-gate.clamp(max=0.99)), dim=1)
        return self["scan_end"](keep.exp() * torch.cumsum(gate * new / keep.exp(), dim=1))


@attention
class GatedAttentionUnit(Lying):
    """GAU: one small query and key by scale and offset of one product, values gated by a second (a mixer of positions)."""

    def __init__(self, names: Names):
        super().__init__(names, qk=linear(WIDTH, 8), v=linear(WIDTH, INNER), attn_gate=linear(WIDTH, INNER))
        self.put(o=linear(INNER, WIDTH), scale=(weight(2, 8), None), offset=(weight(2, 8), None))

    def forward(self, x: Tensor) -> Tensor:
        z = F.silu(self["qk"](x))
        q, k = (z * self["scale"][i] + self["offset"][i] for i in (0, 1))
        w = torch.relu(q @ k.mT / x.shape[1] + causal(x)) ** 2
        return self["o"]((w @ F.silu(self["v"](x))) * F.silu(self["attn_gate"](x)))


@attention
class FunctionalCall(Lying):
    """`torch.func.functional_call` with a dictionary of parameters."""

    def __init__(self, names: Names):
        super().__init__(names, inner=Separate(names))

    def forward(self, x: Tensor) -> Tensor:
        return torch.func.functional_call(self["inner"], dict(self["inner"].named_parameters()), (x,))  # type: ignore[no-any-return]


@attention
class ValueBeforeHeads(Separate):
    """The output is applied to each head's value before these are weighed (sum over heads at the end)."""

    def __init__(self, names: Names):
        super().__init__(names)
        at = self.called["o"]
        self.roles[at] = Role("o")

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        w = torch.softmax(q @ k.mT + causal(x), -1)
        w = F.dropout(w, 0.1, self.training)
        return torch.stack([w[:, h] @ v[:, h] for h in range(HEADS)], 1)


@attention
class RotaryInterleavedInPlace(Separate):
    """Rotary positions written into the query's memory."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        angles = torch.arange(x.shape[1])[:, None] / torch.arange(1, SIZE // 2 + 1)

        def turn(y: Tensor) -> Tensor:
            y = y.clone()
            even, odd = y[..., 0::2].clone(), y[..., 1::2].clone()
            y[..., 0::2] = even * angles.cos() - odd * angles.sin()
            y[..., 1::2] = even * angles.sin() + odd * angles.cos()
            return y

        return F.scaled_dot_product_attention(turn(q), turn(k), v, is_causal=True)


@attention
class NullKey(Separate):
    """A learned key and value before the others."""

    def __init__(self, names: Names):
        super().__init__(names)
        self.put(any1=weight(HEADS, SIZE), any2=weight(HEADS, SIZE))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        k = torch.cat([self["any1"][None, :, None].expand(x.shape[0], -1, -1, -1), k], 2)
        v = torch.cat([self["any2"][None, :, None].expand(x.shape[0], -1, -1, -1), v], 2)
        return torch.softmax(q @ k.mT, -1) @ v


@attention
class Sinks(Separate):
    """A learned score for each head beside the others (gpt-oss)."""

    def __init__(self, names: Names):
        super().__init__(names)
        self.put(any1=weight(HEADS, 1))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        s = q @ k.mT + causal(x)
        s = torch.cat([s, self["any1"][None, :, :, None].expand(x.shape[0], -1, x.shape[1], -1)], -1)
        w = (s - s.max(-1, keepdim=True).values).softmax(-1)[..., :-1]
        return w @ v


@attention
class MixtureOfHeads(Lying):
    """Heads are chosen for each token by a router."""

    def __init__(self, names: Names):
        super().__init__(names, q=linear(WIDTH, INNER), k=linear(WIDTH, INNER), v=linear(WIDTH, INNER))
        self.put(o=linear(INNER, WIDTH), share=(linear(WIDTH, HEADS), Role("head_gate")))

    def forward(self, x: Tensor) -> Tensor:
        y = F.scaled_dot_product_attention(*(heads(self[r](x)) for r in "qkv"))
        share = self["share"](x).softmax(-1)
        best = share.topk(2, -1)
        share = torch.zeros_like(share).scatter(-1, best.indices, best.values)
        return self["o"](together(y * share.mT[..., None]))


@feed_forward
class MaxoutByHand(Lying):
    """The larger of two products, into a third."""

    def __init__(self, names: Names):
        super().__init__(
            names,
            either1=(linear(WIDTH, WIDE), Role("middle")),
            either2=(linear(WIDTH, WIDE), Role("middle")),
            outs=(linear(WIDE, WIDTH), Role("outs")),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self["outs"](torch.maximum(self["either1"](x), self["either2"](x)))


@feed_forward
class ThreeLayers(Lying):
    """Two hidden layers."""

    def __init__(self, names: Names):
        super().__init__(
            names,
            ffn_out=linear(WIDE, WIDTH),
            middle=(linear(WIDE, WIDE), Role("middle")),
            **{"in": linear(WIDTH, WIDE)},
        )

    def forward(self, x: Tensor) -> Tensor:
        return self["ffn_out"](F.gelu(self["middle"](F.gelu(self["in"](x)))))


@feed_forward
class KeyBeforeGate(Lying):
    """Fused gate and up of each of four groups, (4, 2, f), by einsum; down is (4, f, D)."""

    def __init__(self, names: Names):
        super().__init__(names, down=weight(4, 14, WIDTH))
        self.order = names.order("gate", "up")
        rows = {r: [g * 28 + i * 14 + j for g in range(4) for j in range(14)] for i, r in enumerate(self.order)}
        self.put(both=(weight(112, WIDTH), fused(0, **rows)))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.einsum("btd,gcfd->btgcf", x, self["both"].view(4, 2, 14, WIDTH))
        f = dict(zip(self.order, y.unbind(3), strict=True))
        return torch.einsum("btgf,gfd->btd", F.mish(f["gate"]) * f["up"], self["down"])


@feed_forward
class LowRankWeight(Lying):
    """The first matrix is the product of two."""

    def __init__(self, names: Names):
        super().__init__(names, factor1=(weight(WIDE, 8), Role("factor")), factor2=(weight(8, WIDTH), Role("factor")))
        self.put(ffn_out=linear(WIDE, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return self["ffn_out"](F.relu(F.linear(x, self["factor1"] @ self["factor2"])))


@feed_forward
class ScaledAdapters(Lying):
    """DoRA: a base and an adapter, normalised together."""

    def __init__(self, names: Names):
        super().__init__(names, ffn_out=linear(WIDE, WIDTH), **{"in": weight(WIDE, WIDTH)})
        self.put(lora_a1=weight(4, WIDTH), lora_b1=weight(WIDE, 4), scale=(weight(WIDE, 1), None))

    def forward(self, x: Tensor) -> Tensor:
        w = self["in"] + 2.0 * torch.mm(self["lora_b1"], self["lora_a1"])
        w = self["scale"] * w / w.norm(dim=1, keepdim=True)
        return self["ffn_out"](F.gelu(x @ w.t()))


@feed_forward
class DroppedTokens(Lying):
    """A router chooses the positions that a block is applied to (mixture of depths)."""

    def __init__(self, names: Names):
        super().__init__(names, gate=linear(WIDTH, WIDE), up=linear(WIDTH, WIDE), down=linear(WIDE, WIDTH))
        self.put(share=(linear(WIDTH, 1), Role("any")))

    def forward(self, x: Tensor) -> Tensor:
        weights = self["share"](x).squeeze(-1)
        best = weights.topk(3, dim=1)
        index = best.indices[..., None].expand(-1, -1, WIDTH)
        chosen = x.gather(1, index)
        made = self["down"](F.silu(self["gate"](chosen)) * self["up"](chosen))
        return torch.zeros_like(x).scatter(1, index, made * best.values.sigmoid()[..., None])


@whole
def swapped_cross_attention(names: Names) -> tuple[nn.Module, Any]:
    """A decoder that reads an encoder; which is which, only `forward` says."""

    class Cross(Separate):
        def forward(self, x: Tensor, memory: Tensor) -> Tensor:  # type: ignore[override]
            q, k, v = heads(self["q"](x)), heads(self["k"](memory)), heads(self["v"](memory))
            return self["o"](together(F.scaled_dot_product_attention(q, k, v)))

    class Two(Model):
        def __init__(self, names: Names):
            super().__init__(names)
            self.put(c=Cross(names), other=Model(names, blocks=1))

        def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
            inner = self["other"]
            memory = inner.stream(inner["emb"](y))
            out = self["emb"](x)
            out = out + self["c"](F.layer_norm(out, (WIDTH,)), memory)
            return self["head"](self.stream(out)), inner["head"](memory)  # type: ignore[return-value]

    return Two(names), (ids(), ids()[:, :5])


@whole
def only_a_loss(names: Names) -> tuple[nn.Module, Any]:
    """Returns a loss, written out by hand."""

    class Loss(Model):
        def forward(self, x: Tensor) -> Tensor:
            logits = self["head"](self.stream(self["emb"](x)))
            p = logits.log_softmax(-1)
            return -p[:, :-1].gather(-1, x[:, 1:, None]).mean()

    return Loss(names), (ids(),)


@whole
def loss_in_pieces(names: Names) -> tuple[nn.Module, Any]:
    """Logits are made of a few positions at a time, and only the loss is kept."""

    class Loss(Model):
        def forward(self, x: Tensor) -> Tensor:
            y = self.stream(self["emb"](x))
            losses = [
                F.cross_entropy(
                    self["head"](y[:, t : t + 2]).flatten(0, 1).float(), x[:, t : t + 2].flatten(), reduction="sum"
                )
                for t in range(0, TIME, 2)
            ]
            return sum(losses) / x.numel()  # type: ignore[return-value]

    return Loss(names), (ids(),)


@whole
def several_heads(names: Names) -> tuple[nn.Module, Any]:
    """Logits of this word and the next, and a value."""

    class Several(Model):
        def __init__(self, names: Names):
            super().__init__(names)
            self.put(head2=linear(WIDTH, WORDS), head3=linear(WIDTH, 1))

        def forward(self, x: Tensor) -> Any:
            y = self.stream(self["emb"](x))
            return {"now": self["head"](y), "later": [self["head2"](y)], "value": torch.tanh(self["head3"](y[:, -1]))}

    return Several(names), (ids(),)


@whole
def scan_over_stacked_layers(names: Names) -> tuple[nn.Module, Any]:
    """All layers' weights in one parameter each, (L, …), in a loop."""

    class Stacked(Lying):
        def __init__(self, names: Names):
            super().__init__(names, emb=nn.Embedding(WORDS, WIDTH), head=linear(WIDTH, WORDS))
            for role in "qkv":
                self.put(**{role: weight(2, INNER, WIDTH)})
            self.put(o=weight(2, WIDTH, INNER), ffn_out=weight(2, WIDTH, WIDE), **{"in": weight(2, WIDE, WIDTH)})

        def forward(self, x: Tensor) -> Tensor:
            y = self["emb"](x)
            for q, k, v, o, a, b in zip(*(self[r] for r in ("q", "k", "v", "o", "in", "ffn_out")), strict=True):
                n = F.rms_norm(y, (WIDTH,))
                seen = F.scaled_dot_product_attention(*(heads(F.linear(n, w)) for w in (q, k, v)), is_causal=True)
                y = y + F.linear(together(seen), o)
                y = y + F.linear(F.gelu(F.linear(F.rms_norm(y, (WIDTH,)), a)), b)
            return self["head"](y)

    return Stacked(names), (ids(),)
