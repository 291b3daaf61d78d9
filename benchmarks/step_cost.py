"""What `monitor.step()` costs when no sample is due: the price that every optimizer step pays.

python benchmarks/step_cost.py
"""

from __future__ import annotations

import argparse
import tempfile
import timeit

import torch
from torch import nn

from weibull_monitor import WeibullMonitor

TARGET = 5.0
"""Microseconds, with two parameter groups."""


def microseconds(groups: int, optimizers: int = 1, calls: int = 20_000) -> float:
    """Of one call of `WeibullMonitor.step` off schedule, the best of five rounds."""
    model = nn.ModuleList(nn.Linear(64, 64, bias=False) for _ in range(groups * optimizers))
    parts = [
        torch.optim.AdamW([{"params": layer.parameters(), "weight_decay": 0.1} for layer in layers])
        for layers in (list(model)[i * groups : (i + 1) * groups] for i in range(optimizers))
    ]
    with tempfile.TemporaryDirectory() as place:
        monitor = WeibullMonitor(model, parts, every_n_steps=lambda step: False, output_dir=place)
        best = min(timeit.repeat(monitor.step, number=calls, repeat=5)) / calls
        monitor.close()
    return 1e6 * best


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.set_num_threads(1)
    print("| `monitor.step()`, no sample due | µs | target |")
    print("|---|---|---|")
    for groups, optimizers in ((2, 1), (8, 1), (2, 2)):
        target = f"≤ {TARGET:.0f}" if (groups, optimizers) == (2, 1) else ""
        what = f"{groups} parameter groups" + (f" in each of {optimizers} optimizers" if optimizers > 1 else "")
        print(f"| {what} | {microseconds(groups, optimizers):.1f} | {target} |")


if __name__ == "__main__":
    main()
