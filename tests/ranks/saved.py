"""Distributed checkpoints that several processes write together; run on each rank by `launch`."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from checkpoint.files import small
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor


def save(directory: Path) -> None:
    """The same model as FSDP2 shards it, by rows, and as tensor parallelism divides matrices, by columns."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model = small("qwen3_moe")
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    states, of_optimizer = get_state_dict(model, optimizer)
    dcp.save({"model": states, "optim": of_optimizer}, checkpoint_id=directory / "fsdp" / "pytorch_model_fsdp_0")
    columns = {
        name: distribute_tensor(parameter.detach(), mesh, [Shard(parameter.dim() - 1)])
        for name, parameter in small("qwen3_moe").named_parameters()
    }
    dcp.save({"model": columns}, checkpoint_id=directory / "columns")
