"""Whole models with rarer residual streams: two of them, copies, leaps, sums over depths."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lying.attention import HEADS, INNER, SIZE, WIDTH, Sdpa, heads, together
from lying.base import Lying, Names, Role, fused, linear, packed, weight
from lying.feed_forward import WIDE, Gated, InAndOut
from lying.whole import WORDS, Block, Model, ids, whole


def qkvo(names: Names, memory: int = WIDTH) -> dict[str, Any]:
    return {
        "q": linear(WIDTH, INNER),
        "k": linear(memory, INNER),
        "v": linear(memory, INNER),
        "o": linear(INNER, WIDTH),
    }


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return together(torch.softmax(heads(q) @ heads(k).mT / SIZE**0.5, -1) @ heads(v))


@whole
def two_streams(names: Names) -> tuple[nn.Module, Any]:
    """Words and patches, each with matrices of its own, attend to both together (MMDiT), fused in any order."""

    class Side(Lying):
        def __init__(self, names: Names):
            self.order, role = packed(names, {"q": INNER, "k": INNER, "v": INNER})
            super().__init__(names, all=(linear(WIDTH, 3 * INNER), role), o=linear(INNER, WIDTH), f=Gated(names))

    class Double(Lying):
        def __init__(self, names: Names):
            super().__init__(names, one=Side(names), two=Side(names))

        def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            parts: dict[str, list[Tensor]] = {r: [] for r in "qkv"}
            for side, z in ((self["one"], x), (self["two"], y)):
                for r, part in zip(side.order, side["all"](F.layer_norm(z, (WIDTH,))).chunk(3, -1), strict=True):
                    parts[r].append(heads(part))
            q, k, v = (torch.cat(parts[r], 2) for r in "qkv")
            out = together(F.scaled_dot_product_attention(F.rms_norm(q, (SIZE,)), F.rms_norm(k, (SIZE,)), v))
            x = x + self["one"]["o"](out[:, : x.shape[1]])
            y = y + self["two"]["o"](out[:, x.shape[1] :])
            return x + self["one"]["f"](F.layer_norm(x, (WIDTH,))), y + self["two"]["f"](F.layer_norm(y, (WIDTH,)))

    class Joint(Lying):
        def __init__(self, names: Names):
            super().__init__(names, emb1=nn.Embedding(WORDS, WIDTH), emb2=linear(12, WIDTH), head=linear(WIDTH, 12))
            self.put(blocks=(nn.ModuleList(Double(names) for _ in range(3)), None))
            self.roles[self.called["emb2"]] = Role("emb")
            self.roles[self.called["head"]] = Role("last")

        def forward(self, words: Tensor, patches: Tensor) -> Tensor:
            x, y = self["emb1"](words), self["emb2"](patches)
            for block in self["blocks"]:
                x, y = block(x, y)
            return self["head"](y)  # type: ignore[no-any-return]

    model = Joint(names)
    last = model["blocks"][2]["one"]  # nothing reads this stream any more
    for role in ("o", "f"):
        thing = last[role]
        if role == "o":
            last.roles[last.called["o"]] = Role("o")
        else:
            for name in thing.roles:
                thing.roles[name] = Role("unread")
    return model, (ids(), torch.randn(2, 4, 12))


@whole
def one_stream_of_two(names: Names) -> tuple[nn.Module, Any]:
    """Flux's single blocks: q, k, v and the hidden layer of one matrix; attention and hidden layer into one matrix."""

    class Single(Lying):
        def __init__(self, names: Names):
            self.order, role = packed(names, {"q": INNER, "k": INNER, "v": INNER, "in": WIDE})
            columns = {"o": range(INNER), "ffn_out": range(INNER, INNER + WIDE)}
            super().__init__(names, all=(linear(WIDTH, 3 * INNER + WIDE), role))
            self.put(outs=(linear(INNER + WIDE, WIDTH), fused(1, **columns)))

        def forward(self, x: Tensor) -> Tensor:
            sizes = [WIDE if r == "in" else INNER for r in self.order]
            f = dict(zip(self.order, self["all"](F.layer_norm(x, (WIDTH,))).split(sizes, -1), strict=True))
            q, k, v = (heads(f[r]) for r in "qkv")
            a = together(F.scaled_dot_product_attention(F.rms_norm(q, (SIZE,)), F.rms_norm(k, (SIZE,)), v))
            return x + self["outs"](torch.cat((a, F.gelu(f["in"], approximate="tanh")), -1))  # type: ignore[no-any-return]

    class Flux(Model):
        def __init__(self, names: Names):
            super().__init__(names, blocks=0)
            self.put(singles=(nn.ModuleList(Single(names) for _ in range(2)), None))

        def stream(self, x: Tensor) -> Tensor:
            for block in self["singles"]:
                x = block(x)
            return x

    return Flux(names), (ids(),)


@whole
def hyper_connections(names: Names) -> tuple[nn.Module, Any]:
    """Four copies of the stream, which numbers of the input mix before and after each block."""

    class Mixed(Block):
        def __init__(self, names: Names):
            super().__init__(names, Sdpa, Gated)
            self.put(any1=weight(4 * WIDTH, 24), any2=weight(4 * WIDTH, 24))

        def around(self, x: Tensor, w: Tensor, branch: Any, norm: Any) -> Tensor:
            pre, post, comb = (F.rms_norm(x.flatten(2), (4 * WIDTH,)) @ w).split((4, 4, 16), -1)
            y = branch(norm(torch.einsum("btn,btnd->btd", pre.sigmoid(), x)))
            comb = comb.unflatten(-1, (4, 4)).softmax(-1)
            return torch.einsum("btnm,btnd->btmd", comb, x) + torch.einsum("btn,btd->btnd", 2 * post.sigmoid(), y)

        def forward(self, x: Tensor) -> Tensor:
            x = self.around(x, self["any1"], self["a"], self["n"])
            return self.around(x, self["any2"], self["f"], self["m"])

    class Copies(Model):
        def __init__(self, names: Names):
            super().__init__(names, blocks=0)
            self.put(mixed=(nn.ModuleList(Mixed(names) for _ in range(2)), None))

        def stream(self, x: Tensor) -> Tensor:
            x = x[:, :, None].repeat(1, 1, 4, 1)
            for block in self["mixed"]:
                x = block(x)
            return self["last"](x.mean(2))  # type: ignore[no-any-return]

    return Copies(names), (ids(),)


@whole
def fixed_connections(names: Names) -> tuple[nn.Module, Any]:
    """Copies of the stream that learned numbers mix, the same for every input."""

    class Mixed(Block):
        def __init__(self, names: Names):
            super().__init__(names, Sdpa, InAndOut)
            self.put(any1=weight(3, 3), any2=weight(3, 3))
            self.share = nn.Parameter(torch.ones(2, 3))
            self.back = nn.Parameter(torch.ones(2, 3))
            self.roles |= {"share": Role("any"), "back": Role("any")}

        def forward(self, x: Tensor) -> Tensor:
            for i, (branch, norm) in enumerate((("a", "n"), ("f", "m"))):
                y = self[branch](self[norm]((self.share[i, :, None] * x).sum(2)))
                x = torch.einsum("nm,btnd->btmd", self[f"any{i + 1}"], x) + self.back[i, :, None] * y[:, :, None]
            return x

    class Copies(Model):
        def __init__(self, names: Names):
            super().__init__(names, blocks=0)
            self.put(mixed=(nn.ModuleList(Mixed(names) for _ in range(2)), None))

        def stream(self, x: Tensor) -> Tensor:
            x = x[:, :, None].expand(-1, -1, 3, -1)
            for block in self["mixed"]:
                x = block(x)
            return self["last"](x.sum(2))  # type: ignore[no-any-return]

    return Copies(names), (ids(),)


@whole
def weighed_depths(names: Names) -> tuple[nn.Module, Any]:
    """Each block reads a weighted sum of all states before it (DenseFormer, residual attention)."""

    class Deep(Model):
        def __init__(self, names: Names):
            super().__init__(names, blocks=3)
            self.wanted = nn.Parameter(torch.randn(WIDTH))

        def stream(self, x: Tensor) -> Tensor:
            states = [x]
            for n, block in enumerate(self["blocks"]):
                if n == 0:
                    x = block(x)
                else:
                    every = torch.stack(states, 2)
                    w = (F.rms_norm(every, (WIDTH,)) @ self.wanted).softmax(-1)
                    x = block(torch.einsum("btn,btnd->btd", w, every))
                states.append(x)
            return self["last"](x)  # type: ignore[no-any-return]

    return Deep(names), (ids(),)


@whole
def keys_of_the_layer_before(names: Names) -> tuple[nn.Module, Any]:
    """Every second layer uses the keys and values of the one before (cross-layer attention)."""

    class Pair(Lying):
        def __init__(self, names: Names):
            super().__init__(names, **qkvo(names), q2=linear(WIDTH, INNER), o2=linear(INNER, WIDTH))
            self.put(f=Gated(names), g=InAndOut(names))

        def forward(self, x: Tensor) -> Tensor:
            y = F.rms_norm(x, (WIDTH,))
            k, v = self["k"](y), self["v"](y)
            x = x + self["o"](attend(self["q"](y), k, v))
            x = x + self["f"](F.rms_norm(x, (WIDTH,)))
            x = x + self["o2"](attend(self["q2"](F.rms_norm(x, (WIDTH,))), k, v))
            return x + self["g"](F.rms_norm(x, (WIDTH,)))  # type: ignore[no-any-return]

    class Shared(Model):
        def __init__(self, names: Names):
            super().__init__(names, blocks=0)
            self.put(pairs=(nn.ModuleList(Pair(names) for _ in range(2)), None))

        def stream(self, x: Tensor) -> Tensor:
            for pair in self["pairs"]:
                x = pair(x)
            return self["last"](x)  # type: ignore[no-any-return]

    return Shared(names), (ids(),)


@whole
def chosen_tokens(names: Names) -> tuple[nn.Module, Any]:
    """Mixture of depths: a router chooses the tokens that a block works on."""

    class Deep(Model):
        def __init__(self, names: Names):
            super().__init__(names, blocks=2)
            self.put(any=linear(WIDTH, 1))

        def stream(self, x: Tensor) -> Tensor:
            x = self["blocks"][0](x)
            scores = self["any"](x).squeeze(-1)
            best, at = scores.topk(4, -1)
            index = at.sort(-1).values[..., None].expand(-1, -1, WIDTH)
            y = self["blocks"][1](x.gather(1, index)) - x.gather(1, index)
            return self["last"](x.scatter_add(1, index, y * best.sigmoid()[..., None]))  # type: ignore[no-any-return]

    return Deep(names), (ids(),)


@whole
def normalised(names: Names) -> tuple[nn.Module, Any]:
    """nGPT: everything on a sphere; steps toward the branch, learned scales of queries, keys, gates."""

    class Sphere(Lying):
        def __init__(self, names: Names):
            super().__init__(
                names, **qkvo(names), gate=linear(WIDTH, WIDE), up=linear(WIDTH, WIDE), down=linear(WIDE, WIDTH)
            )
            self.step = nn.Parameter(torch.ones(2, WIDTH))
            self.scale = nn.Parameter(torch.ones(HEADS, 1, SIZE))
            self.wide = nn.Parameter(torch.ones(2, WIDE))
            self.roles |= {"step": Role("any"), "scale": Role("any"), "wide": Role("any")}

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (heads(self[r](x)) for r in "qkv")
            q, k = (self.scale * F.normalize(y, dim=-1) for y in (q, k))
            a = self["o"](together(F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)))
            x = F.normalize(x + self.step[0] * (F.normalize(a, dim=-1) - x), dim=-1)
            y = F.silu(self["gate"](x) * self.wide[0] * 4) * (self["up"](x) * self.wide[1])
            return F.normalize(x + self.step[1] * (F.normalize(self["down"](y), dim=-1) - x), dim=-1)

    class Spheres(Model):
        def __init__(self, names: Names):
            super().__init__(names, blocks=0)
            self.put(spheres=(nn.ModuleList(Sphere(names) for _ in range(2)), None))

        def stream(self, x: Tensor) -> Tensor:
            for s in self["spheres"]:
                x = s(x)
            return x

    return Spheres(names), (ids(),)


@whole
def leaps(names: Names) -> tuple[nn.Module, Any]:
    """A U of layers with learned leaps, the first state mixed in again, and values of word embeddings (modded-nanogpt)."""

    class Leap(Lying):
        def __init__(self, names: Names):
            super().__init__(
                names, q=weight(INNER, WIDTH), k=weight(INNER, WIDTH), v=weight(INNER, WIDTH), o=weight(WIDTH, INNER)
            )
            self.put(f=InAndOut(names), head_gate=linear(6, HEADS))
            self.mix = nn.Parameter(torch.ones(4))

        def forward(self, x: Tensor, first: Tensor, value: Tensor | None) -> Tensor:
            x = self.mix[0] * x + self.mix[1] * first
            y = F.rms_norm(x, (WIDTH,))
            q, k, v = (heads(F.linear(y, self[r])) for r in "qkv")
            if value is not None:
                v = self.mix[2] * v + self.mix[3] * heads(value)
            a = F.scaled_dot_product_attention(F.rms_norm(q, (SIZE,)), F.rms_norm(k, (SIZE,)), v, is_causal=True)
            a = a * torch.sigmoid(self["head_gate"](y[..., :6])).transpose(1, 2)[..., None]
            x = x + F.linear(together(a), self["o"])
            return x + self["f"](F.rms_norm(x, (WIDTH,)))  # type: ignore[no-any-return]

    class Leaps(Lying):
        def __init__(self, names: Names):
            super().__init__(names, emb=nn.Embedding(WORDS, WIDTH), values=(nn.Embedding(WORDS, INNER), Role("table")))
            self.put(layers=(nn.ModuleList(Leap(names) for _ in range(4)), None), head=linear(WIDTH, WORDS))
            self.leap = nn.Parameter(torch.ones(2))

        def forward(self, x: Tensor) -> Tensor:
            value = self["values"](x)
            x = first = F.rms_norm(self["emb"](x), (WIDTH,))
            kept: list[Tensor] = []
            for n, layer in enumerate(self["layers"]):
                if n >= 2:
                    x = x + self.leap[n - 2] * kept.pop()
                x = layer(x, first, value if n in (0, 3) else None)
                if n < 2:
                    kept.append(x)
            logits = self["head"](F.rms_norm(x, (WIDTH,)))
            return 15 * torch.tanh(logits / 15)

    return Leaps(names), (ids(),)
