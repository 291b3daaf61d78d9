"""What a fault may touch of a training."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn

from weibull_monitor import Component
from weibull_monitor.model.components import discover

Q: Final = ("attn_q", "attn_q_b")
SELECTION: Final = (*Q, "attn_k")
FORWARD: Final = ("ffn_gate", "ffn_up", "ffn_down", "ffn_in", "ffn_out")
MATRICES: Final = (*SELECTION, "attn_v", "attn_o", *FORWARD)
ENDS: Final = ("attn_o", "ffn_down", "ffn_out")


class NotHere(Exception):
    """The model has nothing that this fault could strike."""


def elsewhere(one: Component, found: Iterable[Component]) -> list[Component]:
    """Those that are in other blocks what one is in its own: of the same kind, tower and shape."""

    def place(c: Component) -> tuple[object, ...]:
        return c.kind, c.tower, c.shape, c.cross

    return [c for c in found if place(c) == place(one) and c.block != one.block]


@dataclass
class World:
    """What a fault may touch.

    Attributes:
        model: The model.
        optimizers: Its optimizers.
        chance: Random numbers.
        earlier: The weights of 50 steps before, by name.
        first: The weights that the training began with, by name; empty if they were not kept.
        victims: Names of the components that were struck; empty if the fault is not in particular matrices.
        factors: Factors of η, by optimizer and group.
        before_step: Called before each optimizer step, when there are gradients.
        after_step: Called after each.
        on_batch: Called with each batch; changes it.
        drawn: What a fault drew by chance, for the index.
    """

    model: nn.Module
    optimizers: list[torch.optim.Optimizer]
    chance: random.Random
    earlier: dict[str, Tensor]
    victims: tuple[str, ...] = ()
    factors: dict[tuple[int, int], float] = field(default_factory=dict)
    before_step: list[Callable[[], object]] = field(default_factory=list)
    after_step: list[Callable[[], object]] = field(default_factory=list)
    on_batch: list[Callable[[dict[str, Tensor]], object]] = field(default_factory=list)
    first: dict[str, Tensor] = field(default_factory=dict)
    drawn: dict[str, Any] = field(default_factory=dict)

    def components(self, *kinds: str, resolution: Any = "matrix") -> list[Component]:
        """Components of these kinds in the blocks of the model."""
        found = discover(self.model, resolution=resolution).components
        return [c for c in found if c.kind in kinds and c.block is not None and c.trainable]

    def one(self, *kinds: str, whole: bool = False) -> Component:
        """One component of these kinds, by chance; with ``whole``, one that is not a part of a matrix."""
        found = [c for c in self.components(*kinds) if not (whole and c.part)]
        if not found:
            raise NotHere(kinds)
        return self.chance.choice(found)

    def values(self, component: Component) -> Tensor:
        """The elements of a component, in place."""
        parameter = self.model.get_parameter(component.parameter).data
        return component.part.select(parameter) if component.part else parameter

    def strike(self, *struck: Component) -> None:
        """Notes whom the fault strikes: these, and all others that share their parameters."""
        parameters = {c.parameter for c in struck}
        self.victims = tuple(c.name for c in discover(self.model).components if c.parameter in parameters)

    def parameter(self, component: Component) -> nn.Parameter:
        return self.model.get_parameter(component.parameter)

    def state(self, component: Component, *names: str) -> Tensor:
        """The state of the optimizer for a component's parameter, of the first of these names that it has."""
        p = self.parameter(component)
        for optimizer in self.optimizers:
            for name in names:
                if name in optimizer.state.get(p, {}):
                    found: Tensor = optimizer.state[p][name]
                    return found
        raise NotHere(names)

    def own_group(self, component: Component) -> tuple[int, int]:
        """Gives the component's parameter a group of its own, and its place."""
        p = self.parameter(component)
        for n, optimizer in enumerate(self.optimizers):
            for g, group in enumerate(optimizer.param_groups):
                if any(q is p for q in group["params"]):
                    group["params"] = [q for q in group["params"] if q is not p]
                    optimizer.param_groups.append({"taken_from": (n, g), **group, "params": [p]})
                    return n, len(optimizer.param_groups) - 1
        raise NotHere(component.name)
