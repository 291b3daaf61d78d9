"""Loops of one's own, on Accelerate and bare, with models spread over ranks; run on each rank by `launch`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from hosts import ETA, WEIGHT_DECAY, Fits, Tokens, as_on_an_accelerator, fits_of, llama, read
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from weibull_monitor import WeibullMonitor
from weibull_monitor.integrations.accelerate import AccelerateMonitor
from weibull_monitor.model.components import discover

STEPS = 6


def optimized(model: nn.Module) -> tuple[torch.optim.Optimizer, Any]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=ETA, weight_decay=WEIGHT_DECAY)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: 1 / (n + 1))


def on_accelerate(directory: Path, **options: Any) -> dict[str, Any]:
    """Gradient accumulation over two micro-batches."""
    accelerator = Accelerator(
        gradient_accumulation_steps=2, project_dir=str(directory), step_scheduler_with_optimizer=False, **options
    )
    accelerator.init_trackers("x")
    model = llama()
    if "fsdp1" in directory.name:  # Accelerate wants the optimizer to be made of the wrapped model, unlike under FSDP2
        model = accelerator.prepare(model)
    optimizer, scheduler = optimized(model)
    data = torch.utils.data.DataLoader(Tokens(), batch_size=2)
    if "fsdp1" in directory.name:
        optimizer, data, scheduler = accelerator.prepare(optimizer, data, scheduler)
    else:
        model, optimizer, data, scheduler = accelerator.prepare(model, optimizer, data, scheduler)
    fits: dict[int, Fits] = {}
    with AccelerateMonitor(accelerator, model, optimizer, every_n_steps=2) as monitor:
        for batch in data:
            with accelerator.accumulate(model):
                accelerator.backward(model(**batch).loss)
                optimizer.step()
                monitor.step()
                if accelerator.sync_gradients:
                    scheduler.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                fits[len(fits) + 1] = fits_of(model)
            if len(fits) == STEPS:
                break
    dist.barrier()
    return {"fits": fits, "history": read(directory)}


def bare(directory: Path, model: nn.Module) -> dict[str, Any]:
    """As torchtitan trains: the optimizer is made after the model is sharded."""
    optimizer, scheduler = optimized(model)
    fits: dict[int, Fits] = {}
    with WeibullMonitor(model, optimizer, output_dir=directory, every_n_steps=2) as monitor:
        for step in range(1, STEPS + 1):
            batch = Tokens()[step]["input_ids"][None]
            model(input_ids=batch, labels=batch).loss.backward()
            optimizer.step()
            monitor.step()
            scheduler.step()
            optimizer.zero_grad()
            fits[step] = fits_of(model)
    dist.barrier()
    return {"fits": fits, "history": read(directory)}


def all_loops(directory: Path) -> dict[str, Any]:
    """What each loop's history says, and the fits of the gathered weights."""
    found = {"accelerate ddp": on_accelerate(directory / "ddp", cpu=True, log_with="tensorboard")}
    for version in (2, 1):
        with as_on_an_accelerator():
            plugin = FullyShardedDataParallelPlugin(
                fsdp_version=version,
                auto_wrap_policy="transformer_based_wrap",
                transformer_cls_names_to_wrap=["LlamaDecoderLayer"],
                cpu_ram_efficient_loading=False,
            )
            found[f"accelerate fsdp{version}"] = on_accelerate(directory / f"fsdp{version}", fsdp_plugin=plugin)
    model = llama()
    for layer in model.model.layers:
        fully_shard(layer)
    found["bare fsdp2"] = bare(directory / "bare", fully_shard(model))
    return found


def on_a_mesh(directory: Path) -> dict[str, Any]:
    """FSDP2 along one dimension, tensor parallelism along the other."""
    mesh = init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("dp", "tp"))
    model = llama()
    plan = {"gate_proj": ColwiseParallel(), "up_proj": ColwiseParallel(), "down_proj": RowwiseParallel()}
    for layer in model.model.layers:
        parallelize_module(layer.mlp, mesh["tp"], plan)
        fully_shard(layer, mesh=mesh["dp"])
    return bare(directory, fully_shard(model, mesh=mesh["dp"]))


def a_part_of_fsdp1(directory: Path) -> dict[str, Any]:
    """What is found in the module that FSDP1 wraps: the flat parameter of the outermost unit is not in it."""
    model = llama()
    policy = ModuleWrapPolicy({LlamaDecoderLayer})
    FullyShardedDataParallel(model, auto_wrap_policy=policy, use_orig_params=True, device_id=torch.device("cpu"))
    found = discover(model)
    return {"components": [c.name for c in found.components], "skipped": {s.name: s.reason for s in found.skipped}}
