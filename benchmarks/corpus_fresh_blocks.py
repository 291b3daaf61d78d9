"""Blocks of the families that no rule was chosen with, named and written as well-known code bases have them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from corpus_families import WIDTH
from torch import Tensor, nn
from torch.nn import functional as F

How = Literal["gpt2", "depth", "mup", "zero", "orthogonal", "xavier", "lecun", "wide"]
OUTPUTS = re.compile(r"c_proj|\.proj\b|\bwo\b|\bw2\b|to_out|ff_out|attn_out|fc2|net\.2|output")
"""Names of the matrices that write to the residual stream."""


def heads(x: Tensor, number: int = 4) -> Tensor:
    """(size, length, width) → (size, heads, length, width / heads)."""
    return x.view(*x.shape[:-1], number, -1).transpose(1, 2)


def rotated(x: Tensor) -> Tensor:
    """Rotary embedding of (size, heads, length, dim)."""
    half = x.shape[-1] // 2
    angle = torch.arange(float(x.shape[2]))[:, None] * 100.0 ** (-torch.arange(float(half)) / half)
    one, two = x[..., :half], x[..., half:]
    return torch.cat([one * angle.cos() - two * angle.sin(), one * angle.sin() + two * angle.cos()], dim=-1).type_as(x)


class Modded(nn.Module):
    """A block of modded-nanogpt and nanochat: ReLU², norms without weights, q and k normed, outputs that begin at zero."""

    def __init__(self, width: int = WIDTH, zero: bool = True) -> None:
        super().__init__()
        self.attn = nn.ModuleDict(
            {name: nn.Linear(width, width, bias=False) for name in ("c_q", "c_k", "c_v", "c_proj")}
        )
        self.mlp = nn.ModuleDict(
            {"c_fc": nn.Linear(width, 4 * width, bias=False), "c_proj": nn.Linear(4 * width, width, bias=False)}
        )
        self.lambdas = nn.Parameter(torch.tensor([1.0, 0.5]))
        if zero:
            for linear in (self.attn["c_proj"], self.mlp["c_proj"]):
                nn.init.zeros_(linear.weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        y = F.rms_norm(x, x.shape[-1:])
        q, k, v = (heads(self.attn[name](y)) for name in ("c_q", "c_k", "c_v"))
        q, k = (rotated(F.rms_norm(t, t.shape[-1:])) for t in (q, k))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = self.lambdas[0] * x + 2 * self.lambdas[1] * self.attn["c_proj"](y)
        out: Tensor = x + self.mlp["c_proj"](F.relu(self.mlp["c_fc"](F.rms_norm(x, x.shape[-1:]))).square())
        return out


class Mini(nn.Module):
    """A block of minGPT, as its first version had it: `key`, `query`, `value`, `proj`, and a sequence for the feed-forward."""

    def __init__(self, width: int = WIDTH, dropout: float = 0.1) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.ModuleDict({name: nn.Linear(width, width) for name in ("key", "query", "value", "proj")})
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln1(x)
        k, q, v = (heads(self.attn[name](y)) for name in ("key", "query", "value"))
        att = q @ k.transpose(-2, -1) / math.sqrt(k.shape[-1])
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        seen = (att.masked_fill(later, -math.inf).softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + self.attn["proj"](seen)
        out: Tensor = x + self.mlp(self.ln2(x))
        return out


class Meta(nn.Module):
    """A block of llama2.c: `wq`, `wk`, `wv`, `wo`, and `w1`, `w2`, `w3`; with one head of keys for all if asked."""

    def __init__(self, width: int = WIDTH, keys: int = 4, post: bool = False) -> None:
        super().__init__()
        each = width // 4
        sizes = {"wq": (width, width), "wk": (width, keys * each), "wv": (width, keys * each), "wo": (width, width)}
        self.attention = nn.ModuleDict({name: nn.Linear(*size, bias=False) for name, size in sizes.items()})
        sizes = {"w1": (width, 2 * width), "w2": (2 * width, width), "w3": (width, 2 * width)}
        self.feed_forward = nn.ModuleDict({name: nn.Linear(*size, bias=False) for name, size in sizes.items()})
        self.attention_norm, self.ffn_norm = nn.RMSNorm(width), nn.RMSNorm(width)
        self.keys, self.post = keys, post

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = (self.attention[name](x) for name in ("wq", "wk", "wv"))
        q, k, v = heads(q), heads(k, self.keys), heads(v, self.keys)
        k, v = (t.repeat_interleave(4 // self.keys, dim=1) for t in (rotated(k), v))
        seen = F.scaled_dot_product_attention(rotated(q), k, v, is_causal=True)
        out: Tensor = self.attention["wo"](seen.transpose(1, 2).flatten(2))
        return out

    def feed(self, x: Tensor) -> Tensor:
        w1, w2, w3 = (self.feed_forward[name] for name in ("w1", "w2", "w3"))
        out: Tensor = w2(F.silu(w1(x)) * w3(x))
        return out

    def forward(self, x: Tensor) -> Tensor:
        if self.post:  # the norm of what is added, as OLMo 2 and Swin v2 have it
            x = x + self.attention_norm(self.attend(x))
            x = x + self.ffn_norm(self.feed(x))
        else:
            x = x + self.attend(self.attention_norm(x))
            x = x + self.feed(self.ffn_norm(x))
        return x


class Palm(nn.Module):
    """A block of PaLM: attention with one head of keys and a gated feed-forward side by side, from one fused matrix."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.norm, self.sizes = nn.LayerNorm(width), (width, width // 4, width // 4, 4 * width)
        self.fused_attn_ff_proj = nn.Linear(width, sum(self.sizes), bias=False)
        self.attn_out, self.ff_out = nn.Linear(width, width, bias=False), nn.Linear(2 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v, ff = self.fused_attn_ff_proj(self.norm(x)).split(self.sizes, dim=-1)
        q, k, v = rotated(heads(q)), rotated(heads(k, 1)).expand(-1, 4, -1, -1), heads(v, 1).expand(-1, 4, -1, -1)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        value, gate = ff.chunk(2, dim=-1)
        out: Tensor = x + self.attn_out(seen) + self.ff_out(F.silu(gate) * value)
        return out


class Cross(nn.Module):
    """A layer as x-transformers has it, with its options.

    Args:
        width: Of the residual stream.
        norm: Where norms stand: before, after, or before and after ("sandwich").
        alibi: Whether distances are taken from the scores.
        talking: Whether heads mix their scores.
        causal: Whether places see only earlier ones.
        scale: First value of LayerScale; 0 for none.
        wrap: What each linear layer is wrapped in, such as weight norm.
    """

    def __init__(
        self, width: int = WIDTH, norm: str = "before", alibi: bool = False, talking: bool = False, causal: bool = True,
        scale: float = 0.0, wrap: Callable[[nn.Linear], nn.Module] = lambda linear: linear,
    ) -> None:  # fmt: skip
        super().__init__()
        self.where, self.alibi, self.causal = norm, alibi, causal
        self.attn = nn.ModuleDict(
            {name: wrap(nn.Linear(width, width, bias=False)) for name in ("to_q", "to_k", "to_v", "to_out")}
        )
        self.ff = nn.ModuleDict(
            {"net": nn.Sequential(wrap(nn.Linear(width, 3 * width)), nn.GELU(), wrap(nn.Linear(3 * width, width)))}
        )
        self.norms = nn.ModuleList(
            nn.Identity() if norm != "sandwich" and n % 2 else nn.LayerNorm(width) for n in range(4)
        )
        self.talk = nn.Conv2d(4, 4, 1, bias=False) if talking else None
        self.gammas = nn.ParameterList(nn.Parameter(scale * torch.ones(width)) for _ in range(2 if scale else 0))

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = (heads(self.attn[name](x)) for name in ("to_q", "to_k", "to_v"))
        att = q @ k.transpose(-2, -1) / math.sqrt(k.shape[-1])
        place = torch.arange(x.shape[1])
        if self.alibi:
            slopes = 2.0 ** -torch.arange(1.0, 9.0, 2.0)
            att = att - (slopes[:, None, None] * (place[:, None] - place).abs()).type_as(att)
        att = self.talk(att) if self.talk else att
        att = att.masked_fill(place > place[:, None], -math.inf) if self.causal else att
        out: Tensor = self.attn["to_out"]((att.softmax(-1) @ v).transpose(1, 2).flatten(2))
        return out

    def forward(self, x: Tensor) -> Tensor:
        layers: tuple[Any, ...] = (self.attend, self.ff["net"])
        for n, layer in enumerate(layers):
            y: Tensor = layer(x if self.where == "after" else self.norms[2 * n](x))
            y = self.norms[2 * n + 1](y)
            y = y * self.gammas[n] if self.gammas else y
            x = self.norms[2 * n](x + y) if self.where == "after" else x + y
        return x


class Timm(nn.Module):
    """A block of timm's vision transformers: `attn.qkv`, `attn.proj`, `ls1`, `mlp.fc1`, `mlp.fc2`."""

    def __init__(self, width: int = WIDTH, scale: float = 1e-5, squared: bool = False) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 3 * width), "fc2": nn.Linear(3 * width, width)})
        self.ls1, self.ls2 = (nn.Parameter(scale * torch.ones(width)) for _ in range(2))
        self.squared = squared

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (heads(t) for t in self.attn["qkv"](self.norm1(x)).chunk(3, dim=-1))
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.ls1 * self.attn["proj"](seen)
        y = self.mlp["fc1"](self.norm2(x))
        out: Tensor = x + self.ls2 * self.mlp["fc2"](F.relu(y).square() if self.squared else F.gelu(y))
        return out


class Linear(nn.Module):
    """Linear attention with 1 + ELU as its features, in its parallel form."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))
        self.linear1, self.linear2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        q, k, v = 1 + F.elu(heads(self.q_proj(y))), 1 + F.elu(heads(self.k_proj(y))), heads(self.v_proj(y))
        att = (q @ k.transpose(-2, -1)).tril()
        seen = (att @ v / (att.sum(-1, keepdim=True) + 1e-6)).transpose(1, 2).flatten(2)
        x = x + self.out_proj(seen)
        out: Tensor = x + self.linear2(F.gelu(self.linear1(self.norm2(x))))
        return out


class Receptance(nn.Module):
    """A block of RWKV 4: time mixing with a decay for each channel, in its parallel form, and channel mixing."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        names = ("key", "value", "receptance", "output")
        self.att = nn.ModuleDict({name: nn.Linear(width, width, bias=False) for name in names})
        self.ffn = nn.ModuleDict(
            {"key": nn.Linear(width, 3 * width, bias=False), "value": nn.Linear(3 * width, width, bias=False)}
        )
        self.time_decay = nn.Parameter(torch.linspace(-3.0, 1.0, width))
        self.time_first, self.time_mix = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.full((3, width), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln1(x)
        y, before = y, F.pad(y, (0, 0, 1, -1))
        mixed = [mix * y + (1 - mix) * before for mix in self.time_mix]
        k, v, r = self.att["key"](mixed[0]), self.att["value"](mixed[1]), self.att["receptance"](mixed[2]).sigmoid()
        apart = (torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1]))[..., None]  # (length, length, 1)
        decay = torch.where(apart > 0, -(apart - 1) * self.time_decay.exp(), self.time_first)
        share = (decay + k[:, None]).masked_fill(apart < 0, -math.inf).softmax(2)  # (size, length, length, width)
        x = x + self.att["output"](r * (share * v[:, None]).sum(2))
        out: Tensor = x + self.ffn["value"](F.relu(self.ffn["key"](self.ln2(x))).square())
        return out


class Diagonal(nn.Module):
    """S4D: each channel is convolved with a kernel made of 8 damped oscillations."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.norm, self.output_linear = nn.LayerNorm(width), nn.Linear(width, 2 * width)
        self.log_decay = nn.Parameter(torch.linspace(-4.0, -0.5, 8).repeat(width, 1))
        self.angle = nn.Parameter(0.3 * torch.arange(8.0).repeat(width, 1))
        self.C, self.D = nn.Parameter(torch.randn(width, 8) / 8**0.5), nn.Parameter(torch.randn(width))

    def forward(self, x: Tensor) -> Tensor:
        y, time = self.norm(x), torch.arange(float(x.shape[1]))
        waves = (-self.log_decay.exp()[..., None] * time).exp() * (self.angle[..., None] * time).cos()
        kernel = torch.einsum("ws,wst->wt", self.C, waves)  # (width, length)
        spectrum = torch.fft.rfft(y.float(), 2 * x.shape[1], dim=1) * torch.fft.rfft(
            kernel.float().T, 2 * x.shape[1], dim=0
        )
        seen = torch.fft.irfft(spectrum, 2 * x.shape[1], dim=1)[:, : x.shape[1]].type_as(y) + self.D * y
        out: Tensor = x + F.glu(self.output_linear(F.gelu(seen)), dim=-1)
        return out


class Spatial(nn.Module):
    """A block of gMLP: a gate that mixes places by a matrix, causal here."""

    def __init__(self, width: int = WIDTH, length: int = 32) -> None:
        super().__init__()
        self.norm, self.sgu_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.proj_in, self.proj_out = nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.spatial = nn.Parameter(1e-3 * torch.randn(length, length))
        self.spatial_bias = nn.Parameter(torch.ones(length, 1))

    def forward(self, x: Tensor) -> Tensor:
        value, gate = F.gelu(self.proj_in(self.norm(x))).chunk(2, dim=-1)
        length = x.shape[1]
        mixed = self.spatial.tril()[:length, :length] @ self.sgu_norm(gate) + self.spatial_bias[:length]
        out: Tensor = x + self.proj_out(value * mixed)
        return out


class Stack(nn.Module):
    """Blocks between an embedding and a head, under names of one's own.

    Args:
        blocks: The blocks.
        inputs: Number of tokens, or size of the vectors that come in.
        outputs: Size of the head.
        names: Of embedding, blocks, last norm and head.
        tied: Whether the head is the embedding.
        tokens: Whether tokens come in; otherwise vectors.
        places: Number of places with an embedding; 0 for none.
        turns: How often the blocks are gone through, as in universal transformers.
        cap: Logits are between -cap and cap; 0 for any.
    """

    def __init__(
        self, blocks: Sequence[nn.Module], inputs: int, outputs: int, names: str = "wte h ln_f lm_head", width: int = WIDTH,
        tied: bool = False, tokens: bool = True, places: int = 64, turns: int = 1, cap: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.names, self.turns, self.cap = names.split(), turns, cap
        embedding: Any = nn.Embedding(inputs, width) if tokens else nn.Linear(inputs, width)
        head = nn.Linear(width, outputs, bias=False)
        if tokens:
            nn.init.normal_(embedding.weight, std=0.02)
        if tied:
            head.weight = embedding.weight
        made = (embedding, nn.ModuleList(blocks), nn.LayerNorm(width), head)
        for name, module in zip(self.names, made, strict=True):
            setattr(self, name, module)
        self.places = nn.Parameter(0.02 * torch.randn(places, width)) if places else None

    def forward(self, x: Tensor) -> Tensor:
        embedding, blocks, norm, head = (getattr(self, name) for name in self.names)
        hidden: Tensor = embedding(x)
        if self.places is not None:
            hidden = hidden + self.places[: hidden.shape[1]]
        for _ in range(self.turns):
            for block in blocks:
                hidden = block(hidden)
        out: Tensor = head(norm(hidden))
        return self.cap * torch.tanh(out / self.cap) if self.cap else out


def begun(model: nn.Module, how: How) -> nn.Module:
    """Gives the linear layers of a model the first values that a school of initialisation gives them."""
    linear = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear)]
    outputs = [m for name, m in linear if OUTPUTS.search(name)]
    for n, (name, m) in enumerate(linear):
        fan = m.in_features
        if how in ("orthogonal", "xavier"):
            (nn.init.orthogonal_ if how == "orthogonal" else nn.init.xavier_uniform_)(m.weight)
        elif how == "lecun":
            nn.init.trunc_normal_(m.weight, std=fan**-0.5)
        else:
            std = {"mup": fan**-0.5, "wide": 0.1, "depth": 0.02 / (1 + n / 6) ** 0.5}.get(how, 0.02)
            nn.init.normal_(m.weight, std=std)
        if how == "mup" and "head" in name:
            nn.init.zeros_(m.weight)
    for m in outputs:
        with torch.no_grad():
            m.weight.mul_({"gpt2": len(outputs) ** -0.5, "zero": 0.0}.get(how, 1.0))
    return model
