"""k and λ of this package and of the published library against the exact sort of the same values.

python benchmarks/published_library.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import npm_weibull

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from oracle import exact_fit, samples

from weibull_monitor import fit_weibull

N = 2**20
DISTRIBUTIONS = {
    "normal": 1.0,
    "weibull 0.76": 1.0,
    "weibull 0.3": 1e-3,  # else some values are above 100, which its histogram does not hold
    "student t 3": 1.0,
    "laplace": 1.0,
    "uniform": 1.0,
    "normal, σ = 300": 300 / 0.02,
}


def main() -> None:
    print("| distribution | ours: Δk | Δλ/λ | published library: Δk | Δλ/λ |\n|---|---|---|---|---|")
    for name, factor in DISTRIBUTIONS.items():
        values = samples(name.partition(",")[0], N).float() * factor
        k, lambda_, _ = exact_fit(values)
        ours, theirs = fit_weibull(values), npm_weibull.weibull_fit(npm_weibull.extract_to_histogram(values))
        found = [(ours.k, ours.lambda_), (theirs["k"], theirs["lambda"])]
        cells = [f"{k_ - k:+.1e} | {lambda_found / lambda_ - 1:+.1e}" for k_, lambda_found in found]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
