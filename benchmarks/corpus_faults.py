"""The faults that branches of trainings are broken by, each at one step and to matrices that the branch's seed chooses."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import count
from typing import Final

import corpus_edits as edits
import torch
from corpus_world import ENDS, MATRICES, SELECTION, NotHere, Q, World, elsewhere
from torch import Tensor

from weibull_monitor.model.components import discover


def _faster_selection(world: World) -> None:
    chosen = world.components(*SELECTION, "attn_qkv")
    for p in {c.parameter: c for c in chosen}.values():
        world.factors[world.own_group(p)] = 30.0
    world.strike(*chosen)


def _all_groups(world: World) -> list[tuple[int, int]]:
    return [(n, g) for n, optimizer in enumerate(world.optimizers) for g in range(len(optimizer.param_groups))]


def factor_all(world: World, factor: float) -> None:
    world.factors = dict.fromkeys(_all_groups(world), factor)


def _one_step(world: World, factor: float) -> None:
    factor_all(world, factor)
    world.after_step.append(world.factors.clear)


def factor_one(world: World, factor: float, *kinds: str) -> None:
    component = world.one(*kinds)
    world.factors[world.own_group(component)] = factor
    world.strike(component)


def _block(world: World) -> None:
    chosen = world.components(*MATRICES)
    first = world.chance.choice(chosen)
    members = [c for c in chosen if (c.block, c.tower) == (first.block, first.tower)]
    for c in members:
        world.values(c).normal_(std=0.02)
    world.strike(*members)


def _head(world: World) -> None:
    heads = world.components("attn_q", "attn_k", "attn_v", resolution="head")
    heads = [c for c in heads if c.part and c.part.label.split()[-1].isdigit()]
    queries = [c for c in heads if c.kind == "attn_q"]
    if not queries:
        raise NotHere("heads")
    one = world.chance.choice(queries)
    number = one.part.label.split()[-1] if one.part else ""
    members = [
        c
        for c in heads
        if (c.block, c.tower, c.cross) == (one.block, one.tower, one.cross)
        and c.part
        and c.part.label.split()[-1] == number
    ]
    for c in members:
        world.values(c).zero_()
    world.strike(*members)


def decay(world: World, factor: float) -> None:
    if not any(group.get("weight_decay") for optimizer in world.optimizers for group in optimizer.param_groups):
        raise NotHere("decay")
    for optimizer in world.optimizers:
        for group in optimizer.param_groups:
            group["weight_decay"] *= factor


def _infinite(world: World) -> None:
    def poison() -> None:
        grads = [p.grad for p in world.model.parameters() if p.grad is not None]
        for grad in grads:
            grad.fill_(math.inf)
        world.before_step.clear()

    world.before_step.append(poison)


def _bytes(world: World, at_random: bool) -> None:
    component = world.one(*MATRICES, "attn_qkv", whole=True)
    flat = world.parameter(component).data.view(-1)
    size = 4096 // flat.element_size()
    at = world.chance.randrange(0, max(1, flat.numel() - size), size)
    block = flat[at : at + size]
    if at_random:
        noise = torch.tensor(list(world.chance.randbytes(block.numel() * flat.element_size())), dtype=torch.uint8).view(
            flat.dtype
        )
        block.copy_(torch.nan_to_num(noise, nan=1.0, posinf=1e30, neginf=-1e30))
    else:
        block.zero_()
    world.strike(component)


def _forgotten(world: World) -> None:
    for optimizer in world.optimizers:
        optimizer.state.clear()


def _gradient(world: World, factor: float | None, *kinds: str) -> None:
    chosen = world.components(*kinds) if factor else [world.one(*kinds)]
    if not chosen:
        raise NotHere(kinds)
    parameters = {id(world.parameter(c)): world.parameter(c) for c in chosen}.values()

    def change() -> None:
        for p in parameters:
            if p.grad is not None:
                if factor:
                    p.grad.mul_(factor)
                else:  # the layer was cut off: its gradient is zero, and the optimizer still steps it
                    p.grad.zero_()

    world.before_step.append(change)
    world.strike(*chosen)


def _gains(world: World) -> None:
    found = [
        m
        for n, m in world.model.named_modules()
        if "norm" in type(m).__name__.lower() and getattr(m, "weight", None) is not None
    ]
    if not found:
        raise NotHere("norms")
    world.chance.choice(found).weight.data.mul_(10.0)  # type: ignore[union-attr, operator]


def _labels(world: World, at_random: bool) -> None:
    def change(batch: dict[str, Tensor]) -> None:
        if "labels" not in batch:
            raise NotHere("labels")
        kept = batch["labels"] >= 0
        new = torch.randint_like(batch["labels"], 1, 9) if at_random else torch.full_like(batch["labels"], 5)
        batch["labels"] = torch.where(kept, new, batch["labels"])

    world.on_batch.append(change)


def _scrambled(world: World) -> None:
    def change(batch: dict[str, Tensor]) -> None:
        name = next((n for n in ("input_ids", "pixel_values", "x") if n in batch), None)
        if name is None:
            raise NotHere("inputs")
        batch[name] = batch[name].flatten()[torch.randperm(batch[name].numel())].reshape(batch[name].shape)

    world.on_batch.append(change)


def _momentum(world: World) -> None:
    for optimizer in world.optimizers:
        for state in optimizer.state.values():
            for name in ("exp_avg", "m", "momentum_buffer", "moment1"):
                if name in state:
                    state[name].mul_(100.0)


def second_moment(world: World, factor: float = 1e-4) -> None:
    found = False
    for optimizer in world.optimizers:
        for state in optimizer.state.values():
            for name in ("exp_avg_sq", "moment2"):
                if name in state:
                    state[name].mul_(factor)
                    found = True
    if not found:
        raise NotHere("second moment")


def _stale(world: World) -> None:
    component = world.one(*MATRICES, "attn_qkv", whole=True)
    world.parameter(component).data.copy_(world.earlier[component.parameter])
    world.strike(component)


def _other_layer(world: World) -> None:
    chosen = world.components(*MATRICES, "attn_qkv")
    world.chance.shuffle(chosen)
    for one in chosen:
        if others := elsewhere(one, chosen):
            world.values(one).copy_(world.values(others[0]))
            world.strike(one)
            return
    raise NotHere("two layers")


def _dead(world: World) -> None:
    ends = world.components(*ENDS)
    if not ends:
        raise NotHere("outputs")
    block = world.chance.choice(ends)
    members = [c for c in ends if (c.block, c.tower) == (block.block, block.tower)]
    for c in members:
        world.values(c).zero_()
    world.strike(*members)


def _embedding(world: World) -> None:
    found = [c for c in discover(world.model).components if c.kind == "embedding" and c.trainable and c.numel > 4096]
    if not found:
        raise NotHere("embedding")
    component = world.chance.choice(found)
    values = world.values(component)
    rows = torch.randperm(len(values))[: len(values) // 4]
    values[rows] = 5.0 * values.std() * torch.randn(len(rows), *values.shape[1:])
    world.strike(component)


def _mixed(world: World) -> None:
    chosen = world.components(*MATRICES)
    one = world.chance.choice(chosen)
    others = elsewhere(one, chosen)
    if not others:
        raise NotHere("two layers")
    world.values(one).add_(world.values(others[0])).mul_(0.5)
    world.strike(one)


def _ascending(world: World) -> None:
    def change() -> None:
        for p in world.model.parameters():
            if p.grad is not None:
                p.grad.neg_()

    world.before_step.append(change)


def _spike(world: World) -> None:
    def change() -> None:
        for p in world.model.parameters():
            if p.grad is not None:
                p.grad.mul_(1000.0)
        world.before_step.clear()

    world.before_step.append(change)


def at_call(number: int, change: Callable[[], object]) -> Callable[[], object]:
    """Makes a change when it is called for this time, from 1."""
    calls = count(1)
    return lambda: change() if next(calls) == number else None


def _some_steps(world: World, factor: float, steps: int) -> None:
    factor_all(world, factor)
    world.after_step.append(at_call(steps, world.factors.clear))


OLD: Final[dict[str, Callable[[World], None]]] = {
    "η × 30 for q and k": _faster_selection,
    "η × 30 for all": lambda world: factor_all(world, 30.0),
    "W_q × 8": edits.blown_up,
    "W_k re-initialised": edits.reset_key,
    "block re-initialised": _block,
    "head zeroed": _head,
    "frozen by rounding": lambda world: factor_one(world, 1e-4, *MATRICES),
    "λ_wd × 100": lambda world: decay(world, 100.0),
    "Inf in a gradient": _infinite,
    "random bytes": lambda world: _bytes(world, True),
    "zero bytes": lambda world: _bytes(world, False),
    "optimizer state lost": _forgotten,
    "gradient of q × 50": lambda world: _gradient(world, 50.0, *Q, "attn_qkv"),
    "LayerNorm gains × 10": _gains,
    "no gradient": lambda world: _gradient(world, None, *MATRICES, "attn_qkv"),
    "labels all one token": lambda world: _labels(world, False),
    "label noise": lambda world: _labels(world, True),
}
OLD_TOO: Final[dict[str, Callable[[World], None]]] = {
    "η × 15 for a matrix": lambda world: factor_one(world, 15.0, *MATRICES),
    "columns zeroed": edits.columns_zeroed,
    "rows × 4": edits.rows_grown,
    "low rank added": edits.low_rank,
    "five steps at η × 30": lambda world: _some_steps(world, 30.0, 5),
    "second moment × 0.001": lambda world: second_moment(world, 1e-3),
    "matrix × 1.5": edits.larger,
    "matrix × 0.6": edits.smaller,
    "normal instead of trained": edits.normal,
    "decay × −30": lambda world: decay(world, -30.0),
    "half of the values noise": edits.half_noise,
    "3-bit rounding": edits.three_bits,
    "clipped at 1.2 σ": edits.clipped,
    "a quarter from the start": edits.quarter,
}
NEW: Final[dict[str, Callable[[World], None]]] = {
    "flipped exponent bit": edits.bit,
    "transposed": edits.transposed,
    "η × 10 for a matrix": lambda world: factor_one(world, 10.0, *MATRICES),
    "momentum × 100": _momentum,
    "rows zeroed": edits.rows_zeroed,
    "feed-forward re-initialised": edits.reset_forward,
    "stale weights": _stale,
    "another layer's weights": _other_layer,
    "cast to fp8": edits.cast,
    "NaN in a matrix": edits.nan,
    "dead layer": _dead,
    "noise added": edits.noise,
    "summed over ranks": edits.summed,
    "embedding corrupted": _embedding,
    "matrix halved": edits.halved,
    "half of the columns × 3": edits.columns,
    "decay with the wrong sign": lambda world: decay(world, -10.0),
    "one step at η × 100": lambda world: _one_step(world, 100.0),
    "second moment lost": second_moment,
    "4-bit rounding": edits.four_bits,
    "adapter merged twice": edits.merged,
    "clamped": edits.clamped,
    "uniform instead of normal": edits.uniform,
    "η is 0": lambda world: factor_all(world, 0.0),
    "scrambled tokens": _scrambled,
    "wrong shard": edits.shard,
    "signs flipped": edits.signs,
    "rows permuted": edits.permuted,
    "sparsified": edits.sparse,
    "outliers in a matrix": edits.outliers,
}
LAST: Final[dict[str, Callable[[World], None]]] = {
    "rows × 2": edits.rows_doubled,
    "a third from the start": edits.third,
    "weights dropped out": edits.dropped,
    "ternary": edits.ternary,
    "one row × 100": edits.row,
    "powers of 1.4": edits.power,
    "matrix × 0.7": edits.smaller_a_bit,
    "merged with another layer": _mixed,
    "gradient upside down": _ascending,
    "one gradient × 1000": _spike,
}
FAULTS: Final[dict[str, Callable[[World], None]]] = OLD | OLD_TOO | NEW | LAST
