"""How good are the alerts? False alarms of healthy runs, and what is found of faults that were put into real trainings.

    python benchmarks/corpus.py DIR           # trains the runs; about two hours on one core
    python benchmarks/alerts.py DIR           # replays them at three cadences, and writes docs/alerts-evidence.md
    python benchmarks/alerts.py DIR --print   # no page

Families and faults are divided by name (`corpus_sides`): thresholds are chosen with one side only.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import transformers
from alert_simulation import RUNS, simulate
from corpus_replay import CADENCES, Judged, Run, Tally, grave, judge, judged, load, published, runs, sampled_every
from corpus_sides import CALIBRATED, INDIRECT, LAST, NEW, OLD, OLD_TOO, UNSEEN

import weibull_monitor
from weibull_monitor.alerts import AlertSettings, replay
from weibull_monitor.alerts.rules import RULES
from weibull_monitor.alerts.window import SampleWindow

PAGE: Final = Path(__file__).parents[1] / "docs" / "alerts-evidence.md"
GROUPS: Final = ("calibration", "evaluation", "held out")
FAULTS: Final = {"calibration": (*OLD, *OLD_TOO), "evaluation": NEW, "held out": (*NEW, *LAST)}
VISIBLE: Final = 5.0
"""A fault is visible if it changed a distribution by more than this many of its own steps."""


@dataclass
class Side:
    """What came of one group of runs.

    Attributes:
        healthy: By cadence.
        alarms: By rule and cadence, the number of alarmed healthy runs.
        told: A line for each false alarm.
        faults: By fault and cadence.
        strongest: By rule, the highest strength in a healthy run and its name.
    """

    healthy: dict[int, Tally] = field(default_factory=lambda: {c: Tally() for c in CADENCES})
    alarms: Counter[tuple[str, int]] = field(default_factory=Counter)
    told: list[str] = field(default_factory=list)
    faults: dict[tuple[str, int], list[Judged]] = field(default_factory=lambda: defaultdict(list))
    strongest: dict[str, tuple[float, str]] = field(default_factory=lambda: dict.fromkeys(RULES, (0.0, "–")))

    def add(self, run: Run, settings: AlertSettings) -> None:
        """Replays a healthy run."""
        for every in CADENCES:
            alerts, samples = judged(run, every, settings)
            self.healthy[every].add(alerts, samples)
            self.alarms.update({(a.finding.rule, every) for a in alerts})
            self.told += [f"{run.name}, every {every}: `{a.finding.rule}` at step {a.step}" for a in alerts]
        for every in (CADENCES[0], CADENCES[-1]):
            for rule, value in strengths(run, every, settings).items():
                if value > self.strongest[rule][0]:
                    self.strongest[rule] = value, f"{run.name}, every {every}"


def strengths(run: Run, every: int, settings: AlertSettings) -> dict[str, float]:
    """The highest strength of each rule in a run where it would be a warning; 1 is the threshold."""
    window, highest = SampleWindow(run.attention), dict.fromkeys(RULES, 0.0)
    for sample in sampled_every(run.samples, every):
        window.push(sample)
        for name, rule in RULES.items():
            found = rule(window, getattr(settings, name))
            if found is not None:
                counted = found.strength[(found.severity > 1) | (found.strength < 1.0)]
                highest[name] = max(highest[name], float(counted.max(initial=0.0)))
    return highest


def gather(root: Path, groups: Sequence[str] = GROUPS) -> dict[str, Side]:
    """Replays all runs of a corpus."""
    settings, sides = AlertSettings(), {group: Side() for group in groups}
    twins: dict[str, Run] = {}
    for run in (run for group in groups for run in runs(root, group)):
        side = sides[run.entry["group"]]
        if run.entry["fault"] is None:
            side.add(run, settings)
        else:
            twin = run.entry["twin"]
            if twin not in twins:
                twins = {twin: load(root, twin)}
            for every in CADENCES:
                side.faults[run.entry["fault"], every].append(judge(run, twins[twin], every, settings))
    return sides


def tables(sides: dict[str, Side]) -> Iterator[str]:
    """The page, without its head."""
    yield from (
        "## False alarms",
        "",
        "| healthy runs | runs | " + " | ".join(f"alarmed, every {c} | of 10⁴" for c in CADENCES) + " |",
    )
    yield "|---|---|" + "---|---|" * len(CADENCES)
    for group, side in sides.items():
        yield f"| {group} | {side.healthy[10].runs} | " + " | ".join(side.healthy[c].row() for c in CADENCES) + " |"
    for name, tally in others():
        yield f"| {name} | {tally.runs} | " + " | ".join([tally.row(), *["–"] * (2 * len(CADENCES) - 2)]) + " |"
    yield ""
    for group, side in sides.items():
        yield from (f"- {group}: {line}" for line in side.told or ["no warning and no error."])
    yield from ("", "## Faults", "", *faults(sides))
    yield from (
        "",
        "## Margins",
        "",
        "| rule | sure from | " + " | ".join(f"highest in a healthy run, {g} | which" for g in GROUPS) + " |",
    )
    yield "|---|---|" + "---|---|" * len(GROUPS)
    for rule in RULES:
        cells = [sides[group].strongest.get(rule, (0.0, "–")) for group in GROUPS]
        yield (
            f"| `{rule}` | {getattr(AlertSettings(), rule).sure:.1f} | "
            + " | ".join(f"{value:.2f} | {which}" for value, which in cells)
            + " |"
        )


def others() -> Iterator[tuple[str, Tally]]:
    """Runs of large models: published ones as histories, and simulated ones, at the cadence that they have."""
    settings = AlertSettings()
    for name, given in (
        ("published trainings of 70 M models (every 100)", ((r.samples, r.attention) for r in published())),
        ("simulated large models", ((tuple(simulate(r, seed=1)), (r.attention,)) for r in RUNS)),
    ):
        tally = Tally()
        for samples, attention in given:
            tally.add(grave(replay(samples, settings, attention)), samples)
        yield name, tally


def faults(sides: dict[str, Side]) -> Iterator[str]:
    """One row for each fault, and one for each group."""
    yield "| fault | runs | " + " | ".join(f"visible, every {c} | found | right first" for c in CADENCES) + " | by |"
    yield "|---|---|" + "---|---|---|" * len(CADENCES) + "---|"
    for group, side in sides.items():
        names = FAULTS[group]
        for fault in names:
            if side.faults.get((fault, CADENCES[0])):
                yield _row(fault, [side.faults[fault, c] for c in CADENCES])
        direct = [name for name in names if name not in INDIRECT]
        for what, chosen in ((f"**{group}**", names), (f"**{group}, weights and rates**", direct)):
            yield _row(what, [[j for f in chosen for j in side.faults.get((f, c), ())] for c in CADENCES])
    yield ""
    for group, side in sides.items():
        for c in CADENCES:
            direct = [j for f in FAULTS[group] if f not in INDIRECT for j in side.faults.get((f, c), ())]
            yield _shares(group, c, direct)


def _shares(group: str, every: int, judged_here: Sequence[Judged]) -> str:
    """A line about faults of weights and rates: how many are visible, found, and named rightly."""
    visible = [j for j in judged_here if j.visible > VISIBLE]
    found = [j for j in visible if j.within is not None]
    named = [j for j in found if j.first is not None]
    right = sum(bool(j.first) for j in named)
    return (
        f"- {group}, every {every}, faults of weights and rates: {len(visible)} of {len(judged_here)} change a distribution by "
        f"more than five of its own steps ({_percent(len(visible), len(judged_here))}); {len(found)} of these are found "
        f"({_percent(len(found), len(visible))}), and {right} of {len(named)} name the right matrix first "
        f"({_percent(right, len(named))})."
    )


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "–"


def _row(name: str, by_cadence: Sequence[Sequence[Judged]]) -> str:
    cells = []
    for judged_here in by_cadence:
        visible = [j for j in judged_here if j.visible > VISIBLE]
        found, named = [j for j in visible if j.within is not None], [j for j in visible if j.first is not None]
        cells += [str(len(visible)), f"{len(found)}", f"{sum(bool(j.first) for j in named)} of {len(named)}"]
    by = Counter(rule for judged_here in by_cadence for j in judged_here for rule in j.rules).most_common(3)
    return (
        f"| {name} | {len(by_cadence[0])} | "
        + " | ".join(cells)
        + " | "
        + (", ".join(f"`{r}`" for r, _ in by) or "–")
        + " |"
    )


def families(root: Path, group: str) -> Iterable[str]:
    return {run.entry["family"] for run in runs(root, group)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="a folder that benchmarks/corpus.py has filled")
    parser.add_argument("--print", action="store_true", help="print it, and write no page")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    text = "\n".join(tables(gather(options.root))) + "\n"
    print(text)
    if not options.print:
        PAGE.write_text(
            HEAD.format(**about(options.root)) + text + TAIL.format(**about(options.root)), encoding="utf-8"
        )
        print(f"written to {PAGE}", file=sys.stderr)


def about(root: Path) -> dict[str, Any]:
    return {
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "ours": weibull_monitor.__version__,
        "calibrated": ", ".join(sorted(CALIBRATED)),
        "evaluated": ", ".join(sorted(families(root, "evaluation"))),
        "held_out": ", ".join(sorted(families(root, "held out"))),
        "unseen": ", ".join(sorted(UNSEEN)),
        "old": ", ".join((*OLD, *OLD_TOO)),
        "first": FIRST_LOOK,
        "new": ", ".join(NEW),
        "last": ", ".join(LAST),
    }


FIRST_LOOK: Final = (
    "2, 0 and 2 of 74 healthy runs alarmed every 10, 50 and 100 (2.02, 0 and 5.71 of 10⁴), and 44 of 46, 38 of 40 and 31 of 39 "
    "visible faults were found. The rules before, on the same runs: 0, 2 and 2 of 74 (0, 1.66 and 2.11 of 10⁴); 42 of 46, 32 of "
    "40 and 26 of 39."
)
"""What the first replay of the side that was held out gave."""
HEAD = """# How good the alerts are

Written by `python benchmarks/alerts.py` (weibull-monitor {ours}, torch {torch}, transformers {transformers}); nothing here is
typed in by hand.

The runs are trainings of 100 to 700 steps of small models (about 0.2 M parameters, two to eight blocks), with the optimizers,
courses of η and ordinary events that `benchmarks/corpus_cases.py` lists. Each is sampled at steps 1, 2, 4, … 64 and every 10, and
replayed at cadences of 10, 50 and 100, with the samples that a run has by default after a jump of η or unfreezing. An alarm is
a warning or an error; infos are not counted.

Families stand on one of three sides, by name, since before the first run of each side was trained. Thresholds were chosen with
*calibration*. *Evaluation* has been looked at six times, so that its numbers are not unseen. After each look something was
changed as a kind: `sure` of `scale_shift` was raised, and η is looked at between samples (bloom and electra alarmed);
`no_gradient` became an info (bart, marian); faults were added to *calibration* (few were found at 50 and 100); rises of W_q and
W_k and small changes of k after a long interval were left out of `both` (electra, bart, simulated runs). Now falls are compared
with what training has added, and a k above that of a uniform distribution is an info (bart); both were chosen with blenderbot,
which was added to *calibration* for it.

*Held out* was trained last, and first replayed when the rules were finished: {first} Looking at that, one thing was changed: a
whole model that outruns its past (`faster`) is only found if its embeddings and heads do, too, which in *calibration* parts
faults from healthy runs by more than a third. And `fast` went from 2.1 to 1.85, as the healthy runs of *calibration* allow.
The table shows the rules as they are now.

- Families for calibration: {calibrated}.
- Families for evaluation: {evaluated}; the published trainings; the simulated ones (`benchmarks/alert_simulation.py`).
- Families held out: {held_out}.
- Faults for calibration: {old}.
- Faults for evaluation, and held out: {new}.
- Faults held out: {last}.

"""

TAIL = """
## How to read it

- *Alarmed*: healthy runs with at least one warning or error. *Of 10⁴*: components in such alerts, of ten thousand
  component-samples.
- *Visible*: faults that have changed a distribution by more than five of its own steps by the second sample after them: the
  largest difference of k, ln λ, ln RMS or R² from the healthy twin at the same step, over the root mean square of the
  twin's last eight movements and the standard error of the fit. Inf, NaN and more than 2 % new zeros are visible, too.
- *Found*: of these, by a warning or an error at the first or second regular sample after the fault, or at a denser one before.
  *Right first*: the first alert names
  a struck matrix as its worst; faults that are in no particular matrix do not count, nor does NaN that has spread to most
  matrices by then.
- *Weights and rates*: all faults but those that only change what is learned from (labels, inputs, gains of norms, gradients under
  Adam). Such a fault moves k and λ as a model moves that begins to learn, and a threshold that finds it also finds healthy runs.
- *Margins*: the strength that a rule reached in a healthy run (every 10 and 100), in units of its thresholds. Below 1 nothing
  is raised, from *sure from* on it is a warning, between them an info. Rules that want a fault in several samples in a row
  (`persist`) may reach more in one sample. Alerts that are infos in any case are left out.

## What a distribution cannot show

The monitor reads |w| of each matrix as a distribution. What leaves that as it was, it does not see; the table says what would.

| fault | what would see it |
|---|---|
| a matrix transposed, its rows or columns permuted, its signs flipped | the loss; a checksum against the file it came from |
| another layer's or another head's weights, where these have the same k and λ | comparing tensors with each other; a checksum |
| a layer from 50 steps ago, or of another run at the same step | a checksum against the last step; the loss |
| half of a matrix overwritten by the other half (a wrong shard) | comparing the shards; the loss |
| gradients multiplied under Adam (q × 50), which does not change its steps | the gradient norm |
| gains of norms, biases and other vectors; the temperature of a softmax | those parameters themselves; attention entropy |
| labels all one token or noisy, scrambled inputs | the loss: k and λ move as they do when a model begins to learn |

The rows {unseen} of the table above are there to show it.
"""


if __name__ == "__main__":
    main()
