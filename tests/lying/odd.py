"""Odd attention, odd weights and odd ways to write a model: what the tables and the usual shapes of code do not show."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from lying.attention import HEADS, INNER, SIZE, WIDTH, Separate, attention, heads, together
from lying.base import Lying, Names, Role, grid, linear, weight
from lying.feed_forward import WIDE, Gated, InAndOut, feed_forward


@attention
class ChunkedKeys(Separate):
    """Flash attention by hand: blocks of keys, with a running maximum and a running sum."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        best = torch.full((*q.shape[:3], 1), -1e30, device=x.device)
        total = torch.zeros_like(best)
        out = torch.zeros_like(q)
        for keys, values in zip(k.split(3, dim=2), v.split(3, dim=2), strict=True):
            scores = q @ keys.mT * SIZE**-0.5
            now = torch.maximum(best, scores.amax(-1, keepdim=True))
            weights, kept = (scores - now).exp(), (best - now).exp()
            total = total * kept + weights.sum(-1, keepdim=True)
            out = out * kept + weights @ values
            best = now
        return out / total


@attention
class TopKeys(Separate):
    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        scores = q @ k.mT
        best = scores.topk(3, dim=-1)
        return torch.full_like(scores, float("-inf")).scatter(-1, best.indices, best.values).softmax(-1) @ v


@attention
class Neighbours(Separate):
    """Each position sees three, by `unfold`."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        k, v = (F.pad(y, (0, 0, 1, 1)).unfold(2, 3, 1) for y in (k, v))  # (B, H, T, d, 3)
        weights = torch.einsum("bhtd,bhtdw->bhtw", q, k).softmax(-1)
        return torch.einsum("bhtw,bhtdw->bhtd", weights, v)


@attention
class ByElements(Separate):
    """No matrix product at all."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        scores = (q[:, :, :, None] * k[:, :, None]).sum(-1)
        weights = torch.softmax(scores, dim=-1)
        return (weights[..., None] * v[:, :, None]).sum(-2)


@attention
class InHalfPrecision(Separate):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            out = super().forward(x)
        return out.float()  # type: ignore[no-any-return]


@attention
class PooledKeys(Separate):
    """Keys and values are averaged over pairs of positions, and the query is pooled and put back."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        k, v = (F.avg_pool1d(y.flatten(0, 1).mT, 2, ceil_mode=True).mT.unflatten(0, y.shape[:2]) for y in (k, v))
        return F.scaled_dot_product_attention(q, k, v) + q


@attention
class Sinkhorn(Separate):
    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        scores = q @ k.mT
        for _ in range(2):
            scores = scores - scores.logsumexp(-1, keepdim=True)
            scores = scores - scores.logsumexp(-2, keepdim=True)
        return scores.exp() @ v


@attention
class PerSequence(Separate):
    """A loop over the batch, with lengths that are read off a tensor."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        lengths = torch.tensor([x.shape[1], x.shape[1] - 2])
        out = torch.zeros_like(v)
        for i, n in enumerate(lengths.tolist()):
            out[i, :, :n] = torch.softmax(q[i, :, :n] @ k[i, :, :n].mT, -1) @ v[i, :, :n]
        return out


@attention
class NormalisedWeights(Separate):
    """The weights are normalised, quantised and scaled in the forward pass."""

    def forward(self, x: Tensor) -> Tensor:
        def of(role: str) -> Tensor:
            w = F.normalize(self[role].weight, dim=-1)
            return w + ((w * 8).round() / 8 - w).detach()

        q, k, v = (heads(F.linear(x, of(role))) for role in "qkv")
        return F.linear(together(F.scaled_dot_product_attention(q, k, v)), of("o"))


@attention
class MergedAdapters(Separate):
    """Adapters are added to the weight before it is used."""

    def __init__(self, names: Names):
        super().__init__(names)
        self.put(lora_a1=weight(3, WIDTH), lora_b1=weight(INNER, 3))

    def forward(self, x: Tensor) -> Tensor:
        q = heads(F.linear(x, self["q"].weight + 0.5 * (self["lora_b1"] @ self["lora_a1"])))
        k, v = heads(self["k"](x)), heads(self["v"](x))
        return self["o"](together(F.scaled_dot_product_attention(q, k, v)))


@attention
class Parametrized(Separate):
    def __init__(self, names: Names):
        super().__init__(names)
        for role in "qk":
            weight_norm(self[role])
            at = self.called[role]
            del self.roles[at]
            self.roles[f"{at}.weight"] = Role(role)  # the layer makes it of two parameters


@attention
class QueryOfTwo(Separate):
    """A query by two matrices one after the other, of low rank, without a norm."""

    def __init__(self, names: Names):
        Lying.__init__(self, names, q_a=linear(WIDTH, 9), q_b=linear(9, INNER))
        self.put(k=linear(WIDTH, INNER), v=linear(WIDTH, INNER), o=linear(INNER, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        q = heads(self["q_b"](self["q_a"](x)))
        return self["o"](together(self.attend(q, heads(self["k"](x)), heads(self["v"](x)), x)))


@attention
class Scripted(Separate):
    """The attention itself is a function of TorchScript."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        return _scripted(q, k, v)  # type: ignore[no-any-return]


@torch.jit.script
def _scripted(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(torch.matmul(q, k.transpose(-1, -2)), dim=-1).matmul(v)


@attention
class StateSpace(Lying):
    """A selective scan, as in Mamba: one matrix for the stream and its gate, a convolution, a recurrence, and an output."""

    def __init__(self, names: Names):
        super().__init__(
            names, scan_in=linear(WIDTH, 2 * INNER), scan_x=linear(INNER, 3 + 2 * 4), scan_t=linear(3, INNER)
        )
        self.put(scan_end=linear(INNER, WIDTH), scan_a=weight(INNER, 4))
        self.put(scan_c=nn.Conv1d(INNER, INNER, 3, padding=2, groups=INNER))

    def forward(self, x: Tensor) -> Tensor:
        u, gate = self["scan_in"](x).chunk(2, -1)
        u = F.silu(self["scan_c"](u.mT)[..., : x.shape[1]].mT)
        step, b, c = self["scan_x"](u).split([3, 4, 4], dim=-1)
        step = F.softplus(self["scan_t"](step))
        decay = torch.exp(step[..., None] * -torch.exp(self["scan_a"]))
        state = torch.zeros(x.shape[0], INNER, 4, device=x.device)
        out = []
        for t in range(x.shape[1]):
            state = decay[:, t] * state + (step[:, t] * u[:, t])[..., None] * b[:, t, None]
            out.append((state * c[:, t, None]).sum(-1))
        return self["scan_end"](torch.stack(out, 1) * F.silu(gate))


@attention
class Recurrent(Lying):
    """An LSTM in the place of attention."""

    def __init__(self, names: Names):
        super().__init__(names, scan_all=nn.LSTM(WIDTH, INNER, batch_first=True), scan_end=linear(INNER, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return self["scan_end"](self["scan_all"](x)[0])


@attention
class RecurrentByHand(Lying):
    """A gated recurrence by hand: its gates are none of a feed-forward block."""

    def __init__(self, names: Names):
        super().__init__(
            names, **{f"scan_{role}": linear(WIDTH, INNER) for role in ("a", "b", "c")}, scan_end=linear(INNER, WIDTH)
        )

    def forward(self, x: Tensor) -> Tensor:
        keep, new, show = (self[f"scan_{role}"](x) for role in "abc")
        state = torch.zeros_like(keep[:, 0])
        out = []
        for t in range(x.shape[1]):
            state = keep[:, t].sigmoid() * state + (1 - keep[:, t].sigmoid()) * new[:, t].tanh()
            out.append(state * F.silu(show[:, t]))
        return self["scan_end"](torch.stack(out, 1))


@attention
class LongConvolution(Lying):
    """Hyena: products of the stream with long convolutions of it by FFT."""

    def __init__(self, names: Names):
        super().__init__(
            names, scan_in=linear(WIDTH, 3 * INNER), scan_end=linear(INNER, WIDTH), scan_f=weight(INNER, 7)
        )

    def forward(self, x: Tensor) -> Tensor:
        a, b, v = self["scan_in"](x).chunk(3, -1)
        n = 2 * x.shape[1]
        mixed = torch.fft.rfft((b * v).mT, n=n) * torch.fft.rfft(self["scan_f"], n=n)
        return self["scan_end"](a * torch.fft.irfft(mixed, n=n)[..., : x.shape[1]].mT)


@feed_forward
class SharedTransposed(Lying):
    """The second matrix is the first one, transposed."""

    def __init__(self, names: Names):
        super().__init__(names, both1=weight(WIDE, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(F.linear(x, self["both1"])) @ self["both1"]


@feed_forward
class NarrowHeads(Lying):
    """A block for each head of the stream, by 3-D weights."""

    def __init__(self, names: Names):
        super().__init__(names, ffn_out=weight(4, 16, 10), **{"in": weight(4, 10, 16)})

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.gelu(torch.einsum("bthd,hdf->bthf", x.unflatten(-1, (4, 10)), self["in"]))
        return torch.einsum("bthf,hfd->bthd", hidden, self["ffn_out"]).flatten(-2)


@feed_forward
class ChannelMix(Lying):
    """RWKV's: squared keys through values, weighted by a receptance of the stream."""

    def __init__(self, names: Names):
        super().__init__(names, receptance=(linear(WIDTH, WIDTH), Role("receptance")))
        self.put(ffn_out=linear(WIDE, WIDTH), **{"in": linear(WIDTH, WIDE)})

    def forward(self, x: Tensor) -> Tensor:
        before = F.pad(x, (0, 0, 1, -1))
        mixed = x + 0.3 * (before - x)
        return self["receptance"](mixed).sigmoid() * self["ffn_out"](F.relu(self["in"](mixed)) ** 2)


@feed_forward
class Compiled(Lying):
    """Gate and up by a compiled function and functional calls."""

    def __init__(self, names: Names):
        super().__init__(names, all=Gated(names))

    def forward(self, x: Tensor) -> Tensor:
        inner = self["all"]
        return torch.func.functional_call(inner, dict(inner.named_parameters()), (x,))  # type: ignore[no-any-return]


@feed_forward
class ListOfParameters(Lying):
    def __init__(self, names: Names):
        super().__init__(names)
        order = names.order("gate", "up", "down")
        self.at = {role: i for i, role in enumerate(order)}
        shapes = {"gate": (WIDTH, WIDE), "up": (WIDTH, WIDE), "down": (WIDE, WIDTH)}
        self.put(list=(nn.ParameterList([weight(*shapes[role]) for role in order]), None))
        self.roles |= {f"{self.called['list']}.{i}": Role(role) for i, role in enumerate(order)}

    def forward(self, x: Tensor) -> Tensor:
        w = {role: self["list"][i] for role, i in self.at.items()}
        return (F.silu(x @ w["gate"]) * (x @ w["up"])) @ w["down"]


@feed_forward
class InChunks(InAndOut):
    """Applied to pieces of the sequence, one after the other."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([super(InChunks, self).forward(piece) for piece in x.split(3, dim=1)], dim=1)


@attention
class FusedWithRope(Lying):
    """Fused and turned by halves: each half is made of both."""

    def __init__(self, names: Names):
        super().__init__(names, o=linear(INNER, WIDTH))
        self.order = names.order("q", "k", "v")
        self.inside = names.random.random() < 0.5
        layout = grid((HEADS, 3, SIZE), 1, self.order) if self.inside else grid((3, HEADS, SIZE), 0, self.order)
        self.put(qkv=(linear(WIDTH, 3 * INNER), layout))

    def forward(self, x: Tensor) -> Tensor:
        shape = (HEADS, 3, SIZE) if self.inside else (3, HEADS, SIZE)
        three = self["qkv"](x).unflatten(-1, shape).unbind(3 if self.inside else 2)
        found = dict(zip(self.order, (y.transpose(1, 2) for y in three), strict=True))
        t = torch.arange(x.shape[1], device=x.device)[:, None] / torch.arange(1, 4, device=x.device)

        def turn(y: Tensor) -> Tensor:
            a, b = y[..., :3], y[..., 3:]
            return torch.cat((a * t.cos() + b * t.sin(), a * (-t.sin()) + b * t.cos()), -1)

        return self["o"](together(F.scaled_dot_product_attention(turn(found["q"]), turn(found["k"]), found["v"])))


@attention
class FusedWithPairs(FusedWithRope):
    """The same by pairs of neighbours, with keys of one head for all and both normed before."""

    def forward(self, x: Tensor) -> Tensor:
        shape = (HEADS, 3, SIZE) if self.inside else (3, HEADS, SIZE)
        three = self["qkv"](x).unflatten(-1, shape).unbind(3 if self.inside else 2)
        found = dict(zip(self.order, (y.transpose(1, 2) for y in three), strict=True))

        def turn(y: Tensor) -> Tensor:
            y = F.rms_norm(y, (SIZE,))
            even, odd = y[..., 0::2], y[..., 1::2]
            return torch.stack((even * 0.8 - odd * 0.6, even * 0.6 + odd * 0.8), -1).flatten(-2)

        scores = torch.einsum("bhid,bhjd->bhij", turn(found["q"]), turn(found["k"]))
        return self["o"](together(scores.softmax(-1) @ found["v"]))


@attention
class FusedWithComplex(FusedWithRope):
    """The same by complex numbers."""

    def forward(self, x: Tensor) -> Tensor:
        shape = (HEADS, 3, SIZE) if self.inside else (3, HEADS, SIZE)
        three = self["qkv"](x).unflatten(-1, shape).unbind(3 if self.inside else 2)
        found = dict(zip(self.order, (y.transpose(1, 2) for y in three), strict=True))
        turn = torch.polar(torch.ones(x.shape[1], 3), torch.arange(3.0 * x.shape[1]).view(-1, 3))
        q, k = (
            torch.view_as_real(
                torch.view_as_complex(found[role].reshape(*found[role].shape[:-1], -1, 2)) * turn
            ).flatten(-2)
            for role in "qk"
        )
        return self["o"](together(F.scaled_dot_product_attention(q, k, found["v"])))
