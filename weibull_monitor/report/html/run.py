"""One run as plain data for the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Final

import numpy as np

from weibull_monitor.analysis.diagnosis import Diagnosis, diagnose
from weibull_monitor.errors import ConfigurationError
from weibull_monitor.history.record import History
from weibull_monitor.model.components import summarise_experts
from weibull_monitor.model.components.grid import grid_of
from weibull_monitor.report.html import run_facts as facts
from weibull_monitor.report.html.alerts import intervals
from weibull_monitor.report.html.curves import attention, classes, kinds
from weibull_monitor.report.html.encoding import Columns, integers
from weibull_monitor.report.html.standing import standing

DRAWN: Final = 2000
"""Samples that curves show."""
FRAMES: Final = 160
"""Samples on the heatmap's slider, at which every single matrix has values; curves per kind have all samples."""
FEWEST: Final = 24
SERIES_BYTES: Final = 2_500_000
"""Size of the values of all single matrices before they are encoded, over all runs of a page."""
PLOT_BYTES: Final = 1_500_000
"""Size of the probability plots before they are encoded, over all runs of a page."""
SERIES: Final = ("k", "lambda", "r2")
NEIGHBOURS: Final = 6
ODD: Final = 20


def run_data(name: str, history: History, share: float = 1.0) -> dict[str, Any]:
    """What the page draws for one run, ready for JSON.

    Args:
        name: Name of the run.
        history: Its history.
        share: The share of the page's size that it may take.

    Returns:
        Names, numbers, and arrays as `weibull_monitor.report.html.encoding` encodes them; steps are optimizer steps.
    """
    alerts = intervals(history.alerts)
    everything, history = history, _drawn(history)
    columns = Columns(history) if history.snapshots and history.components else None
    data: dict[str, Any] = {
        "name": name,
        "facts": facts.facts(everything, columns and Columns(everything)),
        "alerts": alerts,
        "steps": [snapshot.step for snapshot in history.snapshots],
        "total": history.runs[-1].total_steps if history.runs else None,
    }
    if columns is None:
        return data | {"empty": "This run has no samples yet." if history.runs else "This history holds no run."}
    diagnosis = _diagnosed(history)
    curves, plots = kinds(columns, diagnosis), _plots(history, share)
    frames = _frames(history, data["steps"], plots["steps"], share)
    return data | {
        "classes": classes(columns, diagnosis),
        "attention": attention(columns),
        "kinds": curves,
        "tiles": facts.tiles(columns, diagnosis, curves, alerts),
        "standing": (wrong := standing(columns, alerts)),
        "headline": facts.headline(diagnosis, wrong["sentence"] if wrong else ""),
        "withheld": facts.withheld(history),
        "baseline": history.baseline is not None,
        "published": _published(diagnosis, history.runs[-1].model.get("remarks") or {}),
        "components": _components(history),
        "grid": _grid(history),
        "experts": _experts(history),
        "plots": plots,
        "frames": frames,
        "series": {column: integers(columns[column][frames]) for column in SERIES},
    }


def _drawn(history: History) -> History:
    """The history with only as many samples as can be seen on a screen: evenly spread, and those of the last alerts."""
    samples = history.snapshots
    if len(samples) <= DRAWN:
        return history
    alerted = {alert.step for alert in history.alerts[-DRAWN // 10 :]}
    places = {*spread(len(samples), DRAWN), *(i for i, sample in enumerate(samples) if sample.step in alerted)}
    return replace(history, snapshots=tuple(samples[i] for i in sorted(places)))


def _diagnosed(history: History) -> Diagnosis | None:
    try:
        return diagnose(history)
    except ConfigurationError:  # no matrix has a fit
        return None


def _components(history: History) -> list[dict[str, Any]]:
    return [
        {"name": c.name, "kind": c.label, "shape": list(c.shape), "dtype": c.dtype_name}
        | ({"expert": c.expert} if c.expert is not None else {})
        | ({"tower": c.tower} if c.tower else {})
        for c in history.components
    ]


def _grid(history: History) -> dict[str, Any]:
    """Blocks × kinds, each cell the places of its components in the list of them."""
    grid = grid_of(history.components)
    place = {component.name: i for i, component in enumerate(history.components)}
    cells = [[[place[name] for name in names] for names in row] for row in grid.cells]
    return {"kinds": list(grid.kinds), "blocks": list(grid.blocks), "cells": cells}


def _experts(history: History) -> list[dict[str, Any]]:
    """The groups of experts whose k differs most at the last sample."""
    groups = summarise_experts(history.components, history.snapshots[-1].values("k"))
    widest = sorted(groups, key=lambda group: group.lowest - group.highest)[:ODD]
    return [asdict(group) for group in widest]


def _published(diagnosis: Diagnosis | None, remarks: Mapping[str, Sequence[str]]) -> dict[str, Any] | None:
    if diagnosis is None:
        return None
    nearest, outside = diagnosis.nearest, diagnosis.sample.outside
    odd: list[dict[str, Any]] = [{"name": one.name, "k": one.k, "why": one.why} for one in diagnosis.odd]
    odd += [{"name": name, "k": None, "why": "; ".join(texts)} for name, texts in remarks.items()]
    return {
        "outside": outside,
        "attention": str(diagnosis.sample.attention or "no self-attention was found"),
        "like": bool(nearest.attention and nearest.attention.like),
        "kinds": [
            {
                "kind": one.median.kind,
                "matrices": one.median.matrices,
                "k": one.median.k,
                "se": one.median.se,
                "expected": str(one.result.expected) if one.result.expected else None,
                "models": one.result.expected.models if one.result.expected else None,
                "verdict": one.verdict,
                "drift": 100.0 * one.result.drift,
                "moved": str(one.movement),
                "severity": "–" if outside else one.result.severity,  # a word that the published models define
                "regime": "–" if outside else one.result.regime,
            }
            for one in (*diagnosis.kinds, *diagnosis.classes)
        ],
        "neighbours": [
            {
                "model": one.model.name,
                "distance": one.distance,
                "peak_time": one.model.peak_time,
                "differences": [{"kind": d.kind, "z": d.z} for d in one.kinds],
            }
            for one in nearest.neighbours[:NEIGHBOURS]
        ],
        "odd": odd[:ODD],
        "more_odd": max(0, len(odd) - ODD),
        "notes": list(diagnosis.notes),
    }


def _plots(history: History, share: float) -> dict[str, Any]:
    """ln|w| at the recorded shares, for as many of the recorded steps as there is room for."""
    recorded = [plot for plot in history.plots if plot.components == history.components and plot.levels]
    recorded = [plot for plot in recorded if plot.levels == recorded[-1].levels]
    if not recorded:
        return {"steps": [], "levels": []}
    levels, size = recorded[-1].levels, len(history.components)
    room = int(share * PLOT_BYTES / (2 * size * len(levels)))
    recorded = [recorded[i] for i in spread(len(recorded), max(2, room))]
    nothing = [np.nan] * len(levels)
    values = np.array([[nothing if row is None else row for row in plot.quantiles] for plot in recorded], dtype=float)
    # values: (steps, matrices, levels). Each matrix and step gets its own range, so that a matrix that has grown a
    # hundredfold is drawn as finely as before.
    packed = integers(values.reshape(len(recorded) * size, len(levels)).T)
    return {"steps": [plot.step for plot in recorded], "levels": list(levels)} | packed


def _frames(history: History, steps: Sequence[int], kept: Iterable[int], share: float) -> list[int]:
    """Places of the samples at which single matrices have values: evenly spread, and those of plots and alerts."""
    room = int(share * SERIES_BYTES / (2 * len(SERIES) * len(history.components)))
    place = {step: i for i, step in enumerate(steps)}
    alerted = [place[alert.step] for alert in history.alerts[-FEWEST:] if alert.step in place]
    wanted = [place[step] for step in kept if step in place]
    return sorted({*spread(len(steps), min(FRAMES, max(FEWEST, room))), *wanted, *alerted})


def spread(n: int, most: int) -> list[int]:
    """Up to ``most`` of n places, evenly spread, with the first and the last.

    >>> spread(5, 9), spread(10, 4)
    ([0, 1, 2, 3, 4], [0, 3, 6, 9])
    """
    return sorted({int(i) for i in np.linspace(0, n - 1, min(n, most)).round()})
