"""A run as one table: for each kind k and λ at the start and now, and the drift with its standard error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from weibull_monitor.errors import counted, visible
from weibull_monitor.history.reasons import EXPLANATION
from weibull_monitor.history.record import History, RecordedSnapshot
from weibull_monitor.model.components import Component, summarise_experts
from weibull_monitor.report.kinds import by_kind, frozen_kinds
from weibull_monitor.report.text.deltas import delta_lines
from weibull_monitor.report.text.table import aligned, plain

WIDEST = 3
"""Groups of experts that are shown."""


def summarize(history: History) -> str:
    """A table of the first and the last sample of a run.

    The drift of a kind is the median of k/k_start - 1 over its matrices. Its standard error is that of the median of
    independent fits, 1.25 times that of their mean, where each fit has the errors of both samples.

    Args:
        history: The result of `read_history`.

    Returns:
        Plain text, about 100 columns wide. For a mixture of experts also the groups of experts whose k differs most.
    """
    if not history.snapshots:
        return f"{visible(str(history.path))}: no samples yet"
    first, last = history.snapshots[0], history.snapshots[-1]
    kinds = by_kind(last.components)
    frozen = frozen_kinds(last.components)
    kinds = {kind: members for kind, members in kinds.items() if kind not in frozen}
    head = ["kind", "class", "matrices", "k start", "k now", "drift (median)", "± s.e.", "λ start", "λ now", "growth"]
    rows = [head, *(kind_row(members, first, last) for members in kinds.values())]
    matrices = sum(map(len, kinds.values()))
    sizes = [counted(len(history.snapshots), "sample"), counted(matrices, "matrix", "matrices")]
    span = ", ".join([f"steps {first.step} to {last.step}", *sizes])
    table = plain(aligned(rows, right=range(2, 10), rules=(1,)))
    deltas = plain(delta_lines(last, history.runs[-1].model.get("adapters") or {})) if history.runs else ""
    count = sum(map(len, frozen.values()))
    base = f"frozen, as at the start: {count:,} matrices ({', '.join(frozen)})" if frozen else ""
    more = [text for part in (base, deltas) if part for text in ("", part)]
    return "\n".join(
        [f"Weibull shape k and scale λ of |w|: {span}", "", table, *more, *_experts(last), *_law(history, last)]
    )


def _experts(last: RecordedSnapshot) -> list[str]:
    """The groups of experts whose k differs most, and which experts those are."""
    groups = sorted(summarise_experts(last.components, last.values("k")), key=lambda g: g.lowest - g.highest)
    lines = [
        f"{g.kind}, block {g.block}: median {g.median:.4f} of {g.experts}, lowest {g.lowest:.4f} (expert {g.lowest_expert}), "
        f"highest {g.highest:.4f} (expert {g.highest_expert})"
        for g in groups[:WIDEST]
    ]
    return ["", "groups of experts whose k differs most:", *lines] if lines else []


def _law(history: History, last: RecordedSnapshot) -> list[str]:
    """The forecast of λ while the run is going on, and why some matrices have none."""
    lines = []
    foretold, low, high = (last.values(f"lambda_forecast{end}") for end in ("", "_low", "_high"))
    total, fitted = history.runs[-1].total_steps, last.values("lambda")
    if foretold and total and last.step < total:
        lines += ["", f"λ at step {total:,}, as forecast at step {last.step:,} (and an interval):"]
        for kind, members in by_kind(last.components).items():
            names = [c.name for c in members if c.name in fitted]
            if names and all(name in foretold for name in names):
                value, least, most = (median(values[name] for name in names) for values in (foretold, low, high))
                lines.append(f"{kind:10}  {value:.5f}  ({least:.5f} to {most:.5f})")
    why = [
        f"There is no forecast of λ for {n} of {len(last.components)} matrices, because {EXPLANATION[reason]}."
        for reason, n in last.withheld.items()
        if reason in EXPLANATION and reason != "no_optimizer"
    ]
    return [*lines, "", *why] if why else lines


def kind_row(members: Sequence[Component], first: RecordedSnapshot, last: RecordedSnapshot) -> list[str]:
    """One kind: name, class, number of matrices, k at both ends, drift and its standard error, λ at both ends, growth of λ."""
    k0, k1, l0, l1 = first.values("k"), last.values("k"), first.values("lambda"), last.values("lambda")
    e0, e1 = first.values("k_se"), last.values("k_se")
    both = [c.name for c in members if c.name in k0 and c.name in k1]
    drift = [k1[name] / k0[name] - 1.0 for name in both]
    noise = [math.hypot(e0[name] / k0[name], e1[name] / k1[name]) for name in both if name in e0 and name in e1]
    of_median = (1.2533 if len(noise) > 2 else 1.0) * math.sqrt(sum(n * n for n in noise)) / max(1, len(noise))
    fitted = [c.name for c in members if c.name in k1]
    start, now = _median(l0, both), _median(l1, fitted)
    return [
        members[0].label,
        members[0].component_class,
        str(len(members)),
        _number(_median(k0, both), ".4f"),
        _number(_median(k1, fitted), ".4f"),
        f"{100 * median(drift):+.2f} %" if drift else "–",
        f"{100 * of_median:.2f} %" if noise else "–",
        _number(start, ".5f"),
        _number(now, ".5f"),
        f"× {now / start:.3f}" if start and now else "–",
    ]


def _median(values: dict[str, float], names: Sequence[str]) -> float | None:
    return median(values[name] for name in names) if names else None


def _number(value: float | None, spec: str) -> str:
    return "–" if value is None else format(value, spec)
