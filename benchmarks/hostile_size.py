"""The part ``size`` of `hostile.py`: long histories, and samples of many components."""

from __future__ import annotations

import argparse
import itertools
import json
import random
import resource
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch
from hostile.inputs import write_history
from hostile.running import Tally
from torch import nn

from weibull_monitor import discover_components, fit_weibull
from weibull_monitor.alerts import AlertSettings, Engine
from weibull_monitor.history import HistoryWriter, Snapshot
from weibull_monitor.history.snapshot import Scaling, reference_of
from weibull_monitor.model.components import attention_pairs, attention_types


def size(options: argparse.Namespace, folder: Path) -> Tally:
    data = write_history(folder / "seed", 4).read_text().splitlines()
    run = json.loads(data[0])
    sample = [json.loads(line) for line in data if '"snapshot"' in line][2]
    source = random.Random(0)
    target = folder / "long" / "weibull" / "history.jsonl"
    target.parent.mkdir(parents=True)
    with target.open("w") as file:
        file.write(json.dumps(run, separators=(",", ":")) + "\n")
        for number in range(options.count):
            moved = {"step": number, "time": 1e9 + number}
            moved |= {"eta_sum": [None if v is None else v * (number + 1) for v in sample["eta_sum"]]}
            for column in ("k", "lambda", "rms", "k_se"):
                moved[column] = [None if v is None else v * (1 + source.gauss(0, 1e-4)) for v in sample[column]]
            file.write(json.dumps(sample | moved, separators=(",", ":")) + "\n")
    path, tally = str(folder / "long"), Tally()
    for words in (
        ["--version"],
        ["alerts", path],
        ["report", path, "-o", f"{folder}/page.html"],
        ["watch", path, "--once"],
    ):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "weibull_monitor.cli.main", *words]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        tally.tried += 1
        tally.read += done.returncode == 0
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(
            f"{words[0]}: {options.count:,} samples of {len(run['components'])} components: {spent:.1f} s of a core",
            flush=True,
        )
    print(f"the page has {(folder / 'page.html').stat().st_size / 1e6:.1f} MB")
    _components(10_000, folder)
    return tally


def _components(count: int, folder: Path) -> None:
    """Prints what the host does with samples of many components: judging, metrics, writing."""

    def block() -> nn.Module:
        attention = {f"{name}_proj": nn.Linear(64, 64, False, "meta") for name in "qkvo"}
        sizes = {"gate_proj": (64, 128), "up_proj": (64, 128), "down_proj": (128, 64)}
        inner = {name: nn.Linear(*size, False, "meta") for name, size in sizes.items()}
        return nn.ModuleDict({"self_attn": nn.ModuleDict(attention), "mlp": nn.ModuleDict(inner)})

    model = nn.ModuleDict({"layers": nn.ModuleList(block() for _ in range(count // 7))})
    began = time.process_time()
    components = discover_components(model)
    print(f"{len(components):,} components: found in {time.process_time() - began:.1f} s", flush=True)
    attention = [asdict(kind) for kind in attention_types(model, components)]
    pairs, engine, writer = (
        attention_pairs(components, attention),
        Engine(AlertSettings(), attention),
        HistoryWriter(folder / "many"),
    )
    fit, source = fit_weibull(torch.randn(64, 64)), random.Random(0)
    baseline = {}
    for number in range(6):
        fits = {
            c.name: replace(fit, k=fit.k + source.gauss(0, 1e-3), lambda_=fit.lambda_ + source.gauss(0, 1e-3))
            for c in components
        }
        baseline = baseline or {name: reference_of(one) for name, one in fits.items()}
        scaling = {
            c.name: Scaling(eta=1e-3, weight_decay=0.1, eta_sum=1e-1 * number, update_max=1.0) for c in components
        }
        snapshot = Snapshot(100 * number, 1e9, components, fits, scaling, baseline, pairs=pairs)
        times = [time.process_time()]
        for work in (
            lambda s=snapshot: engine.observe(s),
            snapshot.metrics,
            lambda s=snapshot: writer.write_snapshot(s),
        ):
            work()
            times.append(time.process_time())
        judging, metrics, writing = (b - a for a, b in itertools.pairwise(times))
        print(f"sample {number}: judging {judging:.2f} s, metrics {metrics:.2f} s, writing {writing:.2f} s", flush=True)
