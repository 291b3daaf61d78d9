"""Judges the trainings of `early_warning_runs`, and writes the results into docs/early-warning.md with their picture."""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from early_warning_runs import ARCHITECTURES, BETAS, EVERY, FAULTS, LONGEST, SELECTION, START, WIDTH

from weibull_monitor import Component
from weibull_monitor.alerts import replay
from weibull_monitor.history import RecordedSnapshot
from weibull_monitor.history.columns import COLUMNS
from weibull_monitor.scaling.bounds import adam_bound

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "early-warning.md"
MARK = "## Results\n"
NEAR = 20 // EVERY
"""Samples on each side of one that the twins' range is taken over."""
SDS = 5.0
SMOOTHED = 20
"""Steps over which the loss is averaged: of batches as small as these, the mean of 5 is so noisy that 5 sd are half a nat."""

Series = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Judged:
    """Steps of the first alarms after the start of the fault; None where there was none."""

    fault: str
    arch: str
    loss: int | None
    signals: Mapping[str, int | None]


def extremes(values: Sequence[Sequence[float | None]]) -> list[Series]:
    """The largest and the smallest of each sample, (samples,) each."""
    rows = np.array(values, dtype=float)
    keep = np.isfinite(rows).any(axis=1)
    top, low = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    top[keep], low[keep] = np.nanmax(rows[keep], axis=1), np.nanmin(rows[keep], axis=1)
    return [top, low]


def log(values: Sequence[Sequence[float | None]]) -> Series:
    with np.errstate(all="ignore"):
        logs = np.log(np.array(values, dtype=float))
    return np.where(np.isfinite(logs), logs, np.nan)


def signals_of(run: Mapping[str, Any]) -> dict[str, list[Series]]:
    """The series of each signal, one value per sample; a signal gives an alarm if one of its series does."""
    samples, names = run["samples"], run["names"]
    kinds = [kind for _, kind, _ in names]
    out: dict[str, list[Series]] = {}

    def by_kind(label: str, values: Any, selection: bool) -> None:
        for kind in dict.fromkeys(kinds):
            if (kind in SELECTION) == selection:
                here = [i for i, k in enumerate(kinds) if k == kind]
                out.setdefault(label, []).extend(extremes([[row[i] for i in here] for row in values]))

    def column(name: str) -> list[list[float | None]]:
        return [sample[name] for sample in samples]

    ratio = log(column("u_rms")) + log(column("eta")) - log(column("rms"))
    for selection, who in ((True, "q, k"), (False, "others")):
        by_kind(f"k of weights, {who}", column("k"), selection)
        by_kind(f"λ of weights, {who}", log(column("lambda")), selection)
        by_kind(f"RMS of u, {who}", log(column("u_rms")), selection)
        by_kind(f"k of u, {who}", column("u_k"), selection)
        by_kind(f"RMS(u)·η/RMS(w), {who}", ratio, selection)
    rms = log(column("rms"))
    block = {(kind, b): i for i, (_, kind, b) in enumerate(names)}
    blocks = sorted({b for _, b in block})
    scales = [rms[:, block["attn_q", b]] + rms[:, block["attn_k", b]] + np.log(WIDTH) for b in blocks]
    out["attention scale"] = extremes(np.array(scales).T.tolist())
    flat = [[value for one in sample["spectral"] for value in one] for sample in samples]
    out["largest singular value of W_qᵀW_k"] = extremes(log(flat).tolist())
    out["spectral entropy of its change"] = extremes([[v for one in s["change_entropy"] for v in one] for s in samples])
    out["norm of the gradient ¹"] = [log([[s["gradient"] or None] for s in samples])[:, 0]]
    out["entropy of attention ¹"] = extremes([s["entropy"] for s in samples])
    return out


def loss_of(run: Mapping[str, Any]) -> Series:
    """Mean loss of the last `SMOOTHED` steps at each sample."""
    loss = np.array(run["loss"])
    return np.array([loss[max(0, s["step"] - SMOOTHED) : s["step"]].mean() for s in run["samples"]])


def first_alarm(series: Series, twins: Sequence[Series], above: bool = False) -> int | None:
    """Step of the first sample after the fault began that is out of the twins' range; None if none is."""
    length = min(len(t) for t in twins)
    rows = np.array([t[:length] for t in twins])  # (twins, samples)
    for n in range(START // EVERY, min(len(series), length)):
        near = rows[:, max(0, n - NEAR) : n + NEAR + 1]
        centred = near - np.nanmean(near, axis=0, keepdims=True)
        spread = SDS * float(np.nanstd(centred)) * np.sqrt(len(rows) / (len(rows) - 1))
        if series[n] > np.nanmax(near) + spread or (not above and series[n] < np.nanmin(near) - spread):
            return (n + 1) * EVERY
    return None


def judge(run: Mapping[str, Any], twins: Sequence[Mapping[str, Any]]) -> Judged:
    """The first alarms of a run, by twins with other seeds than its own."""
    others = [twin for twin in twins if twin["seed"] != run["seed"]]
    loss = first_alarm(loss_of(run), [twin["_loss"] for twin in others], above=True)
    if loss is None and len(run["loss"]) < max(len(t["loss"]) for t in others):
        loss = len(run["loss"])  # it became infinite, or the run was ended because it had diverged
    found: dict[str, int | None] = {}
    for name, each in signals_of(run).items():
        steps = [first_alarm(series, [twin["_signals"][name][i] for twin in others]) for i, series in enumerate(each)]
        found[name] = min((step for step in steps if step is not None), default=None)
    return Judged(run["fault"], run["arch"], loss, found | told_by_rules(run))


RULES = ("update_growth", "update_excess")


def told_by_rules(run: Mapping[str, Any]) -> dict[str, int | None]:
    """The step of the first alert of each rule about updates after the start of the fault, as a history is replayed."""
    every = tuple(
        Component(name, kind, block, None, False, (64, 64), torch.float32, True, name, tower="blocks")
        for name, kind, block in run["names"]
    )
    none = tuple([None] * len(every))
    bound = tuple([adam_bound(*BETAS)] * len(every))
    samples = []
    for one in run["samples"]:
        u, eta, rms = (np.array(one[name], dtype=float) for name in ("u_rms", "eta", "rms"))
        columns: dict[str, Any] = dict.fromkeys(COLUMNS, none)
        columns |= {"eta": tuple(one["eta"]), "rms": tuple(one["rms"]), "update_max": bound}
        columns |= {"update_ratio": tuple((u * eta / rms).tolist())}
        samples.append(RecordedSnapshot(one["step"], 0.0, every, columns))
    begun = [alert for alert in replay(samples) if alert.phase == "begins" and alert.step > START]
    return {f"rule `{rule}`": min((a.step for a in begun if a.finding.rule == rule), default=None) for rule in RULES}


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def judged(runs: Iterable[dict[str, Any]]) -> list[Judged]:
    """All runs, each by the twins of its architecture."""
    by_arch: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        by_arch[run["arch"]].append(run)
    out = []
    for group in by_arch.values():
        twins = [run | {"_signals": signals_of(run), "_loss": loss_of(run)} for run in group if not run["fault"]]
        out += [judge(run, twins) for run in group]
    return out


def cell(runs: Sequence[Judged], signal: str) -> str:
    """Median lead; in how many of the runs whose loss gave an alarm the signal came first; in how many it came at all."""
    lost = [run for run in runs if run.loss is not None]
    leads = [run.loss - step for run in lost if run.loss is not None and (step := run.signals[signal]) is not None]
    before = sum(lead > 0 for lead in leads)
    found = sum(run.signals[signal] is not None for run in runs)
    if 2 * len(leads) <= len(lost):
        return f"– ({before}/{len(lost)}), {found}/{len(runs)}"
    missing = [-10_000] * (len(lost) - len(leads))
    return f"{statistics.median_high([*leads, *missing]):+d} ({before}/{len(lost)}), {found}/{len(runs)}"


def table(results: Sequence[Judged]) -> list[str]:
    faults = [fault for fault in FAULTS if fault]
    twins = [run for run in results if not run.fault]
    lines = ["| signal | " + " | ".join(faults).replace("beta2", "β₂") + " | twins with a false alarm |"]
    lines.append("|---" * (len(faults) + 2) + "|")
    for signal in results[0].signals:
        cells = [cell([run for run in results if run.fault == fault], signal) for fault in faults]
        wrong = sum(run.signals[signal] is not None for run in twins)
        lines.append(f"| {signal} | " + " | ".join(cells) + f" | {wrong} of {len(twins)} |")
    lost = []
    for fault in faults:
        here = [run for run in results if run.fault == fault]
        steps = [run.loss - START for run in here if run.loss is not None]
        lost.append(
            f"after {statistics.median_low(steps)} ({len(steps)} of {len(here)})"
            if steps
            else f"never (0 of {len(here)})"
        )
    wrong = sum(run.loss is not None for run in twins)
    lines.append("| the loss itself | " + " | ".join(lost) + f" | {wrong} of {len(twins)} |")
    return lines


def write(file: Path) -> None:
    runs = read(file)
    results = judged(runs)
    counts = {fault: len([r for r in results if r.fault == fault]) for fault in FAULTS}
    least, most = (end(n for fault, n in counts.items() if fault) for end in (min, max))
    faulty = str(most) if least == most else f"{least} to {most}"
    lines = [
        MARK,
        f"{counts['']} healthy runs, and {faulty} of each fault, over {len(ARCHITECTURES)} architectures (OPT, Llama "
        f"with grouped queries, ViT; two blocks of width {WIDTH}, AdamW, {LONGEST} steps or until they diverged). The table is "
        "written by `python benchmarks/early_warning.py --runs FILE --page`.",
        "",
        "Each cell: the median of the lead over the loss in steps (a minus sign: after it; a dash: no alarm in half of the runs "
        "whose loss gave one); in brackets, in how many of these runs the signal came before the loss; then in how many of all "
        "runs of this fault the signal gave an alarm.",
        "",
        *table(results),
        "",
        "¹ for comparison: not in the weights or the optimizer's state.",
        "",
    ]
    text = PAGE.read_text(encoding="utf-8")
    head, _, tail = text.partition(MARK)
    after = tail[tail.index("## What it says") :] if "## What it says" in tail else ""
    PAGE.write_text(head + "\n".join(lines) + "\n" + after, encoding="utf-8")
    draw(runs)


SHOWN = (
    ("attention scale", "attention scale, highest block", 0),
    ("RMS(u)·η/RMS(w), q, k", "RMS(u)·η/RMS(w) of W_q, highest", 0),
    ("k of weights, q, k", "k of W_q, lowest", 1),
)


def draw(runs: Sequence[dict[str, Any]]) -> None:
    """The picture: for each fault of one architecture the loss and three signals, one seed over its twins."""
    sys.path.insert(0, str(ROOT / "docs"))
    from pictures.palette import Palette
    from pictures.style import save

    arch = next(iter(ARCHITECTURES))
    mine = [run for run in runs if run["arch"] == arch]
    twins = [run for run in mine if not run["fault"]]
    faults = ("rate of q and k", "low-precision attention", "beta2 too high")

    def onto(figure: Any, palette: Palette) -> None:
        axes = figure.subplots(1 + len(SHOWN), len(faults), sharex=True, squeeze=False)
        for column, fault in enumerate(faults):
            broken = next(run for run in mine if run["fault"] == fault)
            at_twins = [[loss_of(t), *(signals_of(t)[name][at] for name, _, at in SHOWN)] for t in twins]
            mine_now = [loss_of(broken), *(signals_of(broken)[name][at] for name, _, at in SHOWN)]
            for row, values in enumerate(mine_now):
                scale = np.exp if row in (1, 2) else np.asarray
                healthy = scale(np.array([t[row] for t in at_twins]))  # (twins, samples)
                steps = EVERY * (1 + np.arange(healthy.shape[1]))
                low, high = healthy.min(axis=0), healthy.max(axis=0)
                axes[row][column].fill_between(steps, low, high, color=palette.faint, linewidth=0)
                axes[row][column].plot(steps[: len(values)], scale(values), color=palette.selection, linewidth=1.6)
            axes[0][column].set_title(fault.replace("beta2", "β₂"))
            axes[-1][column].set_xlabel("step")
            for row in (1, 2):
                axes[row][column].set_yscale("log")
            for row in range(len(axes)):
                axes[row][column].axvline(START, color=palette.alert, linewidth=0.8, linestyle=":")
        for row, label in enumerate(["loss", *(label for _, label, _ in SHOWN)]):
            axes[row][0].set_ylabel(label.replace(", ", ",\n"), fontsize=8)

    save("early-warning", (8.0, 7.5), onto)
