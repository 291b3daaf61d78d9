"""Attention to a window around each query, in pieces: diagonals of scores become columns, and global tokens are beside them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lying.attention import HEADS, SIZE, WIDTH, Separate, attention, heads
from lying.base import Names, weight
from lying.base import Role as Of

SIDE = 2
"""How many tokens a query sees on each side."""


@attention
class SlidingChunks(Separate):
    """Scores of overlapping pieces are written into one tensor, in which each query has the same number of keys (Longformer)."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        length = x.shape[1]
        q, k, v = (F.pad(y, (0, 0, 0, -length % (2 * SIDE))).flatten(0, 1) for y in (q, k, v))
        found = self.weighed(self.scores(q, k).softmax(-1), v)
        return found.unflatten(0, (-1, HEADS))[:, :, :length]

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        """(batch · heads, queries, 2 · SIDE + 1)."""
        q, k = (y.unfold(1, 2 * SIDE, SIDE).mT for y in (q, k))  # (batch · heads, pieces, 2 · SIDE, features)
        every = F.pad(torch.einsum("bcxd,bcyd->bcxy", q, k), (0, 0, 0, 1))
        every = every.view(*every.shape[:2], 2 * SIDE, 2 * SIDE + 1)
        out = every.new_zeros((len(q), q.shape[1] + 1, SIDE, 2 * SIDE + 1))
        out[:, :-1, :, SIDE:] = every[:, :, :SIDE, : SIDE + 1]
        out[:, -1, :, SIDE:] = every[:, -1, SIDE:, : SIDE + 1]
        out[:, 1:, :, :SIDE] = every[:, :, -(SIDE + 1) : -1, SIDE + 1 :]
        return out.flatten(1, 2)

    def weighed(self, shares: Tensor, v: Tensor) -> Tensor:
        """(batch · heads, queries, features)."""
        v = F.pad(v, (0, 0, SIDE, SIDE), value=-1.0).unfold(1, 3 * SIDE, SIDE).mT
        shares = F.pad(shares.unflatten(1, (-1, SIDE)), (0, SIDE + 1))
        shares = shares.flatten(2)[:, :, :-SIDE].unflatten(2, (SIDE, 3 * SIDE + 1))[..., :-1]
        return torch.einsum("bcwd,bcdh->bcwh", shares, v).flatten(1, 2)


@attention
class WindowsAndGlobals(Separate):
    """Blocks of tokens read themselves and a few global ones: two products of weights of one softmax (PEGASUS-X)."""

    def __init__(self, names: Names):
        super().__init__(names)
        self.put(emb=(weight(1, 3, WIDTH), Of("table")))

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        few = self["emb"].expand(len(x), -1, -1)
        x = F.pad(x, (0, 0, 0, -length % 4))
        q, k, v = (heads(self[r](x)).unflatten(2, (-1, 4)) for r in "qkv")  # (batch, heads, blocks, 4, features)
        far, near = heads(self["k"](few)), heads(self["v"](few))
        scores = torch.cat((torch.einsum("bhnkd,bhgd->bhnkg", q, far), q @ k.mT), -1) / SIZE**0.5
        of_few, of_own = scores.softmax(-1).split([3, 4], -1)
        out = torch.einsum("bhnkg,bhgd->bhnkd", of_few, near) + of_own @ v
        return self["o"](out.flatten(2, 3).transpose(1, 2).flatten(2)[:, :length])
