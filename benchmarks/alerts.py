"""How good are the alerts? False alarms of healthy runs, and what is found of faults that were put into real trainings.

    python benchmarks/corpus.py DIR                       # trains the runs; about two hours on one core
    python benchmarks/alerts.py DIR                       # replays them at three cadences, and writes docs/alerts-evidence.md
    python benchmarks/alerts.py DIR OTHER                 # of two folders, one for each side, for example
    python benchmarks/alerts.py DIR --print --side "chosen with"   # no page, and no look at what is only evaluated

Trainings are divided by name (`corpus_sides`): thresholds are chosen with one side, and the other is only evaluated.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import transformers
from alert_simulation import RUNS, simulate
from alerts_page import EXPECT, HEAD, LOOKS, TAIL
from corpus_evaluated_faults import EVALUATED_FAULTS
from corpus_faults import FAULTS
from corpus_fresh_faults import FRESH_FAULTS
from corpus_replay import CADENCES, Judged, Run, Tally, grave, judge, judged, load, published, runs, sampled_every
from corpus_sides import INDIRECT, SIDES, UNSEEN, side
from corpus_unseen_faults import UNSEEN_FAULTS

import weibull_monitor
from weibull_monitor.alerts import AlertSettings, replay
from weibull_monitor.alerts.rules import RULES
from weibull_monitor.alerts.window import SampleWindow

PAGE: Final = Path(__file__).parents[1] / "docs" / "alerts-evidence.md"
EVENTFUL: Final = ("jump", "restarts", "re-warmed", "stairs", "cyclic", "drops")
"""Courses of η that are an ordinary event."""
VISIBLE: Final = 5.0
"""A fault is visible if it changed a distribution by more than this many of its own steps."""


@dataclass
class Result:
    """What came of the runs of one side.

    Attributes:
        healthy: By cadence.
        eventful: Those of them with an ordinary event, by cadence.
        false_alarms: A line for each.
        faults: By fault and cadence.
        strongest: By rule, the highest strength in a healthy run and its name.
        families: Of all runs.
        failed: Healthy runs with settings drawn at random whose loss did not fall; they and their branches are left out.
    """

    healthy: dict[int, Tally] = field(default_factory=lambda: {c: Tally() for c in CADENCES})
    eventful: dict[int, Tally] = field(default_factory=lambda: {c: Tally() for c in CADENCES})
    false_alarms: list[str] = field(default_factory=list)
    faults: dict[tuple[str, int], list[Judged]] = field(default_factory=lambda: defaultdict(list))
    strongest: dict[str, tuple[float, str]] = field(default_factory=lambda: dict.fromkeys(RULES, (0.0, "–")))
    families: set[str] = field(default_factory=set)
    failed: list[str] = field(default_factory=list)

    def add(self, run: Run, settings: AlertSettings) -> None:
        """Replays a healthy run."""
        for every in CADENCES:
            alerts, samples = judged(run, every, settings)
            self.healthy[every].add(alerts, samples)
            if run.entry["event"] or run.entry["schedule"] in EVENTFUL:
                self.eventful[every].add(alerts, samples)
            self.false_alarms += [f"{run.name}, every {every}: `{a.finding.rule}` at step {a.step}" for a in alerts]
        for every in (CADENCES[0], CADENCES[-1]):
            for rule, value in strengths(run, every, settings).items():
                if value > self.strongest[rule][0]:
                    self.strongest[rule] = value, f"{run.name}, every {every}"

    def judged(self, every: int, without: Collection[str] = ()) -> list[Judged]:
        """What was made of all faults at a cadence, but of some."""
        return [j for (fault, c), found in self.faults.items() if c == every and fault not in without for j in found]


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


def gather(roots: Sequence[Path], sides: Sequence[str] = SIDES) -> dict[str, Result]:
    """Replays all runs of corpora that stand on these sides."""
    settings, results = AlertSettings(), {name: Result() for name in sides}
    twins: dict[str, Run] = {}
    for root in roots:
        for run in runs(root):
            result = results.get(side(run.entry["name"]))
            if result is None:
                continue
            twin = run.entry.get("twin", run.name)
            if twin not in twins:
                twins = {twin: run if twin == run.name else load(root, twin)}
            failed = run.entry["name"].startswith("drawn") and not twins[twin].learned
            if run.entry["fault"] is None and failed:
                result.failed.append(run.name)
            if failed:
                continue
            if "arch" not in run.entry:  # an architecture that was drawn has no family
                result.families.add(run.entry["family"])
            if run.entry["fault"] is None:
                result.add(run, settings)
                continue
            for every in CADENCES:
                result.faults[run.entry["fault"], every].append(judge(run, twins[twin], every, settings))
    return {name: result for name, result in results.items() if result.healthy[CADENCES[0]].runs or result.faults}


def tables(results: dict[str, Result]) -> Iterator[str]:
    """The page, without its head."""
    yield from (
        "## False alarms",
        "",
        "Healthy runs with at least one warning or error:",
        "",
        "| healthy runs | runs | " + " | ".join(f"alarmed, every {c} | of 10⁴" for c in CADENCES) + " |",
    )
    yield "|---|---|" + "---|---|" * len(CADENCES)
    for name, result in results.items():
        for what, tallies in ((name, result.healthy), (f"{name}, of these with an ordinary event", result.eventful)):
            yield f"| {what} | {tallies[10].runs} | " + " | ".join(tallies[c].row() for c in CADENCES) + " |"
    for name, tally in others():
        yield f"| {name} | {tally.runs} | " + " | ".join([tally.row(), *["–"] * (2 * len(CADENCES) - 2)]) + " |"
    yield from ("", *folded("Every false alarm, and the runs that are left out", list(_false_alarms(results))))
    yield from ("", "## Faults", "", *faults(results))
    yield from (
        "",
        "## Margins",
        "",
        "How near healthy runs come to a warning, for each rule:",
        "",
        "| rule | sure from | " + " | ".join(f"highest in a healthy run, {name} | which" for name in results) + " |",
    )
    yield "|---|---|" + "---|---|" * len(results)
    for rule in RULES:
        cells = [result.strongest[rule] for result in results.values()]
        yield (
            f"| `{rule}` | {getattr(AlertSettings(), rule).sure:.1f} | "
            + " | ".join(f"{value:.2f} | {which}" for value, which in cells)
            + " |"
        )


def folded(summary: str, lines: Sequence[str]) -> Iterator[str]:
    """Lines of Markdown that a reader opens to see."""
    yield from ('<details markdown="1">', f"<summary>{summary}</summary>", "", *lines, "", "</details>")


def _false_alarms(results: dict[str, Result]) -> Iterator[str]:
    for name, result in results.items():
        yield from (f"- {name}: {line}" for line in result.false_alarms or ["no warning and no error."])
        if result.failed:
            yield f"- {name}, left out because the loss did not fall: {', '.join(result.failed)}."


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


def faults(results: dict[str, Result]) -> Iterator[str]:
    """A table of all faults of each side, and one row for each fault."""
    yield "Faults that are visible in the weights, and how many of these were found within two samples:"
    yield from ("", "| faults | every | runs | visible | found | right first |", "|---|---|---|---|---|---|")
    for name, result in results.items():
        for c in CADENCES:
            yield _shares(name, c, result.judged(c))
        for c in CADENCES:
            yield _shares(f"{name}, weights and rates", c, result.judged(c, without=INDIRECT | UNSEEN))
    yield from ("", *folded("Each fault", list(_each_fault(results))))


def _each_fault(results: dict[str, Result]) -> Iterator[str]:
    yield "| fault | runs | " + " | ".join(f"visible, every {c} | found | right first" for c in CADENCES) + " | by |"
    yield "|---|---|" + "---|---|---|" * len(CADENCES) + "---|"
    for name, result in results.items():
        yield _row(f"**{name}**", [result.judged(c) for c in CADENCES])
        for fault in UNSEEN_FAULTS | FRESH_FAULTS | EVALUATED_FAULTS | FAULTS:
            if (fault, CADENCES[0]) in result.faults:
                yield _row(fault, [result.faults[fault, c] for c in CADENCES])


def _shares(name: str, every: int, judged_here: Sequence[Judged]) -> str:
    """A row about all faults of a side: how many are visible, found, and named rightly."""
    visible = [j for j in judged_here if j.visible > VISIBLE]
    found = [j for j in visible if j.within is not None]
    named = [j for j in found if j.first is not None]
    right = sum(bool(j.first) for j in named)
    return (
        f"| {name} | {every} | {len(judged_here)} | {len(visible)} ({_percent(len(visible), len(judged_here))}) | "
        f"{len(found)} ({_percent(len(found), len(visible))}) | {right} of {len(named)} ({_percent(right, len(named))}) |"
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "roots", type=Path, nargs="+", metavar="DIR", help="folders that benchmarks/corpus.py has filled"
    )
    parser.add_argument("--print", action="store_true", help="print it, and write no page")
    parser.add_argument("--side", choices=SIDES, nargs="+", default=SIDES, help="only these; no page then")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    results = gather(options.roots, options.side)
    text = "\n".join(tables(results)) + "\n"
    print(text)
    if not options.print and set(options.side) == set(SIDES):
        given = about(results)
        PAGE.write_text(HEAD.format(**given) + text + TAIL.format(**given), encoding="utf-8")
        print(f"written to {PAGE}", file=sys.stderr)


def about(results: dict[str, Result]) -> dict[str, Any]:
    """What the page says besides its tables."""
    return {
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "ours": weibull_monitor.__version__,
        "families": _families(sorted(set().union(*(result.families for result in results.values())))),
        "unseen": ", ".join(sorted(UNSEEN)),
        "looks": LOOKS,
        "expect": EXPECT,
    }


def _families(names: Sequence[str]) -> str:
    """A list of families that have a name, if there are any."""
    summary = "All families, beside the architectures that are drawn"
    return "\n".join(folded(summary, [f"{', '.join(names)}."])) + "\n" if names else ""


if __name__ == "__main__":
    main()
