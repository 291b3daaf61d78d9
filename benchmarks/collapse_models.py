"""Small transformers written in three styles of their own, which no library of models has: for `attention_scale`."""

from __future__ import annotations

import math
from typing import Any

import torch
import transformers
from torch import Tensor, nn

VOCABULARY, WIDTH, BLOCKS, HEADS, CONTEXT = 257, 96, 3, 4, 64
SIZE = WIDTH // HEADS


def rotated(x: Tensor) -> Tensor:
    """Rotary positions, for x of shape (batch, heads, time, SIZE)."""
    half = SIZE // 2
    angle = torch.arange(x.shape[2])[:, None] * 10000.0 ** (-torch.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], dim=-1)


def attend(q: Tensor, k: Tensor, causal: bool) -> Tensor:
    """Attention of q (batch, heads, queries, SIZE) to k (batch, heads, keys, SIZE): shape (batch, heads, queries, keys)."""
    scores = q @ k.transpose(-2, -1) / math.sqrt(SIZE)
    if causal:
        scores = scores.masked_fill(~torch.ones(scores.shape[-2:], dtype=torch.bool).tril(), -math.inf)
    return scores.softmax(-1)


class Fused(nn.Module):
    """Attention with one matrix, whose rows go q, k, v by head; after the feed-forward layer, in parallel with it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.Wqkv, self.out_proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.attention: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        h = self.norm(x)
        q, k, v = self.Wqkv(h).view(b, t, 3, HEADS, SIZE).permute(2, 0, 3, 1, 4)
        self.attention = attend(rotated(q), rotated(k), causal=True)
        mixed = (self.attention @ v).transpose(1, 2).reshape(b, t, WIDTH)
        return x + self.out_proj(mixed) + self.fc2(nn.functional.gelu(self.fc1(h)))  # type: ignore[no-any-return]


class Grouped(nn.Module):
    """Attention whose heads share two keys, with rotary positions and a gated feed-forward layer; with ``norm``, QK-norm."""

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        self.attention_norm, self.ffn_norm = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.wq, self.wo = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.wk, self.wv = nn.Linear(WIDTH, 2 * SIZE, bias=False), nn.Linear(WIDTH, 2 * SIZE, bias=False)
        self.w1, self.w3 = nn.Linear(WIDTH, 256, bias=False), nn.Linear(WIDTH, 256, bias=False)
        self.w2 = nn.Linear(256, WIDTH, bias=False)
        self.q_norm, self.k_norm = (nn.RMSNorm(SIZE) if norm else nn.Identity() for _ in range(2))
        self.attention: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        h = self.attention_norm(x)
        q = self.q_norm(self.wq(h).view(b, t, HEADS, SIZE)).transpose(1, 2)
        k = self.k_norm(self.wk(h).view(b, t, 2, SIZE)).transpose(1, 2).repeat_interleave(HEADS // 2, dim=1)
        v = self.wv(h).view(b, t, 2, SIZE).transpose(1, 2).repeat_interleave(HEADS // 2, dim=1)
        self.attention = attend(rotated(q), rotated(k), causal=True)
        x = x + self.wo((self.attention @ v).transpose(1, 2).reshape(b, t, WIDTH))
        h = self.ffn_norm(x)
        return x + self.w2(nn.functional.silu(self.w1(h)) * self.w3(h))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """A language model of such blocks."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(make() for _ in range(BLOCKS))
        self.norm, self.output = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY, bias=False)
        _small(self)

    def forward(self, input_ids: Tensor, labels: Tensor, **_: Any) -> Any:
        x = self.tok_embeddings(input_ids)
        for block in self.layers:
            x = block(x)
        loss = nn.functional.cross_entropy(self.output(self.norm(x))[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return transformers.utils.ModelOutput(loss=loss, attentions=tuple(b.attention for b in self.layers))


class Crossed(nn.Module):
    """An encoder, and a decoder that reads it, of torch's `MultiheadAttention`, with norms after the layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(VOCABULARY, WIDTH), nn.Parameter(torch.zeros(CONTEXT, WIDTH))
        self.encoder = nn.ModuleList(Meeting() for _ in range(2))
        self.decoder = nn.ModuleList(Meeting() for _ in range(2))
        self.reader = nn.ModuleList(Meeting() for _ in range(2))
        self.head = nn.Linear(WIDTH, VOCABULARY)
        nn.init.normal_(self.position, std=0.02)

    def forward(self, input_ids: Tensor, labels: Tensor, **_: Any) -> Any:
        x = self.embed(input_ids) + self.position[: input_ids.shape[1]]
        for block in self.encoder:
            x = block(x, x, causal=False)
        y = self.embed(nn.functional.pad(labels[:, :-1], (1, 0))) + self.position[: labels.shape[1]]
        for own, other in zip(self.decoder, self.reader, strict=True):
            y = other(own(y, y, causal=True), x, causal=False)
        loss = nn.functional.cross_entropy(self.head(y).flatten(0, 1), labels.flatten())
        found = tuple(b.seen for part in (self.encoder, self.decoder, self.reader) for b in part)
        return transformers.utils.ModelOutput(loss=loss, attentions=found)


class Meeting(nn.Module):
    """Attention of one sequence to another, or to itself, and a feed-forward layer."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.lin1, self.lin2 = nn.Linear(WIDTH, 256), nn.Linear(256, WIDTH)
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.seen: Tensor | None = None

    def forward(self, x: Tensor, to: Tensor, causal: bool) -> Tensor:
        mask = torch.ones(x.shape[1], to.shape[1], dtype=torch.bool).triu(1) if causal else None
        mixed, self.seen = self.attn(x, to, to, attn_mask=mask, average_attn_weights=False)
        x = self.norm1(x + mixed)
        return self.norm2(x + self.lin2(nn.functional.gelu(self.lin1(x))))  # type: ignore[no-any-return]


def _small(model: nn.Module) -> None:
    for p in model.parameters():
        if p.dim() > 1:
            nn.init.normal_(p, std=0.02)


OWN = {
    "fused-rope": ("text", lambda: Decoder(Fused)),
    "grouped-rope": ("text", lambda: Decoder(Grouped)),
    "crossed": ("pairs", Crossed),
    "grouped-norm": ("text", lambda: Decoder(lambda: Grouped(norm=True))),
}
"""Kind of data, and what makes the model."""
