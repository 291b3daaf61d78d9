"""A diagnosis as text: how a run's k compares with that of published models."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Final

from weibull_monitor.analysis import Neighbour, PublishedModel
from weibull_monitor.analysis.classify import ONE_POPULATION
from weibull_monitor.analysis.diagnosis import Diagnosis, KindDiagnosis
from weibull_monitor.analysis.references import reference_range
from weibull_monitor.model.components import Component
from weibull_monitor.report.text.table import Line, Piece, aligned, joined, plain, wrapped

WIDTH: Final = 110
LISTED: Final = 10
"""Odd matrices that are listed."""
NEIGHBOURS: Final = 5
_VERDICTS: Final = {
    "as published": "green",
    "near published": "yellow",
    "short of published": "yellow",
    "not as published": "red",
}
_SEVERITIES: Final = {"mild": "yellow", "strong": "red"}


def render_diagnosis(diagnosis: Diagnosis, neighbours: int = NEIGHBOURS) -> str:
    """A diagnosis as plain text, about 110 columns wide, with so many of the nearest published models."""
    return plain(diagnosis_lines(diagnosis, neighbours))


def diagnosis_lines(
    diagnosis: Diagnosis, neighbours: int = NEIGHBOURS, *, step: bool = True, clock: bool = True, growth: bool = True
) -> list[Line]:
    """A diagnosis as styled lines, about 110 columns wide.

    Args:
        diagnosis: The diagnosis.
        neighbours: How many published models to show.
        step: Whether the step of the sample is known.
        clock: Whether to say why the training time is not known.
        growth: Whether to show the growth of σ since the baseline.
    """
    notes = wrapped(diagnosis.notes, WIDTH)
    parts = [
        _head(diagnosis, step, clock),
        _table(diagnosis, growth),
        _odd(diagnosis),
        _neighbours(diagnosis, neighbours),
    ]
    return joined([*parts, notes])


def _head(diagnosis: Diagnosis, step: bool, clock: bool) -> list[Line]:
    sample = diagnosis.sample
    where = f"step {sample.step}: " if step else ""
    lines: list[Line] = [[(f"{where}{sample.attention or _without(sample.components)}", "")]]
    spent = f"S = Σ ηλ_wd = {sample.t_over_tau:.3g}" if sample.t_over_tau is not None else ""
    peak = f"T·η_peak·λ_wd = {sample.peak_time:.3g}: {diagnosis.training}" if diagnosis.training is not None else ""
    why = f"T·η_peak·λ_wd: {sample.clock}" if clock and sample.clock else ""
    if spent or peak or why:
        lines.append([("training time: " + "; ".join(filter(None, (spent, peak or why))), "")])
    return lines


def _without(components: Sequence[Component]) -> str:
    return "adapters alone" if all(c.kind.startswith("adapter") for c in components) else "no self-attention was found"


def _table(diagnosis: Diagnosis, growth: bool) -> list[Line]:
    kinds = (*diagnosis.kinds, *diagnosis.classes)
    likes: dict[str, tuple[float, float, int] | None] = {}
    columns: dict[str, None] = dict.fromkeys(
        ("kind", "k", "published (models)", "verdict", "moved", "drift", "severity")
    )
    if diagnosis.sample.outside:  # these two are defined by the published models
        del columns["published (models)"], columns["severity"]
        architecture = diagnosis.sample.model.get("architecture")
        likes = {kind.median.kind: reference_range(kind.median.kind, architecture) for kind in kinds}
        if any(likes.values()):
            columns = {"kind": None, "k": None, f"{architecture}s (models)": None, **columns}
    if growth:
        columns |= dict.fromkeys(("σ growth", "by λ"))
    elif any(kind.movement.lambda_ratio for kind in kinds):
        columns["λ"] = None
    rows: list[list[str | Piece]] = [list(columns)]
    rows += [
        [cells[name] if name in cells else _like(likes.get(kind.median.kind)) for name in columns]
        for kind, cells in zip(kinds, map(_cells, kinds), strict=True)
    ]
    right = [n for n, name in enumerate(columns) if name not in ("kind", "verdict", "severity")]
    lines = aligned(rows, right=right, rules=(1, 1 + len(diagnosis.kinds)))
    against = {kind.result.against for kind in diagnosis.kinds}
    starts = {frozenset({"baseline"}): "the run's baseline", frozenset({"own"}): "its initialisation"}
    start = starts.get(frozenset(against), "an initialisation")
    legend = ["models: measured in docs/real-models.md, for information"] if any(likes.values()) else []
    legend += [
        f"k{', published' * (not diagnosis.sample.outside)}: medians over the blocks",
        f"drift: of k from {start}",
    ]
    legend += ["σ growth: of the fit, and the share of λ in it"] * growth + ["λ: over λ as initialised"] * (
        "λ" in columns
    )
    return [*lines, *[[(line, "")] for line in textwrap.wrap("; ".join(legend), WIDTH)]]


def _like(found: tuple[float, float, int] | None) -> str:
    """The range of k of trained models of the same architecture, for information."""
    return f"{found[0]:.3f}–{found[1]:.3f} ({found[2]:>2})" if found else "–"


def _cells(kind: KindDiagnosis) -> dict[str, str | Piece]:
    result, growth, expected = kind.result, kind.growth, kind.result.expected
    moved = growth is not None and growth.dominated_by != "unchanged"
    # B of an adapter begins at zero, and matrices of no kind have no k in common.
    no_start = kind.median.kind in ("adapter_b", "other") and result.against != "baseline"
    position = f" ({result.position})" if kind.verdict in ("near published", "not as published") else ""
    return {
        "kind": kind.median.kind,
        "k": f"{kind.median.k:.4f}",
        "published (models)": f"{expected} ({expected.models:>2})" if expected else "–",
        "verdict": (kind.verdict + position, _VERDICTS.get(kind.verdict, "")),
        "moved": str(kind.movement),
        "drift": "–" if no_start else f"{100 * result.drift:+.1f} %",
        "severity": (result.severity, _SEVERITIES.get(result.severity, "")),
        "σ growth": f"× {math.exp(growth.total[-1]):.3f}" if growth is not None else "–",
        "by λ": f"{100 * growth.share_of_lambda:.0f} %" if growth is not None and moved else "–",
        "λ": f"× {kind.movement.lambda_ratio:.3g}" if kind.movement.lambda_ratio else "–",
    }


def _odd(diagnosis: Diagnosis) -> list[Line]:
    if not diagnosis.odd:
        return []
    count = len(diagnosis.odd)
    differ = f"{count} matrices differ from the others of their kind, or have" if count > 1 else ""
    title = f"{differ or '1 matrix differs from the others of its kind, or has'} no single shape:"
    lines: list[Line] = [[(title, "")]]
    for odd in diagnosis.odd[:LISTED]:
        heavy = f"; Q90/Q10 {odd.fit.q90_q10:.1f}, Gini {odd.fit.gini:.2f}" if odd.fit else ""
        style = "red" if odd.r2 < ONE_POPULATION else ""
        lines.append([(f"  {odd.name}: k {odd.k:.3f} (", ""), (odd.why, style), (f"{heavy})", "")])
    if len(diagnosis.odd) > LISTED:
        lines.append([(f"  and {len(diagnosis.odd) - LISTED} more", "")])
    return lines


def _neighbours(diagnosis: Diagnosis, shown: int) -> list[Line]:
    if not diagnosis.nearest.neighbours:
        return [[("No published model can be compared.", "")]]
    attention = diagnosis.nearest.attention
    by = "" if attention and attention.like else " by feed-forward alone"
    head = [
        f"nearest published{by}",
        "distance",
        "attention",
        "tokens",
        "T·η_peak·λ_wd",
        "largest differences, in standard errors",
    ]
    rows = [head, *map(_neighbour_row, diagnosis.nearest.neighbours[:shown])]
    legend = "distance: about 1 between two published models of one type, and never above 2; of k, not of λ"
    return [*aligned(rows, right=(1, 4), rules=(1,)), [(legend, "")]]


def _neighbour_row(neighbour: Neighbour) -> list[str]:
    model = neighbour.model
    largest = ", ".join(f"{d.kind} {d.z:+.1f}" for d in neighbour.kinds[:3])
    peak_time = f"{model.peak_time:.2f}" if model.peak_time is not None else "–"
    return [model.name, f"{neighbour.distance:.1f}", _attention(model), model.tokens, peak_time, largest]


def _attention(model: PublishedModel) -> str:
    name = {"fused": "MHA fused", "gqa": "GQA"}.get(model.attention, "MHA")
    return f"{name}, QK-norm" if model.qk_norm else name


def render_matrices(diagnosis: Diagnosis) -> str:
    """Every matrix and part with a fit: k, drift, severity, where it lies relative to the published medians."""
    kinds = {c.name: c.label for c in diagnosis.sample.components}
    rows = [["matrix", "kind", "k", "drift", "severity", "regime", "published medians"]]
    rows += [
        [name, kinds[name], f"{r.k:.4f}", f"{100 * r.drift:+.1f} %", r.severity, r.regime, r.position or "–"]
        for name, r in diagnosis.matrices.items()
    ]
    return plain(aligned(rows, right=(2, 3)))
