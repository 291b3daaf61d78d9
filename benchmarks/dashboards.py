"""What pictures cost a training, and what following a history costs: milliseconds, the median of several.

    OMP_NUM_THREADS=1 python benchmarks/dashboards.py

Needs the extras report, tensorboard and wandb; writes offline, into a temporary directory.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
import wandb
from torch.utils.tensorboard import SummaryWriter
from transformers import LlamaConfig, LlamaForCausalLM

from weibull_monitor import WeibullMonitor
from weibull_monitor.history.columns import COLUMNS, FORCES
from weibull_monitor.history.follower import HistoryTail
from weibull_monitor.history.snapshot import Reference, Snapshot
from weibull_monitor.report.terminal.view import view_of
from weibull_monitor.trackers.tensorboard import TensorBoardTracker
from weibull_monitor.trackers.wandb import media_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, nargs="*", default=[12, 100], help="depths of models (default: 12 100)")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    os.environ["WANDB_MODE"], os.environ["WANDB_SILENT"] = "offline", "true"
    with tempfile.TemporaryDirectory() as place:
        for blocks in options.blocks:
            snapshot = sample(blocks, Path(place))
            print(f"{blocks} blocks, {len(snapshot.components)} matrices")
            tensorboard = TensorBoardTracker(place, SummaryWriter(place))
            cost("TensorBoard: two heatmaps", lambda: tensorboard.picture(snapshot), options.repeats)  # noqa: B023
            run = wandb.init(dir=place)
            cost("W&B: heatmap and table", lambda: run.log(media_of(snapshot)), options.repeats)  # noqa: B023
            run.finish()
            follow(snapshot, Path(place) / f"long-{blocks}")


def sample(blocks: int, place: Path) -> Snapshot:
    """A sample of a small model of this depth, with a baseline."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 256, "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": blocks}
    model = LlamaForCausalLM(LlamaConfig(num_attention_heads=4, **sizes))
    with WeibullMonitor(model, output_dir=place / str(blocks)) as monitor:
        found = monitor.sample()
    assert found is not None
    start = {name: Reference(fit.k * 1.01, fit.lambda_) for name, fit in found.fits.items()}
    return replace(found, step=100, baseline=start)


def follow(snapshot: Snapshot, place: Path, samples: int = 1000) -> None:
    """A history of many samples, followed as `weibull-monitor watch` does."""
    source = place.parent / str(len({c.block for c in snapshot.components} - {None})) / "weibull" / "history.jsonl"
    path = place / "weibull" / "history.jsonl"
    path.parent.mkdir(parents=True)
    (begin, *_) = source.read_text().splitlines()
    chance = random.Random(0)
    width = len(snapshot.components)
    columns = {name: [round(0.5 + chance.random(), 9) for _ in range(width)] for name in COLUMNS if name not in FORCES}
    rest = json.dumps(columns, separators=(",", ":"))[1:]
    lines = [
        json.dumps({"type": "snapshot", "step": n, "time": float(n), "seconds": 0.1})[:-1] + "," + rest + "\n"
        for n in range(samples + 1)
    ]
    path.write_text(begin + "\n" + "".join(lines[:-1]))
    tail = HistoryTail(place)
    started = time.perf_counter()
    tail.poll()
    print(f"  watch: {path.stat().st_size / 1e6:.0f} MB, first look {time.perf_counter() - started:.2f} s", end="")
    with path.open("a") as file:
        file.write(lines[-1])
    started = time.perf_counter()
    assert tail.poll()
    read = time.perf_counter() - started
    view_of(tail)
    started = time.perf_counter()
    view_of(tail)
    print(f", one more sample {1e3 * read:.1f} ms, what to show {1e3 * (time.perf_counter() - started):.0f} ms")


def cost(name: str, work: Callable[[], object], repeats: int) -> None:
    taken = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        work()
        taken.append(1e3 * (time.perf_counter() - started))
    print(f"  {name}: {median(taken[1:]):.0f} ms, the first {taken[0]:.0f} ms")


if __name__ == "__main__":
    main()
