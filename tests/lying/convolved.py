"""Queries and keys that are convolved over positions, each head apart, before they meet."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lying.attention import GROUPS, HEADS, INNER, NARROW, SIZE, WIDTH, attention, heads, together
from lying.base import Lying, Names, linear


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
