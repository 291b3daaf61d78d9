"""Rarer whole models: several memories, pairs of positions, slots, pictures, recurrences."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lying.attention import HEADS, INNER, SIZE, WIDTH, Sdpa, Separate, causal, heads, together
from lying.base import Lying, Names, Role, linear, weight
from lying.feed_forward import WIDE, Gated, InAndOut
from lying.rare_streams import attend, qkvo
from lying.whole import WORDS, Block, Model, ids, whole


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
