"""Optimizer steps for tests: real ones, and such that only the optimizer's own count shows."""

from __future__ import annotations

from typing import Any

import torch


def take(*optimizers: Any, steps: int = 1) -> None:
    """Steps every parameter that requires a gradient."""
    for _ in range(steps):
        for optimizer in optimizers:
            for parameter in (p for group in optimizer.param_groups for p in group["params"]):
                parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
            optimizer.step()


def count_a_step(*optimizers: Any) -> None:
    """Raises the optimizers' step counts as a step does, and changes no weight."""
    for optimizer in optimizers:
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            optimizer.state[parameter].setdefault("step", torch.tensor(0.0)).add_(1.0)
