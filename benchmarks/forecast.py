"""How well λ at the end of a run was forecast, by how much of the run had passed: on published trajectories, or on your own runs.

python benchmarks/forecast.py ../shared/reference/lambda_trajectories.csv ../shared/reference/published_layers.csv.gz
python benchmarks/forecast.py runs/sweep/*

A table of trajectories is forecast anew by the functions of `weibull_monitor.scaling.forecast`, at every sample: a CSV with the
columns run, eta_peak, weight_decay, step and lambda, or k and rms and the name of a matrix. Its runs have a linear warm-up over
200 steps and a cosine to a tenth. From run directories the forecasts are read that were logged while the run was going on.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from weibull_monitor import read_history
from weibull_monitor.history.snapshot import Estimate
from weibull_monitor.scaling.budget import Budget
from weibull_monitor.scaling.forecast import MIN_SHARE, Points, Trail, forecast, growth
from weibull_monitor.scaling.learning_rates import RatesAhead

WARMUP = 200


@dataclass(frozen=True)
class Forecast:
    """One forecast and what came of it."""

    run: str
    share: float
    error: float
    """Relative error of the value."""
    stays: float
    """The same if λ had been said to stay as it is."""
    covered: bool
    width: float
    """Half the interval, relative."""


def published_rate(step: int, peak: float, total: int) -> float:
    if step <= WARMUP:
        return peak * step / WARMUP
    return peak * (0.55 + 0.45 * math.cos(math.pi * (step - WARMUP) / (total - WARMUP)))


def of_table(path: Path) -> list[Forecast]:
    runs: dict[str, list[dict[str, str]]] = defaultdict(list)
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        for row in csv.DictReader(lines):
            runs[row["run"]].append(row)
    found: list[Forecast] = []
    for run, rows in runs.items():
        scales: dict[int, dict[str, float]] = defaultdict(dict)
        for row in rows:
            name = row.get("matrix", "all")
            scales[int(row["step"])][name] = float(row["lambda"]) if "lambda" in row else scale_of(row)
        found += of_trajectory(run, float(rows[0]["eta_peak"]), float(rows[0]["weight_decay"]), scales)
    return found


def scale_of(row: dict[str, str]) -> float:
    """λ = RMS/√Γ(1 + 2/k)."""
    return float(row["rms"]) / math.sqrt(math.gamma(1 + 2 / float(row["k"])))


def of_trajectory(
    run: str, peak: float, weight_decay: float, scales: dict[int, dict[str, float]], earliest: float = MIN_SHARE
) -> list[Forecast]:
    """Forecasts from every sample; the first sample stands for the baseline, as the published runs have none of step 0."""
    steps = sorted(scales)
    total = steps[-1]
    names = tuple(scales[steps[0]])
    rates = np.array([published_rate(n, peak, total) for n in range(1, total + 1)])
    budgets = [Budget()]
    for rate in rates:
        budgets.append(budgets[-1].advanced(float(rate), weight_decay))
    first, last = ([scales[step][name] for name in names] for step in (steps[0], steps[-1]))
    trail, found = Trail(), []
    for step in steps[:-1]:
        spent = budgets[step]
        rows = {name: (scales[step][name], math.sqrt(spent.integral), spent.decay, spent.path) for name in names}
        now = Points.of(step, rows)
        if step >= earliest * total:
            rest = RatesAhead(rates[step:], step).rest(step, weight_decay)
            ahead = np.repeat(np.array(rest)[:, np.newaxis], len(names), axis=1)
            value, low, high = forecast(now, growth(trail, np.array(first), now, total), ahead)
            for n, name in enumerate(names):
                if np.isfinite(value[n]):
                    estimate = Estimate(float(value[n]), float(low[n]), float(high[n]))
                    found.append(judged(run, step / total, estimate, last[n], scales[step][name]))
        trail.add(now)
    return found


def of_run(path: Path) -> list[Forecast]:
    """The forecasts that a run logged for each matrix, against its last sample."""
    history = read_history(path)
    last = history.snapshots[-1]
    final = last.values("lambda")
    found = []
    for sample in history.snapshots[:-1]:
        ends = [sample.values(f"lambda_forecast{end}") for end in ("", "_low", "_high")]
        now = sample.values("lambda")
        for name in ends[0].keys() & final.keys() & now.keys():
            estimate = Estimate(*(values[name] for values in ends))
            found.append(judged(path.name, sample.step / last.step, estimate, final[name], now[name]))
    return found


def judged(run: str, share: float, estimate: Estimate, end: float, now: float) -> Forecast:
    inside = estimate.low <= end <= estimate.high
    return Forecast(
        run, share, estimate.value / end - 1, now / end - 1, inside, (estimate.high - estimate.low) / (2 * end)
    )


STRETCHES = ((0.25, 0.5), (0.5, 0.75), (0.75, 1.0), (0.25, 1.0), (0.5, 1.0))


def table(forecasts: Sequence[Forecast], group: Callable[[str], str]) -> str:
    lines = [
        "| runs | of the run | forecasts | median error | 95 % | worst | λ stays: median, 95 % | in the interval | half of it |"
    ]
    lines.append("|---" * 9 + "|")
    groups = dict.fromkeys(group(f.run) for f in forecasts)
    for name in groups:
        for low, high in STRETCHES:
            own = [f for f in forecasts if group(f.run) == name and low <= f.share < high]
            if own:
                errors, stays = (np.abs([getattr(f, key) for f in own]) for key in ("error", "stays"))
                held = sum(f.covered for f in own) / len(own)
                width = float(np.median([f.width for f in own]))
                cells = [
                    name,
                    f"{low:.0%} to {high:.0%}",
                    f"{len(own):,}",
                    *three(errors),
                    f"{np.median(stays):.1%}, {np.quantile(stays, 0.95):.1%}",
                ]
                lines.append("| " + " | ".join([*cells, f"{held:.1%}", f"± {width:.1%}"]) + " |")
    return "\n".join(lines)


def three(errors: np.ndarray) -> Iterator[str]:
    yield from (f"{value:.2%}" for value in (np.median(errors), np.quantile(errors, 0.95), errors.max()))


def forecasts_of(paths: Iterable[Path]) -> list[Forecast]:
    return [f for path in paths for f in (of_table(path) if path.suffix in (".csv", ".gz") else of_run(path))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path, help="tables of trajectories, or directories of runs")
    parser.add_argument("--by", choices=("source", "run"), default="source", help="a row for each source or each run")
    options = parser.parse_args()
    found = [(path, f) for path in options.paths for f in forecasts_of([path])]
    source = {f.run: path.name if path.is_file() else "runs" for path, f in found}
    print(table([f for _, f in found], (lambda run: run) if options.by == "run" else source.__getitem__))


if __name__ == "__main__":
    main()
