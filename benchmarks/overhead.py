"""What does monitoring cost a training? The quickstart's Trainer run, with and without the callback, in turn.

    python benchmarks/overhead.py               # 3 pairs of 300 steps; about five minutes on two cores

Two figures: the ratio of wall times (as noisy as the machine is), and the time spent inside the callback as a share of
the run (which no other process disturbs by more than its own share).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

from weibull_monitor import read_history
from weibull_monitor.integrations.transformers import WeibullCallback

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from small_llama import LibrarySources, small_llama


class Timed(WeibullCallback):
    """The callback, with a clock around everything it does during training."""

    seconds = 0.0

    def __getattribute__(self, name: str) -> Any:
        method = super().__getattribute__(name)
        if not name.startswith("on_"):
            return method

        def timed(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                Timed.seconds += time.perf_counter() - begin

        return timed


def train(steps: int, where: str, *callbacks: TrainerCallback) -> float:
    """Wall time of `Trainer.train`, in seconds."""
    set_seed(0)
    arguments = TrainingArguments(
        output_dir=where,
        max_steps=steps,
        per_device_train_batch_size=8,
        learning_rate=2e-3,
        weight_decay=0.1,
        lr_scheduler_type="cosine",
        logging_steps=20,
        save_strategy="no",
        report_to="tensorboard",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
    )
    trainer = Trainer(model=small_llama(), args=arguments, train_dataset=LibrarySources(), callbacks=list(callbacks))
    begin = time.perf_counter()
    trainer.train()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--every-n-steps", type=int, default=100)
    options = parser.parse_args()
    without, with_it, inside, samples = [], [], [], 0
    with tempfile.TemporaryDirectory() as place:
        train(5, f"{place}/warm-up", Timed())
        for pair in range(options.pairs):
            without.append(train(options.steps, f"{place}/a{pair}"))
            Timed.seconds = 0.0
            with_it.append(train(options.steps, f"{place}/b{pair}", Timed(options.every_n_steps)))
            inside.append(Timed.seconds)
            samples = len(read_history(f"{place}/b{pair}").snapshots)
            print(
                f"pair {pair + 1}: without {without[-1]:.2f} s, with {with_it[-1]:.2f} s, inside the callback {inside[-1]:.3f} s"
            )
    share = [100 * i / w for i, w in zip(inside, with_it, strict=True)]
    print(
        f"\n{options.steps} steps, {samples} samples of 30 matrices, every {options.every_n_steps} steps:\n"
        f"wall time with / without:  {statistics.median(with_it) / statistics.median(without):.4f} (medians)\n"
        f"inside the callback:       {statistics.median(share):.2f} % of the run, "
        f"{1e3 * statistics.median(inside) / samples:.1f} ms a sample"
    )


if __name__ == "__main__":
    main()
