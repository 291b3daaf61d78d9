"""A diagnosis as text: is what a run shows what published models show?"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Final

from weibull_monitor.analysis import Neighbour, PublishedModel
from weibull_monitor.analysis.diagnosis import Diagnosis, KindDiagnosis

WIDTH: Final = 110
LISTED: Final = 10
"""Odd matrices that are listed."""
NEIGHBOURS: Final = 5


def render_diagnosis(diagnosis: Diagnosis, neighbours: int = NEIGHBOURS) -> str:
    """A diagnosis as plain text, about 110 columns wide.

    Args:
        diagnosis: What `diagnose` returned.
        neighbours: How many published models to show.
    """
    parts = [_head(diagnosis), _table(diagnosis)]
    if diagnosis.odd:
        parts.append(_odd(diagnosis))
    parts.append(_neighbours(diagnosis, neighbours))
    parts.append(_notes(diagnosis.notes))
    return "\n\n".join(part for part in parts if part)


def _head(diagnosis: Diagnosis) -> str:
    sample = diagnosis.sample
    lines = [f"step {sample.step}: {sample.attention or 'no self-attention'}"]
    if diagnosis.training is not None:
        lines.append(f"training time: T/τ = {sample.t_over_tau:.3g} ({sample.clock}): {diagnosis.training}")
    elif sample.clock:
        lines.append(f"training time: T/τ {sample.clock}")
    return "\n".join(lines)


def _table(diagnosis: Diagnosis) -> str:
    head = ["kind", "matrices", "k", "published (models)", "verdict", "drift", "severity", "regime", "σ growth", "by λ"]
    body = [_row(kind) for kind in diagnosis.kinds]
    classes = [_row(kind) for kind in diagnosis.classes]
    rows = [head, *body, *classes]
    lines = _aligned(rows, right=(1, 2, 3, 5, 8, 9))
    rule = "─" * max(map(len, lines))
    out = [lines[0], rule, *lines[1 : 1 + len(body)]]
    against = {kind.result.against for kind in diagnosis.kinds}
    start = "the run's baseline" if against == {"baseline"} else "an initialisation"
    legend = f"k, published: medians over the blocks; drift: of k against {start}; σ growth: of the fit, and the share of λ in it"
    return "\n".join([*out, *([rule, *lines[1 + len(body) :]] if classes else []), legend])


def _row(kind: KindDiagnosis) -> list[str]:
    result, growth = kind.result, kind.growth
    expected = result.expected
    moved = growth is not None and growth.dominated_by != "unchanged"
    return [
        kind.median.kind,
        str(kind.median.matrices),
        f"{kind.median.k:.4f}",
        f"{expected} ({expected.models:>2})" if expected else "–",
        kind.verdict + (f" ({result.position})" if kind.verdict in ("near published", "not as published") else ""),
        f"{100 * result.drift:+.1f} %",
        result.severity,
        result.regime,
        f"× {math.exp(growth.total[-1]):.3f}" if growth is not None else "–",
        f"{100 * growth.share_of_lambda:.0f} %" if growth is not None and moved else "–",
    ]


def _aligned(rows: Sequence[Sequence[str]], right: Sequence[int]) -> list[str]:
    width = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(w) if i in right else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, width, strict=True))
        ).rstrip()
        for row in rows
    ]


def _odd(diagnosis: Diagnosis) -> str:
    lines = [f"{len(diagnosis.odd)} matrices differ from the others of their kind, or have no single shape:"]
    for odd in diagnosis.odd[:LISTED]:
        heavy = f"; Q90/Q10 {odd.fit.q90_q10:.1f}, Gini {odd.fit.gini:.2f}" if odd.fit else ""
        lines.append(f"  {odd.name}: k {odd.k:.3f} ({odd.why}{heavy})")
    if len(diagnosis.odd) > LISTED:
        lines.append(f"  and {len(diagnosis.odd) - LISTED} more")
    return "\n".join(lines)


def _neighbours(diagnosis: Diagnosis, shown: int) -> str:
    found = diagnosis.nearest.neighbours
    if not found:
        return "No published model can be compared."
    attention = diagnosis.nearest.attention
    by = "" if attention and attention.like else " by feed-forward alone"
    rows = [
        [f"nearest published{by}", "distance", "attention", "tokens", "T/τ", "largest differences, in standard errors"]
    ]
    rows += [_neighbour_row(neighbour) for neighbour in found[:shown]]
    lines = _aligned(rows, right=(1, 4))
    lines.insert(1, "─" * max(map(len, lines)))
    lines.append(
        "distance: about 1 for two published models of one type, none of which are further apart than 2; of k, not of λ"
    )
    return "\n".join(lines)


def _neighbour_row(neighbour: Neighbour) -> list[str]:
    model = neighbour.model
    largest = ", ".join(f"{d.kind} {d.z:+.1f}" for d in neighbour.kinds[:3])
    t_over_tau = f"{model.t_over_tau:.2f}" if model.t_over_tau is not None else "–"
    return [model.name, f"{neighbour.distance:.1f}", _attention(model), model.tokens, t_over_tau, largest]


def _attention(model: PublishedModel) -> str:
    name = {"fused": "MHA fused", "gqa": "GQA"}.get(model.attention, "MHA")
    return f"{name}, QK-norm" if model.qk_norm else name


def _notes(notes: Sequence[str]) -> str:
    return "\n".join(textwrap.fill(f"- {note}", WIDTH, subsequent_indent="  ") for note in notes)


def render_matrices(diagnosis: Diagnosis) -> str:
    """Every matrix and part with a fit: k, drift, severity, where it lies relative to the published medians."""
    rows = [["matrix", "kind", "k", "drift", "severity", "regime", "of published medians"]]
    kinds = {c.name: c.label for c in diagnosis.sample.components}
    rows += [
        [name, kinds[name], f"{r.k:.4f}", f"{100 * r.drift:+.1f} %", r.severity, r.regime, r.position or "–"]
        for name, r in diagnosis.matrices.items()
    ]
    return "\n".join(_aligned(rows, right=(2, 3)))
