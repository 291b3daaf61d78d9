"""Trains a small Llama-style model at nine pairs of η and λ_wd, under three schedules of three lengths, and compares λ.

    python examples/sweep.py --output-dir runs/sweep
    weibull-monitor sweep runs/sweep/* --plot sweep.png

By the scaling law, λ ends at a multiple of √(η/λ_wd) in long runs with a constant rate. These runs, like most, are neither.
Against the effective √(η/λ_wd), which takes the schedule into account, they fall on one line. The weight decays are larger than
usual because the runs are short: S = Σ ηλ_wd goes from 0.05 to 5.

Needs ``pip install '.[transformers,report]'``, no network and no GPU; about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import torch
from small_llama import LibrarySources, small_llama

from weibull_monitor import WeibullMonitor

RATES = (1e-3, 2e-3, 4e-3)
DECAYS = (0.1, 0.5, 2.0)
LENGTHS = (500, 1000, 2000)
WARMUP = 50


def constant(step: int, total: int) -> float:
    return min(1.0, (step + 1) / WARMUP)


def cosine(step: int, total: int) -> float:
    """To a tenth, in the manner of most runs."""
    return constant(step, total) * (0.55 + 0.45 * math.cos(math.pi * min(1.0, step / total)))


def stable_then_decay(step: int, total: int) -> float:
    """The last fifth goes down to nothing."""
    return constant(step, total) * min(1.0, (total - step) / (0.2 * total))


SCHEDULES: dict[str, Callable[[int, int], float]] = {"constant": constant, "cosine": cosine, "wsd": stable_then_decay}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", default="runs/sweep", help="where the runs go (default: runs/sweep)")
    parser.add_argument(
        "--lengths", type=int, nargs=3, default=LENGTHS, help="steps of the runs (default: 500 1000 2000)"
    )
    parser.add_argument("--width", type=int, default=96, help="width of the model (default: 96)")
    options = parser.parse_args()
    names = list(SCHEDULES)
    for i, eta in enumerate(RATES):
        for j, weight_decay in enumerate(DECAYS):  # each schedule and length with each rate and decay: a Latin square
            schedule, steps = names[(i + j) % 3], options.lengths[(i + 2 * j) % 3]
            name = f"eta={eta:g} wd={weight_decay:g} {schedule} {steps}"
            loss = train(Path(options.output_dir) / name, eta, weight_decay, schedule, steps, options.width)
            print(f"{name:36} loss {loss:.3f}", flush=True)
    print(f"\nNow: weibull-monitor sweep {options.output_dir}/*")


def train(place: Path, eta: float, weight_decay: float, schedule: str, steps: int, width: int) -> float:
    """One run; returns the mean loss of its last steps."""
    torch.manual_seed(0)
    model = small_llama(width=width, blocks=2)
    data = torch.utils.data.DataLoader(LibrarySources(window=64), batch_size=16, shuffle=True, drop_last=True)
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=eta, betas=(0.9, 0.99))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: SCHEDULES[schedule](step, steps))
    losses: list[float] = []
    with WeibullMonitor(
        model, optimizer, scheduler=scheduler, total_steps=steps, every_n_steps=25, output_dir=place
    ) as monitor:
        while len(losses) < steps:
            for batch in data:
                loss = model(**batch).loss
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                monitor.step()
                scheduler.step()
                losses.append(loss.item())
                if len(losses) == steps:
                    break
    return sum(losses[-20:]) / 20


if __name__ == "__main__":
    main()
