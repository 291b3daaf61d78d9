"""Trains a small Llama-style model on the sources of Python's standard library, with k and λ of every weight matrix.

    python examples/quickstart_transformers.py --report-to tensorboard
    tensorboard --logdir runs/quickstart

With ``--break-a-layer`` it breaks a layer on purpose: after two thirds of the steps, W_q of one block is multiplied by 4. The
loss does not show it. ``make demo`` runs this.

Needs ``pip install '.[transformers,tensorboard]'``, no network and no GPU; about two minutes on two cores.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import torch
from small_llama import LibrarySources, small_llama
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

from weibull_monitor import read_history
from weibull_monitor.integrations.transformers import WeibullCallback
from weibull_monitor.report.text.alerts import render
from weibull_monitor.report.text.run import summarize


class BreakALayer(TrainerCallback):
    """Multiplies W_q of one block by 4 after a step, as a wrong merge or a wrong conversion would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step:
            with torch.no_grad():
                model.get_parameter("model.layers.3.self_attn.q_proj.weight").mul_(4.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-steps", type=int, default=600, help="optimizer steps (default: 600)")
    parser.add_argument(
        "--output-dir", default="runs/quickstart", help="where everything goes (default: runs/quickstart)"
    )
    parser.add_argument(
        "--report-to", nargs="*", default=[], choices=["tensorboard", "wandb", "mlflow", "trackio"], help="trackers"
    )
    parser.add_argument("--every-n-steps", type=int, default=100, help="steps between samples (default: 100)")
    parser.add_argument("--save-steps", type=int, default=0, help="steps between checkpoints (default: none)")
    parser.add_argument(
        "--resume", action="store_true", help="continue from the last checkpoint in the output directory"
    )
    parser.add_argument(
        "--break-a-layer", action="store_true", help="break W_q of one block after two thirds of the steps"
    )
    options = parser.parse_args()

    set_seed(0)
    arguments = TrainingArguments(
        output_dir=options.output_dir,
        max_steps=options.max_steps,
        per_device_train_batch_size=8,
        learning_rate=2e-3,
        weight_decay=0.1,
        lr_scheduler_type="cosine",
        warmup_steps=20,
        logging_steps=min(20, options.every_n_steps),
        save_strategy="steps" if options.save_steps else "no",
        save_steps=options.save_steps or 500,
        report_to=options.report_to or "none",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
    )
    trainer = Trainer(
        model=small_llama(),
        args=arguments,
        train_dataset=LibrarySources(),
        callbacks=[WeibullCallback(every_n_steps=options.every_n_steps)],  # the only line for the monitor
    )
    if options.break_a_layer:
        trainer.add_callback(BreakALayer(2 * options.max_steps // 3))
    trainer.train(resume_from_checkpoint=options.resume or None)

    trainer.save_state()  # the losses, beside the history

    history = read_history(options.output_dir)
    print(f"\n{summarize(history)}\n")
    if history.alerts:
        print(f"{render(history.alerts)}\n")
    print(f"Every sample of every matrix: {history.path} (weibull_monitor.read_history)\nTo look at it:")
    look = {"weibull-monitor report": options.output_dir, "weibull-monitor watch --once": options.output_dir}
    if "tensorboard" in options.report_to:
        look = {"tensorboard --logdir": options.output_dir} | look
    for command, run in look.items():
        print(f"  {program(command)} {run}")
    if "wandb" in options.report_to:
        print("  the W&B run above, sections weibull_*")


def program(command: str) -> str:
    """A command with the path of this environment, relative if that is shorter."""
    folder = str(Path(sys.executable).parent)
    return f"{min(folder, os.path.relpath(folder), key=len)}/{command}"


if __name__ == "__main__":
    main()
