"""How many bins an octave are enough? Fits of 65,536 normal values against the exact sort, with 32, 64 and 128 bins.

python benchmarks/accuracy.py               # 150 draws; about half a minute
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from fit import exact_sort

from weibull_monitor import fit_weibull
from weibull_monitor.measure import bins


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=150)
    parser.add_argument("--values", type=int, default=2**16)
    options = parser.parse_args()
    in_use = bins.MANTISSA_BITS
    print("| bins an octave | dtype | Δk, standard deviation | Δk, largest | Δλ/λ, largest |\n|---|---|---|---|---|")
    for bits in (5, 6, 7):
        bins.MANTISSA_BITS = bits
        bins.bins_of.cache_clear()
        for dtype in (torch.float32, torch.bfloat16):
            errors = []
            for seed in range(options.draws):
                drawn = torch.randn(options.values, generator=torch.Generator().manual_seed(seed))
                stored = (drawn * 0.02 * (1 + seed / options.draws)).to(dtype)  # scales across an octave
                fit, (k, lambda_) = fit_weibull(stored), exact_sort(stored)
                errors.append((fit.k - k, fit.lambda_ / lambda_ - 1))
            dk, dl = np.array(errors).T
            name = f"{2**bits}{' (in use)' if bits == in_use else ''}"
            print(
                f"| {name} | {str(dtype)[6:]} | {dk.std():.1e} | {abs(dk).max():.1e} | {abs(dl).max():.1e} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
