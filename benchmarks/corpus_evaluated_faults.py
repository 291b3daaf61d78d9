"""Faults that are evaluated only: what goes wrong in practice when weights are loaded, converted, merged, averaged and stepped.

They were written before any run with them was replayed, and no threshold was chosen with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from corpus_edits import edit
from corpus_world import ENDS, MATRICES, NotHere, World
from torch import Tensor, nn

from weibull_monitor import Component
from weibull_monitor.model.components import discover

Fault = Callable[[World], None]


def _wrong_tensor(world: World) -> None:
    chosen = world.components(*MATRICES)
    world.chance.shuffle(chosen)
    for one in chosen:
        others = [c for c in chosen if c.shape == one.shape and c.kind != one.kind and c.parameter != one.parameter]
        if others:
            world.values(one).copy_(world.values(others[0]))
            world.strike(one)
            return
    raise NotHere("two kinds of a shape")


def _transposed(world: World) -> None:
    square = [c for c in world.components(*MATRICES) if len(c.shape) == 2 and c.shape[0] == c.shape[1]]
    if not square:
        raise NotHere("square matrices")
    component = world.chance.choice(square)
    values = world.values(component)
    values.copy_(1.6 * values.T.clone())
    world.strike(component)


def _wrong_order(world: World) -> None:
    fused: dict[str, list[Component]] = {}
    for c in world.components(*MATRICES):
        if c.part:
            fused.setdefault(c.parameter, []).append(c)
    found = [parts for parts in fused.values() if len(parts) > 1 and len({c.shape for c in parts}) == 1]
    if not found:
        raise NotHere("fused matrices")
    parts = world.chance.choice(found)
    values = [world.values(c).clone() for c in parts]
    for c, other in zip(parts, (*values[1:], values[0]), strict=True):
        world.values(c).copy_(other)
    world.strike(*parts)


@edit(*MATRICES)
def _one_scale(world: World, w: Tensor) -> Tensor:
    scales = w.abs().flatten(1).amax(1).clamp_min(1e-12) / 127  # one for each row; read as if there were one for all
    return (w / scales.view(len(w), *[1] * (w.dim() - 1))).round() * scales.max()


@edit(*MATRICES, whole=True)
def _partly_written(world: World, w: Tensor) -> None:
    w.view(-1)[int(0.6 * w.numel()) :] = 0.0


@edit(*MATRICES, whole=True)
def _bit_set(world: World, w: Tensor) -> None:
    bits, bit = (torch.int32, 25) if w.dtype == torch.float32 else (torch.int16, 9)
    w.view(-1)[::64].view(bits).bitwise_or_(1 << bit)  # values below 1/8 become 16 times as large, or stay


@edit(*MATRICES, whole=True)
def _byte_order(world: World, w: Tensor) -> None:
    flat = w.view(-1)
    at = world.chance.randrange(max(1, flat.numel() - 256))
    part = flat[at : at + 256]
    part.copy_(part.clone().view(torch.uint8).view(-1, w.element_size()).flip(1).flatten().view(w.dtype))


@edit(*MATRICES)
def _standardised(world: World, w: Tensor) -> Tensor:
    rows = w.flatten(1)
    rows = (rows - rows.mean(1, keepdim=True)) / (rows.std(1, keepdim=True) + 1e-6)
    return (rows / math.sqrt(rows.shape[1])).view(w.shape)


@edit(*MATRICES)
def _rows_capped(world: World, w: Tensor) -> Tensor:
    norms = w.flatten(1).norm(dim=1)
    factors = (0.6 * norms.median() / norms.clamp_min(1e-12)).clamp(max=1.0)
    return w * factors.view(-1, *[1] * (w.dim() - 1))


@edit(*MATRICES)
def _spectral(world: World, w: Tensor) -> None:
    w.div_(float(torch.linalg.matrix_norm(w.float().flatten(1), 2)))


@edit(*MATRICES)
def _small_floats(world: World, w: Tensor) -> Tensor:
    return w.to(torch.float8_e4m3fn).to(w.dtype)


@edit(*MATRICES)
def _smoothed(world: World, w: Tensor) -> Tensor:
    scales = torch.exp(0.7 * torch.randn(w.shape[1])).to(w.dtype)
    return w * scales.view(1, -1, *[1] * (w.dim() - 2))


@edit(*MATRICES)
def _two_of_four(world: World, w: Tensor) -> Tensor:
    rows = w.flatten(1)
    fours = rows[:, : rows.shape[1] // 4 * 4].reshape(-1, 4)
    kept = torch.zeros_like(fours).scatter_(1, fours.abs().topk(2, dim=1).indices, 1.0)
    new = rows.clone()
    new[:, : rows.shape[1] // 4 * 4] = (fours * kept).view(len(rows), -1)
    return new.view(w.shape)


@edit(*MATRICES)
def _compressed(world: World, w: Tensor) -> Tensor:
    u, s, v = torch.linalg.svd(w.float().flatten(1), full_matrices=False)
    rank = len(s) // 4
    return ((u[:, :rank] * s[:rank]) @ v[:rank]).view(w.shape)


@edit(*MATRICES)
def _sign_lost(world: World, w: Tensor) -> Tensor:
    return w.abs()


@edit(*MATRICES)
def _shifted(world: World, w: Tensor) -> Tensor:
    return w.roll(1)


def _adapter(world: World) -> None:
    component = world.one(*MATRICES, whole=True)
    p = world.parameter(component).data
    u, s, v = torch.linalg.svd((p - world.earlier[component.parameter]).float().flatten(1), full_matrices=False)
    p.add_((8.0 * (u[:, :4] * s[:4]) @ v[:4]).view(p.shape))
    world.strike(component)


def _half_of_the_heads(world: World) -> None:
    heads = world.components("attn_q", "attn_k", "attn_v", resolution="head")
    heads = [c for c in heads if c.part and c.part.label.split()[-1].isdigit()]
    if not heads:
        raise NotHere("heads")
    one = world.chance.choice(heads)
    members = [
        c
        for c in heads
        if (c.block, c.tower, c.cross) == (one.block, one.tower, one.cross)
        and c.part
        and int(c.part.label.split()[-1]) % 2 == 0
    ]
    for c in members:
        world.values(c).normal_(std=0.02)
    world.strike(*members)


def _blocks(world: World) -> dict[tuple[Any, Any], list[Component]]:
    found: dict[tuple[Any, Any], list[Component]] = {}
    for c in world.components(*MATRICES, "attn_qkv"):
        found.setdefault((c.tower, c.block), []).append(c)
    return found


def _averaged(world: World) -> None:
    blocks = _blocks(world)
    pairs = [(key, (key[0], key[1] + 1)) for key in blocks if (key[0], key[1] + 1) in blocks]
    world.chance.shuffle(pairs)
    for one, other in pairs:
        by_kind = {(c.kind, c.cross, c.shape): c for c in blocks[other]}
        both = [(c, by_kind[c.kind, c.cross, c.shape]) for c in blocks[one] if (c.kind, c.cross, c.shape) in by_kind]
        if both:
            for c, d in both:
                world.values(c).add_(world.values(d)).mul_(0.5)
            world.strike(*(c for c, _ in both))
            return
    raise NotHere("two blocks")


def _scaled_twice(world: World) -> None:
    ends = world.components(*ENDS)
    if not ends:
        raise NotHere("outputs")
    for c in ends:
        world.values(c).div_(math.sqrt(2 * len(_blocks(world))))
    world.strike(*ends)


def _embedding(change: Callable[[Tensor, Tensor], object]) -> Fault:
    """A change of a third of an embedding's rows."""

    def fault(world: World) -> None:
        found = [
            c for c in discover(world.model).components if c.kind == "embedding" and c.trainable and c.numel > 4096
        ]
        if not found:
            raise NotHere("embedding")
        component = world.chance.choice(found)
        values = world.values(component)
        change(values, torch.randperm(len(values))[: len(values) // 3])
        world.strike(component)

    return fault


def _default_rows(w: Tensor, rows: Tensor) -> None:
    w[rows] = torch.randn(len(rows), w.shape[1]).to(w.dtype)  # what a new nn.Embedding has


def _mean_rows(w: Tensor, rows: Tensor) -> None:
    w[rows] = w.mean(0)  # what resized embeddings get


def _whole_model(change: Callable[[World, str, Tensor], object]) -> Fault:
    def fault(world: World) -> None:
        for name, p in world.model.named_parameters():
            if p.requires_grad:
                change(world, name, p.data)

    return fault


def _rate_of_a_block(world: World, factor: float) -> None:
    members = world.chance.choice(list(_blocks(world).values()))
    for c in {c.parameter: c for c in members}.values():
        world.factors[world.own_group(c)] = factor
    world.strike(*members)


def _twice(world: World) -> None:
    world.after_step.extend(optimizer.step for optimizer in world.optimizers)


def _gradients(world: World, factor: float, every: int = 1) -> None:
    """Multiplies the gradients of all parameters, or of one in some that follow each other, as a bucket does."""
    parameters = [p for p in world.model.parameters() if p.requires_grad]
    chosen = parameters[len(parameters) // 3 :][: len(parameters) // every]

    def change() -> None:
        for p in chosen:
            if p.grad is not None:
                p.grad.mul_(factor)

    world.before_step.append(change)


def _exchanged_gradients(world: World) -> None:
    chosen = world.components(*MATRICES)
    world.chance.shuffle(chosen)
    for one in chosen:
        for other in chosen:
            if (one.kind, one.shape, one.cross) == (other.kind, other.shape, other.cross) and one.block != other.block:
                p, q = world.parameter(one), world.parameter(other)

                def change(p: nn.Parameter = p, q: nn.Parameter = q) -> None:
                    p.grad, q.grad = q.grad, p.grad

                world.before_step.append(change)
                world.strike(one, other)
                return
    raise NotHere("two layers")


def _decay_of_a_group(world: World) -> None:
    groups = [g for optimizer in world.optimizers for g in optimizer.param_groups if g.get("weight_decay")]
    if not groups:
        raise NotHere("decay")
    max(groups, key=lambda g: len(g["params"]))["weight_decay"] *= 10.0


def _set(**new: Any) -> Fault:
    """A setting of all groups that is lost, or read wrongly."""

    def fault(world: World) -> None:
        groups = [g for optimizer in world.optimizers for g in optimizer.param_groups]
        for name, value in new.items():
            if not any(name in g for g in groups):
                raise NotHere(name)
            for g in groups:
                if name in g:
                    g[name] = value(g[name])

    return fault


def _wrong_states(world: World) -> None:
    for optimizer in world.optimizers:
        by_shape: dict[Sequence[int], list[Tensor]] = {}
        for p in optimizer.state:
            by_shape.setdefault(tuple(p.shape), []).append(p)
        for alike in by_shape.values():
            states = [optimizer.state[p] for p in alike]
            for p, state in zip(alike, (*states[1:], states[0]), strict=True):
                optimizer.state[p] = state


def _steps_forgotten(world: World) -> None:
    found = False
    for optimizer in world.optimizers:
        for state in optimizer.state.values():
            if "step" in state:
                state["step"] = state["step"] * 0
                found = True
    if not found:
        raise NotHere("steps")


def _at_every_step(change: Callable[[Tensor, Tensor], object]) -> Fault:
    """A change of one matrix after every step; it gets the values and those at the time of the fault."""

    def fault(world: World) -> None:
        component = world.one(*MATRICES)
        p, first = world.parameter(component), world.values(component).clone()
        if p.dtype != torch.float32:
            raise NotHere("float32")
        world.after_step.append(lambda: change(world.values(component), first))
        world.strike(component)

    return fault


def _cut(w: Tensor, first: Tensor) -> None:
    w.copy_(((w.clone().view(torch.int32) >> 16) << 16).view(torch.float32))


def _later_targets(world: World) -> None:
    def change(batch: dict[str, Tensor]) -> None:
        if "labels" not in batch:
            raise NotHere("labels")
        batch["labels"] = batch["labels"].roll(1, dims=-1)

    world.on_batch.append(change)


EVALUATED_FAULTS: Final[dict[str, Fault]] = {
    # What was loaded, converted or written.
    "another kind's weights": _wrong_tensor,
    "transposed and × 1.6": _transposed,
    "fused parts in the wrong order": _wrong_order,
    "int8 with one scale for all rows": _one_scale,
    "partly written": _partly_written,
    "exponent bit set in every 64th": _bit_set,
    "bytes in the wrong order": _byte_order,
    "half of the heads re-initialised": _half_of_the_heads,
    "cast to e4m3 without a scale": _small_floats,
    "columns smoothed": _smoothed,
    "2 of 4 pruned": _two_of_four,
    "compressed to a quarter of the rank": _compressed,
    "sign bit lost": _sign_lost,
    "shifted by an element": _shifted,
    "embedding rows of a new embedding": _embedding(_default_rows),
    "embedding rows all their mean": _embedding(_mean_rows),
    # What was merged, averaged or normalised.
    "adapter merged with α × 8": _adapter,
    "two blocks averaged": _averaged,
    "average of 50 steps copied back": _whole_model(lambda world, name, w: w.add_(world.earlier[name]).mul_(0.5)),
    "average without its correction": _whole_model(lambda world, name, w: w.mul_(0.78)),
    "rows standardised": _standardised,
    "row norms capped": _rows_capped,
    "divided by its spectral norm": _spectral,
    "residual scale applied twice": _scaled_twice,
    # What is stepped.
    "η of a block is 0": lambda world: _rate_of_a_block(world, 0.0),
    "η × 8 for a block": lambda world: _rate_of_a_block(world, 8.0),
    "each step twice": _twice,
    "loss scale left in": lambda world: _gradients(world, 1024.0),
    "a bucket summed over 8 ranks": lambda world: _gradients(world, 8.0, every=3),
    "gradients of two layers exchanged": _exchanged_gradients,
    "λ_wd × 10 for a group": _decay_of_a_group,
    "states of other parameters": _wrong_states,
    "step counter lost": _steps_forgotten,
    "ε × 10⁶": _set(eps=lambda eps: eps * 1e6 if isinstance(eps, float) else eps),
    "β₂ is 0.1": _set(betas=lambda betas: (betas[0], 0.1, *betas[2:])),
    "noise at every step": _at_every_step(lambda w, first: w.add_(0.05 * first.std() * torch.randn(w.shape))),
    "cut to bfloat16 at every step": _at_every_step(_cut),
    "overwritten by a stale rank": _at_every_step(lambda w, first: w.copy_(first)),
    "targets one too late": _later_targets,
}
