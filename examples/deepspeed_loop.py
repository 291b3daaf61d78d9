"""Trains a model with DeepSpeed's engine, at any stage of ZeRO, with k and λ of every weight matrix; on GPUs, or on the CPU.

    torchrun --nproc-per-node 2 examples/deepspeed_loop.py --stage 3

Every process creates a monitor and counts its own shards. No weight is gathered, and rank 0 writes.
Needs ``pip install '.[transformers]' deepspeed`` and no network; half a minute on two cores.
"""

from __future__ import annotations

import argparse
import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # before DeepSpeed is imported

import deepspeed
import torch.distributed as dist
from small_llama import LibrarySources, small_llama

from weibull_monitor import WeibullMonitor, read_history
from weibull_monitor.report.text.run import summarize


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-steps", type=int, default=40, help="optimizer steps (default: 40)")
    parser.add_argument(
        "--output-dir", default="runs/deepspeed", help="where everything goes (default: runs/deepspeed)"
    )
    parser.add_argument("--every-n-steps", type=int, default=20, help="steps between samples (default: 20)")
    parser.add_argument("--stage", type=int, default=3, choices=[0, 1, 2, 3], help="stage of ZeRO (default: 3)")
    options = parser.parse_args()

    if not torch.cuda.is_available():  # else it compiles an extension for its collectives on the CPU, for minutes
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed()
    torch.manual_seed(0)
    engine, optimizer, _, _ = deepspeed.initialize(
        model=(model := small_llama(width=128, blocks=2)),
        model_parameters=model.parameters(),
        config={
            "train_micro_batch_size_per_gpu": 4,
            "zero_optimization": {"stage": options.stage},
            "bf16": {"enabled": torch.cuda.is_available()},
            "optimizer": {"type": "AdamW", "params": {"lr": 2e-3, "weight_decay": 0.1, "torch_adam": True}},
            "scheduler": {"type": "WarmupLR", "params": {"warmup_max_lr": 2e-3, "warmup_num_steps": 10}},
        },
    )
    data, draw = LibrarySources(), torch.Generator().manual_seed(dist.get_rank())

    # The optimizer that `initialize` returned: only this one knows which parameters are in its flattened groups.
    with WeibullMonitor(
        engine, optimizer, every_n_steps=options.every_n_steps, output_dir=options.output_dir
    ) as monitor:
        for step in range(1, options.max_steps + 1):
            tokens = torch.stack(
                [data[i]["input_ids"] for i in torch.randint(len(data), (4,), generator=draw).tolist()]
            )
            tokens = tokens.to(engine.device)
            loss = engine(input_ids=tokens, labels=tokens).loss
            engine.backward(loss)
            engine.step()
            if engine.was_step_applied():  # not where gradients are still being accumulated, or have overflowed
                monitor.step()  # on every rank
            if dist.get_rank() == 0 and step % 20 == 0:
                print(f"step {step:4d}   loss {loss.item():.3f}")

    if monitor.is_main:
        print("\n" + summarize(read_history(options.output_dir)))
        print(f"\nEvery sample of every matrix:  {options.output_dir}/weibull/history.jsonl")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
