"""Trains a model that is sharded by FSDP2 (and tensor parallelism) in a plain loop, as torchtitan does; on GPUs, or on the CPU.

    torchrun --nproc-per-node 2 examples/fsdp2_loop.py
    torchrun --nproc-per-node 4 examples/fsdp2_loop.py --tensor-parallel 2

Every process creates a monitor and counts its own shards. No weight is gathered, and rank 0 writes.
Needs ``pip install '.[transformers]'`` (for the model) and no network; half a minute on two cores.
"""

from __future__ import annotations

import argparse

import torch
import torch.distributed as dist
from small_llama import LibrarySources, small_llama
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from weibull_monitor import WeibullMonitor, read_history
from weibull_monitor.report.text.run import summarize


def spread(model: nn.Module, device: str, tensor_parallel: int) -> nn.Module:
    """Feed-forward matrices along one dimension of a mesh, then everything along the other."""
    shape = (dist.get_world_size() // tensor_parallel, tensor_parallel)
    mesh = init_device_mesh(device, shape, mesh_dim_names=("dp", "tp"))
    plan = {"gate_proj": ColwiseParallel(), "up_proj": ColwiseParallel(), "down_proj": RowwiseParallel()}
    for layer in model.model.layers:
        if tensor_parallel > 1:
            parallelize_module(layer.mlp, mesh["tp"], plan)
        fully_shard(layer, mesh=mesh["dp"])
    return fully_shard(model, mesh=mesh["dp"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-steps", type=int, default=40, help="optimizer steps (default: 40)")
    parser.add_argument("--output-dir", default="runs/fsdp2", help="where everything goes (default: runs/fsdp2)")
    parser.add_argument("--every-n-steps", type=int, default=20, help="steps between samples (default: 20)")
    parser.add_argument("--tensor-parallel", type=int, default=1, help="ranks that share a matrix (default: 1)")
    options = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    if device == "cuda":
        torch.cuda.set_device(dist.get_rank() % torch.cuda.device_count())
    torch.manual_seed(0)
    model = spread(small_llama(width=128, blocks=2).to(device), device, options.tensor_parallel)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.max_steps)
    copy = dist.get_rank() // options.tensor_parallel  # ranks that share matrices see the same text
    data, draw = LibrarySources(), torch.Generator().manual_seed(copy)

    with WeibullMonitor(
        model, optimizer, every_n_steps=options.every_n_steps, output_dir=options.output_dir
    ) as monitor:
        for step in range(1, options.max_steps + 1):
            tokens = torch.stack(
                [data[i]["input_ids"] for i in torch.randint(len(data), (4,), generator=draw).tolist()]
            )
            loss = model(input_ids=tokens.to(device), labels=tokens.to(device)).loss
            loss.backward()
            optimizer.step()
            monitor.step()  # on every rank
            scheduler.step()
            optimizer.zero_grad()
            if dist.get_rank() == 0 and step % 20 == 0:
                print(f"step {step:4d}   loss {loss.item():.3f}")

    if monitor.is_main:
        print("\n" + summarize(read_history(options.output_dir)))
        print(f"\nEvery sample of every matrix:  {options.output_dir}/weibull/history.jsonl")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
