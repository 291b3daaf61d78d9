"""The kinds of models that are spread over ranks; run on each rank by `launch`."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {"DS_ACCELERATOR": "cpu", "DS_BUILD_OPS": "0"}

import layouts
import tiny_models
import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    CheckpointWrapper,
    apply_activation_checkpointing,
)
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy

from weibull_monitor.model.components import Discovery, discover


class Task(nn.Module):
    """What holds a model of transformers, as a Lightning module does: it says of no input what it takes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.probe = nn.Linear(7, 5)

    def training_step(self, batch: Any, index: int) -> Tensor:
        return self.model(**batch).loss


TOKENS = torch.zeros(2, 9, dtype=torch.long)
MODELS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "head by head": (functools.partial(tiny_models.causal, "gpt_neox"), None),
    "groups, tied": (functools.partial(tiny_models.causal, "falcon groups"), None),
    "in a task": (lambda: Task(tiny_models.causal("phi3 unequal")), None),
    "home-made": (layouts.Model, TOKENS),
}
"""Makes a model, and the inputs that a user gives."""


def blocks_of(model: nn.Module) -> set[type[nn.Module]]:
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList)]
    return {type(block) for blocks in lists for block in blocks if next(block.children(), None) is not None}


def fsdp1(model: nn.Module, original: bool) -> nn.Module:
    """The blocks apart; and in those of the second way, activations are computed again in the backward pass."""
    policy, blocks = ModuleWrapPolicy(blocks_of(model)), blocks_of(model)
    if original:
        apply_activation_checkpointing(model, check_fn=lambda m: type(m) in blocks)
        policy = ModuleWrapPolicy({CheckpointWrapper})
    cpu = torch.device("cpu")
    return FullyShardedDataParallel(model, auto_wrap_policy=policy, use_orig_params=original, device_id=cpu)


def fsdp2(model: nn.Module) -> nn.Module:
    blocks = blocks_of(model)
    for module in list(model.modules()):
        if type(module) in blocks:
            fully_shard(module)
    return fully_shard(model)


def zero3(model: nn.Module) -> nn.Module:
    import zero

    return zero.engine(model, 3, torch.float32)


WAYS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "fsdp1": functools.partial(fsdp1, original=False),
    "fsdp1 with its parameters": functools.partial(fsdp1, original=True),
    "fsdp2": fsdp2,
    "zero3": zero3,
}


def told(found: Discovery) -> dict[str, tuple[Any, ...]]:
    """All that is known of every matrix, but how it is stored."""
    assert not found.problem, found.problem
    return {
        c.name: (c.kind, c.cross, c.shape, c.block, c.expert, c.tower, c.evidence, c.part and vars(c.part), c.because)
        for c in found.components
    }


def everything(directory: Path, ways: tuple[str, ...]) -> dict[str, Any]:
    """By model and way: all that is known of its matrices; ``alone`` without any way. And what changed that must not."""
    found: dict[str, Any] = {}
    for name, (make, inputs) in MODELS.items():
        for way in ("alone", *ways):
            torch.manual_seed(0)
            model = WAYS[way](make()) if way != "alone" else make()
            state, parameters = torch.get_rng_state(), [id(p) for p in model.parameters()]
            found[f"{name}, {way}"] = told(discover(model, resolution="head", example_inputs=inputs))
            assert torch.equal(state, torch.get_rng_state())
            assert parameters == [id(p) for p in model.parameters()]
    return found
