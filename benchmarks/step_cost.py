"""What a step costs when no sample is due: `monitor.step()`, and the watch of writes. And what a sample costs the host.

    python benchmarks/step_cost.py

The host's part of a sample on an accelerator is everything but the launches: those are replaced by nothing here, so that it can
be measured without one. Queueing is what the training thread does right after the step; delivery, what it does later. Times of a
sample are those of the thread, whatever else the machine does.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from statistics import median
from typing import Any
from unittest import mock

import torch
from torch import nn

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # the kernels are not run; read when they are defined

from weibull_monitor import WeibullMonitor
from weibull_monitor.measure import bins_of, count_magnitudes, solve

TARGET = 5.0
"""Microseconds, with two parameter groups."""
PARTS = ("queueing", "delivery", "fits", "law", "history", "alerts", "metrics")
"""Parts of a sample: the first two make it up, the others are in the second."""
ROW = solve(count_magnitudes([0.02 * torch.randn(4000)], bins_of(torch.float32)), bins_of(torch.float32))
"""What a launch gives of a normal matrix."""


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


def watch_milliseconds(blocks: int, width: int, device: str = "cpu", steps: int = 130) -> tuple[int, list[float]]:
    """How many matrices a Llama has, and the milliseconds of a step of 64 tokens without a watch of writes, and with it.

    One model, with a monitor for each of both, in turns: medians until a step is queued on the device, and until it is done. On
    the host both are the same.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": 4, "num_key_value_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=blocks, vocab_size=256)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=device != "cpu")
    tokens = torch.randint(0, 256, (4, 16), device=device)
    times: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    count = 0
    with tempfile.TemporaryDirectory() as place:
        for turn in range(4):
            writes = turn % 2 == 1
            given = {
                "every_n_steps": 10_000,
                "output_dir": f"{place}/{turn}",
                "writes": writes,
                "example_inputs": False,
            }
            with WeibullMonitor(model, optimizer, **given) as monitor:  # type: ignore[arg-type]
                for step in range(steps):
                    begun = time.perf_counter()
                    model(input_ids=tokens, labels=tokens).loss.backward()
                    optimizer.step()
                    optimizer.zero_grad()
                    monitor.step()
                    queued = time.perf_counter()
                    if device != "cpu":
                        torch.cuda.synchronize()
                    if step > 68:  # the samples of the first steps
                        times[writes].append((queued - begun, time.perf_counter() - begun))
                count = len(monitor.discovery.components)
    # (without, with) of (queued, done)
    return count, [1e3 * median(column) for taken in times.values() for column in zip(*taken, strict=True)]


def host_milliseconds(model: nn.Module, resolution: str, rounds: int = 30) -> tuple[int, dict[str, float]]:
    """How many rows a model has, and the milliseconds of each part of a sample, with alerts and one tracker: medians."""
    from weibull_monitor.alerts.dispatch import Dispatcher
    from weibull_monitor.history.snapshot import Snapshot
    from weibull_monitor.history.writer import HistoryWriter
    from weibull_monitor.measure.kernels.launch import Kernels
    from weibull_monitor.measure.reader import counter as planned
    from weibull_monitor.measure.reader.reader import PendingMeasurement
    from weibull_monitor.scaling.law import ScalingLaw

    class NoKernels(Kernels):
        def count(self, *args: Any, **kwargs: Any) -> None: ...

        def tally(self, *args: Any, **kwargs: Any) -> None: ...

        def solve(self, counts: Any, rows: Any, bins: Any, out: torch.Tensor, *args: Any, **kwargs: Any) -> None:
            out[rows[:, 1]] = ROW * (1.0 + 0.001 * torch.rand(len(rows), 1, dtype=torch.float64))

    kernels = NoKernels(torch.device("cpu"))
    planned.kernels_for = lambda device, dtype: kernels  # type: ignore[attr-defined]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    spent: dict[str, list[float]] = {part: [] for part in PARTS}
    taken: dict[str, float] = {}

    def clocked(kind: type, method: str, part: str) -> None:
        inner = getattr(kind, method)

        def call(*args: Any, **kwargs: Any) -> Any:
            begun = time.thread_time()
            try:
                return inner(*args, **kwargs)
            finally:
                taken[part] = taken.get(part, 0.0) + time.thread_time() - begun

        patches.enter_context(mock.patch.object(kind, method, call))

    with tempfile.TemporaryDirectory() as place, ExitStack() as patches:
        clocked(PendingMeasurement, "measurement", "fits")
        clocked(ScalingLaw, "at", "law")
        clocked(HistoryWriter, "write_snapshot", "history")
        clocked(Dispatcher, "observe", "alerts")
        clocked(Snapshot, "metrics", "metrics")
        monitor = WeibullMonitor(
            model,
            optimizer,
            every_n_steps=lambda step: False,
            output_dir=place,
            resolution=resolution,  # type: ignore[arg-type]
            trackers=["memory"],
            scheduler=lambda step: 1.0,
            total_steps=4 * rounds,
        )
        monitor._begin()
        for _ in range(2 * rounds):
            optimizer.step()
            monitor.step()
            taken.clear()
            begun = time.thread_time()
            sampling = monitor._sampler.queue(monitor._step)
            queued = time.thread_time()
            monitor._log(monitor._finished(sampling))
            taken |= {"queueing": queued - begun, "delivery": time.thread_time() - queued}
            for part, seconds in taken.items():
                spent[part].append(seconds)
        count = len(monitor.discovery.components)
        monitor.close()
    return count, {part: 1e3 * median(seconds[rounds:]) for part, seconds in spent.items()}


def models() -> Iterator[tuple[str, nn.Module, str]]:
    """Models with the matrices of large ones, at tiny widths: a name, the model, and the resolution."""
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

    sizes = {"hidden_size": 32, "vocab_size": 128, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 8}
    for blocks in (12, 32):
        config = LlamaConfig(**sizes, intermediate_size=64, num_hidden_layers=blocks)
        yield f"Llama of {blocks} blocks", LlamaForCausalLM(config), "auto"
    for blocks, experts in ((16, 40), (24, 64)):
        moe = {"num_hidden_layers": blocks, "num_experts": experts, "moe_intermediate_size": 16}
        config = Qwen3MoeConfig(**sizes, **moe, num_experts_per_tok=2)
        yield f"MoE of {blocks} blocks, each of {experts} experts", Qwen3MoeForCausalLM(config), "matrix"


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.set_num_threads(1)
    logging.getLogger("weibull_monitor").setLevel(logging.ERROR)  # an optimizer goes on with each next monitor
    print("| `monitor.step()`, no sample due | µs | target |")
    print("|---|---|---|")
    for groups, optimizers in ((2, 1), (8, 1), (2, 2)):
        target = f"≤ {TARGET:.0f}" if (groups, optimizers) == (2, 1) else ""
        what = f"{groups} parameter groups" + (f" in each of {optimizers} optimizers" if optimizers > 1 else "")
        print(f"| {what} | {microseconds(groups, optimizers):.1f} | {target} |")
    print("\n| matrices, width | a training step, ms | with the watch of writes | more |")
    print("|---|---|---|---|")
    for blocks, width in ((4, 64), (12, 64), (12, 256)):
        matrices, (_, without, _, watched) = watch_milliseconds(blocks, width)
        print(f"| {matrices}, {width} | {without:.2f} | {watched:.2f} | {100 * (watched / without - 1):.1f} % |")
    if torch.cuda.is_available():
        print("\n| matrices, width, on the GPU | queued, done: ms | with the watch of writes | more host time, ms |")
        print("|---|---|---|---|")
        for blocks, width in ((12, 256), (32, 256)):
            matrices, (queued, done, more, done_watched) = watch_milliseconds(blocks, width, "cuda")
            print(
                f"| {matrices}, {width} | {queued:.2f}, {done:.2f} | {more:.2f}, {done_watched:.2f} | {more - queued:.2f} |"
            )
    print("\nA sample on an accelerator, its launches left out: milliseconds of the training thread\n")
    print(f"| model | rows | {' | '.join(PARTS)} |")
    print(f"|---|---|{'---|' * len(PARTS)}")
    for name, model, resolution in models():
        count, parts = host_milliseconds(model, resolution)
        print(f"| {name} | {count:,} | {' | '.join(f'{parts[part]:.2f}' for part in PARTS)} |")


if __name__ == "__main__":
    main()
