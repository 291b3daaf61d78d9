"""Models that are drawn at random, under the names of well-known code bases."""

from __future__ import annotations

import math
from operator import attrgetter
from typing import Any

import torch
from corpus_families import Task
from corpus_fresh_blocks import rotated
from corpus_own import Reversed
from corpus_unseen_arch import ACTS, STYLES, USUAL, Arch, first, normed
from corpus_unseen_tasks import TASKS, Drawn
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D


class Named(nn.Module):
    """A module whose parts stand where a style has them; ``at`` has the path of each role."""

    def __init__(self, a: Arch) -> None:
        super().__init__()
        self.a = a
        self.at = dict(pair.split("=") for pair in f"{USUAL} {STYLES[a.style]}".split())

    def put(self, path: str, what: nn.Module | nn.Parameter) -> None:
        place: nn.Module = self
        *before, last = path.split(".")
        for name in before:
            if not hasattr(place, name):
                place.add_module(name, nn.Module())
            place = getattr(place, name)
        setattr(place, last, what)

    def get(self, path: str) -> Any:
        return attrgetter(path)(self)

    def path(self, *roles: str) -> str:
        return ".".join(found for role in roles if (found := self.at.get(role, role)))

    def linear(self, where: str, role: str, n_in: int, n_out: int, heads: int = 0) -> None:
        """Puts a matrix there; with ``heads``, raw storage has one of each head."""
        a, path = self.a, self.path(where, role)
        w = first(a, role, n_out, n_in)
        if a.store == "raw":
            w = w.T.contiguous()
            if heads and role == "o":
                w = w.view(heads, n_in // heads, n_out)
            elif heads:
                w = w.view(n_in, heads, -1).transpose(0, 1).contiguous()
            self.put(path, nn.Parameter(w))
            return
        bias = a.bias == "all" or (a.bias == "qkv" and role in ("q", "k", "v", "qkv"))
        m: Any = Conv1D(n_out, n_in) if a.store == "conv1d" else nn.Linear(n_in, n_out, bias=bias)
        with torch.no_grad():
            m.weight.copy_(w.T if a.store == "conv1d" else w)
        if getattr(m, "bias", None) is not None:
            nn.init.zeros_(m.bias)
        if a.wrap and role in ("up", "down", "q", "v"):
            wrap = nn.utils.parametrizations
            m = wrap.weight_norm(m) if a.wrap == "weight norm" else wrap.spectral_norm(m)
        self.put(path, m)

    def use(self, where: str, role: str, x: Tensor) -> Tensor:
        m = self.get(self.path(where, role))
        if isinstance(m, nn.Parameter):
            m = m if m.dim() == 2 else m.flatten(0, 1) if role == "o" else m.transpose(0, 1).flatten(1)
            return x @ m.to(x.dtype)
        out: Tensor = m(x)
        return out


class Block(Named):
    """One block: what mixes places, what mixes channels, and norms.

    Args:
        a: The architecture.
        mixer: "attention", or another of `Arch.others`.
        causal: Whether places see only earlier ones.
        cross: Whether it looks at another sequence, too.
    """

    def __init__(self, a: Arch, mixer: str, causal: bool, cross: bool = False) -> None:
        super().__init__(a)
        self.mixing, self.causal, self.cross = mixer, causal, cross
        self.dim = a.width // a.heads
        if mixer in ("attention", "linear"):
            self._attention("attn")
        elif mixer == "gru":
            self.put("mixer.gru", nn.GRU(a.width, a.width, batch_first=True))
        else:
            inner = a.width if mixer == "conv" else a.width + 2 * 8 + a.heads
            self.linear("mixer", "in_proj", a.width, inner + (2 if mixer == "conv" else 1) * a.width)
            self.put("mixer.conv1d", nn.Conv1d(a.width, a.width, 4, groups=a.width))
            self.linear("mixer", "out_proj", a.width, a.width)
            if mixer == "state space":
                self.put("mixer.A_log", nn.Parameter(torch.arange(1.0, a.heads + 1).log()))
                self.put("mixer.D", nn.Parameter(torch.ones(a.width)))
        if cross:
            self._attention("cross")
            self.put("norm_cross", normed(a, a.width))
        self._feed_forward()
        for n in ("n1", "n2"):
            self.put(self.path(n), normed(a, a.width))
            if a.where == "sandwich":
                self.put(f"{self.path(n)}_after", normed(a, a.width))
        self.gammas = nn.ParameterList(nn.Parameter(a.scale * torch.ones(a.width)) for _ in range(2 if a.scale else 0))
        self.drop = nn.Dropout(a.dropout)

    def _attention(self, where: str) -> None:
        a, each = self.a, self.a.keys * self.dim
        if a.attention == "low rank":
            rank = a.width // 2
            for role, n_in, n_out in (
                ("q_a_proj", a.width, rank), ("q_b_proj", rank, a.width),
                ("kv_a_proj_with_mqa", a.width, rank), ("kv_b_proj", rank, 2 * each),
            ):  # fmt: skip
                self.linear(where, role, n_in, n_out)
            self.put(f"{self.path(where)}.kv_a_layernorm", normed(a, rank))
        elif a.fused and where == "attn":
            self.linear(where, "qkv", a.width, a.width + 2 * each)
        else:
            for role, heads in (("q", a.heads), ("k", a.keys), ("v", a.keys)):
                self.linear(where, role, a.width, heads * self.dim, heads)
        self.linear(where, "o", a.width, a.width, a.heads)
        if a.qk_norm:
            for role in ("q_norm", "k_norm"):
                self.put(f"{self.path(where)}.{role}", nn.RMSNorm(self.dim))

    def _feed_forward(self) -> None:
        a, inner = self.a, int(self.a.ratio * self.a.width) // 8 * 8
        if not a.experts:
            self._one(self.path("ffn"), inner)
            return
        self.linear("ffn", "router", a.width, a.experts)
        experts = self.path("ffn", "experts")
        if a.stacked:
            for role, n_in, n_out in (("gate_up_proj", a.width, 2 * inner), ("down_proj", inner, a.width)):
                w = torch.stack([first(a, "down" if "down" in role else "up", n_out, n_in).T for _ in range(a.experts)])
                self.put(f"{experts}.{role}", nn.Parameter(w.contiguous()))
        for n in range(0 if a.stacked else a.experts):
            self._one(f"{experts}.{n}", inner)
        if a.shared:
            self._one(self.path("ffn", "shared"), inner)

    def _one(self, where: str, inner: int) -> None:
        a = self.a
        roles = {"": ("up",), "apart": ("gate", "up"), "fused": ("both",)}[a.gated]
        for role in roles:
            self.linear(where, role, a.width, 2 * inner if role == "both" else inner)
        self.linear(where, "down", inner, a.width)

    def _think(self, where: str, x: Tensor) -> Tensor:
        a, act = self.a, ACTS[self.a.act]
        if a.gated == "fused":
            gate, up = self.use(where, "both", x).chunk(2, -1)
            return self.use(where, "down", act(gate) * up)
        up = self.use(where, "up", x)
        return self.use(where, "down", act(self.use(where, "gate", x)) * up if a.gated else act(up))

    def feed(self, x: Tensor) -> Tensor:
        a, experts = self.a, self.path("ffn", "experts")
        if not a.experts:
            return self._think(self.path("ffn"), x)
        share = self.use("ffn", "router", x).float().softmax(-1)
        best = share.topk(a.top, -1)
        weight = torch.zeros_like(share).scatter(-1, best.indices, best.values).type_as(x)  # (size, length, experts)
        out = self._think(self.path("ffn", "shared"), x) if a.shared else torch.zeros_like(x)
        for n in range(a.experts):
            if a.stacked:
                gate, up = (x @ self.get(f"{experts}.gate_up_proj")[n]).chunk(2, -1)
                y = (ACTS[a.act](gate) * up) @ self.get(f"{experts}.down_proj")[n]
            else:
                y = self._think(f"{experts}.{n}", x)
            out = out + weight[..., n : n + 1] * y
        return out

    def attend(self, where: str, x: Tensor, memory: Tensor) -> Tensor:
        a, each, own = self.a, self.a.keys * self.dim, where == "attn"
        if a.attention == "low rank":
            q = self.use(where, "q_b_proj", self.use(where, "q_a_proj", x))
            small = self.get(f"{self.path(where)}.kv_a_layernorm")(self.use(where, "kv_a_proj_with_mqa", memory))
            k, v = self.use(where, "kv_b_proj", small).chunk(2, -1)
        elif a.fused and own:
            q, k, v = self.use(where, "qkv", x).split((a.width, each, each), -1)
        else:
            q, k, v = (self.use(where, role, t) for role, t in (("q", x), ("k", memory), ("v", memory)))
        q, k, v = (t.unflatten(-1, (-1, self.dim)).transpose(1, 2) for t in (q, k, v))
        if a.qk_norm:
            q, k = (self.get(f"{self.path(where)}.{n}")(t) for n, t in (("q_norm", q), ("k_norm", k)))
        if a.places == "rotary" and own and self.dim % 2 == 0:
            q, k = rotated(q), rotated(k)
        k, v = (t.repeat_interleave(a.heads // t.shape[1], 1) for t in (k, v))
        apart = torch.arange(q.shape[2])[:, None] - torch.arange(k.shape[2])  # (length, length of memory)
        seen = apart >= 0 if own and self.causal else torch.ones_like(apart, dtype=torch.bool)
        if a.task == "prefix" and own:
            seen = seen | (torch.arange(k.shape[2]) < k.shape[2] // 3)
        if own and (a.attention == "linear" or self.mixing == "linear"):
            score = ((1 + F.elu(q)) @ (1 + F.elu(k)).transpose(-2, -1)) * seen.type_as(q)
            y = score @ v / (score.sum(-1, keepdim=True) + 1e-6)
        else:
            if a.attention == "window" and own:
                seen = seen & (apart.abs() < 8)
            bias = torch.zeros(a.heads, *apart.shape)
            if a.places == "alibi" and own:
                bias = bias - (2.0 ** (-8.0 * torch.arange(1, a.heads + 1) / a.heads))[:, None, None] * apart.abs()
            y = F.scaled_dot_product_attention(q, k, v, bias.masked_fill(~seen, -math.inf).type_as(q))
        return self.use(where, "o", y.transpose(1, 2).flatten(2))

    def mix(self, x: Tensor) -> Tensor:
        a = self.a
        if self.mixing in ("attention", "linear"):
            return self.attend("attn", x, x)
        if self.mixing == "gru":
            out: Tensor = self.get("mixer.gru")(x)[0]
            return out
        parts = self.use("mixer", "in_proj", x)
        convolve = self.get("mixer.conv1d")
        if self.mixing == "conv":  # a short convolution between two gates, as LFM2 has it
            b, c, y = parts.chunk(3, -1)
            return self.use("mixer", "out_proj", c * convolve(F.pad((b * y).mT, (3, 0))).mT)
        z, y, b, c, dt = parts.split((a.width, a.width, 8, 8, a.heads), -1)  # as Mamba 2 has it, in its quadratic form
        y = F.silu(convolve(F.pad(y.mT, (3, 0))).mT)
        dt = F.softplus(dt - 1.0).transpose(1, 2)  # (size, heads, length)
        passed = (-dt * self.get("mixer.A_log").exp()[:, None]).cumsum(-1)
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        decay = (passed[..., :, None] - passed[..., None, :]).masked_fill(later, -math.inf).exp()
        score = (c @ b.mT)[:, None] * decay * dt[..., None, :]
        heads = y.unflatten(-1, (a.heads, -1)).transpose(1, 2)
        mixed = (score.type_as(heads) @ heads).transpose(1, 2).flatten(2) + self.get("mixer.D") * y
        return self.use("mixer", "out_proj", mixed * F.silu(z))

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        a = self.a
        n1, n2 = (self.get(self.path(n)) for n in ("n1", "n2"))
        scale = [*self.gammas] or [1.0, 1.0]
        if a.where == "parallel":
            if self.cross and memory is not None:
                x = x + self.attend("cross", self.get("norm_cross")(x), memory)
            y = n1(x)
            return x + self.drop(scale[0] * self.mix(y) + scale[1] * self.feed(n2(x)))  # type: ignore[no-any-return]
        for n, (norm, layer) in enumerate(((n1, self.mix), (n2, self.feed))):
            y = layer(norm(x) if a.where in ("before", "sandwich") else x)
            if a.where == "sandwich":
                y = self.get(f"{self.path(f'n{n + 1}')}_after")(y)
            y = scale[n] * self.drop(norm(y) if a.where == "output" else y)
            x = norm(x + y) if a.where == "after" else x + y
            if not n and self.cross and memory is not None:
                x = x + self.attend("cross", self.get("norm_cross")(x), memory)
        return x


class Model(Named):
    """Blocks between an embedding and a head; with ``source``, an encoder before them."""

    def __init__(self, a: Arch, inputs: int, tokens: bool, outputs: int, causal: bool, both: bool = False) -> None:
        super().__init__(a)
        raw, width = a.store == "raw", a.width
        embedding = nn.Embedding(inputs, width) if tokens else nn.Linear(inputs, width)
        if tokens:
            nn.init.normal_(embedding.weight, std=a.embedding)  # type: ignore[arg-type]
        self.tokens = tokens
        self.put(self.path("embed"), nn.Parameter(embedding.weight.detach()) if raw and tokens else embedding)
        if a.places == "learned":
            places = 0.02 * torch.randn(64, width)
            self.put(
                self.path("places"),
                nn.Parameter(places)
                if raw or a.style == "timm"
                else nn.Embedding.from_pretrained(places, freeze=False),
            )
        if both:
            self.put("encoder_blocks", nn.ModuleList(Block(a, "attention", False) for _ in range(a.blocks)))
        kinds = [a.others if a.others and n % a.every == 0 else "attention" for n in range(a.blocks)]
        self.put(self.path("blocks"), nn.ModuleList(Block(a, kind, causal, both) for kind in kinds))
        self.put(self.path("norm"), normed(a, width))
        if a.tied and not raw:
            head = nn.Linear(width, outputs, bias=False)
            head.weight = embedding.weight  # type: ignore[assignment]
            self.put(self.path("head"), head)
        elif not a.tied:
            self.linear("", "head", width, outputs)

    def _embedded(self, x: Tensor) -> Tensor:
        table = self.get(self.path("embed"))
        if isinstance(table, nn.Parameter):
            hidden = F.embedding(x, table)
        else:
            hidden = table(x if self.tokens else x.to(table.weight.dtype))
        if self.a.places == "learned":
            places = self.get(self.path("places"))
            hidden = hidden + (places if isinstance(places, nn.Parameter) else places.weight)[: x.shape[1]]
        out: Tensor = hidden
        return out

    def forward(self, x: Tensor, source: Tensor | None = None) -> Tensor:
        memory = None
        if source is not None:
            memory = self._embedded(source)
            for block in self.get("encoder_blocks"):
                memory = block(memory)
        hidden = self._embedded(x)
        for block in self.get(self.path("blocks")):
            hidden = block(hidden, memory)
        hidden = self.get(self.path("norm"))(hidden)
        if self.a.tied and self.a.store == "raw":
            return hidden @ self.get(self.path("embed")).T
        return self.use("", "head", hidden)


class Pair(nn.Module):
    """A generator and its critic."""

    def __init__(self, a: Arch) -> None:
        super().__init__()
        self.generator, self.critic = Model(a, 8, False, 4, False), Model(a, 4, False, 1, False)

    def forward(self, x: Tensor, real: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        made = self.generator(x)
        return made, self.critic(real), self.critic(Reversed.apply(made))  # type: ignore[no-untyped-call]


def build(a: Arch) -> Task:
    """The task of an architecture; its weights come from torch's global random state."""
    t: Drawn = TASKS[a.task]
    if a.task == "gan":
        model: nn.Module = Pair(a)
    else:
        model = Model(a, t.inputs, t.tokens > 0, t.outputs, t.causal, both=a.task == "translate")
    return Task(model, t.loss, lambda random, size: t.batch(random, size, a.length))
