"""A training loop with Accelerate and gradient accumulation; k and λ go to the accelerator's trackers.

    python examples/accelerate_loop.py
    accelerate launch --multi_gpu --num_processes 2 examples/accelerate_loop.py                  # on two GPUs
    ACCELERATE_USE_CPU=1 torchrun --nproc-per-node 2 examples/accelerate_loop.py                 # on the CPU
    tensorboard --logdir runs/accelerate

Needs ``pip install '.[transformers,tensorboard]'``, no network and no GPU; about a minute on two cores.
"""

from __future__ import annotations

import argparse

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from small_llama import LibrarySources, small_llama

from weibull_monitor import read_history
from weibull_monitor.integrations.accelerate import AccelerateMonitor
from weibull_monitor.report.text.run import summarize


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-steps", type=int, default=100, help="optimizer steps (default: 100)")
    parser.add_argument("--output-dir", default="runs/accelerate", help="where everything goes")
    parser.add_argument("--log-with", nargs="*", default=["tensorboard"], help="trackers of the accelerator")
    parser.add_argument("--every-n-steps", type=int, default=50, help="steps between samples (default: 50)")
    options = parser.parse_args()

    set_seed(0)
    accelerator = Accelerator(gradient_accumulation_steps=2, log_with=options.log_with, project_dir=options.output_dir)
    accelerator.init_trackers("weibull-monitor")
    model = small_llama()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.max_steps)
    data = torch.utils.data.DataLoader(LibrarySources(), batch_size=4, shuffle=True)
    model, optimizer, data, scheduler = accelerator.prepare(model, optimizer, data, scheduler)

    # The accelerator decides where to log, which calls are micro-batches, and which process writes.
    with AccelerateMonitor(accelerator, model, optimizer, every_n_steps=options.every_n_steps) as monitor:
        steps = 0
        for batch in data:
            with accelerator.accumulate(model):
                loss = model(**batch).loss
                accelerator.backward(loss)
                optimizer.step()
                monitor.step()  # right after optimizer.step(), before the scheduler moves on
                scheduler.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                steps += 1
                accelerator.log({"train/loss": loss.item()}, step=steps)
            if steps == options.max_steps:
                break
    accelerator.end_training()

    if accelerator.is_main_process:
        print("\n" + summarize(read_history(options.output_dir)))
        print(f"\nEvery sample of every matrix:  {options.output_dir}/weibull/history.jsonl")


if __name__ == "__main__":
    main()
