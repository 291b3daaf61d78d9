"""What `monitor.step()` costs when no sample is due: the price that every optimizer step pays. And what a sample costs the host.

    python benchmarks/step_cost.py

The host's part of a sample on an accelerator is everything but the launches: those are replaced by nothing here, so that it can
be measured without one. Queueing is what the training thread does right after the step; delivery, what it does later.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from statistics import median
from typing import Any

os.environ.setdefault("TRITON_INTERPRET", "1")  # the kernels are not run

import torch
from torch import nn

from weibull_monitor import WeibullMonitor

TARGET = 5.0
"""Microseconds, with two parameter groups."""


def microseconds(groups: int, optimizers: int = 1, steps: int = 3_000) -> float:
    """Of one call of `WeibullMonitor.step` off schedule, right after real steps of AdamW under a schedule: the median."""
    model = nn.ModuleList(nn.Linear(64, 64, bias=False) for _ in range(groups * optimizers))
    parts = [
        torch.optim.AdamW([{"params": layer.parameters(), "weight_decay": 0.1} for layer in layers])
        for layers in (list(model)[i * groups : (i + 1) * groups] for i in range(optimizers))
    ]
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    times = []
    with tempfile.TemporaryDirectory() as place:
        monitor = WeibullMonitor(model, parts, every_n_steps=10_000, output_dir=place)
        for step in range(steps):
            for part in parts:
                part.step()
                for group in part.param_groups:
                    group["lr"] = 1e-3 / (1 + step)
            begun = time.perf_counter()
            monitor.step()
            times.append(time.perf_counter() - begun)
        monitor.close()
    return 1e6 * median(times)


def host_milliseconds(blocks: int, rounds: int = 50) -> tuple[int, float, float]:
    """Matrices of a Llama of so many blocks; queueing a sample, and making it of numbers that have arrived: medians."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from weibull_monitor.measure.kernels.launch import Kernels
    from weibull_monitor.measure.reader import counter as planned

    class NoKernels(Kernels):
        def count(self, *args: Any, **kwargs: Any) -> None: ...

        def tally(self, *args: Any, **kwargs: Any) -> None: ...

        def solve(self, counts: Any, rows: Any, bins: Any, out: torch.Tensor, *args: Any, **kwargs: Any) -> None:
            out.fill_(0.5)

    kernels = NoKernels(torch.device("cpu"))
    planned.kernels_for = lambda device, dtype: kernels  # type: ignore[attr-defined]
    sizes = {"hidden_size": 64, "intermediate_size": 128, "vocab_size": 256, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=blocks))
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with tempfile.TemporaryDirectory() as place:
        monitor = WeibullMonitor(model, optimizer, every_n_steps=lambda step: False, output_dir=place, alerts=False)
        optimizer.step()
        monitor.step()
        queueing, delivery = [], []
        for _ in range(rounds):
            times = [time.perf_counter()]
            sampling = monitor._sampler.queue(monitor._step)
            times.append(time.perf_counter())
            monitor._finished(sampling)
            times.append(time.perf_counter())
            queueing.append(times[1] - times[0])
            delivery.append(times[2] - times[1])
        count = len(monitor.discovery.components)
        monitor.close()
    return count, 1e3 * median(queueing), 1e3 * median(delivery)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.set_num_threads(1)
    print("| `monitor.step()`, no sample due | µs | target |")
    print("|---|---|---|")
    for groups, optimizers in ((2, 1), (8, 1), (2, 2)):
        target = f"≤ {TARGET:.0f}" if (groups, optimizers) == (2, 1) else ""
        what = f"{groups} parameter groups" + (f" in each of {optimizers} optimizers" if optimizers > 1 else "")
        print(f"| {what} | {microseconds(groups, optimizers):.1f} | {target} |")
    print("\n| a sample on an accelerator, its launches left out | queueing, ms | delivery, ms |")
    print("|---|---|---|")
    for blocks in (12, 32):
        count, queueing, delivery = host_milliseconds(blocks)
        print(f"| Llama of {blocks} blocks, {count} matrices | {queueing:.2f} | {delivery:.2f} |")


if __name__ == "__main__":
    main()
