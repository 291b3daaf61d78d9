"""Mixtures of experts, and small networks beside a feed-forward block."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lying.attention import WIDTH
from lying.base import Lying, Names, Role, grid, linear, packed, weight
from lying.feed_forward import WIDE, Gated, feed_forward

EXPERTS = 3


class Experts(Lying):
    """A router and experts in any order; `experts` makes them."""

    def __init__(self, names: Names):
        super().__init__(names, router=linear(WIDTH, EXPERTS))

    def chosen(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self["router"](x).softmax(-1).topk(2, dim=-1)  # type: ignore[no-any-return]


class Expert(Gated):
    pass


@feed_forward
class LoopOverExperts(Experts):
    """Tokens are picked with `nonzero`, and added with `index_add_`."""

    def __init__(self, names: Names):
        super().__init__(names)
        self.put(list=nn.ModuleList(Expert(names) for _ in range(EXPERTS)))
        del self.roles[self.called["list"]]

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, WIDTH)
        weights, chosen = self.chosen(flat)
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self["list"]):
            token, slot = torch.where(chosen == e)
            if token.numel() == 0:
                continue
            out.index_add_(0, token, expert(flat[token]) * weights[token, slot, None])
        return out.view_as(x)


@feed_forward
class MaskedExperts(Experts):
    """Tokens are picked by a boolean mask, and written back by it; all experts share one (E, ...) parameter."""

    def __init__(self, names: Names):
        super().__init__(names)
        self.put(**{"in": weight(EXPERTS, WIDTH, WIDE), "ffn_out": weight(EXPERTS, WIDE, WIDTH)})

    def forward(self, x: Tensor) -> Tensor:
        best = self["router"](x).argmax(-1)
        share = self["router"](x).softmax(-1)
        out = torch.zeros_like(x)
        for e in range(EXPERTS):
            mask = best == e
            y = F.relu(x[mask] @ self["in"][e]) @ self["ffn_out"][e]
            out[mask] = y * share[mask][:, e : e + 1]
        return out


@feed_forward
class AllExperts(Experts):
    """Every expert sees every token, by `bmm`, with gate and up packed in any order."""

    def __init__(self, names: Names):
        super().__init__(names)
        self.order = names.order("gate", "up")
        packed_role = grid((2, WIDE), 0, self.order, dim=2)
        self.put(gu=(weight(EXPERTS, WIDTH, 2 * WIDE), packed_role), down=weight(EXPERTS, WIDE, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(1, -1, WIDTH).expand(EXPERTS, -1, -1)
        both = torch.bmm(flat, self["gu"]).chunk(2, dim=-1)
        found = dict(zip(self.order, both, strict=True))
        out = torch.bmm(F.silu(found["gate"]) * found["up"], self["down"])
        weights, chosen = self.chosen(x.reshape(-1, WIDTH))
        dense = torch.zeros(out.shape[1], EXPERTS, dtype=x.dtype, device=x.device).scatter_(1, chosen, weights)
        return (out * dense.T[:, :, None]).sum(0).view_as(x)


@feed_forward
class EinsumExperts(Experts):
    """Dispatch and combine by one-hot masks with a capacity, as in Switch."""

    def __init__(self, names: Names):
        super().__init__(names)
        self.put(gate=weight(EXPERTS, WIDE, WIDTH), up=weight(EXPERTS, WIDE, WIDTH), down=weight(EXPERTS, WIDTH, WIDE))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, WIDTH)
        share, best = self["router"](flat).softmax(-1).max(-1)
        one = F.one_hot(best, EXPERTS).to(x.dtype)
        place = F.one_hot(((one.cumsum(0) - 1) * one).sum(-1).long() % 4, 4).to(x.dtype)
        dispatch = one[:, :, None] * place[:, None]
        y = torch.einsum("nec,nd->ecd", dispatch, flat)
        hidden = F.silu(torch.einsum("ecd,efd->ecf", y, self["gate"])) * torch.einsum("ecd,efd->ecf", y, self["up"])
        y = torch.einsum("ecf,edf->ecd", hidden, self["down"])
        return torch.einsum("nec,ecd->nd", dispatch * share[:, None, None], y).view_as(x)


@feed_forward
class SortedExperts(Experts):
    """Tokens are sorted by expert; each run of them goes through the rows of a flat (E·F, D) parameter."""

    def __init__(self, names: Names):
        super().__init__(names)
        self.put(
            gate=weight(EXPERTS * WIDE, WIDTH), up=weight(EXPERTS * WIDE, WIDTH), down=weight(EXPERTS * WIDE, WIDTH)
        )

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, WIDTH)
        weights, chosen = self.chosen(flat)
        order = chosen.flatten().argsort()
        counts = torch.bincount(chosen.flatten(), minlength=EXPERTS).tolist()
        gate, up, down = (self[r].view(EXPERTS, WIDE, WIDTH) for r in ("gate", "up", "down"))
        parts = []
        for e, rows in enumerate(flat[order // 2].split(counts)):
            parts.append((F.silu(rows @ gate[e].T) * (rows @ up[e].T)) @ down[e])
        out = torch.cat(parts) * weights.flatten()[order, None]
        return torch.zeros_like(flat).index_add(0, order // 2, out).view_as(x)


@feed_forward
class GroupedExperts(Experts):
    """By grouped matrix products."""

    def __init__(self, names: Names):
        super().__init__(names)
        self.put(gate=weight(EXPERTS, WIDTH, WIDE), up=weight(EXPERTS, WIDTH, WIDE), down=weight(EXPERTS, WIDE, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, WIDTH)
        weights, chosen = self.chosen(flat)
        order = chosen.flatten().argsort(stable=True)
        one = torch.ones(chosen.numel(), device=x.device)
        counts = torch.zeros(EXPERTS, device=x.device).scatter_add_(0, chosen.flatten(), one)
        ends = counts.cumsum(0).to(torch.int32)
        rows = flat[order // 2].to(torch.bfloat16)
        gate, up, down = (self[r].to(torch.bfloat16) for r in ("gate", "up", "down"))
        hidden = F.silu(torch._grouped_mm(rows, gate, offs=ends)) * torch._grouped_mm(rows, up, offs=ends)
        out = torch._grouped_mm(hidden, down, offs=ends).to(x.dtype)
        out = out * weights.flatten()[order, None]
        back = torch.empty_like(out)
        back[order] = out
        return back.view(-1, 2, WIDTH).sum(1).view_as(x)


@feed_forward
class SharedExpert(Experts):
    """One routed expert and one that sees all, with a gate of its own."""

    def __init__(self, names: Names):
        super().__init__(names)
        self.put(a=Expert(names), b=Expert(names), sharing=(linear(WIDTH, 1), Role("router_like")))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, WIDTH)
        share = self["router"](flat).softmax(-1)[:, :1]
        out = self["a"](flat) * share + torch.sigmoid(self["sharing"](flat)) * self["b"](flat)
        return out.view_as(x)


@feed_forward
class SqueezeAndExcite(Lying):
    """A feed-forward block, then features weighted by what a small network makes of their mean."""

    def __init__(self, names: Names):
        super().__init__(names, ffn_out=linear(WIDE, WIDTH), **{"in": linear(WIDTH, WIDE)})
        self.put(none1=linear(WIDTH, 8), none2=linear(8, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        y = self["ffn_out"](F.gelu(self["in"](x)))
        return y * torch.sigmoid(self["none2"](F.relu(self["none1"](y.mean(1, keepdim=True)))))


@feed_forward
class MixingOfPositions(Lying):
    """Before the block, a small network over time (MLP-Mixer)."""

    def __init__(self, names: Names):
        super().__init__(names, ffn_out=linear(WIDE, WIDTH), **{"in": linear(WIDTH, WIDE)})
        self.put(any1=(linear(7, 16), Role("over time")), any2=(linear(16, 7), Role("over time")))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self["any2"](F.gelu(self["any1"](x.mT))).mT
        return self["ffn_out"](F.gelu(self["in"](F.layer_norm(x, (WIDTH,)))))


@feed_forward
class HyperNetwork(Lying):
    """A small matrix makes another block's weight; only the makers are parameters."""

    def __init__(self, names: Names):
        super().__init__(names, ffn_out=linear(WIDE, WIDTH), **{"in": linear(WIDTH, WIDE)})
        self.put(maker=(linear(5, WIDE * WIDTH), Role("maker")), key=(weight(1, 5), Role("maker")))

    def forward(self, x: Tensor) -> Tensor:
        made = self["maker"](self["key"]).view(WIDE, WIDTH)
        x = x + F.relu(x @ made.T) @ made
        return self["ffn_out"](F.relu(self["in"](x)))


@feed_forward
class Modulated(Lying):
    """Scale, shift and gate of the block come from a condition, as in DiT."""

    def __init__(self, names: Names):
        super().__init__(names, ffn_out=linear(WIDE, WIDTH), **{"in": linear(WIDTH, WIDE)})
        self.put(none1=linear(WIDTH, 3 * WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        scale, shift, gate = self["none1"](F.silu(x.mean(1, keepdim=True))).chunk(3, -1)
        y = F.layer_norm(x, (WIDTH,)) * (1 + scale) + shift
        return gate * self["ffn_out"](F.gelu(self["in"](y)))


@feed_forward
class Adapted(Lying):
    """A bottleneck after the block, added to its output."""

    def __init__(self, names: Names):
        super().__init__(names, gate=linear(WIDTH, WIDE), up=linear(WIDTH, WIDE), down=linear(WIDE, WIDTH))
        self.put(adapt1=(linear(WIDTH, 4), Role("bottleneck")), adapt2=(linear(4, WIDTH), Role("bottleneck")))

    def forward(self, x: Tensor) -> Tensor:
        y = self["down"](F.silu(self["gate"](x)) * self["up"](x))
        return y + self["adapt2"](F.relu(self["adapt1"](y)))


@feed_forward
class PackedWithBoth(Lying):
    """Three packed in one: gate, up and a router's scores."""

    def __init__(self, names: Names):
        super().__init__(names, down=linear(WIDE, WIDTH))
        sizes = {"gate": WIDE, "up": WIDE, "router_like": 4}
        self.order, role = packed(names, sizes)
        self.sizes = [sizes[r] for r in self.order]
        self.put(all=(linear(WIDTH, sum(self.sizes)), role))

    def forward(self, x: Tensor) -> Tensor:
        found = dict(zip(self.order, self["all"](x).split(self.sizes, -1), strict=True))
        share = found["router_like"].sigmoid().mean(-1, keepdim=True)
        return self["down"](F.silu(found["gate"]) * found["up"] * share)


@feed_forward
class WeighedBefore(Experts):
    """What experts read is weighed, not what they give: every expert sees every token, most of them times nothing."""

    def __init__(self, names: Names):
        super().__init__(names)
        self.put(**{"in": weight(EXPERTS, WIDTH, WIDE), "ffn_out": weight(EXPERTS, WIDE, WIDTH)})

    def scores(self, x: Tensor) -> Tensor:
        return self["router"](x)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, WIDTH)
        scores = self.scores(flat)
        best, chosen = scores.topk(1, dim=-1)
        shares = torch.full_like(scores, -torch.inf).scatter_(1, chosen, best).sigmoid()
        read = flat.repeat(EXPERTS, 1) * shares.T.reshape(-1, 1)
        out = F.gelu(torch.bmm(read.view(EXPERTS, -1, WIDTH), self["in"])) @ self["ffn_out"]
        return out.sum(0).view_as(x)


@feed_forward
class DeepRouter(WeighedBefore):
    """Three matrices make the scores."""

    def __init__(self, names: Names):
        super().__init__(names)
        self.put(router1=linear(WIDTH, 9), router2=linear(9, WIDTH, True))

    def scores(self, x: Tensor) -> Tensor:
        return self["router"](F.gelu(self["router2"](F.gelu(self["router1"](x)))))  # type: ignore[no-any-return]


@feed_forward
class DeepRouterAfter(LoopOverExperts):
    """A bottleneck before the scores, which weigh what experts give."""

    def __init__(self, names: Names):
        super().__init__(names)
        self.put(router1=linear(WIDTH, 9), router2=linear(9, WIDTH))

    def chosen(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return super().chosen(self["router2"](torch.tanh(self["router1"](x))))
