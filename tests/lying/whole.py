"""Whole models around the blocks, and models that are odd as a whole. Each builder returns a model and its example inputs."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lying.attention import ATTENTION, HEADS, INNER, WIDTH, Sdpa, causal, heads, together
from lying.base import Lying, Names, Role, linear, weight
from lying.feed_forward import FEED_FORWARD, Gated, InAndOut

WORDS, TIME = 30, 7
WHOLE: dict[str, Callable[[Names], tuple[nn.Module, Any]]] = {}


def whole(builder: Callable[[Names], tuple[nn.Module, Any]]) -> Callable[[Names], tuple[nn.Module, Any]]:
    WHOLE[builder.__name__] = builder
    return builder


def ids() -> Tensor:
    return torch.arange(2 * TIME).view(2, TIME) % WORDS


class Block(Lying):
    """Attention and a feed-forward block around a residual stream; before or after a norm, one after the other or at once."""

    def __init__(self, names: Names, attention: type[Lying], feed_forward: type[Lying]):
        super().__init__(names, a=attention(names), f=feed_forward(names))
        self.style = names.random.choice(("before", "after", "at once", "around"))
        norm = names.random.choice((nn.LayerNorm, nn.RMSNorm))
        self.put(n=(norm(WIDTH), None), m=(norm(WIDTH), None))

    def forward(self, x: Tensor) -> Tensor:
        a, f, n, m = self["a"], self["f"], self["n"], self["m"]
        if self.style == "after":
            x = n(x + a(x))
            return m(x + f(x))  # type: ignore[no-any-return]
        if self.style == "at once":
            y = n(x)
            return x + a(y) + f(y)
        if self.style == "around":
            x = x + n(a(x))
            return x + m(f(x))
        x = x + a(n(x))
        return x + f(m(x))


class Model(Lying):
    """Words in, logits out."""

    def __init__(self, names: Names, attention: type[Lying] = Sdpa, feed_forward: type[Lying] = Gated, blocks: int = 2):
        super().__init__(names, emb=nn.Embedding(WORDS, WIDTH), head=linear(WIDTH, WORDS))
        self.put(blocks=(nn.ModuleList(Block(names, attention, feed_forward) for _ in range(blocks)), None))
        self.put(last=(nn.LayerNorm(WIDTH), None))

    def stream(self, x: Tensor) -> Tensor:
        for block in self["blocks"]:
            x = block(x)
        return self["last"](x)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Any:
        return self["head"](self.stream(self["emb"](x)))


def with_attention(name: str) -> Callable[[Names], tuple[nn.Module, Any]]:
    return lambda names: (Model(names, ATTENTION[name], names.random.choice((Gated, InAndOut))), (ids(),))


def with_feed_forward(name: str) -> Callable[[Names], tuple[nn.Module, Any]]:
    return lambda names: (Model(names, Sdpa, FEED_FORWARD[name]), (ids(),))


@whole
def tied(names: Names) -> tuple[nn.Module, Any]:
    class Tied(Model):
        def forward(self, x: Tensor) -> Tensor:
            x = self.stream(F.embedding(x, self["emb"].weight) * WIDTH**0.5)
            return 15 * torch.tanh(x @ self["emb"].weight.T / 15) + 0 * self["head"](x).sum(-1, keepdim=True)

    model = Tied(names)
    model.roles[model.called["head"]] = Role("any")  # times nothing: not what makes the logits
    return model, (ids(),)


@whole
def one_hot_words(names: Names) -> tuple[nn.Module, Any]:
    class OneHot(Model):
        def forward(self, x: Tensor) -> Tensor:
            return self["head"](self.stream(F.one_hot(x, WORDS).float() @ self["emb"].weight))  # type: ignore[no-any-return]

    return OneHot(names), (ids(),)


@whole
def in_a_dictionary(names: Names) -> tuple[nn.Module, Any]:
    class Dictionary(Model):
        def forward(self, batch: dict[str, Tensor]) -> dict[str, Any]:
            logits = super().forward(batch["tokens"])
            return {"out": {"logits": logits}, "loss": F.cross_entropy(logits.flatten(0, 1), batch["next"].flatten())}

    return Dictionary(names), ({"tokens": ids(), "next": ids()},)


@whole
def by_keywords(names: Names) -> tuple[nn.Module, Any]:
    class Keywords(Model):
        def forward(self, *, tokens: Tensor, mask: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
            x = self["emb"](tokens)
            x = self.stream(x if mask is None else x * mask[..., None])
            return self["head"](x), [x]

    return Keywords(names), {"tokens": ids(), "mask": torch.ones(2, TIME)}


@dataclass
class Batch:
    tokens: Tensor
    lengths: list[int]


@whole
def in_a_dataclass(names: Names) -> tuple[nn.Module, Any]:
    class Dataclass(Model):
        def forward(self, batch: Batch) -> Batch:
            x = self["emb"](batch.tokens)
            rows = [self.stream(x[i : i + 1, :n])[0] for i, n in enumerate(batch.lengths)]
            return Batch(self["head"](nn.utils.rnn.pad_sequence(rows, batch_first=True)), batch.lengths)

    return Dataclass(names), (Batch(ids(), [7, 5]),)


@whole
def depends_on_values(names: Names) -> tuple[nn.Module, Any]:
    """Asks tensors for numbers, picks by masks and loops over lengths."""

    class Depends(Model):
        def forward(self, x: Tensor) -> Tensor:
            longest = int((x != 0).sum(-1).max().item())
            x = x[:, :longest]
            kept = (x > 0).any(0).nonzero().squeeze(-1)
            y = self["emb"](x[:, kept])
            if y.abs().max() > 1e4:
                y = y / y.abs().max()
            for _ in range(max(1, int(x[0, 0]) % 2)):
                y = self.stream(y)
            if torch.isnan(y).any():
                raise ValueError("not a number")
            return self["head"](y)  # type: ignore[no-any-return]

    return Depends(names), (ids(),)


@whole
def packed_without_padding(names: Names) -> tuple[nn.Module, Any]:
    """Only the words that are not padding go through the feed-forward blocks."""

    class Unpadded(Model):
        def forward(self, x: Tensor) -> Tensor:
            mask = x != 0
            y = self["emb"](x)
            for block in self["blocks"]:
                y = y + block["a"](block["n"](y))
                y = y.clone()
                y[mask] = y[mask] + block["f"](block["m"](y[mask])[None])[0]
            return self["head"](y[mask])  # type: ignore[no-any-return]

    return Unpadded(names), (ids(),)


@whole
def compiled(names: Names) -> tuple[nn.Module, Any]:
    return torch.compile(Model(names), backend="eager"), (ids(),)  # type: ignore[return-value]


@whole
def compiled_blocks(names: Names) -> tuple[nn.Module, Any]:
    model = Model(names)
    for block in model["blocks"]:
        block.compile(backend="eager")
    return model, (ids(),)


@whole
def in_training_with_counters(names: Names) -> tuple[nn.Module, Any]:
    """Dropout, noise, a buffer that counts steps, and a running mean."""

    class Counting(Model):
        def __init__(self, names: Names):
            super().__init__(names, Sdpa, InAndOut)
            self.register_buffer("steps", torch.zeros((), dtype=torch.long))
            self.register_buffer("mean", torch.zeros(WIDTH))

        def forward(self, x: Tensor) -> Tensor:
            self.steps += 1
            y = self["emb"](x)
            y = y + 0.01 * torch.rand_like(y) + torch.randn(y.shape, device=y.device) * 0.01
            if torch.rand(()) < 2:
                y = F.dropout(y, 0.1)
            self.mean.mul_(0.9).add_(y.detach().mean((0, 1)), alpha=0.1)
            return self["head"](self.stream(y - self.mean))  # type: ignore[no-any-return]

    return Counting(names).train(), (ids(),)


@whole
def one_block_many_times(names: Names) -> tuple[nn.Module, Any]:
    class Shared(Model):
        def __init__(self, names: Names):
            super().__init__(names, blocks=1)

        def stream(self, x: Tensor) -> Tensor:
            for _ in range(3):
                x = self["blocks"][0](x)
            return x

    return Shared(names), (ids(),)


class Cross(Lying):
    """Attention to another stream."""

    def __init__(self, names: Names):
        super().__init__(names, **{role: linear(WIDTH, INNER) for role in "qkv"}, o=linear(INNER, WIDTH))

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        q, k, v = heads(self["q"](x)), heads(self["k"](memory)), heads(self["v"](memory))
        return self["o"](together((q @ k.mT).softmax(-1) @ v))  # type: ignore[no-any-return]


@whole
def encoder_and_decoder(names: Names) -> tuple[nn.Module, Any]:
    class Both(Model):
        def __init__(self, names: Names):
            super().__init__(names)
            self.put(encoder=Model(names), cross=(nn.ModuleList(Cross(names) for _ in range(2)), None))

        def forward(self, source: Tensor, target: Tensor) -> Tensor:
            memory = self["encoder"].stream(self["encoder"]["emb"](source))
            x = self["emb"](target) + 0 * self["encoder"]["head"](memory).mean()
            for block, cross in zip(self["blocks"], self["cross"], strict=True):
                x = x + block["a"](block["n"](x))
                x = x + cross(x, memory)
                x = x + block["f"](block["m"](x))
            return self["head"](x)  # type: ignore[no-any-return]

    model = Both(names)
    model["encoder"].roles[model["encoder"].called["head"]] = Role("any")  # its result is nothing's logits
    return model, (ids(), ids()[:, :5])


@whole
def picture_to_classes(names: Names) -> tuple[nn.Module, Any]:
    """A ViT: patches by a convolution, a class token, positions, and a small head."""

    class Vit(Lying):
        def __init__(self, names: Names):
            super().__init__(names, emb=nn.Conv2d(3, WIDTH, 4, 4), any1=(linear(WIDTH, 9), Role("last")))
            self.put(emb1=(weight(1, 1, WIDTH), Role("table")), emb2=(weight(1, 10, WIDTH), Role("table")))
            self.put(blocks=(nn.ModuleList(Block(names, Sdpa, InAndOut) for _ in range(2)), None))

        def forward(self, x: Tensor) -> Tensor:
            x = self["emb"](x).flatten(2).mT
            x = torch.cat((self["emb1"].expand(x.shape[0], -1, -1), x), 1) + self["emb2"]
            for block in self["blocks"]:
                x = block(x)
            return self["any1"](F.layer_norm(x, (WIDTH,))[:, 0])  # type: ignore[no-any-return]

    return Vit(names), (torch.randn(2, 3, 12, 12),)


@whole
def denoiser_with_time(names: Names) -> tuple[nn.Module, Any]:
    """A diffusion transformer: a network of the time modulates each block."""

    class Denoiser(Model):
        def __init__(self, names: Names):
            super().__init__(names, Sdpa, InAndOut)
            self.put(none1=linear(8, WIDTH), none2=linear(WIDTH, WIDTH), none3=linear(WIDTH, 2 * WIDTH))

        def forward(self, x: Tensor, time: Tensor) -> Tensor:
            waves = (time[:, None] * torch.arange(8, device=x.device)).cos()
            condition = self["none2"](F.silu(self["none1"](waves)))
            scale, shift = self["none3"](F.silu(condition))[:, None].chunk(2, -1)
            return self["head"](self.stream(self["emb"](x) * (1 + scale) + shift))  # type: ignore[no-any-return]

    return Denoiser(names), (ids(), torch.rand(2))


@whole
def waves(names: Names) -> tuple[nn.Module, Any]:
    """Mixing by Fourier transforms with complex weights (FNet, AFNO) in the place of one block's attention."""

    class Filter(Lying):
        def __init__(self, names: Names):
            super().__init__(names, mixer=(nn.Parameter(torch.randn(4, WIDTH, dtype=torch.complex64)), None))

        def forward(self, x: Tensor) -> Tensor:
            found = torch.fft.rfft(x, dim=1)
            return torch.fft.irfft(found * self["mixer"][: found.shape[1]], n=x.shape[1], dim=1)

    class Waves(Model):
        def __init__(self, names: Names):
            super().__init__(names)
            self.put(extra=Block(names, Filter, Gated))

        def stream(self, x: Tensor) -> Tensor:
            return super().stream(self["extra"](x))

    return Waves(names), (ids(),)


@whole
def torch_encoder(names: Names) -> tuple[nn.Module, Any]:
    """`nn.TransformerEncoder` in evaluation, which takes its fast path."""

    class Encoder(Lying):
        def __init__(self, names: Names):
            super().__init__(names, emb=nn.Embedding(WORDS, WIDTH), head=linear(WIDTH, WORDS))
            layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 48, batch_first=True)
            self.put(all=(nn.TransformerEncoder(layer, 2), None))
            for i in range(2):
                at = f"{self.called['all']}.layers.{i}"
                rows = tuple((r, tuple(range(j * WIDTH, (j + 1) * WIDTH))) for j, r in enumerate("qkv"))
                self.roles[f"{at}.self_attn.in_proj_weight"] = Role(rows=rows)
                self.roles[f"{at}.self_attn.out_proj.weight"] = Role("o")
                self.roles[f"{at}.linear1.weight"], self.roles[f"{at}.linear2.weight"] = Role("in"), Role("ffn_out")

        def forward(self, x: Tensor) -> Tensor:
            return self["head"](self["all"](self["emb"](x)))  # type: ignore[no-any-return]

    return Encoder(names).eval(), (ids(),)


@whole
def torch_transformer(names: Names) -> tuple[nn.Module, Any]:
    """`nn.Transformer`, whose names are true: they must not be taken for others."""

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.roles: dict[str, Role] = {}
            self.a = nn.Transformer(WIDTH, HEADS, 1, 1, 48, batch_first=True)
            rows = tuple((r, tuple(range(j * WIDTH, (j + 1) * WIDTH))) for j, r in enumerate("qkv"))
            for at in ("encoder.layers.0.self_attn", "decoder.layers.0.self_attn", "decoder.layers.0.multihead_attn"):
                self.roles |= {f"a.{at}.in_proj_weight": Role(rows=rows), f"a.{at}.out_proj.weight": Role("o")}
            for at in ("encoder.layers.0", "decoder.layers.0"):
                self.roles |= {f"a.{at}.linear1.weight": Role("in"), f"a.{at}.linear2.weight": Role("ffn_out")}

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.a(x, y, tgt_mask=causal(y))  # type: ignore[no-any-return]

    return Whole(), (torch.randn(2, 5, WIDTH), torch.randn(2, 4, WIDTH))


@whole
def several_towers(names: Names) -> tuple[nn.Module, Any]:
    """Two models whose pooled outputs are compared, as in CLIP; the last matrices are projections."""

    class Towers(Lying):
        def __init__(self, names: Names):
            super().__init__(names, a=Model(names), b=Model(names))
            for tower in (self["a"], self["b"]):
                tower.roles[tower.called["head"]] = Role("any")

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            a, b = (F.normalize(self[tower](x).mean(1), dim=-1) for tower, x in (("a", a), ("b", b)))
            return (a @ b.T * 3).softmax(-1)

    return Towers(names), (ids(), ids().flip(0))


@whole
def frozen_half(names: Names) -> tuple[nn.Module, Any]:
    model = Model(names).half().requires_grad_(False)
    return model.eval(), (ids(),)


def builders() -> dict[str, Callable[[Names], tuple[nn.Module, Any]]]:
    """All builders by name."""
    more = "attention_positions attention_more fused experts odd odd_whole sly sly_more devious rare rare_more"
    more += " rare_streams rare_whole places convolved windows"
    for module in more.split():  # these fill the tables
        importlib.import_module(f"lying.{module}")
    found = {f"attention {name}": with_attention(name) for name in ATTENTION}
    found |= {f"feed-forward {name}": with_feed_forward(name) for name in FEED_FORWARD}
    return found | {f"whole {name}": builder for name, builder in WHOLE.items()}
