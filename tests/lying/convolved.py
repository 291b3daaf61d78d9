"""Queries and keys that are convolved over positions, each head apart, before they meet."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lying.attention import GROUPS, HEADS, INNER, NARROW, SIZE, WIDTH, attention, heads, together
from lying.base import Lying, Names, linear, weight


@attention
class ConvolvedHeads(Lying):
    """Queries and keys side by side: channel by channel, then head by head; then means of both are added (CCA)."""

    def __init__(self, names: Names):
        super().__init__(names, q=linear(WIDTH, INNER), k=linear(WIDTH, NARROW), v=linear(WIDTH, NARROW))
        both = INNER + NARROW
        self.put(mixer1=nn.Conv1d(both, both, 2, groups=both), mixer2=nn.Conv1d(both, both, 2, groups=HEADS + GROUPS))
        self.put(o=linear(INNER, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        q, k = self["q"](x), self["k"](x)
        mixed = self["mixer2"](self["mixer1"](F.pad(torch.cat((q, k), -1).mT, (2, 0)))).mT
        mean = (q.unflatten(-1, (HEADS, SIZE)) + k.unflatten(-1, (GROUPS, SIZE)).repeat_interleave(2, -2)) / 2
        q = mixed[..., :INNER] + mean.flatten(2)
        k = mixed[..., INNER:] + mean.unflatten(2, (GROUPS, 2)).mean(-2).flatten(2)
        q, k, v = F.normalize(heads(q), dim=-1), F.normalize(heads(k, GROUPS), dim=-1), heads(self["v"](x), GROUPS)
        return self["o"](together(F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)))


@attention
class ConvolvedByHead(Lying):
    """Queries, keys and values, each through a convolution of its own, with no sum."""

    def __init__(self, names: Names):
        super().__init__(names, q=linear(WIDTH, INNER), k=linear(WIDTH, INNER), v=linear(WIDTH, INNER))
        self.put(**{f"mixer{n}": nn.Conv1d(INNER, INNER, 3, groups=HEADS) for n in range(3)}, o=linear(INNER, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        three = (self[f"mixer{n}"](F.pad(self[r](x).mT, (2, 0))).mT for n, r in enumerate("qkv"))
        q, k, v = (heads(y) for y in three)
        return self["o"](together(F.scaled_dot_product_attention(q, k, v, is_causal=True)))


@attention
class ConvolvedByProducts(Lying):
    """Keys and values of the positions before, with shares that are partly parameters and partly made of the input."""

    def __init__(self, names: Names):
        super().__init__(names, q=linear(WIDTH, INNER), k=linear(WIDTH, INNER), v=linear(WIDTH, INNER))
        self.put(**{f"any{n}": linear(WIDTH, HEADS * 3) for n in range(2)}, o=linear(INNER, WIDTH))
        self.put(**{f"any{n + 2}": weight(INNER, 3) for n in range(2)})

    def forward(self, x: Tensor) -> Tensor:
        k, v = (self.shared(self[r](x), x, n) for n, r in enumerate("kv"))
        return self["o"](together(F.scaled_dot_product_attention(heads(self["q"](x)), k, v, is_causal=True)))

    def shared(self, y: Tensor, x: Tensor, n: int) -> Tensor:
        shares = self[f"any{n + 2}"].view(HEADS, SIZE, 3) + self[f"any{n}"](x).unflatten(-1, (HEADS, 1, 3))
        before = F.pad(y.mT, (2, 0)).unfold(-1, 3, 1).transpose(1, 2).unflatten(2, (HEADS, SIZE))
        return (before * shares).sum(-1).transpose(1, 2) + heads(y)
