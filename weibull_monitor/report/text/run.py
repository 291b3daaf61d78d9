"""A run in one readable table: per kind, k and λ at the start and now, and the drift with its standard error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from weibull_monitor.history.reasons import EXPLANATION
from weibull_monitor.history.record import History, RecordedSnapshot
from weibull_monitor.model.components import Component, representatives, summarise_experts

WIDEST = 3
"""Groups of experts that are shown."""


def summarize(history: History) -> str:
    """A table of the first and the last sample of a run.

    The drift of a kind is the median over its matrices of k/k_start - 1; its standard error is that of the median of so many
    fits (1.25 times that of their mean), each with the error of both ends.

    Args:
        history: What `read_history` returned.

    Returns:
        Plain text, about 100 columns wide; of a mixture of experts also the groups of experts whose k lies widest apart.
    """
    if not history.snapshots:
        return f"{history.path}: no samples yet"
    first, last = history.snapshots[0], history.snapshots[-1]
    shown = representatives(last.components)
    kinds = list(dict.fromkeys(c.label for c in shown))
    rows = [["kind", "class", "matrices", "k start", "k now", "drift (median)", "± s.e.", "λ start", "λ now", "growth"]]
    rows += [kind_row([c for c in shown if c.label == kind], first, last) for kind in kinds]
    width = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(_align(cell, w, i) for i, (cell, w) in enumerate(zip(row, width, strict=True))) for row in rows]
    lines.insert(1, "─" * len(lines[0]))
    span = f"steps {first.step} to {last.step}, {len(history.snapshots)} samples, {len(shown)} matrices"
    return "\n".join([f"Weibull shape k and scale λ of |w|: {span}", "", *lines, *_experts(last), *_law(history, last)])


def _experts(last: RecordedSnapshot) -> list[str]:
    """The groups of experts whose k lies widest apart, and which experts those are."""
    groups = sorted(summarise_experts(last.components, last.values("k")), key=lambda g: g.lowest - g.highest)
    lines = [
        f"{g.kind}, block {g.block}: median {g.median:.4f} of {g.experts}, lowest {g.lowest:.4f} (expert {g.lowest_expert}), "
        f"highest {g.highest:.4f} (expert {g.highest_expert})"
        for g in groups[:WIDEST]
    ]
    return ["", "k of the experts, where it lies widest apart:", *lines] if lines else []


def _law(history: History, last: RecordedSnapshot) -> list[str]:
    """Where λ is going, while the run is going on; and why not, where that is not known."""
    lines = []
    foretold, low, high = (last.values(f"lambda_forecast{end}") for end in ("", "_low", "_high"))
    total = history.runs[-1].total_steps
    if foretold and total and last.step < total:
        shown = [c for c in representatives(last.components) if c.name in foretold]
        kinds = {c.label: [d.name for d in shown if d.label == c.label] for c in shown}
        lines += ["", f"λ at step {total:,}, as forecast at step {last.step:,} (and an interval):"]
        for kind, names in kinds.items():
            value, least, most = (median(values[name] for name in names) for values in (foretold, low, high))
            lines.append(f"{kind:10}  {value:.5f}  ({least:.5f} to {most:.5f})")
    told = {EXPLANATION[r]: n for r, n in last.withheld.items() if r in EXPLANATION and r != "no_optimizer"}
    why = [
        f"There is no forecast of λ for {n} of {len(last.components)} matrices, because {w}." for w, n in told.items()
    ]
    return [*lines, "", *why] if why else lines


def kind_row(members: Sequence[Component], first: RecordedSnapshot, last: RecordedSnapshot) -> list[str]:
    """One kind: its name, class, number of matrices, k at both ends, drift, its standard error, λ at both ends, growth of λ."""
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


def _align(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column < 2 else cell.rjust(width)
