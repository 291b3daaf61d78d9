"""What low-rank adapters add to the weights, as a table: one row per kind of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from weibull_monitor.history.record import RecordedSnapshot
from weibull_monitor.report.text.table import Line, aligned


def delta_lines(last: RecordedSnapshot, adapters: Mapping[str, Mapping[str, Any]]) -> list[Line]:
    """ΔW = s·B·A by kind of W and adapter: its k, its λ and its size beside W; empty without adapters.

    Args:
        last: The sample.
        adapters: What the history says of each adapter, by the name of its A.
    """
    columns = {name: last.values(f"delta_{name}") for name in ("k", "lambda", "rms", "ratio")}
    groups: dict[tuple[str, str, int, float, bool], list[str]] = {}
    for name, one in adapters.items():
        if name in columns["rms"]:
            key = (str(one["kind"]), str(one["adapter"]), int(one["rank"]), float(one["scaling"]), bool(one["dora"]))
            groups.setdefault(key, []).append(name)
    if not groups:
        return []
    rows = [["W", "adapter", "matrices", "rank", "s", "k of ΔW", "λ of ΔW", "RMS of ΔW", "of that of W"]]
    for (kind, adapter, rank, scaling, dora), names in groups.items():
        k, scale, rms, ratio = (_median(columns[name], names) for name in columns)
        share = f"{100 * ratio:.3g} %" if ratio is not None else "–"
        figures = (f"{k:.4f}" if k else "–", f"{scale:.3g}" if scale else "–", f"{rms:.3g}" if rms else "0", share)
        label = f"{adapter or '–'}{', DoRA' * dora}"
        rows.append([kind, label, str(len(names)), str(rank), f"{scaling:.4g}", *figures])
    title = "adapters: ΔW = s·B·A, which is added to W (medians)"
    scaled = " DoRA also scales the rows of W + ΔW." if any(key[4] for key in groups) else ""
    begun = any(columns["rms"][name] for names in groups.values() for name in names)
    zero = "" if begun else " B is zero, as it begins: the adapters change nothing yet."
    return [[(f"{title}.{scaled}{zero}", "")], *aligned(rows, right=range(2, 9))]


def _median(values: Mapping[str, float], names: list[str]) -> float | None:
    found = [values[name] for name in names if name in values]
    return median(found) if found else None
