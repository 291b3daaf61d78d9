"""What does ``updates=True`` add to a sample? CPU time of reading weights, of reading updates, and of an optimizer step.

    python benchmarks/updates_cost.py      # half a minute on one core

CPU time of the process rather than wall time, so that other processes disturb it less.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from weibull_monitor.measure.reader.reader import ModelReader
from weibull_monitor.model.components import discover
from weibull_monitor.scaling.tracking import BudgetTracker
from weibull_monitor.scaling.update_reader import UpdateReader

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from small_llama import small_llama


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median CPU time of a call."""
    work()
    taken = []
    for _ in range(repeats):
        begin = time.process_time()
        work()
        taken.append(time.process_time() - begin)
    return statistics.median(taken)


def measure(name: str, model: nn.Module, repeats: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    budgets, reader = BudgetTracker(optimizer), ModelReader(model, discover)
    reader.agree()
    optimizer.step()
    budgets.advance()
    updates = UpdateReader(reader, budgets, None)
    stepped = budgets.by_parameter(reader.optimized())
    fits = reader.read().measurement().fits
    step = seconds(optimizer.step, repeats)
    weights = seconds(lambda: reader.read().measurement(), repeats)
    added = seconds(lambda: updates.updates(updates.collect(), fits, stepped), repeats)
    elements = sum(p.numel() for p in model.parameters() if p.dim() > 1) / 1e6
    print(
        f"{name}: {len(fits)} matrices, {elements:.1f} M elements: weights {1e3 * weights:.1f} ms, updates {1e3 * added:.1f} ms, "
        f"a sample with / without {(weights + added) / weights:.2f}; a step of AdamW {1e3 * step:.1f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.manual_seed(0)
    measure("the quickstart's model", small_llama(), options.repeats)
    measure("four matrices", nn.Sequential(*(nn.Linear(2048, 2048, bias=False) for _ in range(4))), options.repeats)


if __name__ == "__main__":
    main()
