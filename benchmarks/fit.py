"""How fast and how exact is a fit? Everything side by side in one run, on random normal weights.

    python benchmarks/fit.py                    # 1 M, 16.8 M and 134 M values; about five minutes on two cores
    python benchmarks/fit.py --sizes 1000000

The floor is one read of the data: the largest value of its bit patterns. Ratios are to the published library
(npm-weibull-py) and to that floor. Errors are to the exact sort in float64 of the same stored values.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from weibull_monitor import fit_weibull

try:
    import npm_weibull
except ImportError as missing:
    raise SystemExit("npm-weibull-py is not installed; run: pip install npm-weibull-py==0.4.0") from missing

Fit = tuple[float, float]
ROUNDS = 5
INTEGER = {torch.float32: torch.int32, torch.bfloat16: torch.int16}


def read_once(w: torch.Tensor) -> None:
    w.view(INTEGER[w.dtype]).max()


def ours(w: torch.Tensor) -> Fit:
    fit = fit_weibull(w)
    return fit.k, fit.lambda_


def exact_sort(w: torch.Tensor) -> Fit:
    a = w.double().abs().sort().values
    f = (torch.arange(1, len(a) + 1, dtype=torch.float64) - 0.5) / len(a)
    kept = (f >= 0.1) & (f <= 0.9) & (a > 0)
    x, y = a[kept].log(), (-(-f[kept]).log1p()).log()
    dx, dy = x - x.mean(), y - y.mean()
    k = (dx @ dy) / (dx @ dx)
    return float(k), float((x.mean() - y.mean() / k).exp())


def published(w: torch.Tensor) -> Fit:
    fit = npm_weibull.weibull_fit(npm_weibull.extract_to_histogram(w))
    return fit["k"], fit["lambda"]


def watch_like(w: torch.Tensor) -> None:
    """What `wandb.watch` does with one tensor: keep the finite values, copy to the host, range, 64-bin histogram."""
    flat = w.reshape(-1)
    flat = flat[torch.isfinite(flat)].float().cpu().clone()
    low, high = flat.min().item(), flat.max().item()
    flat.histc(bins=64, min=low, max=high)


def clock(work: Callable[[], object], budget: float) -> float:
    """The fastest of several calls, in seconds: as many as fit into the budget, at least one."""
    times: list[float] = []
    while sum(times) < budget and len(times) < 10:
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=[2**20, 2**24, 2**27])
    options = parser.parse_args()
    threads = torch.get_num_threads()
    print(f"{platform.processor() or platform.machine()}, {threads} threads, torch {torch.__version__}\n")
    titles = (
        f"{'method':34}",
        f"{'dtype':8}",
        f"{'values':>11}",
        f"{'ms':>9}",
        f"{'× published':>11}",
        f"{'× one read':>10}",
    )
    head = " | ".join((*titles, f"{'Δk':>8}", f"{'Δλ/λ':>8}"))
    print(f"| {head} |\n|{'|'.join('-' * (len(cell) + 2) for cell in head.split(' | '))}|")
    for size in options.sizes:
        weights = torch.randn(size, generator=torch.Generator().manual_seed(0)) * 0.02
        for dtype in (torch.float32, torch.bfloat16):
            table(weights.to(dtype), threads)


def table(w: torch.Tensor, threads: int) -> None:
    exact = exact_sort(w)
    rows: list[tuple[str, int, Callable[[torch.Tensor], Fit | None]]] = [
        ("one read (the floor)", threads, read_once),
        (f"weibull_monitor, {threads} threads", threads, ours),
        ("weibull_monitor, 1 thread", 1, ours),
        ("wandb.watch-like copy, 64 bins", threads, watch_like),
        ("npm-weibull-py 0.4.0", threads, published),
        ("exact sort, float64", threads, exact_sort),
    ]
    results = [method(w) for _, _, method in rows]  # warms everything up, too
    best = [float("inf")] * len(rows)
    for _ in range(ROUNDS):  # in turn, so that a busy moment of the machine does not fall on one of them alone
        for i, (_, count, method) in enumerate(rows):
            # Not torch.set_num_threads: once called, it makes MKL leave threads spinning after every logarithm.
            with threadpool_limits(limits=count, user_api="openmp"):
                best[i] = min(best[i], clock(lambda method=method: method(w), budget=0.2))  # type: ignore[misc]
    timed = [(name, seconds, result) for (name, _, _), seconds, result in zip(rows, best, results, strict=True)]
    floor, rival = timed[0][1], next(seconds for name, seconds, _ in timed if name.startswith("npm"))
    for name, seconds, fit in timed:
        error = (
            f"{fit[0] - exact[0]:+8.0e} | {fit[1] / exact[1] - 1:+8.0e}"
            if fit and np.isfinite(fit[0])
            else f"{'':8} | {'':8}"
        )
        print(
            f"| {name:34} | {str(w.dtype).removeprefix('torch.'):8} | {w.numel():>11,} | {seconds * 1e3:>9.2f} "
            f"| {rival / seconds:>11.1f} | {seconds / floor:>10.1f} | {error} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
