"""Attention at places that the query chooses: deformable attention, in three ways of writing it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lying.attention import HEADS, INNER, SIZE, WIDTH, attention, heads, together
from lying.base import Lying, Names, linear

POINTS = 3


class Sampled(Lying):
    """Values at a few places near each query, which two matrices choose and weigh."""

    def __init__(self, names: Names):
        super().__init__(names, v=linear(WIDTH, INNER), o=linear(INNER, WIDTH, True))
        self.put(none1=linear(WIDTH, HEADS * POINTS, True), none2=linear(WIDTH, HEADS * POINTS, True))

    def chosen(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Places from 0 to 1, and weights that sum to 1: (batch, heads, queries, points)."""
        near = torch.linspace(0.0, 1.0, x.shape[1])[None, None, :, None]
        offsets, weights = (self[r](x).unflatten(-1, (HEADS, POINTS)).transpose(1, 2) for r in ("none1", "none2"))
        return near + offsets / x.shape[1], weights.softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        places, weights = self.chosen(x)
        v = self["v"](x).unflatten(-1, (HEADS, SIZE)).permute(0, 2, 3, 1)  # (batch, heads, features, positions)
        return self["o"](self.taken(v, places, weights).permute(0, 2, 1, 3).flatten(2))

    def taken(self, v: Tensor, places: Tensor, weights: Tensor) -> Tensor:
        """What is attended to, (batch, heads, queries, features)."""
        raise NotImplementedError

    def at(self, v: Tensor, places: Tensor) -> Tensor:
        """Values at places, (batch · heads, features, queries, points)."""
        grid = torch.stack((2 * places - 1, torch.zeros_like(places)), -1).flatten(0, 1)
        return F.grid_sample(v.flatten(0, 1).unsqueeze(2), grid, align_corners=False)


@attention
class Deformable(Sampled):
    def taken(self, v: Tensor, places: Tensor, weights: Tensor) -> Tensor:
        out = (self.at(v, places) * weights.flatten(0, 1).unsqueeze(1)).sum(-1)
        return out.unflatten(0, (-1, HEADS)).mT


@attention
class DeformableByProducts(Sampled):
    def taken(self, v: Tensor, places: Tensor, weights: Tensor) -> Tensor:
        found = self.at(v, places).unflatten(0, (-1, HEADS))
        return torch.einsum("bhdqp,bhqp->bhqd", found, weights)


@attention
class DeformableByLevels(Sampled):
    """Of two sizes of a picture, one after the other."""

    def taken(self, v: Tensor, places: Tensor, weights: Tensor) -> Tensor:
        out = 0
        for part in (v, F.avg_pool1d(v.flatten(0, 1), 2).unflatten(0, v.shape[:2])):
            out = out + (self.at(part, places) * weights.flatten(0, 1).unsqueeze(1)).sum(-1)
        return out.unflatten(0, (-1, HEADS)).mT  # type: ignore[attr-defined, no-any-return]


@attention
class DeformableByIndex(Sampled):
    """Values at the two positions around each place, each times how near it is."""

    def taken(self, v: Tensor, places: Tensor, weights: Tensor) -> Tensor:
        where = places.clamp(0, 1) * (v.shape[-1] - 1)
        low = where.floor().long()
        out = torch.zeros(())
        for index, share in ((low, 1 - (where - low)), ((low + 1).clamp(max=v.shape[-1] - 1), where - low)):
            found = v.gather(-1, index.flatten(2).unsqueeze(2).expand(-1, -1, SIZE, -1))
            out = out + found.unflatten(-1, index.shape[2:]) * share.unsqueeze(
                2
            )  # (batch, heads, features, queries, points)
        return (out * weights.unsqueeze(2)).sum(-1).mT


@attention
class KeysAtPlaces(Lying):
    """Keys and values are made of what lies at a few places that all queries choose together (DAT)."""

    def __init__(self, names: Names):
        super().__init__(names, q=linear(WIDTH, INNER), k=linear(WIDTH, INNER), v=linear(WIDTH, INNER))
        self.put(o=linear(INNER, WIDTH), any1=linear(INNER, 1))

    def forward(self, x: Tensor) -> Tensor:
        q = self["q"](x)
        places = torch.linspace(-1, 1, x.shape[1])[None, :, None] + self["any1"](q).tanh()
        grid = torch.cat((places, torch.zeros_like(places)), -1).unsqueeze(1)
        found = F.grid_sample(x.mT.unsqueeze(2), grid, align_corners=True).squeeze(2).mT
        k, v = self["k"](found), self["v"](found)
        return self["o"](together(F.scaled_dot_product_attention(heads(q), heads(k), heads(v))))
