"""Where faults that are composed strike, and what they do there."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import torch
from corpus_edits import rounded
from corpus_fresh_faults import FIRST, SECOND
from corpus_fresh_stored import in_groups, nf4, rows
from corpus_world import ENDS, NotHere, World, elsewhere
from torch import Tensor, nn

from weibull_monitor import Component
from weibull_monitor.model.components import discover


class Struck(NamedTuple):
    """A struck component.

    Attributes:
        c: The component.
        w: Its elements, in place.
        p: The parameter that holds them; of a weight that is made of parameters, the one that has its shape.
        name: The parameter's name.
        u: The strength, from 0 to 1.
    """

    c: Component
    w: Tensor
    p: nn.Parameter
    name: str
    u: float


def between(u: float, mild: float, strong: float) -> float:
    return mild * (strong / mild) ** u


# Where.


def held(world: World, c: Component, u: float) -> Struck:
    """What is struck of a component; a weight that `torch.nn.utils.parametrize` makes is struck in what it is made of."""
    name = c.parameter
    if name not in dict(world.model.named_parameters()):
        path, _, last = name.rpartition(".")
        made = f"{path}.parametrizations.{last}"
        found = [n for n, p in world.model.named_parameters() if n.startswith(made) and p.shape == c.shape]
        if not found:
            raise NotHere(name)
        name = found[-1]
    p = world.model.get_parameter(name)
    return Struck(c, c.part.select(p.data) if c.part else p.data, p, name, u)


def _blocks(world: World) -> list[Component]:
    found = [c for c in discover(world.model).components if c.block is not None and c.trainable and c.numel >= 256]
    if not found:
        raise NotHere("blocks")
    return found


def _elsewhere(world: World, c: Component) -> list[Component]:
    found = elsewhere(c, _blocks(world))
    if not found:
        raise NotHere("two layers")
    return found


def _chosen(world: World, keep: Callable[[Component], bool]) -> list[Component]:
    found = [c for c in _blocks(world) if keep(c)]
    if not found:
        raise NotHere("components")
    return [world.chance.choice(found)]


def _kind(world: World) -> list[Component]:
    one = world.chance.choice(_blocks(world))
    return [c for c in _blocks(world) if (c.kind, c.tower, c.cross) == (one.kind, one.tower, one.cross)]


def _block(world: World) -> list[Component]:
    one = world.chance.choice(_blocks(world))
    return [c for c in _blocks(world) if (c.block, c.tower) == (one.block, one.tower) and not c.part]


def _later_blocks(world: World) -> list[Component]:
    numbers = sorted({c.block or 0 for c in _blocks(world)})
    if len(numbers) < 2:
        raise NotHere("blocks")
    return [c for c in _blocks(world) if (c.block or 0) >= numbers[len(numbers) // 2] and not c.part]


def _outside(kind: str) -> Callable[[World], list[Component]]:
    def chosen(world: World) -> list[Component]:
        found = [c for c in discover(world.model).components if c.kind == kind and c.trainable and c.numel >= 256]
        if not found:
            raise NotHere(kind)
        return [world.chance.choice(found)]

    return chosen


def _head(world: World) -> list[Component]:
    found = [c for c in world.components("attn_q", "attn_k", "attn_v", resolution="head") if c.part]
    if not found:
        raise NotHere("heads")
    return [world.chance.choice(found)]


WHERE: Final[dict[str, Callable[[World], list[Component]]]] = {
    "a matrix": lambda world: _chosen(world, lambda c: True),
    "a whole matrix": lambda world: _chosen(world, lambda c: not c.part and c.expert is None),
    "q or k": lambda world: _chosen(world, lambda c: c.kind in ("attn_q", "attn_k", "attn_q_b")),
    "v": lambda world: _chosen(world, lambda c: c.kind == "attn_v"),
    "an output": lambda world: _chosen(world, lambda c: c.kind in ENDS),
    "a feed-forward matrix": lambda world: _chosen(world, lambda c: c.kind.startswith("ffn")),
    "a part of a fused matrix": lambda world: _chosen(world, lambda c: c.part is not None),
    "an expert": lambda world: _chosen(world, lambda c: c.expert is not None),
    "a head": _head,
    "a kind": _kind,
    "a block": _block,
    "the later blocks": _later_blocks,
    "all blocks": lambda world: [c for c in _blocks(world) if not c.part],
    "the embedding": _outside("embedding"),
    "the last matrix": _outside("lm_head"),
}


def _page(w: Tensor, start: float) -> Tensor:
    keep, size = torch.zeros(w.numel(), dtype=torch.bool), min(1024, w.numel() // 2)
    at = int(start * (w.numel() - size))
    keep[at : at + size] = True
    return keep.view(w.shape)


def _band(w: Tensor, dim: int, start: float, share: float) -> Tensor:
    keep, size = torch.zeros(w.shape[dim], dtype=torch.bool), max(1, int(share * w.shape[dim]))
    at = int(start * (w.shape[dim] - size))
    keep[at : at + size] = True
    return keep.view([-1 if n == dim % w.dim() else 1 for n in range(w.dim())]).expand(w.shape)


PARTS: Final[dict[str, Callable[[Tensor, float, float], Tensor]]] = {
    "all of it": lambda w, start, u: torch.ones(w.shape, dtype=torch.bool),
    "rows": lambda w, start, u: _band(w, 0, start, between(u, 0.1, 0.6)),
    "columns": lambda w, start, u: _band(w, -1, start, between(u, 0.1, 0.6)),
    "a page": lambda w, start, u: _page(w, start),
    "a shard": lambda w, start, u: _band(w, 0, float(start > 0.5), 0.5 if u > 0.5 else 0.25),
    "some elements": lambda w, start, u: torch.rand(w.shape) < between(u, 0.01, 0.3),
}
"""Which elements are struck, by (elements, a number in [0, 1) that chooses the place, strength)."""


# What is written to matrices: made of what is struck, of the same shape.


def _other(world: World, s: Struck) -> Tensor:
    """The elements of the same kind of matrix in another block."""
    found = _elsewhere(world, s.c)
    return held(world, found[s.c.numel % len(found)], s.u).w


def _of(world: World, s: Struck, weights: dict[str, Tensor]) -> Tensor:
    if s.name not in weights or weights[s.name].shape != s.p.shape:
        raise NotHere(s.name)
    kept = weights[s.name]
    return s.c.part.select(kept) if s.c.part else kept


def _exchanged(world: World, s: Struck) -> Tensor:
    other = _other(world, s)
    mine = other.clone()
    other.copy_(s.w)
    return mine


def _low_rank(w: Tensor, scale: float) -> Tensor:
    a, b = torch.randn(len(rows(w)), 4), torch.randn(4, rows(w).shape[1])
    return w + (scale * w.std() * (a @ b) / 2).view(w.shape)


def _next_scale(w: Tensor) -> Tensor:
    scale = rows(w).abs().amax(1, keepdim=True).clamp_min(1e-12)
    return (rows(w) / scale * scale.roll(1, 0)).view(w.shape)


def _clamped(w: Tensor, size: float) -> Tensor:
    return w.clamp(-size * w.std(), size * w.std())


def _bits(s: Struck) -> Tensor:
    new, power = s.w.clone(), 2.0 ** (2 ** (2 + int(2.99 * s.u)))
    new.view(-1)[torch.randperm(s.w.numel())[: 1 + int(3 * s.u)]] *= power
    return new


def _pruned(w: Tensor, share: float) -> Tensor:
    limit = w.abs().float().flatten().kthvalue(max(1, int(share * w.numel()))).values
    return w * (w.abs() > limit)


WRITTEN: Final[dict[str, Callable[[World, Struck], Tensor]]] = {
    "larger": lambda _, s: s.w * between(s.u, 1.15, 6.0),
    "smaller": lambda _, s: s.w / between(s.u, 1.15, 6.0),
    "zeroed": lambda _, s: torch.zeros_like(s.w),
    "noisy": lambda _, s: s.w + between(s.u, 0.1, 2.0) * s.w.std() * torch.randn(s.w.shape),
    "another layer's": lambda world, s: _other(world, s).clone(),
    "exchanged": _exchanged,
    "averaged with another layer": lambda world, s: torch.lerp(s.w, _other(world, s), between(s.u, 0.2, 0.5)),
    "of an earlier step": lambda world, s: _of(world, s, world.earlier),
    "as at the start": lambda world, s: _of(world, s, world.first),
    "freshly drawn": lambda world, s: torch.randn(s.w.shape) * _of(world, s, world.first).std().clamp_min(1e-4),
    "0.02 instead": lambda _, s: 0.02 * torch.randn(s.w.shape),
    "moved twice": lambda world, s: s.w + between(s.u, 0.5, 4.0) * (s.w - _of(world, s, world.earlier)),
    "merged": lambda _, s: _low_rank(s.w, between(s.u, 0.1, 1.5)),
    "transposed": lambda _, s: between(s.u, 1.0, 2.0) * s.w.mT.reshape(s.w.shape),
    "other signs": lambda _, s: -s.w,
    "rows in another order": lambda _, s: s.w[torch.randperm(len(s.w))],
    "shifted": lambda _, s: s.w.reshape(-1).roll(1 + int(7 * s.u)).view(s.w.shape),
    "in few levels": lambda _, s: rounded(s.w, round(between(s.u, 31, 2))),
    "in NF4": lambda _, s: in_groups(s.w, 64, nf4),
    "in NF4 with the next scale": lambda _, s: in_groups(s.w, 64, lambda g, top: nf4(g, top) / top * top.roll(1, 0)),
    "with the next row's scale": lambda _, s: _next_scale(s.w),
    "in fp8 without a scale": lambda _, s: (
        (s.w * between(s.u, 1.0, 0.1)).to(torch.float8_e4m3fn).to(s.w.dtype) / between(s.u, 1.0, 0.1)
    ),
    "in fp8 with a wide exponent": lambda _, s: s.w.to(torch.float8_e5m2).to(s.w.dtype),
    "in bfloat16": lambda _, s: s.w.bfloat16().to(s.w.dtype),
    "clipped": lambda _, s: _clamped(s.w, between(s.u, 2.5, 0.5)),
    "bits": lambda _, s: _bits(s),
    "pruned": lambda _, s: _pruned(s.w, between(s.u, 0.1, 0.8)),
    "repeated": lambda _, s: torch.cat([s.w[: -(-len(s.w) // 2)]] * 2)[: len(s.w)],
    "rows of one length": lambda _, s: (
        rows(s.w) / rows(s.w).norm(dim=1, keepdim=True).clamp_min(1e-12) * rows(s.w).norm(dim=1).mean()
    ).view(s.w.shape),
    "dropped": lambda _, s: s.w * (torch.rand(s.w.shape) >= between(s.u, 0.05, 0.5)) / (1 - between(s.u, 0.05, 0.5)),
}


# States of optimizers: changed in place, by the tensor and what is struck.


def _state(world: World, s: Struck, names: tuple[str, ...]) -> Tensor:
    for optimizer in world.optimizers:
        for name in names:
            found = optimizer.state.get(s.p, {}).get(name)
            if isinstance(found, Tensor) and found.shape == s.p.shape:
                return found
    raise NotHere(names)


def _exchange_states(world: World, s: Struck) -> None:
    theirs = held(world, world.chance.choice(_elsewhere(world, s.c)), s.u)
    for names in (FIRST, SECOND):
        mine, its = _state(world, s, names), _state(world, theirs, names)
        mine.copy_(its.clone())


def _flip(v: Tensor, power: float) -> None:
    v.view(-1)[torch.randperm(v.numel())[0]] *= power


STATES: Final[dict[str, Callable[[World, Struck], object]]] = {
    "first moment larger": lambda world, s: _state(world, s, FIRST).mul_(between(s.u, 5.0, 200.0)),
    "first moment lost": lambda world, s: _state(world, s, FIRST).zero_(),
    "first moment negative": lambda world, s: _state(world, s, FIRST).neg_(),
    "second moment smaller": lambda world, s: _state(world, s, SECOND).div_(between(s.u, 10.0, 1e5)),
    "second moment larger": lambda world, s: _state(world, s, SECOND).mul_(between(s.u, 10.0, 1e5)),
    "second moment lost": lambda world, s: _state(world, s, SECOND).zero_(),
    "second moment in few levels": lambda world, s: _state(world, s, SECOND).copy_(
        rounded(_state(world, s, SECOND), round(between(s.u, 1023, 15)))
    ),
    "a bit of the first moment": lambda world, s: _flip(_state(world, s, FIRST), 2.0 ** (4 + int(20 * s.u))),
    "a bit of the second moment": lambda world, s: _flip(_state(world, s, SECOND), 2.0 ** -(4 + int(60 * s.u))),
    "another layer's states": _exchange_states,
}


# Gradients: changed in place, by the gradient and what is struck; ``kept`` lives as long as the fault.


def _late(s: Struck, g: Tensor, kept: dict[str, Any]) -> None:
    past = kept.setdefault(s.name, deque(maxlen=2 + int(15 * s.u)))
    past.append(g.clone())
    g.copy_(past[0])


def _added_up(s: Struck, g: Tensor, kept: dict[str, Any]) -> None:
    g.add_(kept.get(s.name, 0.0))
    kept[s.name] = g.clone()


def _of_another(world: World, s: Struck, g: Tensor) -> None:
    other = held(world, _elsewhere(world, s.c)[0], s.u).p.grad
    if other is None or other.shape != g.shape:
        raise NotHere("two layers")
    g.copy_(other)


def _largest(g: Tensor, share: float) -> None:
    limit = g.abs().float().flatten().kthvalue(max(1, math.ceil((1 - share) * g.numel()))).values
    g.mul_(g.abs() >= limit)


GRADIENTS: Final[dict[str, Callable[[World, Struck, Tensor, dict[str, Any]], object]]] = {
    "gradient larger": lambda world, s, g, kept: g.mul_(between(s.u, 3.0, 1000.0)),
    "gradient smaller": lambda world, s, g, kept: g.div_(between(s.u, 3.0, 1000.0)),
    "gradient zero": lambda world, s, g, kept: g.zero_(),
    "gradient noisy": lambda world, s, g, kept: g.add_(
        between(s.u, 0.5, 30.0) * g.square().mean().sqrt() * torch.randn(g.shape)
    ),
    "gradient negative": lambda world, s, g, kept: g.neg_(),
    "gradient of another layer": lambda world, s, g, kept: _of_another(world, s, g),
    "gradient late": lambda world, s, g, kept: _late(s, g, kept),
    "gradient never zeroed": lambda world, s, g, kept: _added_up(s, g, kept),
    "gradient's largest elements": lambda world, s, g, kept: _largest(g, between(s.u, 0.3, 0.01)),
    "gradient clipped by element": lambda world, s, g, kept: g.clamp_(
        -between(s.u, 1.0, 0.01) * g.std(), between(s.u, 1.0, 0.01) * g.std()
    ),
    "gradient in fp8": lambda world, s, g, kept: g.copy_(g.to(torch.float8_e5m2)),
}


# Settings of groups. Each returns what undoes it.


def _rate(world: World, s: Struck, factor: float) -> Callable[[], object]:
    if s.name != s.c.parameter:
        raise NotHere("a group of its own")
    place = world.own_group(s.c)
    world.factors[place] = factor
    return lambda: world.factors.update({place: 1.0})


def _group(world: World, s: Struck, key: str, change: Callable[[Any], Any]) -> Callable[[], object]:
    n, g = world.own_group(s.c) if s.name == s.c.parameter else (-1, -1)
    group = world.optimizers[n].param_groups[g] if n >= 0 else {}
    if not group.get(key) or (key == "eps" and not isinstance(group[key], float)):
        raise NotHere(key)
    before = group[key]
    group[key] = change(before)
    return lambda: group.update({key: before})


SETTINGS: Final[dict[str, Callable[[World, Struck], Callable[[], object]]]] = {
    "η larger": lambda world, s: _rate(world, s, between(s.u, 2.0, 50.0)),
    "η smaller": lambda world, s: _rate(world, s, 1 / between(s.u, 3.0, 1000.0)),
    "η zero": lambda world, s: _rate(world, s, 0.0),
    "η negative": lambda world, s: _rate(world, s, -between(s.u, 0.3, 3.0)),
    "decay larger": lambda world, s: _group(world, s, "weight_decay", lambda d: d * between(s.u, 5.0, 200.0)),
    "decay negative": lambda world, s: _group(world, s, "weight_decay", lambda d: -d * between(s.u, 1.0, 50.0)),
    "β₂ smaller": lambda world, s: _group(world, s, "betas", lambda b: (b[0], between(s.u, 0.9, 0.01), *b[2:])),
    "β₁ larger": lambda world, s: _group(world, s, "betas", lambda b: (1 - between(s.u, 0.03, 0.002), *b[1:])),
    "ε larger": lambda world, s: _group(world, s, "eps", lambda e: between(s.u, 1e-5, 1.0)),
}
