"""What judging a sample costs: all rules over 2,000 components, on one thread, and the memory that the window holds.

Rules are asked only where one of their movements is large enough in itself, so a calm sample costs less than one in which each
matrix moves far, as early in a run or where samples are far apart. Both are measured.

Times are those of the processor, which other processes disturb less than those of the clock.

python benchmarks/alerts_cost.py
"""

from __future__ import annotations

import argparse
import statistics
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from weibull_monitor.alerts import AlertSettings, Engine
from weibull_monitor.alerts.rules import RULES, screens
from weibull_monitor.alerts.window import SampleWindow
from weibull_monitor.history.snapshot import References, ScalingRows, Snapshot
from weibull_monitor.measure.fit import FIELDS
from weibull_monitor.measure.fit_rows import FitRows
from weibull_monitor.model.components import Component

TARGET = 10.0
"""Milliseconds a sample."""
FIT: dict[str, Any] = {"r2": 0.998, "k_se": 0.0013, "lambda_se": 1e-5, "n": 1 << 20, "occupied_bins": 100}
USED = {"eta": 3e-4, "weight_decay": 0.1, "update_max": 7.27}
REFERENCE = {"k": 1.2054, "lambda_": 0.018, "p999_p50": np.nan, "largest": np.nan}
KINDS = ("attn_q", "attn_k", "attn_v", "attn_o", "ffn_gate", "ffn_up", "ffn_down")


def components(number: int) -> tuple[Component, ...]:
    """So many matrices of 1,024 × 1,024, in blocks of seven."""
    return tuple(
        Component(
            name=f"model.layers.{i // 7}.{KINDS[i % 7]}.weight",
            kind=KINDS[i % 7],
            block=i // 7,
            expert=None,
            cross=False,
            shape=(1024, 1024),
            dtype=torch.float32,
            trainable=True,
            parameter=f"model.layers.{i // 7}.{KINDS[i % 7]}.weight",
            tower="model.layers",
        )
        for i in range(number)
    )


def snapshots(number: int, samples: int) -> list[Snapshot]:
    """Samples of a healthy run, every 100 steps, as the monitor makes them: columns, no objects."""
    chosen, chance = components(number), np.random.default_rng(0)
    names, here = tuple(c.name for c in chosen), np.ones(number, dtype=bool)
    k, log_lambda = np.full(number, 1.2054), np.full(number, np.log(0.018))
    baseline = References(names, {n: np.full(number, v) for n, v in REFERENCE.items()})
    out = []
    for sample in range(samples):
        k = k - 2e-4 + 1e-4 * chance.standard_normal(number)
        log_lambda = log_lambda + 0.01 + 1e-3 * chance.standard_normal(number)
        scale = np.exp(log_lambda)
        found = FIT | {"k": k, "lambda_": scale, "rms": scale / 0.887, "checksum": float(sample)}
        fits = FitRows(names, np.stack([np.broadcast_to(found.get(n, 0.0), number) for n in FIELDS]), here)
        used = {n: np.full(number, v) for n, v in (USED | {"eta_sum": 3e-2 * sample}).items()}
        scaling = ScalingRows(names, here, used, [None] * number)
        out.append(Snapshot(100 * sample, 0.0, chosen, fits, scaling, baseline))
    return out


def judged(run: list[Snapshot], engine: Engine) -> list[float]:
    """Milliseconds that each sample takes."""
    times = []
    for snapshot in run:
        begin = time.process_time()
        engine.observe(snapshot)
        times.append(1e3 * (time.process_time() - begin))
    return times


def measured(window: SampleWindow, work: Callable[[], object]) -> float:
    """Milliseconds that some work on the window takes, with nothing known of its latest sample."""
    work()  # what is looked at once in a run
    begin = time.process_time()
    for _ in range(20):
        window.memo.clear()
        work()
    return 1e3 * (time.process_time() - begin) / 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--components", type=int, default=2_000)
    parser.add_argument("--samples", type=int, default=80)
    options = parser.parse_args()
    torch.set_num_threads(1)
    run = snapshots(options.components, options.samples)
    attention = [{"tower": "model.layers", "sharing": "GQA", "qk_norm": False, "fused": False, "cross": False}]
    settings = AlertSettings()
    print("| all rules, one sample, one thread | ms | target |")
    print("|---|---|---|")
    for what, kept in (("calm", screens.SCREENS), ("every rule is asked", {})):
        with patch.object(screens, "SCREENS", kept):
            times = judged(run, Engine(settings, attention))[40:]
        print(
            f"| {options.components:,} components, {what}: median | {statistics.median(times):.1f} | < {TARGET:.0f} |"
        )
        print(f"| worst of {len(times)} | {max(times):.1f} | |")

    window = SampleWindow(attention)
    tracemalloc.start()
    for snapshot in run:
        window.push(snapshot)
    held = tracemalloc.get_traced_memory()[0] / 2**20
    tracemalloc.stop()
    print(f"| memory that the window holds, whatever the length of the run | {held:.0f} MiB | |")
    begin = time.process_time()
    for _ in range(20):
        window.push(run[-1])
    print(f"| of that: taking the sample in | {1e3 * (time.process_time() - begin) / 20:.2f} | |")
    print("| rule | ms | ms to see that it need not be asked |")
    print("|---|---|---|")
    for name, rule in RULES.items():
        of_rule = getattr(settings, name)
        whole = measured(window, partial(rule, window, of_rule))
        screen = measured(window, partial(screens.may_find, name, window, of_rule))
        print(f"| `{name}` | {whole:.2f} | {f'{screen:.2f}' if name in screens.SCREENS else ''} |")


if __name__ == "__main__":
    main()
