"""Attention that knows positions: biases of the logits, rotations of queries and keys, and matrices of relative positions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lying.attention import GROUPS, HEADS, INNER, NARROW, SIZE, WIDTH, Separate, attention, heads
from lying.base import Names, Role, linear, weight


@attention
class Alibi(Separate):
    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        t = torch.arange(x.shape[1], device=x.device)
        slopes = 2.0 ** -torch.arange(1.0, HEADS + 1, device=x.device)
        bias = slopes[:, None, None] * (t[None, None] - t[:, None]).abs()
        return F.scaled_dot_product_attention(q, k, v, attn_mask=-bias[None])


@attention
class ComplexRope(Separate):
    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        angles = torch.outer(torch.arange(x.shape[1], device=x.device), 1.0 / torch.arange(1, 4, device=x.device))
        turn = torch.polar(torch.ones_like(angles), angles)
        q, k = (torch.view_as_real(torch.view_as_complex(y.unflatten(-1, (-1, 2))) * turn).flatten(-2) for y in (q, k))
        return F.scaled_dot_product_attention(q, k, v)


def rotated(x: Tensor) -> Tensor:
    angles = torch.arange(x.shape[-2], device=x.device)[:, None] * torch.ones(x.shape[-1], device=x.device)
    a, b = x.chunk(2, -1)
    return x * angles.cos() + torch.cat((-b, a), -1) * angles.sin()


@attention
class RotateHalf(Separate):
    kv = NARROW

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        q, k = rotated(q), rotated(k)
        k, v = (y.repeat_interleave(HEADS // GROUPS, dim=1) for y in (k, v))
        return (q @ k.mT).softmax(-1) @ v


@attention
class PartialInterleavedRope(Separate):
    """Two features of six are turned, pairs next to each other."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        def turn(y: Tensor) -> Tensor:
            turned, kept = y[..., :2], y[..., 2:]
            even, odd = turned[..., ::2], turned[..., 1::2]
            return torch.cat([torch.stack((even * 0.8 - odd * 0.6, even * 0.6 + odd * 0.8), -1).flatten(-2), kept], -1)

        return F.scaled_dot_product_attention(turn(q), turn(k), v, is_causal=True)


@attention
class TransformerXl(Separate):
    """Two biases of the query, and keys of relative positions."""

    def __init__(self, names: Names):
        super().__init__(names)
        self.put(k1=(linear(WIDTH, INNER), Role("rel")), u=(weight(HEADS, SIZE), None), w=(weight(HEADS, SIZE), None))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        t = x.shape[1]
        positions = torch.arange(t, device=x.device)[:, None] / torch.arange(1, WIDTH + 1, device=x.device)
        r = self["k1"](positions.sin()[None])
        r = heads(r)
        content = (q + self["u"][:, None]) @ k.mT
        position = (q + self["w"][:, None]) @ r.mT
        position = F.pad(position, (1, 0)).view(*q.shape[:2], t + 1, t)[:, :, 1:].view_as(position)
        return ((content + position) * 0.4).softmax(-1) @ v
