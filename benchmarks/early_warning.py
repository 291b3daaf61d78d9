"""Which numbers of weights and updates move before the loss does? The study of docs/early-warning.md.

python benchmarks/early_warning.py --runs FILE       # 210 trainings of 4 to 10 s, one after the other; those in FILE are kept
python benchmarks/early_warning.py --runs FILE --page # judges them, and writes the results into docs/early-warning.md
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
SEEDS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="file of JSON lines, one per run")
    parser.add_argument("--page", action="store_true", help="judge the runs and write the page")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    options = parser.parse_args()
    if options.page:
        from early_warning_page import write

        write(options.runs)
        return
    import torch
    from early_warning_runs import ARCHITECTURES, FAULTS, Run, train

    torch.set_num_threads(1)
    done = set()
    if options.runs.exists():
        for line in options.runs.read_text().splitlines():
            run = json.loads(line)
            done.add((run["arch"], run["fault"], run["seed"]))
    twins = [Run(arch, "", seed) for seed in range(options.seeds) for arch in ARCHITECTURES]
    faulty = [
        Run(arch, fault, seed) for seed in range(options.seeds) for arch in ARCHITECTURES for fault in FAULTS if fault
    ]
    for run in (*twins, *faulty):
        if (run.arch, run.fault, run.seed) in done:
            continue
        begin = time.perf_counter()
        result = train(run) | {"seconds": round(time.perf_counter() - begin, 1)}
        with options.runs.open("a") as file:
            file.write(json.dumps(result, separators=(",", ":")) + "\n")
        print(f"{run.key}: {len(result['loss'])} steps, {result['seconds']} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
