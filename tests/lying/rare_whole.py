"""Rarer whole models: several memories, several streams, copies of a stream, and layers that share or choose."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lying.attention import HEADS, INNER, SIZE, WIDTH, Sdpa, Separate, causal, heads, together
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
def two_memories(names: Names) -> tuple[nn.Module, Any]:
    """Words attend to themselves, to a text and to a picture; one query for both memories (IP-adapter)."""

    class Both(Lying):
        def __init__(self, names: Names):
            super().__init__(names, q=linear(WIDTH, INNER), o=linear(INNER, WIDTH))
            self.put(k1=linear(24, INNER), v1=linear(24, INNER), k2=linear(16, INNER), v2=linear(16, INNER))

        def forward(self, x: Tensor, text: Tensor, picture: Tensor) -> Tensor:
            q = self["q"](x)
            one = attend(q, self["k1"](text), self["v1"](text))
            return self["o"](one + 0.5 * attend(q, self["k2"](picture), self["v2"](picture)))  # type: ignore[no-any-return]

    class Words(Model):
        def __init__(self, names: Names):
            super().__init__(names)
            self.put(both=(nn.ModuleList(Both(names) for _ in range(2)), None))

        def forward(self, x: Tensor, text: Tensor, picture: Tensor) -> Tensor:
            x = self["emb"](x)
            for block, both in zip(self["blocks"], self["both"], strict=True):
                x = x + block["a"](block["n"](x))
                x = x + both(F.rms_norm(x, (WIDTH,)), text, picture)
                x = x + block["f"](block["m"](x))
            return self["head"](x)  # type: ignore[no-any-return]

    return Words(names), (ids(), torch.randn(2, 5, 24), torch.randn(2, 9, 16))


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
            self.out = nn.Parameter(torch.ones(2, 3))
            self.roles |= {"share": Role("any"), "out": Role("any")}

        def forward(self, x: Tensor) -> Tensor:
            for i, (branch, norm) in enumerate((("a", "n"), ("f", "m"))):
                y = self[branch](self[norm]((self.share[i, :, None] * x).sum(2)))
                x = torch.einsum("nm,btnd->btmd", self[f"any{i + 1}"], x) + self.out[i, :, None] * y[:, :, None]
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
            self.query = nn.Parameter(torch.randn(WIDTH))

        def stream(self, x: Tensor) -> Tensor:
            states = [x]
            for n, block in enumerate(self["blocks"]):
                if n == 0:
                    x = block(x)
                else:
                    every = torch.stack(states, 2)
                    w = (F.rms_norm(every, (WIDTH,)) @ self.query).softmax(-1)
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
def triangles(names: Names) -> tuple[nn.Module, Any]:
    """Pairs of positions bias the scores of a sequence, and attend along both axes themselves (AlphaFold)."""

    class Sequence(Separate):
        def __init__(self, names: Names):
            super().__init__(names)
            self.put(none=linear(8, HEADS), attn_gate=linear(WIDTH, INNER))

        def forward(self, x: Tensor, pairs: Tensor | None = None) -> Tensor:
            assert pairs is not None
            q, k, v = (heads(self[r](x)) for r in "qkv")
            bias = self["none"](F.layer_norm(pairs, (8,))).permute(0, 3, 1, 2)
            out = together(torch.softmax(q @ k.mT / 2 + bias, -1) @ v)
            return self["o"](out * self["attn_gate"](x).sigmoid())

    class Along(Lying):
        def __init__(self, names: Names):
            super().__init__(names, **{r: linear(8, 12) for r in "qkv"}, o=linear(12, 8), none=linear(8, 2))

        def forward(self, pairs: Tensor) -> Tensor:
            q, k, v = (self[r](pairs).unflatten(-1, (2, 6)) for r in "qkv")
            scores = torch.einsum("bijhd,bikhd->bhijk", q, k) + self["none"](pairs).permute(0, 3, 1, 2)[:, :, None]
            return self["o"](torch.einsum("bhijk,bikhd->bijhd", scores.softmax(-1), v).flatten(-2))  # type: ignore[no-any-return]

    class Fold(Lying):
        def __init__(self, names: Names):
            super().__init__(names, emb=nn.Embedding(WORDS, WIDTH), head=linear(WIDTH, WORDS))
            self.put(rows=Along(names), columns=Along(names), f=InAndOut(names), a=Sequence(names))
            self.put(table=nn.Embedding(15, 8))

        def forward(self, x: Tensor) -> Tensor:
            x = self["emb"](x)
            t = torch.arange(x.shape[1])
            pairs = self["table"](t[:, None] - t + 7)[None].expand(x.shape[0], -1, -1, -1)
            pairs = pairs + self["rows"](F.layer_norm(pairs, (8,)))
            pairs = pairs + self["columns"](F.layer_norm(pairs, (8,)).transpose(1, 2)).transpose(1, 2)
            x = x + self["a"](F.layer_norm(x, (WIDTH,)), pairs)
            return self["head"](x + self["f"](F.layer_norm(x, (WIDTH,))))  # type: ignore[no-any-return]

    return Fold(names), (ids(),)


@whole
def slots(names: Names) -> tuple[nn.Module, Any]:
    """Slot attention: a softmax over queries, divided by its sum over keys, and a recurrent update."""

    class Slots(Lying):
        def __init__(self, names: Names):
            super().__init__(names, **{r: linear(WIDTH, WIDTH) for r in "qkv"}, f=InAndOut(names))
            self.put(any=nn.GRUCell(WIDTH, WIDTH), start=(weight(1, 3, WIDTH), Role("any")))

        def forward(self, x: Tensor) -> Tensor:
            k, v = self["k"](x), self["v"](x)
            s = self["start"].expand(x.shape[0], -1, -1)
            for _ in range(2):
                w = torch.softmax(self["q"](F.layer_norm(s, (WIDTH,))) @ k.mT / 6, dim=1) + 1e-8
                y = (w / w.sum(-1, keepdim=True)) @ v
                s = self["any"](y.flatten(0, 1), s.flatten(0, 1)).view_as(s)
                s = s + self["f"](F.layer_norm(s, (WIDTH,)))
            return s

    class Objects(Lying):
        def __init__(self, names: Names):
            super().__init__(names, emb=nn.Conv2d(3, WIDTH, 4, 4), slots=Slots(names), any=linear(WIDTH, 5))
            self.roles[self.called["any"]] = Role("last")

        def forward(self, x: Tensor) -> Tensor:
            return self["any"](self["slots"](F.layer_norm(self["emb"](x).flatten(2).mT, (WIDTH,))))  # type: ignore[no-any-return]

    return Objects(names), (torch.randn(2, 3, 12, 12),)


@whole
def pictures_by_channels(names: Names) -> tuple[nn.Module, Any]:
    """A UNet's attention: one head, 1x1 convolutions, channels first; residual blocks of 3x3 convolutions around it."""

    class Residual(Lying):
        def __init__(self, names: Names):
            super().__init__(
                names, any1=nn.Conv2d(WIDTH, WIDTH, 3, padding=1), any2=nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
            )

        def forward(self, x: Tensor) -> Tensor:
            return x + self["any2"](F.silu(self["any1"](F.silu(x))))  # type: ignore[no-any-return]

    class Pixels(Lying):
        def __init__(self, names: Names):
            super().__init__(names, **{r: nn.Conv2d(WIDTH, WIDTH, 1) for r in "qkv"}, o=nn.Conv2d(WIDTH, WIDTH, 1))

        def forward(self, x: Tensor) -> Tensor:
            y = F.group_norm(x, 4)
            q, k, v = (self[r](y).flatten(2) for r in "qkv")
            w = torch.einsum("bci,bcj->bij", q * WIDTH**-0.25, k * WIDTH**-0.25).softmax(2)
            return x + self["o"](torch.einsum("bij,bcj->bci", w, v).view_as(x))  # type: ignore[no-any-return]

    class Unet(Lying):
        def __init__(self, names: Names):
            super().__init__(names, emb=nn.Conv2d(3, WIDTH, 3, padding=1), any=nn.Conv2d(2 * WIDTH, 3, 3, padding=1))
            self.roles[self.called["emb"]] = Role("any")
            self.put(r=Residual(names), p=Pixels(names), s=Residual(names), t=Pixels(names))

        def forward(self, x: Tensor) -> Tensor:
            x = self["emb"](x)
            y = self["p"](self["r"](x))
            z = self["t"](self["s"](F.avg_pool2d(y, 2)))
            return self["any"](torch.cat((F.interpolate(z, scale_factor=2.0), y), 1))  # type: ignore[no-any-return]

    return Unet(names), (torch.randn(1, 3, 8, 8),)


@whole
def small_words(names: Names) -> tuple[nn.Module, Any]:
    """A small embedding and a matrix that makes it wide (ALBERT), one block used again and again, tied output."""

    class Albert(Lying):
        def __init__(self, names: Names):
            super().__init__(
                names, emb=nn.Embedding(WORDS, 10), any=linear(10, WIDTH), block=Block(names, Sdpa, InAndOut)
            )
            self.roles[self.called["any"]] = Role("wide")
            self.put(back=(linear(WIDTH, 10), Role("any")))

        def forward(self, x: Tensor) -> Tensor:
            x = self["any"](self["emb"](x))
            for _ in range(3):
                x = self["block"](x)
            return F.gelu(self["back"](x)) @ self["emb"].weight.T  # type: ignore[no-any-return]

    return Albert(names), (ids(),)


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


@whole
def whole_by_parameters(names: Names) -> tuple[nn.Module, Any]:
    """No modules at all: a dictionary of stacked parameters, one for all layers, and ``@``."""

    class Raw(Lying):
        def __init__(self, names: Names):
            super().__init__(names, emb=weight(WORDS, WIDTH), head=weight(WIDTH, WORDS))
            self.put(q=weight(2, WIDTH, HEADS, SIZE), k=weight(2, WIDTH, 2, SIZE), v=weight(2, WIDTH, 2, SIZE))
            self.put(o=weight(2, HEADS, SIZE, WIDTH), gate=weight(2, WIDTH, WIDE), up=weight(2, WIDTH, WIDE))
            self.put(down=weight(2, WIDE, WIDTH))

        def forward(self, x: Tensor) -> Tensor:
            x = self["emb"][x]
            for n in range(2):
                y = F.layer_norm(x, (WIDTH,))
                q = torch.einsum("btd,dhe->bhte", y, self["q"][n])
                k, v = (torch.einsum("btd,dge->bgte", y, self[r][n]).repeat_interleave(2, 1) for r in "kv")
                w = (torch.einsum("bhie,bhje->bhij", q, k) / SIZE**0.5 + causal(x)).softmax(-1)
                x = x + torch.einsum("bhij,bhje,hed->bid", w, v, self["o"][n])
                y = F.layer_norm(x, (WIDTH,))
                x = x + (F.silu(y @ self["gate"][n]) * (y @ self["up"][n])) @ self["down"][n]
            return x @ self["head"]

    return Raw(names), (ids(),)


@whole
def masked_autoencoder(names: Names) -> tuple[nn.Module, Any]:
    """Some patches are seen by an encoder; a narrower decoder gets tokens for the others and makes pixels."""

    class Autoencoder(Lying):
        def __init__(self, names: Names):
            super().__init__(names, emb=linear(12, WIDTH), any1=linear(WIDTH, WIDTH), any2=linear(WIDTH, 12))
            self.roles |= {self.called["any1"]: Role("wide"), self.called["any2"]: Role("last")}
            self.put(one=Block(names, Sdpa, InAndOut), two=Block(names, Sdpa, InAndOut))
            self.put(emb2=(weight(1, 1, WIDTH), Role("table")), table=weight(1, 9, WIDTH), table2=weight(1, 9, WIDTH))

        def forward(self, x: Tensor) -> Tensor:
            x = self["emb"](x) + self["table"]
            keep = torch.rand(x.shape[:2]).argsort(1)[:, :4, None].expand(-1, -1, WIDTH)
            y = self["any1"](F.layer_norm(self["one"](x.gather(1, keep)), (WIDTH,)))
            full = self["emb2"].expand(*x.shape[:2], -1).scatter(1, keep, y) + self["table2"]
            return self["any2"](self["two"](full))  # type: ignore[no-any-return]

    return Autoencoder(names), (torch.randn(2, 9, 12),)


@whole
def diffusion_of_words(names: Names) -> tuple[nn.Module, Any]:
    """DiT blocks: six modulations of each block from the time and a class, gates on both branches."""

    class Modulated(Block):
        def __init__(self, names: Names):
            super().__init__(names, Sdpa, InAndOut)
            self.put(none=linear(WIDTH, 6 * WIDTH, bias=True))

        def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
            assert c is not None
            a, b, g, d, e, h = self["none"](F.silu(c))[:, None].chunk(6, -1)
            x = x + g * self["a"](F.layer_norm(x, (WIDTH,)) * (1 + a) + b)
            return x + h * self["f"](F.layer_norm(x, (WIDTH,)) * (1 + d) + e)  # type: ignore[no-any-return]

    class Dit(Lying):
        def __init__(self, names: Names):
            super().__init__(names, emb=nn.Conv2d(4, WIDTH, 2, 2), table=nn.Embedding(11, WIDTH), any=linear(WIDTH, 16))
            self.put(none1=linear(8, WIDTH), none2=linear(WIDTH, WIDTH), none3=linear(WIDTH, 2 * WIDTH))
            self.put(blocks=(nn.ModuleList(Modulated(names) for _ in range(2)), None))
            self.roles[self.called["any"]] = Role("last")

        def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            waves = (t[:, None] * torch.arange(8)).cos()
            c = self["none2"](F.silu(self["none1"](waves))) + self["table"](y)
            x = self["emb"](x).flatten(2).mT
            for block in self["blocks"]:
                x = block(x, c)
            shift, scale = self["none3"](F.silu(c))[:, None].chunk(2, -1)
            return self["any"](F.layer_norm(x, (WIDTH,)) * (1 + scale) + shift)  # type: ignore[no-any-return]

    return Dit(names), (torch.randn(2, 4, 8, 8), torch.rand(2), torch.tensor([1, 3]))


@whole
def learned_questions(names: Names) -> tuple[nn.Module, Any]:
    """Q-Former: learned queries attend to themselves and to a picture, then words are made of them."""

    class Questions(Lying):
        def __init__(self, names: Names):
            super().__init__(names, one=Block(names, Sdpa, InAndOut), **qkvo(names), f=Gated(names))
            self.put(start=(weight(1, 4, WIDTH), Role("table")), emb=linear(12, WIDTH), any=linear(WIDTH, WORDS))
            self.roles[self.called["any"]] = Role("last")

        def forward(self, x: Tensor) -> Tensor:
            memory = F.layer_norm(self["emb"](x), (WIDTH,))
            y = self["one"](self["start"].expand(x.shape[0], -1, -1))
            y = y + self["o"](attend(self["q"](F.layer_norm(y, (WIDTH,))), self["k"](memory), self["v"](memory)))
            return self["any"](y + self["f"](F.layer_norm(y, (WIDTH,))))  # type: ignore[no-any-return]

    return Questions(names), (torch.randn(2, 9, 12),)


@whole
def old_weight_norm(names: Names) -> tuple[nn.Module, Any]:
    """`torch.nn.utils.weight_norm`, whose hook makes the weight before each forward pass, on every linear layer of a block."""
    model = Model(names, Sdpa, InAndOut)
    block = model["blocks"][0]
    for part in (block["a"], block["f"]):
        for name, child in list(part.named_children()):
            if isinstance(child, nn.Linear):
                torch.nn.utils.weight_norm(child)
                part.roles[f"{name}.weight"] = part.roles.pop(name)
    return model, (ids(),)


@whole
def recurrent_and_attending(names: Names) -> tuple[nn.Module, Any]:
    """An LSTM over words, attention over its states, and a head."""

    class Mixed(Model):
        def __init__(self, names: Names):
            super().__init__(names, Sdpa, InAndOut, 1)
            self.put(scan_all=nn.LSTM(WIDTH, WIDTH, batch_first=True, num_layers=2))

        def stream(self, x: Tensor) -> Tensor:
            y, _ = self["scan_all"](x)
            return self["blocks"][0](y)  # type: ignore[no-any-return]

    return Mixed(names), (ids(),)
