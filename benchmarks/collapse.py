"""Whether `attention_scale` comes before attention collapses: trains, replays at three cadences, and prints a table.

``python benchmarks/collapse.py FOLDER [--held-out]``: the architectures that thresholds were chosen with, or the others. Some
30 s per training on one core; trainings whose folder exists are not repeated.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

from collapse_runs import Training, train
from corpus_replay import grave, sampled_every

from weibull_monitor import read_history
from weibull_monitor.alerts import AlertSettings, replay

CHOSEN_WITH = ("opt", "vit", "llama", "bert", "nano")
HELD_OUT = ("t5", "whisper", "neox", "gemma", "bart", "deepseek", "qwen3")
NEWEST = ("stablelm", "pegasus", "dinov2")
SEEDS = (0, 1, 2)
AGAIN = (*CHOSEN_WITH, *HELD_OUT, "llama-gqa", "gpt2", "phi")
AGAIN_SEEDS = (1, 3)
OWN_STYLES = ("fused-rope", "grouped-rope", "crossed", "grouped-norm")
FAULTS = ("none", "x10", "x30", "late x30", "late x10", "ramp")
CADENCES = (10, 50, 100)


def trainings(architectures: tuple[str, ...]) -> list[Training]:
    """Twins and faults of each architecture; warm-ups, fine-tunings and other optimizers that are healthy."""
    found = [Training(arch, fault=fault) for arch in architectures for fault in FAULTS]
    for arch in architectures:
        found += [Training(arch, init="trained", eta=3e-4), Training(arch, init="uniform")]
        found += [Training(arch, warmup=200, eta=2e-3), Training(arch, eta=6e-3)]
        found += [Training(arch, optimizer="lion", eta=2e-4), Training(arch, "x10", init="uniform")]
    return found


def newest() -> list[Training]:
    """Twins and faults of three architectures that were tried when the rule was finished, three seeds of each."""
    return [Training(arch, seed, fault) for seed in SEEDS for fault in FAULTS[:-1] for arch in NEWEST]


def again() -> list[Training]:
    """Twins and faults of all other architectures with two more seeds: nothing was chosen with these trainings."""
    return [Training(arch, seed, fault) for arch in AGAIN for seed in AGAIN_SEEDS for fault in FAULTS]


def others() -> list[Training]:
    """Two architectures with other optimizers, and with a rate that is too high for all matrices."""
    found = []
    for fault in ("late x30", "none", "x30", "late x10", "ramp"):
        for arch in ("gpt2", "vit"):
            found += [
                Training(arch, 1, fault, 2e-4, optimizer="lion"),
                Training(arch, 1, fault, 2e-3, optimizer="muon"),
            ]
            found += [Training(arch, 1, fault, 3e-2, optimizer="sgd")] if fault in ("none", "late x30") else []
            found += [Training(arch, 1, f"all {fault}")] if fault in ("x30", "late x30") else []
    return found


def gone(folder: Path) -> int | None:
    """The step at which the entropy of an attention is below a tenth of its start and, in the healthy twin, is not then."""
    outcome = json.loads((folder / "outcome.json").read_text())
    twin = folder.parent / replace(Training(**outcome["training"]), fault="none").name / "outcome.json"
    healthy = {}
    if outcome["training"]["fault"] != "none" and twin.exists():
        healthy = {row[0]: row[1:] for row in json.loads(twin.read_text())["entropy"]}
    least = 0.1 * min(outcome["entropy"][0][1:])
    for step, *row in outcome["entropy"]:
        if any(e < least and not h < least for e, h in zip(row, healthy.get(step, [1.0] * len(row)), strict=True)):
            return int(step)
    return None


def judge(folder: Path, every: int) -> int | None:
    """The step of the first warning at a cadence; None if there is none."""
    history = read_history(folder)
    alerts = grave(replay(sampled_every(history.snapshots, every), AlertSettings(), history.runs[-1].attention))
    return next((a.step for a in alerts if a.finding.rule == "attention_scale"), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument(
        "--own-styles", action="store_true", help="models that no library has; with QK-norm none may be named"
    )
    parser.add_argument("--newest", action="store_true", help="three architectures with three seeds")
    parser.add_argument("--again", action="store_true", help="fifteen architectures with two more seeds, ramps too")
    parser.add_argument("--others", action="store_true", help="other optimizers, and rates that are too high for all")
    parser.add_argument("--only-existing", action="store_true", help="judge the trainings that are there")
    options = parser.parse_args()
    counted: Counter[tuple[str, int, str]] = Counter()
    architectures = HELD_OUT if options.held_out else OWN_STYLES if options.own_styles else CHOSEN_WITH
    architectures = NEWEST if options.newest else AGAIN if options.again else architectures
    if options.only_existing:
        folders = [
            p.parent for p in options.folder.glob("*/outcome.json") if p.parent.name.split("_")[0] in architectures
        ]
    else:
        wanted = newest() if options.newest else again() if options.again else trainings(architectures)
        wanted = others() if options.others else wanted
        folders = [train(training, options.folder) for training in wanted]
    for folder in sorted(folders):
        outcome = json.loads((folder / "outcome.json").read_text())
        end, first = gone(folder), {every: judge(folder, every) for every in CADENCES}
        print(f"| {folder.name} | {end or '–'} | " + " | ".join(str(first[every] or "–") for every in CADENCES) + " |")
        for every, step in first.items():
            group = "healthy" if outcome["training"]["fault"] == "none" else "collapsed" if end else "not collapsed"
            counted[group, every, "runs"] += 1
            counted[group, every, "alerted"] += step is not None and (end is None or step < end)
    for group, every, what in sorted(counted):
        if what == "runs":
            print(f"{group}, every {every}: {counted[group, every, 'alerted']} of {counted[group, every, 'runs']}")


if __name__ == "__main__":
    main()
