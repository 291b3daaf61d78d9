"""TensorBoard's other pages: the layout of Custom Scalars, and the hyper-parameters of a run for HParams."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from weibull_monitor.history.record import RunRecord
from weibull_monitor.trackers.bands import CLASSES, PREFIX

Layout = dict[str, dict[str, list[Any]]]

METRICS: Final = (
    "weibull_class/selection_k",
    "weibull_class/selection_drift_pct",
    "weibull_class/transmission_k",
    "weibull_scaling/t_over_tau",
    "weibull_alerts/active",
)
"""The metrics on the HParams page."""


def layout_of(bands: Mapping[str, float], prefix: str = "") -> Layout:
    """The charts of the Custom Scalars page, for `SummaryWriter.add_custom_scalars`.

    A Margin chart takes three tags, the value and the two edges, which must be logged at the same steps. A Multiline chart takes
    regular expressions.

    Args:
        bands: The published bands, as `bands_of` returns them.
        prefix: What the tags of a named model begin with.

    >>> charts = layout_of({"weibull_band/selection_low": 1.1, "weibull_band/selection_high": 1.16})["Weibull: classes"]
    >>> charts["selection: k in the published band"]
    ['Margin', ['weibull_class/selection_k', 'weibull_band/selection_low', 'weibull_band/selection_high']]
    >>> charts["transmission: k"]
    ['Multiline', ['weibull_class/transmission_k$']]
    """
    classes: dict[str, list[Any]] = {}
    for group in CLASSES:
        low, high = f"{PREFIX}/{group}_low", f"{PREFIX}/{group}_high"
        if low in bands:
            classes[f"{group}: k in the published band"] = ["Margin", [f"weibull_class/{group}_k", low, high]]
        else:
            classes[f"{group}: k"] = ["Multiline", [f"weibull_class/{group}_k$"]]
    classes["drift since the start, %"] = ["Multiline", ["weibull_class/.*_drift_pct"]]
    classes["scale of attention, median and highest"] = ["Multiline", ["weibull_selection/attention_scale"]]
    layout: Layout = {
        "Weibull: classes": classes,
        "Weibull: shape k per kind": {
            "k, median over the blocks": ["Multiline", ["weibull_k/"]],
            "k of the lowest block": ["Multiline", ["weibull_k_min/"]],
        },
        "Weibull: scale λ per kind": {
            "λ, median over the blocks": ["Multiline", ["weibull_lambda/"]],
            "λ of the highest block": ["Multiline", ["weibull_lambda_max/"]],
            "λ at the end, as forecast": ["Multiline", ["weibull_scaling/lambda_forecast/"]],
            "budget ratio c": ["Multiline", ["weibull_scaling/budget_ratio/"]],
            "√(η/λ_wd), plain and effective": ["Multiline", ["weibull_scaling/.*sqrt_eta_over_wd"]],
        },
        "Weibull: fit and alerts": {
            "R² of the worst block": ["Multiline", ["weibull_r2_min/"]],
            "extreme tails that have moved": ["Multiline", ["weibull_tail/"]],
            "alerts": ["Multiline", ["weibull_alerts/"]],
        },
    }
    if not prefix:
        return layout
    return {
        prefix + group: {
            title: [chart, [prefix + tag if chart == "Margin" else f"^{re.escape(prefix)}{tag}" for tag in tags]]
            for title, (chart, tags) in charts.items()
        }
        for group, charts in layout.items()
    }


def hyperparameters_of(record: RunRecord) -> dict[str, bool | int | float | str]:
    """The hyper-parameters on the HParams page: the model, and the optimizers with the weight decay of their groups."""
    values: dict[str, Any] = {"model": record.model.get("class"), "parameters": record.model.get("parameters")}
    values["total_steps"] = record.total_steps
    values["attention"] = ", ".join(dict.fromkeys(str(kind["sharing"]) for kind in record.attention)) or None
    groups = [group for optimizer in record.optimizers for group in optimizer.get("groups", ())]
    values["optimizer"] = ", ".join(dict.fromkeys(str(o.get("class")) for o in record.optimizers)) or None
    for name in ("weight_decay", "betas", "momentum"):
        values[name] = _joined([group[name] for group in groups if group.get(name) is not None])
    return {name: value for name, value in values.items() if isinstance(value, bool | int | float | str)}


def _joined(values: Sequence[Any]) -> float | str | None:
    distinct = list(dict.fromkeys(str(value) for value in values))
    if len(distinct) == 1 and isinstance(values[0], int | float):
        return float(values[0])
    return ", ".join(distinct) or None
