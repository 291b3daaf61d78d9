"""Writes a scan for other programs, as JSON or CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from typing import Any, Final

from weibull_monitor.analysis.diagnosis import diagnose
from weibull_monitor.checkpoint.scan import Checkpoint, Scan
from weibull_monitor.errors import ConfigurationError, visible
from weibull_monitor.history.columns import DELTAS
from weibull_monitor.measure import WeibullFit
from weibull_monitor.model.components import Component

FIGURES: Final = ("k", "lambda", "r2", "k_se", "ks", "rms", "n", "zeros", "nonfinite", "q90_q10", "p999_p50", "gini")
"""The attributes of each fit that are written."""


def as_json(scan: Scan) -> str:
    """The scan as one JSON object: its checkpoints with their components, and the diagnosis of the last one."""
    checkpoints = [
        {
            "step": one.step if scan.steps_known else None,
            "number": number,
            "path": visible(str(one.source)),
            "format": one.format,
            "bytes": one.size,
            "coverage": one.coverage,
            "notes": list(one.notes),
            "skipped": dict(one.skipped),
            "findings": [vars(finding) for finding in one.findings],
            "components": [
                _describe(c)
                | _figures(one.fits.get(c.name))
                | _effective(one, c)
                | {"remarks": list(one.remarks.get(c.name, ()))}
                | _delta(one, c)
                for c in one.components
            ],
        }
        for number, one in enumerate(scan.checkpoints, start=1)
    ]
    model = {key: scan.history.runs[-1].model.get(key) for key in ("class", "model_type", "parameters", "source")}
    return json.dumps({"model": model, "checkpoints": checkpoints, **_diagnosis(scan)}, indent=1, ensure_ascii=False)


def as_csv(scan: Scan) -> str:
    """The scan as a table with one row per checkpoint and component."""
    out = io.StringIO(newline="")
    columns = [
        "checkpoint",
        "step",
        "name",
        "kind",
        "class",
        "block",
        "expert",
        "shape",
        "dtype",
        *FIGURES,
        "k_se_effective",
        *DELTAS,
        "remarks",
    ]
    table = csv.DictWriter(out, columns, lineterminator="\n")
    table.writeheader()
    for one in scan.checkpoints:
        for c in one.components:
            row = _describe(c) | _figures(one.fits.get(c.name))
            row |= {"checkpoint": str(one.source), "step": one.step, "shape": "x".join(map(str, c.shape))}
            row |= _effective(one, c) | _delta(one, c)
            row["remarks"] = "; ".join(one.remarks.get(c.name, ()))
            table.writerow({column: _as_text(value) for column, value in row.items()})
    return out.getvalue()


def _as_text(value: Any) -> Any:
    """The value; a text that a spreadsheet would take for a formula begins with an apostrophe."""
    if not isinstance(value, str):
        return value
    return f"'{visible(value)}" if value[:1] in ("=", "+", "-", "@", "\t", "\r") else visible(value)


def _describe(c: Component) -> dict[str, Any]:
    return {
        "name": c.name,
        "kind": c.label,
        "class": c.component_class,
        "block": c.block,
        "expert": c.expert,
        "shape": list(c.shape),
        "dtype": str(c.dtype).removeprefix("torch."),
    }


def _delta(one: Checkpoint, c: Component) -> dict[str, float | None]:
    """Of an A what it and its B add to a weight; else nothing."""
    delta = one.adapters.deltas.get(c.name)
    return dict(zip(DELTAS, (delta.k, delta.lambda_, delta.rms, delta.ratio), strict=True)) if delta else {}


def _effective(one: Checkpoint, c: Component) -> dict[str, float | None]:
    """The standard error of k with what values of one row or column have in common."""
    fit, effect = one.fits.get(c.name), one.design_effects.get(c.name)
    known = fit is not None and effect is not None and math.isfinite(fit.k_se)
    return {"k_se_effective": fit.k_se * math.sqrt(effect) if known and fit and effect else None}


def _figures(fit: WeibullFit | None) -> dict[str, float | int | None]:
    """The figures of a fit; None for those that do not exist."""
    if fit is None:
        return dict.fromkeys(FIGURES)
    values = {name: getattr(fit, "lambda_" if name == "lambda" else name) for name in FIGURES}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _diagnosis(scan: Scan) -> dict[str, Any]:
    """Medians per kind and class of the last checkpoint with their published ranges, and the nearest models."""
    try:
        found = diagnose(scan.history)
    except ConfigurationError:  # no matrix has a fit
        return {"kinds": [], "nearest": []}

    def entry(kind: Any) -> dict[str, Any]:
        expected = kind.result.expected
        return {
            "kind": kind.median.kind,
            "matrices": kind.median.matrices,
            "k": kind.median.k,
            "k_se": kind.median.se if math.isfinite(kind.median.se) else None,
            "lambda": kind.median.lambda_,
            "published": [expected.low, expected.high] if expected else None,
            "verdict": kind.verdict,
            "moved": kind.movement.moved,
            "tested": kind.movement.of,
            "lambda_over_start": kind.movement.lambda_ratio,
            "regime": kind.result.regime,
        }

    nearest = [{"model": n.model.name, "distance": n.distance} for n in found.nearest.neighbours]
    return {"kinds": [entry(kind) for kind in (*found.kinds, *found.classes)], "nearest": nearest}
