"""A training with ``adaptive=True`` on several processes; run on each rank by `launch`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from hosts import llama
from torch.nn.parallel import DistributedDataParallel

from weibull_monitor import WeibullMonitor, read_history


def an_alert(directory: Path) -> dict[str, Any]:
    """A matrix is rescaled after step 45: only the main process judges samples, and so sees it."""
    model = llama()
    spread = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1)
    monitor = WeibullMonitor(spread, optimizer, output_dir=directory, every_n_steps=20, adaptive=True)
    adaptive = monitor._adaptive
    assert adaptive is not None
    asked, due = [], adaptive.due

    def noted(step: int, *args: Any) -> bool:
        asked.append((step, due(step, *args)))
        return asked[-1][1]

    adaptive.due = noted  # type: ignore[method-assign]
    generator = torch.Generator().manual_seed(dist.get_rank())  # every rank has batches of its own
    for step in range(1, 101):
        ids = torch.randint(0, 60, (1, 8), generator=generator)
        spread(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        monitor.step()
        if step == 45:
            with torch.no_grad():
                model.model.layers[0].self_attn.q_proj.weight.mul_(8.0)
    monitor.close()
    dist.barrier()
    history = read_history(directory)
    return {"asked": asked, "steps": [s.step for s in history.snapshots], "alerts": [a.step for a in history.alerts]}


def a_rate_of_one_rank(directory: Path) -> dict[str, Any]:
    """η of a group jumps on the second rank alone; by default that is not followed, with ``adaptive=True`` by both ranks."""
    taken: dict[str, Any] = {}
    for adaptive in (None, True):
        model = llama()
        spread = DistributedDataParallel(model)
        chosen = [p for name, p in model.named_parameters() if "q_proj" in name]
        others = [p for name, p in model.named_parameters() if "q_proj" not in name]
        optimizer = torch.optim.AdamW([{"params": chosen}, {"params": others}], lr=1e-4)
        place = directory / str(adaptive)
        monitor = WeibullMonitor(spread, optimizer, output_dir=place, every_n_steps=20, adaptive=adaptive, alerts=False)
        steps = []
        for step in range(1, 61):
            if step == 31 and dist.get_rank() == 1:
                optimizer.param_groups[0]["lr"] = 1e-3
            ids = torch.randint(0, 60, (1, 8))
            spread(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            monitor.step()
            if monitor.sampled_step == step:
                steps.append(step)
        monitor.close()
        taken[str(adaptive)] = steps
        dist.barrier()
    return taken
