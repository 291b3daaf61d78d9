"""Models in DeepSpeed's engine, at every stage of ZeRO; run on each rank by `launch`."""

# ruff: noqa: E402 (DeepSpeed and Lightning look at the environment when they are imported)

from __future__ import annotations

import itertools
import os
import warnings
from pathlib import Path
from typing import Any

os.environ |= {"DS_ACCELERATOR": "cpu", "DS_BUILD_OPS": "0"}
warnings.filterwarnings("ignore")

import deepspeed
import torch
import torch.distributed as dist
from layouts import Model, alone, counts, made
from torch import nn

from weibull_monitor import WeibullMonitor, read_history
from weibull_monitor.history.columns import UPDATES
from weibull_monitor.model.sharding import Ranks

deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else it compiles an extension, for minutes
deepspeed.utils.logger.setLevel("ERROR")

ETA, WEIGHT_DECAY, STEPS = 1e-3, 0.1, 3


def rate(step: int) -> float:
    """η of a step, the first being 1: another at each."""
    return ETA / step


def engine(model: nn.Module, stage: int, dtype: torch.dtype, offload: bool = False) -> Any:
    """An engine with two parameter groups, one without weight decay; it steps the scheduler itself."""
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 2,
        "zero_optimization": {
            "stage": stage,
            "stage3_param_persistence_threshold": 0 if offload else 1000,  # what is smaller stays gathered
            "sub_group_size": 5000,  # several sub-groups a group
        },
        "zero_allow_untested_optimizer": True,
    }
    if dtype == torch.bfloat16:
        config["bf16"] = {"enabled": True}
    if offload:
        config["zero_optimization"] |= {"offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}
        config["zero_force_ds_cpu_optimizer"] = False
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=ETA)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: rate(n + 1) / ETA)
    return deepspeed.initialize(model=model, optimizer=optimizer, lr_scheduler=scheduler, config=config)[0]


def train(engine: Any, steps: int = 1) -> None:
    generator = torch.Generator().manual_seed(dist.get_rank())
    for _ in range(steps):
        tokens = torch.randint(101, (2, 8), generator=generator)
        loss = engine(tokens).float().square().mean()
        engine.backward(loss)
        engine.step()


def gathered(engine: Any, dtype: torch.dtype) -> Model:
    """The model as one process would have it, with the engine's weights: they are gathered here, in the test."""
    whole = Model().to(dtype)
    for ours, theirs in zip(whole.parameters(), engine.module.parameters(), strict=True):
        with deepspeed.zero.GatheredParameters([theirs], enabled=hasattr(theirs, "ds_tensor")):
            ours.data.copy_(theirs.data)
    return whole


def finite(dtype: torch.dtype) -> Model:
    """The model with weights that can be trained."""
    torch.manual_seed(1)
    return Model().to(dtype)


def all_stages(directory: Path, dtype: torch.dtype) -> dict[str, Any]:
    """For each stage the counts before and after some steps, with those of one process beside them; and, from the main rank's
    history, η and λ_wd of every matrix by step, which the engine changes, and the updates of the last step."""
    count: dict[str, Any] = {}
    found: dict[str, Any] = {}
    updates: dict[str, Any] = {}
    before = alone(made(dtype))
    for stage, offload in itertools.chain(((s, False) for s in range(4)), [(3, True)]):
        name = f"ZeRO-{stage}" + (" offloaded" if offload else "")
        count[name] = (counts(engine(made(dtype), stage, dtype, offload), Ranks.of("auto")), before)
        trained = engine(finite(dtype), stage, dtype, offload)
        options: dict[str, Any] = {"every_n_steps": 1, "updates": True}
        with WeibullMonitor(trained, trained.optimizer, output_dir=directory / name, **options) as monitor:
            for _ in range(STEPS):
                train(trained)
                monitor.step()
        count[f"{name} trained"] = (counts(trained, Ranks.of("auto")), alone(gathered(trained, dtype)))
        if dist.get_rank() == 0:
            history = read_history(directory / name)
            found[name] = {
                s.step: [(s.values("eta").get(n), s.values("weight_decay").get(n)) for n in s.values("k")]
                for s in history.snapshots
            }
            last = history.snapshots[-1]
            updates[name] = {column: last.values(column) for column in UPDATES}
    return {"counts": count, "rates": found, "updates": updates}


def everything(directory: Path) -> dict[str, Any]:
    """All stages in both dtypes."""
    return {str(dtype): all_stages(directory / str(dtype), dtype) for dtype in (torch.float32, torch.bfloat16)}
