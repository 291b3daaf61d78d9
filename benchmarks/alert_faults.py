"""The faults that trainings are broken by, for alerts to find."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from alert_models import Case
from torch import nn

from weibull_monitor import Component
from weibull_monitor.model.components import discover


@dataclass
class World:
    """What a fault may touch."""

    case: Case
    model: nn.Module
    optimizers: list[torch.optim.Optimizer]
    random: random.Random
    factor: dict[int, float]
    noisy: bool = False
    infinite: bool = False
    victims: tuple[str, ...] = ()

    def components(self, *kinds: str, resolution: Any = "matrix") -> list[Component]:
        """Components of these kinds, the middle blocks of the model."""
        found = discover(self.model, resolution=resolution).components
        return [c for c in found if c.kind in kinds and c.block is not None]

    def one(self, *kinds: str) -> Component:
        """One component of these kinds, by chance."""
        return self.random.choice(self.components(*kinds))

    def values(self, component: Component) -> torch.Tensor:
        """The elements of a component, in place."""
        parameter = self.model.get_parameter(component.parameter).data
        return component.part.select(parameter) if component.part else parameter

    def groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]


SELECTION = ("attn_q", "attn_k", "attn_q_b")
MATRICES = (*SELECTION, "attn_v", "attn_o", "ffn_gate", "ffn_up", "ffn_down", "ffn_in", "ffn_out")


def _names_touched(world: World, parameter: str) -> tuple[str, ...]:
    """Every component that shares the parameter."""
    return tuple(c.name for c in discover(world.model).components if c.parameter == parameter)


def _faster_selection(world: World) -> None:
    world.factor[0] = 30.0
    names = [c.name for c in discover(world.model).components if c.component_class in ("selection", "mixed")]
    world.victims = tuple(names)


def _faster(world: World) -> None:
    for i in range(len(world.groups())):
        world.factor[i] = 30.0


def _blown_up(world: World) -> None:
    component = world.one("attn_q", "attn_q_b")
    world.values(component).mul_(8.0)
    world.victims = _names_touched(world, component.parameter)


def _reset(world: World, component: Component) -> None:
    world.values(component).normal_(std=0.02)


def _one_reset(world: World) -> None:
    component = world.one("attn_k", "attn_q_b")
    _reset(world, component)
    world.victims = _names_touched(world, component.parameter)


def _block_reset(world: World) -> None:
    block = world.random.randrange(world.case.blocks)
    members = [c for c in world.components(*MATRICES) if c.block == block]
    for component in members:
        _reset(world, component)
    world.victims = tuple(n for c in members for n in _names_touched(world, c.parameter))


def _head_zeroed(world: World) -> None:
    heads = world.components("attn_q", "attn_k", "attn_v", resolution="head")
    heads = [c for c in heads if c.part and c.part.label.split()[-1].isdigit()]
    one = world.random.choice([c for c in heads if c.kind == "attn_q"])
    number = one.part.label.split()[-1]  # type: ignore[union-attr]
    members = [c for c in heads if c.block == one.block and c.part and c.part.label.split()[-1] == number]
    for component in members:
        world.values(component).zero_()
    world.victims = tuple(n for c in members for n in _names_touched(world, c.parameter))


def _own_group(world: World, component: Component) -> int:
    """Gives the component's parameter a parameter group of its own, and its index."""
    parameter = world.model.get_parameter(component.parameter)
    (optimizer,) = world.optimizers
    for group in optimizer.param_groups:
        kept = [p for p in group["params"] if p is not parameter]
        if len(kept) < len(group["params"]):
            group["params"] = kept
            optimizer.param_groups.append({**group, "params": [parameter]})
            return len(optimizer.param_groups) - 1
    raise ValueError(component.parameter)


def _frozen_by_rounding(world: World) -> None:
    component = world.one("ffn_up", "ffn_in", "attn_o")
    world.factor[_own_group(world, component)] = 1e-4  # a step below half a unit of bf16 for all but the tiniest
    world.victims = _names_touched(world, component.parameter)


def _decay(world: World) -> None:
    for group in world.groups():
        group["weight_decay"] *= 100.0
    world.victims = ()


def _infinite(world: World) -> None:
    world.infinite = True


def _corrupted(world: World, random_bytes: bool) -> None:
    component = world.one(*MATRICES)
    flat = world.model.get_parameter(component.parameter).data.view(-1)
    size = 4096 // flat.element_size()
    at = world.random.randrange(0, flat.numel() - size, size)
    block = flat[at : at + size]
    if random_bytes:
        noise = torch.tensor(list(world.random.randbytes(4096)), dtype=torch.uint8).view(flat.dtype)
        block.copy_(torch.nan_to_num(noise, nan=1.0, posinf=1e30, neginf=-1e30))
    else:
        block.zero_()
    world.victims = _names_touched(world, component.parameter)


def _noisy(world: World) -> None:
    world.noisy = True


def _forgotten(world: World) -> None:
    for optimizer in world.optimizers:
        optimizer.state.clear()


FAULTS: dict[str, Callable[[World], None]] = {
    "eta x 30 for q and k": _faster_selection,
    "eta x 30 for all": _faster,
    "W_q of a layer x 8": _blown_up,
    "W_k of a layer re-initialised": _one_reset,
    "block re-initialised": _block_reset,
    "head zeroed": _head_zeroed,
    "bf16 freezes a matrix": _frozen_by_rounding,
    "weight decay x 100": _decay,
    "bad batch giving Inf": _infinite,
    "4 KiB of random bytes": lambda world: _corrupted(world, True),
    "4 KiB of zeros": lambda world: _corrupted(world, False),
    "label noise": _noisy,
    "optimizer state lost": _forgotten,
}
