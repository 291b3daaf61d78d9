"""What judging a sample costs: all rules over 2,000 components, on one thread, and the memory that the window holds.

Times are those of the processor, which other processes disturb less than those of the clock.

python benchmarks/alerts_cost.py
"""

from __future__ import annotations

import argparse
import statistics
import time
import tracemalloc

import numpy as np
import torch

from weibull_monitor.alerts import AlertSettings, Engine
from weibull_monitor.alerts.rules import RULES
from weibull_monitor.alerts.window import SampleWindow
from weibull_monitor.history.snapshot import Reference, Scaling, Snapshot
from weibull_monitor.measure import WeibullFit
from weibull_monitor.model.components import Component

TARGET = 10.0
"""Milliseconds a sample."""
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
    """Samples of a healthy run, every 100 steps."""
    chosen, chance = components(number), np.random.default_rng(0)
    k, log_lambda = np.full(number, 1.2054), np.full(number, np.log(0.018))
    out = []
    for sample in range(samples):
        k = k - 2e-4 + 1e-4 * chance.standard_normal(number)
        log_lambda = log_lambda + 0.01 + 1e-3 * chance.standard_normal(number)
        scale = np.exp(log_lambda)
        nothing = dict.fromkeys(("ks", "q90_q10", "p999_p50", "gini", "aic_weibull", "aic_lognormal", "aic_gamma"), 0.0)
        fits = {
            c.name: WeibullFit(
                k=float(k[i]),
                lambda_=float(scale[i]),
                r2=0.998,
                k_se=0.0013,
                lambda_se=1e-5,
                n=1 << 20,
                zeros=0,
                nonfinite=0,
                rms=float(scale[i] / 0.887),
                occupied_bins=100,
                checksum=sample,
                **nothing,
            )
            for i, c in enumerate(chosen)
        }
        used = Scaling(eta=3e-4, weight_decay=0.1, eta_sum=3e-2 * sample, update_max=7.27)
        baseline = {c.name: Reference(1.2054, 0.018) for c in chosen}
        out.append(Snapshot(100 * sample, 0.0, chosen, fits, dict.fromkeys(fits, used), baseline))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--components", type=int, default=2_000)
    parser.add_argument("--samples", type=int, default=80)
    options = parser.parse_args()
    torch.set_num_threads(1)
    run = snapshots(options.components, options.samples)
    attention = [{"tower": "model.layers", "sharing": "GQA", "qk_norm": False, "fused": False, "cross": False}]
    engine, settings = Engine(AlertSettings(), attention), AlertSettings()
    times = []
    for snapshot in run:
        begin = time.process_time()
        engine.observe(snapshot)
        times.append(1e3 * (time.process_time() - begin))
    late = times[40:]
    print("| all rules, one sample, one thread | ms | target |")
    print("|---|---|---|")
    print(f"| {options.components:,} components, median | {statistics.median(late):.1f} | < {TARGET:.0f} |")
    print(f"| worst of {len(late)} | {max(late):.1f} | |")

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
    for name, rule in RULES.items():
        rule(window, getattr(settings, name))  # what a rule looks at once in a run
        begin = time.process_time()
        for _ in range(20):
            window.memo.clear()
            rule(window, getattr(settings, name))
        print(f"| `{name}` | {1e3 * (time.process_time() - begin) / 20:.2f} | |")


if __name__ == "__main__":
    main()
