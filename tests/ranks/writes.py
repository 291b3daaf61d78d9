"""Writes to weights that are spread, between two steps; run on each rank by `launch`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import layouts
import torch
import torch.distributed as dist
from torch import nn
from updates import SPREAD, adamw, gradient, model

from weibull_monitor import WeibullMonitor, read_history
from weibull_monitor.history.columns import WRITES
from weibull_monitor.model.sharding.local import local_tensor

WRITTEN = "layers.0.mlp.up_proj.weight"
AT = 6
"""Steps before the write."""


def writes(wrapped: nn.Module, directory: Path, **options: Any) -> dict[str, Any] | None:
    """The columns about writes of the sample after it."""
    optimizer = adamw([*wrapped.parameters()])
    with WeibullMonitor(wrapped, optimizer, output_dir=directory, every_n_steps=1, alerts=False, **options) as monitor:
        for step in range(1, AT + 2):
            for p in wrapped.parameters():
                if p.numel():
                    p.grad = gradient(p)
            optimizer.step()
            monitor.step()
            if step == AT:
                for name, p in wrapped.named_parameters():
                    if name.endswith(WRITTEN):
                        local_tensor(p).detach().mul_(2.0)
        assert monitor.last is None or monitor.last.step == AT + 1
    if not monitor.is_main:
        return None
    last = read_history(directory).snapshots[-1]
    return {column: last.values(column) for column in WRITES} | {"rms": last.values("rms")}


def all_layouts(directory: Path) -> dict[str, Any]:
    """By the layout; ``alone`` is one process."""
    rank = str(dist.get_rank())
    found: dict[str, Any] = {"alone": writes(model(), directory / "alone" / rank, process_group=None)}
    for name in SPREAD:
        found[name] = writes(layouts.LAYOUTS[name](model()), directory / name)
    torch.manual_seed(0)
    return found
