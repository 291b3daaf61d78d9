"""Trains with the Hugging Face Trainer on several processes: FSDP2, ZeRO or DDP; on GPUs, or on the CPU.

    torchrun --nproc-per-node 2 examples/trainer_fsdp.py                      # FSDP2
    torchrun --nproc-per-node 2 examples/trainer_fsdp.py --engine zero3       # DeepSpeed ZeRO-3
    accelerate launch --multi_gpu --num_processes 2 examples/trainer_fsdp.py  # with Accelerate's launcher

The callback is the same as on one process. Every rank measures its own shards, and rank 0 writes.
Needs ``pip install '.[transformers]'`` (and deepspeed for ZeRO) and no network; half a minute on two cores.
"""

from __future__ import annotations

import argparse
import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # before DeepSpeed is imported

from accelerate.state import DistributedType, PartialState
from small_llama import LibrarySources, small_llama
from transformers import Trainer, TrainingArguments, set_seed

from weibull_monitor import read_history
from weibull_monitor.integrations.transformers import WeibullCallback
from weibull_monitor.report.text.run import summarize


def engine_options(engine: str) -> dict[str, object]:
    """The Trainer's arguments for one engine."""
    if engine == "fsdp2":
        layers = ["LlamaDecoderLayer"]
        return {"fsdp": True, "fsdp_config": {"version": 2, "transformer_layer_cls_to_wrap": layers}}
    if engine.startswith("zero"):
        auto = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "train_batch_size")
        zero = {"zero_optimization": {"stage": int(engine[-1])}, "zero_allow_untested_optimizer": True}
        return {"deepspeed": zero | dict.fromkeys(auto, "auto")}
    return {"use_cpu": not torch.cuda.is_available()}


def take_the_cpu_for_an_accelerator(engine: str) -> None:
    """Accelerate offers FSDP and DeepSpeed on accelerators only. This lets the example run without one; leave it out."""
    PartialState._prepare_backend = lambda *args, **kwargs: ("gloo", DistributedType.MULTI_GPU)
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    if engine.startswith("zero"):
        import deepspeed

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else it compiles an extension, for minutes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-steps", type=int, default=40, help="optimizer steps (default: 40)")
    parser.add_argument("--output-dir", default="runs/trainer_fsdp", help="where everything goes")
    parser.add_argument("--every-n-steps", type=int, default=20, help="steps between samples (default: 20)")
    parser.add_argument("--engine", default="fsdp2", choices=["ddp", "fsdp2", "zero1", "zero2", "zero3"])
    options = parser.parse_args()

    if not torch.cuda.is_available() and options.engine != "ddp":
        take_the_cpu_for_an_accelerator(options.engine)
    set_seed(0)
    arguments = TrainingArguments(
        output_dir=options.output_dir,
        max_steps=options.max_steps,
        per_device_train_batch_size=4,
        learning_rate=2e-3,
        weight_decay=0.1,
        lr_scheduler_type="cosine",
        optim="adamw_torch",
        logging_steps=20,
        save_strategy="no",
        report_to="none",
        dataloader_pin_memory=torch.cuda.is_available(),
        **engine_options(options.engine),
    )
    trainer = Trainer(
        model=small_llama(width=128, blocks=2),
        args=arguments,
        train_dataset=LibrarySources(),
        callbacks=[WeibullCallback(every_n_steps=options.every_n_steps)],  # as on one process
    )
    trainer.train()

    if trainer.is_world_process_zero():
        print("\n" + summarize(read_history(options.output_dir)))
        print(f"\nEvery sample of every matrix:  {options.output_dir}/weibull/history.jsonl")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
