"""Replays of recorded runs at any cadence, and what a replay is judged by."""

from __future__ import annotations

import csv
import gzip
import json
import math
import os
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from weibull_monitor import read_history
from weibull_monitor.alerts import AlertSettings, replay
from weibull_monitor.alerts.samples import READ
from weibull_monitor.history.alert import Alert
from weibull_monitor.history.record import RecordedSnapshot
from weibull_monitor.model.components import Component
from weibull_monitor.monitor.adaptive import FROM
from weibull_monitor.monitor.events import Change, Denser, RateWatch
from weibull_monitor.monitor.schedule import Schedule
from weibull_monitor.scaling.optimizers import RULES

CADENCES: Final = (10, 50, 100)
MOST: Final = 0.8
"""From this share of all matrices on, Inf and NaN have spread, and nothing tells where they began."""
_BETAS: Final = {"betas": (0.9, 0.999)}
TOLD: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "radam": ("RAdam", _BETAS),
    "nadam": ("NAdam", {**_BETAS, "momentum_decay": 4e-3}),
    "rmsprop": ("RMSprop", {"alpha": 0.99}),
    "adagrad": ("Adagrad", {}),
    "ademamix": ("AdEMAMix", {"betas": (0.9, 0.999, 0.99), "alpha": 2.0}),
    "adan": ("Adan", {"betas": (0.98, 0.92, 0.99)}),
    "lamb": ("LAMB", {**_BETAS, "always_adapt": True}),
    "adafactor": ("Adafactor", {"d": 1.0, "eps": (None, 1e-3)}),
}
"""The rows of optimizers of `corpus_optimizers` whose bounds were not known, or known less closely, when runs were recorded."""
PUBLISHED: Final = Path(os.environ.get("WEIBULL_REFERENCE", "reference")) / "published_layers.csv.gz"


@dataclass(frozen=True, eq=False)
class Run:
    """A recorded run.

    Attributes:
        entry: Its entry of the index.
        samples: Its samples.
        attention: The types of attention.
        learned: Whether its loss fell: the mean of the last twentieth of its steps is finite and not above that of the first.
    """

    entry: dict[str, Any]
    samples: tuple[RecordedSnapshot, ...]
    attention: tuple[Any, ...]
    learned: bool = True

    @property
    def name(self) -> str:
        return str(self.entry["folder"])


def load(root: Path, folder: str) -> Run:
    history = read_history(root / folder)
    entry = json.loads((root / folder / "case.json").read_text())
    return Run(entry, history.snapshots, tuple(history.runs[-1].attention), _learned(entry.pop("losses")))


def _learned(losses: Sequence[float | None]) -> bool:
    """`Run.learned`; None, for what is not finite, counts only at the end: a batch without a target has no loss."""
    part = max(5, len(losses) // 20)
    first, last = ([x for x in some if x is not None] for some in (losses[:part], losses[-part:]))
    return len(last) == part and sum(last) / part <= sum(first) / max(1, len(first))


def sampled_every(samples: Sequence[RecordedSnapshot], every: int) -> list[RecordedSnapshot]:
    """The samples that the monitor would have taken with ``every_n_steps=every``, of those of a multiple of it.

    Among them are the denser ones that follow a jump of η or unfreezing by default, where they were recorded: every 10 steps in
    the corpus, so all of them at a cadence of 100, and every other one at 50.

    η, λ_wd and the bound belong to the step of the sample, and Σ η is counted from the baseline: what an interval has spent
    is the difference of two samples, whichever are left out.
    """
    due, denser, rates = Schedule(every), Denser(every), RateWatch()
    trained: set[str] | None = None
    limits: list[float] = []
    chosen: list[RecordedSnapshot] = []
    left_out: list[RecordedSnapshot] = []
    for s in samples:
        extra, eta = False, s.columns["eta"]
        far = any(now is not None and now > limit for now, limit in zip(eta, limits, strict=False))
        if every >= FROM and s.step > 0 and (far or denser.asks(s.step)):
            change, limits = rates.change(s.step, eta), rates.limits(denser.every)
            now = {c.name for c in s.components if c.trainable}
            if trained is not None and not now <= trained:
                change = max(change, Change.SLOW)
            trained = now | (trained or set())
            extra = denser.takes(s.step, change if denser.every > 1 or change is Change.JUMP else Change.NONE)
        if s.step == 0 or extra or due(s.step) or s is samples[-1]:
            chosen.append(_with_writes(s, left_out))
            left_out = []
        else:
            left_out.append(s)
    return chosen


def _with_writes(sample: RecordedSnapshot, left_out: Sequence[RecordedSnapshot]) -> RecordedSnapshot:
    """A sample with what steps did, and what was written between them, since the samples before it that are left out."""
    some = [s for s in left_out if s.components is sample.components or s.components == sample.components]
    if not some:
        return sample

    def of(column: str) -> np.ndarray[Any, Any]:
        return np.array([s.columns[column] for s in (*some, sample)], dtype=float)  # (samples, components)

    with np.errstate(invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is NaN in all of them stays so
        merged = {
            "step_rms": np.sqrt(np.nanmean(of("step_rms") ** 2, axis=0)),
            "written": np.nansum(of("written"), axis=0),
            "written_rms": np.sqrt(np.nansum(of("written_rms") ** 2, axis=0)),
            "state_written": np.nansum(of("state_written"), axis=0),
            "written_after": np.nanmax(of("written_after"), axis=0),
        }
    columns = {name: [x if math.isfinite(x) else None for x in values.tolist()] for name, values in merged.items()}
    return replace(sample, columns={**sample.columns, **{name: tuple(values) for name, values in columns.items()}})


def bounded(samples: Sequence[RecordedSnapshot], optimizer: str) -> list[RecordedSnapshot]:
    """The samples with the bounds that the present table has: a recorded history holds those of the table of its time.

    Args:
        samples: Samples of one run.
        optimizer: Its optimizer, by its name in `corpus_optimizers`; those that are not in `TOLD` keep what was recorded.
    """
    if optimizer not in TOLD:
        return list(samples)
    name, group = TOLD[optimizer]
    rule, out = RULES[name], []
    start = [x is not None for x in samples[0].columns["lambda"]] if samples and samples[0].step == 0 else []
    before = 0
    for sample in samples:
        places = {c.name: i for i, c in enumerate(sample.components)}
        columns = {key: list(values) for key, values in sample.columns.items()}
        for i, c in enumerate(sample.components):
            whole = places.get(c.parameter, i)
            shape = sample.components[whole].shape
            bound = rule.bound(group, shape) if columns["eta"][i] is not None else None
            if bound is not None and before < bound.after:
                bound = bound.young()
            begun = not start or (whole < len(start) and start[whole])
            rms = math.nan
            if bound is not None and columns["rms"][whole] is not None:
                size = np.array([columns["rms"][whole]], dtype=float)
                rms = float(bound.rms_of(np.array([float(c.numel)]), size, np.array([begun]))[0])
            columns["update_max"][i] = rms if math.isfinite(rms) else None
            columns["element_max"][i] = None if bound is None else bound.element
        before = sample.step
        out.append(replace(sample, columns={key: tuple(values) for key, values in columns.items()}))
    return out


def regular(samples: Sequence[RecordedSnapshot], every: int) -> list[RecordedSnapshot]:
    """The samples at a cadence without those that follow events."""
    due = Schedule(every)
    return [s for s in samples if s.step == 0 or due(s.step) or s is samples[-1]]


def grave(alerts: Sequence[Alert]) -> list[Alert]:
    """Warnings and errors that begin or get worse."""
    return [alert for alert in alerts if alert.phase != "ends" and alert.finding.severity != "info"]


def judged(run: Run, every: int, settings: AlertSettings) -> tuple[list[Alert], list[RecordedSnapshot]]:
    """The warnings and errors of a run at a cadence, and the samples that it has there."""
    samples = bounded(sampled_every(run.samples, every), str(run.entry["optimizer"]))
    return grave(replay(samples, settings, run.attention)), samples


def visibility(run: Run, twin: Run, every: int) -> float:
    """How far a fault has changed a distribution, in units of its own steps, by the second regular sample after it.

    The change is the difference from the healthy twin at the same step, in k, ln λ, ln RMS or R², of the struck matrices, or
    of all if no matrix was struck. A step is the root mean square of the twin's last eight movements up to then and of the
    standard error of the fit. The largest ratio counts. Infinite where Inf, NaN or zeros appear.
    """
    struck = int(run.entry["struck"])
    mine, its = (regular(r.samples, every) for r in (run, twin))
    later = [s for s in mine if s.step > struck][:2]
    by_step = {s.step: s for s in its}
    past = [s for s in its if s.step <= (later[-1].step if later else 0)]
    wanted = set(run.entry["victims"])
    at = [i for i, c in enumerate(run.samples[-1].components) if not wanted or c.name in wanted]
    best = 0.0
    for sample in later:
        other = by_step.get(sample.step)
        if other is None:
            continue
        for column in ("nonfinite", "zeros"):
            now, then = (np.array([x.columns[column][i] or 0.0 for i in at], dtype=float) for x in (sample, other))
            if (now - then > 0.02 * np.array([run.samples[-1].components[i].numel for i in at])).any() or (
                column == "nonfinite" and (now > then).any()
            ):
                return math.inf
        for column in ("k", "lambda", "rms", "r2"):
            rows = np.array([[x.columns[column][i] for i in at] for x in (*past[-9:], sample, other)], dtype=float)
            if column in ("lambda", "rms"):
                rows = np.log(rows)
            error = np.array([sample.columns["k_se"][i] for i in at], dtype=float)
            own = np.sqrt(np.nanmean(np.diff(rows[:-2], axis=0) ** 2, axis=0) + error**2)
            with np.errstate(all="ignore"):
                ratio = np.abs(rows[-2] - rows[-1]) / own
            if np.isfinite(ratio).any():
                best = max(best, float(np.nanmax(ratio)))
    return best


@dataclass
class Tally:
    """Of healthy runs at one cadence."""

    runs: int = 0
    alarmed: int = 0
    component_samples: int = 0
    components: int = 0

    def add(self, alerts: Sequence[Alert], samples: Sequence[RecordedSnapshot]) -> None:
        self.runs += 1
        self.alarmed += bool(alerts)
        self.component_samples += sum(len(s.components) for s in samples)
        self.components += sum(a.finding.count for a in alerts)

    def row(self) -> str:
        return (
            f"{self.alarmed} of {self.runs} ({100 * self.alarmed / max(1, self.runs):.1f} %) | "
            f"{1e4 * self.components / max(1, self.component_samples):.2f}"
        )


@dataclass(frozen=True)
class Judged:
    """What was made of one fault at one cadence.

    Attributes:
        within: Regular samples after the fault until an alert; None if there was none in two.
        first: Whether the worst matrix of the first alert is a struck one; None if the fault is not in particular matrices, or if
            NaN has spread to most of them by then.
        rules: Rules of the alerts within two samples.
        visible: `visibility`.
        before: Alerts before the fault.
    """

    within: int | None
    first: bool | None
    rules: tuple[str, ...]
    visible: float
    before: int


def judge(run: Run, twin: Run, every: int, settings: AlertSettings) -> Judged:
    alerts, samples = judged(run, every, settings)
    struck, wanted = int(run.entry["struck"]), set(run.entry["victims"])
    later = [s.step for s in regular(run.samples, every) if s.step > struck][:2]
    soon = [a for a in alerts if later and struck < a.step <= later[-1]]  # denser samples may come before
    first = None
    at_once = [a for a in soon if a.step == soon[0].step]
    everywhere = any(
        a.finding.rule == "nonfinite" and a.finding.count > MOST * len(samples[-1].components) for a in at_once
    )
    if wanted and soon and not everywhere:
        named = [a.finding.component for a in at_once]
        first = any(name in wanted or name.split("[")[0] in wanted for name in named)  # the matrix, or a part of it
    return Judged(
        within=1 + (soon[0].step > later[0]) if soon else None,
        first=first,
        rules=tuple(dict.fromkeys(a.finding.rule for a in soon)),
        visible=visibility(run, twin, every),
        before=sum(a.step <= struck for a in alerts),
    )


@lru_cache
def published() -> tuple[Run, ...]:
    """The published trainings of 70 M models as histories: W_o and feed-forward matrices, at their 89 steps."""
    rows: dict[str, dict[int, dict[str, tuple[float, float]]]] = defaultdict(lambda: defaultdict(dict))
    settings: dict[str, tuple[float, float]] = {}
    with gzip.open(PUBLISHED, "rt") as lines:
        for row in csv.DictReader(lines):
            rows[row["run"]][int(row["step"])][row["matrix"]] = float(row["k"]), float(row["rms"])
            settings[row["run"]] = float(row["eta_peak"]), float(row["weight_decay"])
    return tuple(_published_run(name, steps, *settings[name]) for name, steps in sorted(rows.items()))


def _published_run(name: str, steps: dict[int, dict[str, tuple[float, float]]], peak: float, decay: float) -> Run:
    matrices = sorted(next(iter(steps.values())))
    components = tuple(_component(m) for m in matrices)
    every = np.arange(1, 8001)
    eta = peak * np.where(every <= 200, every / 200, 0.1 + 0.45 * (1 + np.cos(math.pi * (every - 200) / 7800)))
    samples = []
    for step in sorted(steps):
        k, rms = (np.array([steps[step].get(m, (math.nan, math.nan))[i] for m in matrices]) for i in (0, 1))
        n = np.array([c.numel for c in components], dtype=float)
        given = {
            "k": k,
            "lambda": rms / np.sqrt([math.gamma(1 + 2 / x) for x in k]),
            "r2": np.full(len(k), 0.9977),
            "k_se": 1.137 * k / np.sqrt(n),
            "rms": rms,
            "zeros": np.zeros(len(k)),
            "nonfinite": np.zeros(len(k)),
            "eta": np.full(len(k), eta[step - 1] if step else math.nan),
            "weight_decay": np.full(len(k), decay if step else math.nan),
            "eta_sum": np.full(len(k), eta[:step].sum() if step else math.nan),
            "update_max": np.full(len(k), 7.27 if step else math.nan),
        }
        unknown = np.full(len(k), math.nan)
        columns = {c: tuple(v if math.isfinite(v) else None for v in given.get(c, unknown).tolist()) for c in READ}
        samples.append(RecordedSnapshot(step, 0.0, components, columns))
    return Run({"folder": f"published/{name}", "family": "published"}, tuple(samples), ())


def _component(matrix: str) -> Component:
    block = int(next(part for part in matrix.split(".") if part.isdigit()))
    kinds = {
        "o_proj": "attn_o",
        "gate_proj": "ffn_gate",
        "up_proj": "ffn_up",
        "down_proj": "ffn_down",
        "dense_h_to_4h": "ffn_in",
        "dense_4h_to_h": "ffn_out",
        "dense": "attn_o",
        "out_proj": "attn_o",
        "c_fc": "ffn_in",
        "fc1": "ffn_in",
        "fc2": "ffn_out",
        "fc_in": "ffn_in",
        "fc_out": "ffn_out",
        "c_proj": "ffn_out",
    }
    kind: Any = kinds[matrix.split(".")[-2]]
    shape = (512, 512) if kind == "attn_o" else (2048, 512)
    return Component(matrix, kind, block, None, False, shape, torch.float32, True, matrix, tower="layers")


def runs(root: Path) -> Iterator[Run]:
    """The runs of a corpus that are there; faulty ones with their twin."""
    for case in sorted(root.glob("*/case.json")):
        run = load(root, case.parent.name)
        if run.entry["fault"] is None or (root / run.entry["twin"] / "case.json").exists():
            yield run
