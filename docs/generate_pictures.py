"""Draws the pictures of the documentation into docs/figures, each for light and for dark pages.

python docs/generate_pictures.py                      # all; trains what they show first: three minutes on two cores
python docs/generate_pictures.py anchors published    # these only
python docs/generate_pictures.py --again              # trains anew what is already in runs/pictures

Needs ``pip install 'weibull-monitor[transformers,report]'`` and no network. Seeds are fixed; another machine or another version
of torch gives slightly other curves.
"""

from __future__ import annotations

import shutil
import sys
from functools import partial

from pictures import concepts, faults, passes
from pictures.first import first
from pictures.training import RUNS

PICTURES = {
    "first": first,
    "histogram": concepts.histogram,
    "probability-plot": concepts.probability_plot,
    "two-populations": concepts.two_populations,
    "anchors": concepts.anchor_values,
    "published": concepts.published,
    "classes": concepts.classes,
    "classes-wider": partial(concepts.classes, "classes-wider", width=128, blocks=4),
    "noise": concepts.noise,
    "forward-pass": passes.forward_pass,
} | faults.FAULTS
"""Every picture, by the name of its file."""
BY_OTHERS = {"sweep.png": "weibull-monitor sweep runs/sweep/* --plot docs/figures/sweep.png"} | {
    f"report{part}{variant}.png": "python docs/generate_report_pictures.py"
    for part in ("", "-probability", "-law", "-phone")
    for variant in ("", "-dark")
}
BY_OTHERS |= {
    f"dashboard-{name}.png": "python docs/generate_dashboards.py runs/demo"
    for name in ("watch", "tensorboard-charts", "tensorboard-heatmaps", "wandb-heatmap")
}
BY_OTHERS |= {
    f"early-warning{variant}.svg": "python benchmarks/early_warning.py --runs FILE --page" for variant in ("", "-dark")
}
"""Figures that another command draws: what draws them."""


def main() -> None:
    """Does what the command line says."""
    words = sys.argv[1:]
    if "--again" in words:
        shutil.rmtree(RUNS, ignore_errors=True)
    chosen = [word for word in words if word != "--again"] or list(PICTURES)
    if unknown := set(chosen) - set(PICTURES):
        raise SystemExit(f"no picture is called {', '.join(sorted(unknown))}; there are {', '.join(PICTURES)}")
    for name in chosen:
        PICTURES[name]()
        print(f"docs/figures/{name}.svg", flush=True)


if __name__ == "__main__":
    main()
