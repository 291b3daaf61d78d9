"""How well λ at the end of a run was forecast, by how much of the run had passed: on published trajectories, or on your own runs.

python benchmarks/forecast.py ../shared/reference/lambda_trajectories.csv
python benchmarks/forecast.py runs/sweep/*

A table of trajectories (a CSV with the columns run, eta_peak, weight_decay, step and lambda) is forecast anew by the functions
of `weibull_monitor.scaling.forecast`, with linear warm-up over 200 of 20,000 steps and a cosine to a tenth. From run
directories the forecasts are read that were logged while the run was going on.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from weibull_monitor import read_history
from weibull_monitor.history.snapshot import Estimate
from weibull_monitor.scaling.budget import Budget
from weibull_monitor.scaling.forecast import MIN_DECAY, MIN_SHARE, ForecastPoint, drift, forecast, ratio_between
from weibull_monitor.scaling.learning_rates import RatesAhead

TOTAL, WARMUP = 20_000, 200


@dataclass(frozen=True)
class Forecast:
    """One forecast and what came of it."""

    run: str
    share: float
    error: float
    """Relative error of the value."""
    naive: float | None
    """The same with c of the whole run instead of the recent steps."""
    covered: bool
    width: float
    """Half the interval, relative."""


def published_rate(step: int, peak: float) -> float:
    if step <= WARMUP:
        return peak * step / WARMUP
    return peak * (0.55 + 0.45 * math.cos(math.pi * (step - WARMUP) / (TOTAL - WARMUP)))


def of_table(path: Path) -> list[Forecast]:
    runs: dict[str, list[dict[str, str]]] = defaultdict(list)
    with path.open() as lines:
        for row in csv.DictReader(lines):
            runs[row["run"]].append(row)
    found = []
    for run, rows in runs.items():
        peak, weight_decay = float(rows[0]["eta_peak"]), float(rows[0]["weight_decay"])
        found += of_trajectory(run, peak, weight_decay, [(int(r["step"]), float(r["lambda"])) for r in rows])
    return found


def of_trajectory(
    run: str, peak: float, weight_decay: float, samples: Sequence[tuple[int, float]], earliest: float = MIN_SHARE
) -> list[Forecast]:
    """Forecasts from every sample; the first sample stands for the baseline, as the published runs have none of step 0."""
    rates = np.array([published_rate(n, peak) for n in range(1, TOTAL + 1)])
    budgets = [Budget()]
    for rate in rates:
        budgets.append(budgets[-1].advanced(float(rate), weight_decay))
    baseline = ForecastPoint(0, samples[0][1], 0.0, 0.0)
    points = [ForecastPoint(step, scale, budgets[step].integral, budgets[step].decay) for step, scale in samples]
    end = points[-1].lambda_
    found = []
    for now in points[:-1]:
        if now.step < earliest * TOTAL or now.decay < MIN_DECAY:
            continue
        before = max((p for p in points if p.step <= now.step / 2), default=baseline)
        earlier = max((p for p in points if p.step <= before.step / 2), default=baseline)
        rest = RatesAhead(rates[now.step :], now.step).rest(now.step, weight_decay)
        c, whole = ratio_between(before, now), ratio_between(baseline, now)
        if c is None or whole is None:
            continue
        doublings = math.log2(TOTAL / now.step)
        estimate = forecast(now, c, drift(baseline, earlier, before, now), rest, doublings)
        naive = math.sqrt(
            whole**2 * (now.integral * math.exp(-2 * rest.decay) + rest.injection)
            + baseline.lambda_**2 * math.exp(-2 * (now.decay + rest.decay))
        )
        found.append(judged(run, now.step / TOTAL, estimate, end, naive))
    return found


def of_run(path: Path) -> list[Forecast]:
    """The forecasts that a run logged, median over the matrices of each kind, against the last sample."""
    history = read_history(path)
    last = history.snapshots[-1]
    found = []
    for kind in dict.fromkeys(c.label for c in history.components if c.expert is None):
        names = [c.name for c in history.components if c.label == kind]
        end = median_of(last.values("lambda"), names)
        for sample in history.snapshots[:-1]:
            values = [median_of(sample.values(f"lambda_forecast{end}"), names) for end in ("", "_low", "_high")]
            if end is not None and all(value is not None for value in values):
                found.append(judged(f"{path.name}: {kind}", sample.step / last.step, Estimate(*values), end))
    return found


def median_of(values: dict[str, float], names: Iterable[str]) -> float | None:
    present = [values[name] for name in names if name in values]
    return float(np.median(present)) if present else None


def judged(run: str, share: float, estimate: Estimate, end: float, naive: float | None = None) -> Forecast:
    return Forecast(
        run,
        share,
        estimate.value / end - 1,
        naive / end - 1 if naive is not None else None,
        estimate.low <= end <= estimate.high,
        (estimate.high - estimate.low) / (2 * end),
    )


def within(forecasts: Sequence[Forecast], bound: float, naive: bool = False) -> float | None:
    """The share of the run from which on every forecast of it was within a bound."""
    outside = [f.share for f in forecasts if abs((f.naive if naive else f.error) or 0.0) > bound]
    later = [f.share for f in forecasts if not outside or f.share > max(outside)]
    return min(later, default=None)


def table(forecasts: Sequence[Forecast]) -> str:
    by_run: dict[str, list[Forecast]] = defaultdict(list)
    for one in forecasts:
        by_run[one.run].append(one)
    marks = (0.25, 0.4, 0.5, 0.75)
    lines = ["| run | " + " | ".join(f"from {mark:.0%}" for mark in marks) + " | within 5 % from |"]
    lines.append("|---" * (len(marks) + 2) + "|")
    for run, own in by_run.items():
        cells = [worst([f for f in own if f.share >= mark]) for mark in marks]
        start = within(own, 0.05)
        lines.append(f"| {run} | " + " | ".join(cells) + f" | {f'{start:.0%}' if start is not None else 'never'} |")
    cells = [worst([f for f in forecasts if f.share >= mark]) for mark in marks]
    lines.append("| all | " + " | ".join(cells) + " | |")
    if all(f.naive is not None for f in forecasts):
        naive = [Forecast(f.run, f.share, f.naive or 0.0, None, f.covered, f.width) for f in forecasts]
        cells = [worst([f for f in naive if f.share >= mark]) for mark in marks]
        lines.append("| all, with c of the whole run | " + " | ".join(cells) + " | |")
    lines += ["", "| of the run | forecasts | in the interval | half the interval (mean) | error (root mean square) |"]
    lines.append("|---|---|---|---|---|")
    for low, high in ((0.0, 0.1), (0.1, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0)):
        own = [f for f in forecasts if low <= f.share < high]
        if own:
            error = math.sqrt(sum(f.error**2 for f in own) / len(own))
            lines.append(
                f"| {low:.0%} to {high:.0%} | {len(own)} | {sum(f.covered for f in own) / len(own):.1%} "
                f"| ± {sum(f.width for f in own) / len(own):.1%} | {error:.2%} |"
            )
    return "\n".join(lines)


def worst(forecasts: Sequence[Forecast]) -> str:
    return f"{max(forecasts, key=lambda f: abs(f.error)).error:+.1%}" if forecasts else "–"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path, help="a table of trajectories, or directories of runs")
    options = parser.parse_args()
    forecasts = [f for path in options.paths for f in (of_table(path) if path.suffix == ".csv" else of_run(path))]
    print(table(forecasts))


if __name__ == "__main__":
    main()
