"""How good are the alerts? False alarms of healthy runs, and what is found of faults that were put into real trainings.

    python benchmarks/alerts.py                      # all of it, and docs/alerts-evidence.md; 20 minutes on two idle cores
    python benchmarks/alerts.py --quick              # a few runs of each, no page; three minutes
    python benchmarks/alerts.py --runs DIR           # keeps the runs, and trains only those that are not there yet

Thresholds were chosen on other seeds (healthy 0, faults 5000 and 9000) than these are judged on (healthy 1000, faults 20000).
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import transformers
from alert_faults import FAULTS, SUDDEN
from alert_models import Case
from alert_runs import Outcome, faulty_cases, healthy_cases, outcome_of, train
from alert_simulation import RUNS, simulate

import weibull_monitor
from weibull_monitor import read_history
from weibull_monitor.alerts import AlertSettings, replay
from weibull_monitor.alerts.rules import RULES
from weibull_monitor.alerts.window import SampleWindow
from weibull_monitor.history.alert import Alert

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "alerts-evidence.md"
HEALTHY_SEED, FAULTY_SEED, REPEATS = 1000, 20_000, 4


def done(job: tuple[Case, str]) -> Outcome:
    """The outcome of a case, trained unless it is there."""
    logging.disable(logging.CRITICAL)
    case, place = job
    if not (Path(place) / "outcome.json").exists():
        train(case, Path(place))
    return outcome_of(Path(place))


def replayed(place: str | Path) -> tuple[list[Alert], int, list[int]]:
    """Warnings and errors that begin or get worse in a run, how many component-samples it has, and the steps of its samples."""
    history = read_history(place)
    alerts = replay(
        history.snapshots, AlertSettings(), history.runs[-1].attention, history.runs[-1].model.get("initializer_range")
    )
    steps = [snapshot.step for snapshot in history.snapshots]
    return grave(alerts), sum(len(s.components) for s in history.snapshots), steps


def grave(alerts: Sequence[Alert]) -> list[Alert]:
    return [alert for alert in alerts if alert.phase != "ends" and alert.finding.severity != "info"]


@dataclass
class FalseAlarms:
    """Of one group of healthy runs."""

    runs: int = 0
    component_samples: int = 0
    alerts: int = 0
    components: int = 0

    def add(self, alerts: Sequence[Alert], component_samples: int) -> None:
        self.runs += 1
        self.component_samples += component_samples
        self.alerts += len(alerts)
        self.components += sum(alert.finding.count for alert in alerts)

    def row(self, name: str) -> str:
        share = 1e4 * self.components / max(1, self.component_samples)
        return (
            f"| {name} | {self.runs} | {self.component_samples:,} | {self.alerts} | {self.components} | {share:.2f} |"
        )


@dataclass(frozen=True)
class Judged:
    """What was made of one fault."""

    outcome: Outcome
    within: int | None
    named: str
    rules: tuple[str, ...]
    before: int
    loss_left: int | None
    found_at: int | None


def judge(outcome: Outcome) -> Judged:
    """When the fault was found, whether the right matrix was named, and when the loss showed it."""
    alerts, _, steps = replayed(outcome.place)
    struck = outcome.fault_step or 0
    later = [step for step in steps if step > struck]
    found = [alert for alert in alerts if alert.step > struck]
    soon = [alert for alert in found if alert.step in later[:2]]
    first = found[0].step if found else None
    victims, matrices = set(outcome.victims), len(read_history(outcome.place).components)
    if not victims:
        named = "any"
    elif any(victims & set(alert.finding.components) for alert in soon or found):
        named = "right"
    elif any(alert.finding.count >= 0.9 * matrices for alert in soon or found):
        named = "all"
    else:
        named = "wrong" if found else ""
    return Judged(
        outcome=outcome,
        within=None if first is None else later.index(first) + 1,
        named=named,
        rules=tuple(dict.fromkeys(alert.finding.rule for alert in soon or found[:1])),
        before=sum(alert.step <= struck for alert in alerts),
        loss_left=loss_left(outcome),
        found_at=first,
    )


def loss_left(outcome: Outcome) -> int | None:
    """The step at which the mean loss of five steps is four sigma above the 40 steps before the fault; None if it never is."""
    struck, losses = outcome.fault_step or 0, [10.0 if v is None else v for v in outcome.losses]
    usual = [statistics.fmean(losses[i - 5 : i]) for i in range(struck - 35, struck)]
    limit = statistics.fmean(usual) + 4 * statistics.stdev(usual)
    later = range(struck + 5, len(losses))
    return next((i for i in later if statistics.fmean(losses[i - 5 : i]) > limit), None)


def strengths(place: str | Path, steps: Sequence[int] | None = None, names: set[str] | None = None) -> dict[str, float]:
    """The highest strength of a warning or error of each rule in a run; 1 is the threshold.

    Args:
        place: The run's directory.
        steps: Samples that count; all of them if not given.
        names: Components that count; all of them if empty or not given.
    """
    history = read_history(place)
    window, settings = SampleWindow(history.runs[-1].attention), AlertSettings()
    highest = dict.fromkeys(RULES, 0.0)
    for snapshot in history.snapshots:
        window.push(snapshot)
        if steps is not None and snapshot.step not in steps:
            continue
        for name, rule in RULES.items():
            found = rule(window, getattr(settings, name))
            if found is not None:
                chosen = [n in names for n in window.components.names] if names else [True] * len(window.components)
                counted = found.strength[np.array(chosen) & ((found.severity > 1) | (found.strength < 1.0))]
                highest[name] = max(highest[name], float(counted.max(initial=0.0)))
    return highest


def margin_rows(healthy: Sequence[Outcome], faulty: Sequence[Outcome]) -> list[str]:
    """How near healthy runs come to each threshold, and how far beyond it the faults are."""
    highest = dict.fromkeys(RULES, (0.0, ""))
    for outcome in healthy:
        for rule, value in strengths(outcome.place).items():
            highest[rule] = max(highest[rule], (value, f"{outcome.case.arch}, {outcome.case.name}"))
    lines = ["| rule | highest strength in a healthy run | which |", "|---|---|---|"]
    lines += [f"| `{rule}` | {value:.2f} | {which} |" for rule, (value, which) in highest.items()]
    lowest: dict[str, float] = {}
    for outcome in faulty:
        later = [s.step for s in read_history(outcome.place).snapshots if s.step > (outcome.fault_step or 0)]
        best = max(strengths(outcome.place, later[:2], set(outcome.victims)).values())
        lowest[outcome.case.fault] = min(best, lowest.get(outcome.case.fault, best))
    lines += ["", "| fault | lowest strength, of the best rule within two samples |", "|---|---|"]
    return lines + [f"| {fault} | {value:.2f} |" for fault, value in lowest.items()]


def fault_row(fault: str, judged: Sequence[Judged]) -> str:
    n = len(judged)
    first, soon = (sum(j.within is not None and j.within <= m for j in judged) for m in (1, 2))
    late, missed = sum(j.within is not None and j.within > 2 for j in judged), sum(j.within is None for j in judged)
    named = Counter(j.named for j in judged)
    right = (
        f"{named['right']}" + (f" (+{named['all']} that name all)" if named["all"] else "") if not named["any"] else "–"
    )
    rules = ", ".join(f"`{rule}`" for rule, _ in Counter(r for j in judged for r in j.rules).most_common(3)) or "–"
    quiet = sum(j.loss_left is None or (j.found_at is not None and j.found_at < j.loss_left) for j in judged)
    return f"| {fault} | {n} | {first} | {soon} | {late} | {missed} | {right} | {quiet} | {rules} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few runs of each, and no page")
    parser.add_argument("--runs", help="where runs are kept; without it, nowhere")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--healthy-seed", type=int, default=HEALTHY_SEED)
    parser.add_argument("--faulty-seed", type=int, default=FAULTY_SEED)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(options.runs or scratch).resolve()
        healthy = healthy_cases(options.healthy_seed)
        faulty = faulty_cases(options.faulty_seed, 1 if options.quick else REPEATS)
        healthy = healthy[::9] if options.quick else healthy
        jobs = [(case, str(place / "healthy" / f"{i:03d}")) for i, case in enumerate(healthy)]
        jobs += [(case, str(place / "faults" / f"{i:03d}")) for i, case in enumerate(faulty)]
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(options.workers, mp_context=spawn) as pool:
            outcomes = list(pool.map(done, jobs))
        lines = report([o for o in outcomes if not o.case.fault], [o for o in outcomes if o.case.fault], options.quick)
        if not options.quick:
            lines += ["", *quickstart(place)]
    text = "\n".join(lines) + "\n"
    print(text)
    if not options.quick:
        PAGE.write_text(HEAD.format(**versions()) + text + TAIL, encoding="utf-8")
        print(f"written to {PAGE}", file=sys.stderr)


def versions() -> dict[str, str]:
    import torch

    return {"transformers": transformers.__version__, "torch": torch.__version__, "ours": weibull_monitor.__version__}


def report(healthy: Sequence[Outcome], faulty: Sequence[Outcome], quick: bool) -> list[str]:
    """The tables."""
    real, simulated, lines = FalseAlarms(), FalseAlarms(), []
    told: list[str] = []
    for outcome in healthy:
        alerts, count, _ = replayed(outcome.place)
        real.add(alerts, count)
        told += [
            f"{outcome.case.arch}, {outcome.case.name}: {alert.finding.rule} at step {alert.step}" for alert in alerts
        ]
    for run in RUNS[:2] if quick else RUNS:
        samples = list(simulate(run, seed=1))
        alerts = grave(replay(samples, AlertSettings(), [run.attention]))
        simulated.add(alerts, sum(len(s.components) for s in samples))
        told += [f"simulated, {run.name}: {alert.finding.rule} at step {alert.step}" for alert in alerts]
    before = FalseAlarms()
    judged: dict[str, list[Judged]] = defaultdict(list)
    for outcome in faulty:
        one = judge(outcome)
        judged[outcome.case.fault].append(one)
        alerts, _, steps = replayed(outcome.place)
        matrices = len(read_history(outcome.place).components)
        early = [alert for alert in alerts if alert.step <= (outcome.fault_step or 0)]
        before.add(early, matrices * sum(step <= (outcome.fault_step or 0) for step in steps))
    lines += ["## False alarms", ""]
    lines += [
        "| healthy runs | runs | component-samples | alerts | components in them | of 10,000 |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        real.row("real small trainings"),
        simulated.row("simulated large ones"),
        before.row("trainings before their fault"),
    ]
    lines += ["", *(f"- {line}" for line in told or ["There was no warning and no error."])]
    lines += ["", "## Faults", ""]
    lines += [
        "| fault | runs | found in 1 sample | in 2 | later | missed | right matrix named | before the loss shows it | by |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [fault_row(fault, judged[fault]) for fault in FAULTS]
    sudden = [j for fault in SUDDEN for j in judged[fault]]
    soon = sum(j.within is not None and j.within <= 2 for j in sudden)
    named = Counter(j.named for j in sudden)
    lines += [
        "",
        f"Sudden faults found within two samples: **{soon} of {len(sudden)}**, {100 * soon / len(sudden):.1f} %.",
    ]
    lines += [
        f"Where the fault was in particular matrices, one of them was named in {named['right']} runs, all matrices at once in "
    ]
    lines[-1] += f"{named['all']}, wrong ones in {named['wrong']}."
    missed = [j.outcome for j in sudden if j.within is None or j.within > 2]
    lines += [
        f"- not found in time: {o.case.fault}, {o.case.arch}, seed {o.case.seed}, step {o.fault_step}" for o in missed
    ]
    return [*lines, "", "## Margins", "", "A strength of 1 is the threshold.", "", *margin_rows(healthy, faulty)]


def quickstart(place: Path) -> list[str]:
    """The alerts that the quickstart raised while it ran."""
    where = place / "quickstart"
    if not (where / "weibull" / "history.jsonl").exists() or read_history(where).snapshots[-1].step < 600:
        command = [sys.executable, str(ROOT / "examples" / "quickstart_transformers.py"), "--output-dir", str(where)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    history = read_history(where)
    told = Counter(alert.finding.severity for alert in history.alerts if alert.phase != "ends")
    return [
        "## The quickstart",
        "",
        f"`examples/quickstart_transformers.py`, {history.snapshots[-1].step} steps, as told while it ran: {told['warning']} "
        f"warnings, {told['error']} errors, {told['info']} infos.",
    ]


HEAD = """# How good the alerts are

Written by `python benchmarks/alerts.py` (weibull-monitor {ours}, torch {torch}, transformers {transformers}); nothing here is
typed in by hand. Thresholds were chosen on other seeds than these. An alert is a warning or an error; what is info is not
counted. The real runs are trainings of 150 to 640 steps of models of two to six blocks (Llama with and without grouped queries,
Qwen3, OLMo2, GPT-NeoX, GPT-2, BERT, Mixtral, DeepSeek), most of them sampled every 10 steps and at 1, 2, 4, … 64:
`benchmarks/alert_runs.py` says which. The simulated ones (`benchmarks/alert_simulation.py`) have the sizes, courses and noise of
large models.

"""

TAIL = """
## How to read it

- *Found in 2*: at the first or second sample after the fault, which strikes between two samples or right after one.
- *Before the loss shows it*: the alert came before the mean loss of five steps left its range of the 40 steps before (by four
  standard deviations), or the loss never did.
- *Label noise* and *optimizer state lost* are not faults of weights: the first makes λ move otherwise after a while, the second
  leaves all weights as they were, and only the step count of the optimizer shows it. `scale_shift` sees it now and then.
- *4 KiB of random bytes* in float32 hold numbers of all sizes: the next forward pass is NaN, and so is every matrix a step
  later; the matrix that was hit cannot be found then.
"""


if __name__ == "__main__":
    main()
