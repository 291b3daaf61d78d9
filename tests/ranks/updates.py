"""Updates of models that are spread, from gradients that depend on the weight alone; run on each rank by `launch`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import layouts
import torch
import torch.distributed as dist
from runs import Messages, Recorded
from scaling.test_kept import AdamW8bit
from torch import Tensor, nn
from torch.distributed.optim import ZeroRedundancyOptimizer

from weibull_monitor import WeibullMonitor, read_history
from weibull_monitor.history.columns import UPDATES
from weibull_monitor.model.sharding.local import local_tensor

STEPS = 2
SPREAD = (
    "ddp",
    "fsdp2",
    "fsdp2_by_columns",
    "tensor_parallel",
    "fsdp2_and_tensor_parallel",
    "fsdp1_original",
    "fsdp1_flat",
    "fsdp1_replicated",
)
"""Layouts in which states are cut, or shaped, in different ways."""


@torch.no_grad()
def gradient(p: Tensor) -> Tensor:
    """A gradient of which each element follows from that of the weight, however it is spread; 0 for padding."""
    local = local_tensor(p)
    grad = torch.empty_like(p)
    local_tensor(grad).copy_((local * 977.0).sin() + local)
    return grad


def updates(wrapped: nn.Module, make: Callable[..., Any], directory: Path, **options: Any) -> dict[str, Any]:
    """The columns of the last updates; the largest tensor that collecting them made, and the collectives that it called."""
    caught = Messages()
    logging.getLogger("weibull_monitor").addHandler(caught)
    optimizer = make([*wrapped.parameters()] or [nn.Parameter(torch.zeros(1))])  # a stage may be empty
    with WeibullMonitor(wrapped, optimizer, output_dir=directory, every_n_steps=1, updates=True, **options) as monitor:
        for _ in range(STEPS):
            for p in wrapped.parameters():
                if p.numel():
                    p.grad = gradient(p)
            optimizer.step()
            monitor.step()
        reader = monitor._sampler._updates
        assert reader is not None
        with Recorded() as seen:
            reader.collect()
    logging.getLogger("weibull_monitor").removeHandler(caught)
    found = None
    if monitor.is_main:
        last = read_history(directory).snapshots[-1]
        found = {column: last.values(column) for column in UPDATES}
    return {"found": found, "messages": caught.messages, "largest": seen.largest, "collectives": seen.collectives}


def model() -> layouts.Model:
    torch.manual_seed(0)
    return layouts.Model(blocks=2)


def adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1)


def zero(parameters: Any) -> torch.optim.Optimizer:
    return ZeroRedundancyOptimizer(parameters, torch.optim.AdamW, lr=1e-2, weight_decay=0.1)


def eight_bits(parameters: Any) -> torch.optim.Optimizer:
    return AdamW8bit(parameters, "bitsandbytes")


def all_layouts(directory: Path) -> dict[str, Any]:
    """By the layout; ``alone`` is one process."""
    rank = str(dist.get_rank())
    found = {"alone": updates(model(), adamw, directory / "alone" / rank, process_group=None)}
    for name in SPREAD:
        found[name] = updates(layouts.LAYOUTS[name](model()), adamw, directory / name)
    found["zero"] = updates(layouts.ddp(model()), zero, directory / "zero")
    found["alone in 8 bits"] = updates(model(), eight_bits, directory / "alone in 8 bits" / rank, process_group=None)
    found["ddp in 8 bits"] = updates(layouts.ddp(model()), eight_bits, directory / "ddp in 8 bits")
    return found
