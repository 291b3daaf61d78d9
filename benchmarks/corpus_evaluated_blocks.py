"""Models of the families that are evaluated only and written by us, of kinds of blocks that transformers does not have."""

from __future__ import annotations

import torch
from corpus_families import BYTES, WIDTH
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Attention as lucidrains writes it: `to_qkv`, or `to_q` and `to_kv` for what is looked at from elsewhere; RMS-normed."""

    def __init__(self, width: int, heads: int = 4, causal: bool = False, crossed: bool = False) -> None:
        super().__init__()
        self.heads, self.causal, self.crossed = heads, causal, crossed
        self.norm = nn.RMSNorm(width)
        if crossed:
            self.to_q, self.to_kv = nn.Linear(width, width, bias=False), nn.Linear(width, 2 * width, bias=False)
        else:
            self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x = self.norm(x)
        parts = (
            (self.to_q(x), *self.to_kv(context).chunk(2, dim=-1)) if self.crossed else self.to_qkv(x).chunk(3, dim=-1)
        )
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in parts)
        out: Tensor = self.to_out(
            F.scaled_dot_product_attention(q, k, v, is_causal=self.causal).transpose(1, 2).flatten(2)
        )
        return out


class Gated(nn.Module):
    """A gated feed-forward with one matrix for gate and value."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm, self.w12, self.w3 = nn.RMSNorm(width), nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(self.norm(x)).chunk(2, dim=-1)
        out: Tensor = self.w3(F.silu(gate) * value)
        return out


class Plain(nn.Sequential):
    """A feed-forward as lucidrains writes it, as a sequence."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


class Decay(nn.Module):
    """Linear attention with a forgetting rate for each head, as RetNet has it, in its parallel form."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.group = nn.LayerNorm(width), nn.GroupNorm(heads, width)
        self.query, self.key, self.value, self.gate, self.out = (nn.Linear(width, width, bias=False) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        q, k, v = (m(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for m in (self.query, self.key, self.value))
        apart = (torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])).float()  # (length, length)
        rates = (1 - 2.0 ** -(3 + torch.arange(float(self.heads)))).log()[:, None, None]
        kept = (rates * apart).exp().masked_fill(apart < 0, 0.0)
        seen = ((q @ k.transpose(-1, -2)) * kept @ v / k.shape[-1] ** 0.5).transpose(1, 2).flatten(2)
        seen = self.group(seen.transpose(1, 2)).transpose(1, 2)
        out: Tensor = self.out(F.silu(self.gate(x)) * seen)
        return out


class Recurrent(nn.Module):
    """An LSTM where others have attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.lstm = nn.LayerNorm(width), nn.LSTM(width, width, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.lstm(self.norm(x))[0]
        return out


class Language(nn.Module):
    """Layers with residuals between an embedding and a head."""

    def __init__(self, *layers: nn.Module, tied: bool = False) -> None:
        super().__init__()
        self.token_emb, self.pos_emb = nn.Embedding(BYTES + 1, WIDTH), nn.Embedding(64, WIDTH)
        nn.init.normal_(self.token_emb.weight, std=0.02)
        nn.init.normal_(self.pos_emb.weight, std=0.02)
        self.layers = nn.ModuleList(layers)
        self.norm, self.to_logits = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, BYTES + 1, bias=False)
        if tied:
            self.to_logits.weight = self.token_emb.weight

    def hidden(self, tokens: Tensor) -> Tensor:
        x: Tensor = self.token_emb(tokens) + self.pos_emb.weight[: tokens.shape[1]]
        for layer in self.layers:
            x = x + layer(x)
        normed: Tensor = self.norm(x)
        return normed

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.to_logits(self.hidden(tokens))
        return out


class Squeezed(nn.Module):
    """An inverted bottleneck with squeeze and excitation, as in timm's EfficientNets."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = 3 * width
        self.conv_pw, self.bn1 = nn.Conv2d(width, inner, 1, bias=False), nn.GroupNorm(4, inner)
        self.conv_dw = nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False)
        self.se_reduce, self.se_expand = nn.Conv2d(inner, 16, 1), nn.Conv2d(16, inner, 1)
        self.conv_pwl, self.bn3 = nn.Conv2d(inner, width, 1, bias=False), nn.GroupNorm(4, width)

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.conv_dw(F.silu(self.bn1(self.conv_pw(x)))))
        y = y * self.se_expand(F.silu(self.se_reduce(y.mean((2, 3), keepdim=True)))).sigmoid()
        return x + self.bn3(self.conv_pwl(y))


class Wide(nn.Module):
    """A block of the Visual Attention Network: a depthwise and a dilated convolution gate their input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(1, width), nn.GroupNorm(1, width)
        self.conv0 = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.conv_spatial = nn.Conv2d(width, width, 7, padding=9, groups=width, dilation=3)
        self.conv1, self.proj_1, self.proj_2 = (nn.Conv2d(width, width, 1) for _ in range(3))
        self.fc1, self.fc2 = nn.Conv2d(width, 4 * width, 1), nn.Conv2d(4 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.proj_1(self.norm1(x)))
        x = x + self.proj_2(self.conv1(self.conv_spatial(self.conv0(y))) * y)
        out: Tensor = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return out


class Mixed(nn.Module):
    """A block of MLP-Mixer: one feed-forward over places, one over channels."""

    def __init__(self, places: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens = nn.Sequential(nn.Linear(places, 64), nn.GELU(), nn.Linear(64, places))
        self.channels = nn.Sequential(nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        out: Tensor = x + self.channels(self.norm2(x))
        return out


class Vision(nn.Module):
    """Blocks on patches of 4 × 4 pixels, as maps or as sequences."""

    def __init__(self, *blocks: nn.Module, maps: bool) -> None:
        super().__init__()
        self.maps = maps
        self.stem = nn.Conv2d(3, WIDTH, 4, stride=4)
        self.blocks = nn.ModuleList(blocks)
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.stem(pixels)
        x = x if self.maps else x.flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(self.norm(x.mean((2, 3) if self.maps else 1)))
        return out


class Looking(nn.Module):
    """A Perceiver: 8 learned vectors look at the bytes of a picture's patches, and then at each other."""

    def __init__(self) -> None:
        super().__init__()
        self.latents = nn.Parameter(0.02 * torch.randn(8, WIDTH))
        self.to_patches, self.places = nn.Linear(48, WIDTH), nn.Parameter(0.02 * torch.randn(64, WIDTH))
        self.layers = nn.ModuleList(
            nn.ModuleList([Attention(WIDTH, crossed=True), Attention(WIDTH), Plain(WIDTH, 160)]) for _ in range(2)
        )
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        context = self.to_patches(F.unfold(pixels, 4, stride=4).transpose(1, 2)) + self.places
        x = self.latents.expand(len(pixels), -1, -1)
        for across, among, forward in self.layers:  # type: ignore[misc]
            x = x + across(x, context)
            x = x + among(x)
            x = x + forward(x)
        out: Tensor = self.head(x.mean(1))
        return out


class Residual(nn.Module):
    """A block of a diffusion U-Net: two convolutions, and the time of the step between them."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(4, inputs), nn.GroupNorm(4, width)
        self.conv1, self.conv2 = nn.Conv2d(inputs, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.time_emb_proj, self.conv_shortcut = nn.Linear(32, width), nn.Conv2d(inputs, width, 1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x))) + self.time_emb_proj(time)[:, :, None, None]
        out: Tensor = self.conv_shortcut(x) + self.conv2(F.silu(self.norm2(y)))
        return out


class UNet(nn.Module):
    """A diffusion U-Net on images of 16 × 16, with attention at its bottom; it predicts the noise."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_in, self.conv_out = nn.Conv2d(3, 24, 3, padding=1), nn.Conv2d(24, 3, 3, padding=1)
        self.down, self.bottom, self.mid = Residual(24, 24), Residual(24, 48), Residual(48, 48)
        self.attn, self.up = Attention(48), Residual(72, 24)
        nn.init.zeros_(self.conv_out.weight)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        wave = time[:, None] * torch.exp(-torch.arange(16) / 4.0) * 20.0
        given = torch.cat([wave.sin(), wave.cos()], dim=-1)
        fine = self.down(self.conv_in(x), given)
        coarse = self.bottom(F.avg_pool2d(fine, 2), given)
        coarse = coarse + self.attn(coarse.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, (8, 8))
        coarse = self.mid(coarse, given)
        out: Tensor = self.conv_out(self.up(torch.cat([fine, F.interpolate(coarse, scale_factor=2)], dim=1), given))
        return out
