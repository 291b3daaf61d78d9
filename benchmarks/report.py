"""The report of a large run: how long its history takes to read, the page to write, and a browser to open it.

    python benchmarks/report.py [--layers 100] [--samples 1000] [--keep FOLDER]

The run is made up: a Llama of so many blocks with seven matrices each, an embedding and a head, whose k and λ drift as those
of real runs do, with sampling noise of matrices of 16 million values, the law's values, probability plots and a few alerts.
It is written by the program's own writer. The page is opened in the system's Chromium without a network, five times, each in
a fresh context; "first charts" is when those in view have been drawn, counted from the start of the navigation.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

from weibull_monitor.history import HistoryWriter, RunRecord, read_history
from weibull_monitor.history.alert import Alert, Finding
from weibull_monitor.history.snapshot import Estimate, Scaling, Snapshot
from weibull_monitor.measure import LEVELS, WeibullFit
from weibull_monitor.model.components import Component

KINDS = ("attn_q", "attn_k", "attn_v", "attn_o", "ffn_gate", "ffn_up", "ffn_down")
END = {"attn_q": 1.11, "attn_k": 1.12, "attn_v": 1.17, "attn_o": 1.18}
N = 4096 * 4096
WAIT = "new Promise((done) => { const look = () => WM.drawnAt ? done(WM.drawnAt) : setTimeout(look, 5); look(); })"
PLACES = [math.log(-math.log1p(-level)) for level in LEVELS]


def components(layers: int) -> tuple[Component, ...]:
    def one(name: str, kind: str, block: int | None) -> Component:
        tower = "" if block is None else "model.layers"
        return Component(name, kind, block, None, False, (4096, 4096), torch.bfloat16, True, name, tower=tower)

    blocks = [one(f"model.layers.{b}.{kind}.weight", kind, b) for b in range(layers) for kind in KINDS]
    return (
        one("model.embed_tokens.weight", "embedding", None),
        *blocks,
        one("lm_head.weight", "lm_head", None),
    )


def fit(k: float, lambda_: float, rng: np.random.Generator, plotted: bool) -> WeibullFit:
    k += rng.normal(0.0, 1.137 * k / math.sqrt(N))
    plot = tuple(math.log(lambda_) + place / k for place in PLACES) if plotted else ()
    rest = dict.fromkeys(WeibullFit.__dataclass_fields__, 0.0)
    rest |= {
        "k": k,
        "lambda_": lambda_,
        "r2": 0.9977,
        "k_se": 1.137 * k / math.sqrt(N),
        "n": N,
        "zeros": 0,
        "nonfinite": 0,
    }
    return WeibullFit(**rest | {"rms": 1.1 * lambda_, "quantiles": plot})  # type: ignore[arg-type]


def write(where: Path, layers: int, samples: int) -> Path:
    rng, found = np.random.default_rng(0), components(layers)
    writer, every, total = HistoryWriter(where), 100, 100 * samples
    group = {"weight_decay": 0.1, "betas": [0.9, 0.95], "law": "applies"}
    attention = {
        "tower": "model.layers", "sharing": "GQA", "query_heads": 32, "key_value_heads": 8, "head_size": 128,
        "qk_norm": False, "fused": False, "cross": False, "gated": False, "blocks": layers,
    }  # fmt: skip
    record = RunRecord(
        1.7e9, None, {"class": "LlamaForCausalLM", "model_type": "llama", "parameters": len(found) * N}, 64,
        {"fit": "middle-80 % probability plot from bit-pattern counts"}, found, {}, "synthetic",
        attention=[attention], optimizers=[{"class": "AdamW", "groups": [group]}], total_steps=total,
    )  # fmt: skip
    writer.write_run(record)
    depth = {c.name: rng.uniform(0.6, 1.4) for c in found}
    plots = {0, *(2**n for n in range(20)), samples - 1}
    for sample in range(samples):
        spent = 3e-4 * 0.1 * every * sample
        done = 1.0 - math.exp(-3.0 * sample / samples)
        effective = math.sqrt(3e-4 / 0.1 * (1.0 - math.exp(-2.0 * spent)))
        fits, scaling = {}, {}
        for c in found:
            scale = math.sqrt(0.02**2 * math.exp(-2.0 * spent) + (0.6 * effective) ** 2)
            end = 1.2054 + depth[c.name] * (END.get(c.kind, 1.195) - 1.2054)
            fits[c.name] = fit(1.2054 + done * (end - 1.2054), scale, rng, sample in plots)
            foretold = Estimate(0.0345, 0.03, 0.04) if sample > samples / 4 else None
            scaling[c.name] = Scaling(
                eta=3e-4,
                weight_decay=0.1,
                effective=effective,
                t_over_tau=spent,
                forecast=foretold,
                eta_sum=spent,
                update_max=1.0,
            )
        taken = Snapshot(sample * every, 1.7e9 + 300.0 * sample, found, fits, scaling=scaling, seconds=0.8)
        writer.write_snapshot(taken)
        if sample in plots:
            writer.write_plot(taken)
        if sample in (samples // 3, samples // 2):
            name = found[len(found) // 2].name
            finding = Finding(
                "scale_shift", "warning", sample * every, name, (name,), 1, "λ", 0.5, (None, 0.1), 9.0, "Look."
            )
            writer.write_alert(Alert("begins", sample * every, sample * every, finding))
    writer.close()
    return writer.path


def opened(page: Path) -> list[tuple[float, float]]:
    """First charts and the whole page drawn, in milliseconds."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from browser import chromium, page_of

    times = []
    with chromium() as browser:
        for _ in range(5):
            with page_of(browser) as (tab, seen):
                tab.goto(page.resolve().as_uri())
                first = tab.evaluate(WAIT)
                rest = tab.evaluate(
                    "(() => { const from = performance.now(); WM.drawAll(); return performance.now() - from; })()"
                )
                assert not seen.errors, seen.errors
                assert not seen.requests, seen.requests
                times.append((first, rest))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=100)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--keep", metavar="FOLDER", help="where the history and the page are left")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        where = Path(options.keep or temporary)
        file = where / "weibull" / "history.jsonl"
        if not file.exists():
            write(where, options.layers, options.samples)
        began = time.perf_counter()
        history = read_history(file)
        read = time.perf_counter()
        from weibull_monitor.report.html import write as write_page
        from weibull_monitor.report.html.data import page_data

        imported = time.perf_counter()
        page_data([("large", history)])
        made = time.perf_counter()
        page = write_page([("large", history)], where / "report.html")
        print(
            f"read_history {read - began:.2f} s, data {made - imported:.2f} s, data and page {time.perf_counter() - made:.2f} s"
        )
        size = file.stat().st_size / 1e6
        print(f"history: {len(history.components)} matrices × {len(history.snapshots)} samples, {size:.0f} MB")
        print(f"page: {page.stat().st_size / 1e6:.2f} MB")
        times = opened(page)
        first, rest = (median(t[i] for t in times) for i in (0, 1))
        print(
            f"Chromium: first charts after {first:.0f} ms, all charts drawn at once {rest:.0f} ms (medians of {len(times)})"
        )


if __name__ == "__main__":
    main()
