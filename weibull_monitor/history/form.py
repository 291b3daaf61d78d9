"""The values of the lines of a history, checked: what does not have the declared form is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import chain
from pathlib import Path, PurePath
from typing import Any, Final, Literal, TypedDict

import numpy as np

from weibull_monitor.errors import ConfigurationError
from weibull_monitor.history.alert import Alert, Finding, alert_from_json
from weibull_monitor.history.columns import COLUMNS, FIRST_COLUMNS
from weibull_monitor.history.conform import MAX_FLOAT, conforming, conforms, hints_of
from weibull_monitor.history.record import SCHEMA, ColumnTable, RecordedPlot, RecordedSnapshot, RunRecord
from weibull_monitor.model.components import CLASS_OF_KIND, AttentionType, Component, Part
from weibull_monitor.model.components.component import DTYPES

_NUMBERS: Final = frozenset({int, float, type(None)})
"""Types of the values in a column."""
_POSITIVE: Final = [COLUMNS.index("k"), COLUMNS.index("lambda")]
"""Columns whose values are above 0; others are no fits."""
_ATTENTION: Final = ("tower", "sharing", "qk_norm", "fused", "cross", "blocks")
"""What a kind of attention has to say."""
MAX_TIME: Final = 1e11
"""Latest Unix time, which is some thousand years ahead: later ones have no date."""


class _Model(TypedDict, total=False):
    """What is known of a model, and of the checkpoints of a scan."""

    model_type: str | None
    architecture: str | None
    initializer_range: float | None
    initial: dict[str, tuple[Literal["normal", "truncated", "uniform"], float, float]]
    parameters: int
    source: str
    format: str
    bytes: int
    checkpoints: list[dict[str, Any]]
    notes: list[str]
    remarks: dict[str, list[str]]
    design_effects: dict[str, float]
    adapters: dict[str, dict[str, Any]]
    findings: list[dict[str, Any]]


class _Optimizer(TypedDict, total=False):
    groups: list[dict[str, Any]]


class _Group(TypedDict, total=False):
    betas: list[float] | None
    weight_decay: float | None
    momentum: float | None
    law: str


class NotARunError(ValueError):
    """A ``run`` line that does not have the form of one."""


def run_from_json(line: Mapping[str, Any], file: Path) -> RunRecord:
    """The record of a ``run`` line.

    Args:
        line: The line.
        file: The history, for messages.

    Raises:
        ConfigurationError: If it was written by a newer version.
        NotARunError: If it does not have the form of a ``run`` line.
    """
    schema = line.get("schema")
    if not conforms(schema, int):
        raise NotARunError(f"its schema is {str(schema)[:40]!r}")
    if line["schema"] > SCHEMA:
        raise ConfigurationError(
            f"{file} has schema {schema}, this version reads up to {SCHEMA}; upgrade weibull-monitor"
        )
    known = {f.name: line[f.name] for f in fields(RunRecord) if f.name in line}
    known["model"] = _plain(known.get("model"), _Model)
    drawn = known["model"].get("initial", {})
    if any(scale <= 0.0 or (kind == "truncated" and not 0.1 <= cut <= 1e6) for kind, scale, cut in drawn.values()):
        del known["model"]["initial"]
    known["protocol"] = _plain(known.get("protocol"), dict)
    known["attention"] = _attention(known.get("attention", ()))
    known["optimizers"] = _optimizers(known.get("optimizers", ()))
    listed = known.get("components")
    if not isinstance(listed, list):
        raise NotARunError("it has no list of components")
    known["components"] = tuple(_component(value) for value in listed)
    names = {component.name for component in known["components"]}
    if len(names) != len(known["components"]):
        raise NotARunError("two of its components have one name")
    for name, hint in hints_of(RunRecord).items():
        if name in known and name != "components" and not conforms(known[name], hint):
            raise NotARunError(f"its {name} is {str(known[name])[:40]!r}")
    try:
        record = RunRecord(**known)
    except TypeError as error:
        raise NotARunError(str(error)[:100]) from error
    if any(_leads_out(place) for place in (record.trial, record.history)):
        raise NotARunError("it names a place outside of its directory")
    if min(record.resumed_from or 0, record.world_size - 1, record.total_steps or 0) < 0 or record.started > MAX_TIME:
        raise NotARunError("one of its counts is impossible")
    return record


def snapshot_from_json(line: Mapping[str, Any], run: RunRecord) -> RecordedSnapshot | None:
    """The sample of a ``snapshot`` line, with the components of the ``run`` line before it; None if they do not fit."""
    step, time, seconds = line.get("step"), line.get("time"), line.get("seconds")
    if not (conforms(step, int) and conforms(time, float) and conforms(seconds, float | None)):
        return None
    if line["step"] < 0 or not 0 <= line["time"] < MAX_TIME:
        return None
    components = run.components
    count = len(components)
    absent = [None] * count  # the line may be older than a column
    rows = [line.get(name, None if name in FIRST_COLUMNS else absent) for name in COLUMNS]
    if any(type(row) is not list or len(row) != count for row in rows):
        return None
    flat = list(chain.from_iterable(rows))
    if not _NUMBERS.issuperset(map(type, flat)):
        return None
    try:
        numbers = np.array(flat, dtype=np.float64)  # None becomes NaN
    except OverflowError:  # an integer of hundreds of digits
        return None
    if numbers.size and not np.nanmax(np.abs(numbers), initial=0.0) <= MAX_FLOAT:
        return None
    withheld = line.get("withheld", {})
    if not conforms(withheld, Mapping[str, int]):
        withheld = {}
    numbers = numbers.reshape(len(COLUMNS), count)
    positive = numbers[_POSITIVE]
    numbers[_POSITIVE] = np.where(positive > 0, positive, np.nan)
    table = ColumnTable(numbers)
    return RecordedSnapshot(line["step"], float(line["time"]), components, table, withheld, seconds, run.model)


def plot_from_json(line: Mapping[str, Any], components: tuple[Component, ...]) -> RecordedPlot | None:
    """The quantiles of a ``plot`` line, with the components of the ``run`` line before it; None if they do not fit."""
    step, levels, rows = line.get("step"), line.get("levels"), line.get("quantiles")
    if not (conforms(step, int) and conforms(levels, list[float]) and conforms(rows, list[list[float] | None])):
        return None
    lengths = {len(row) for row in line["quantiles"] if row is not None}
    if line["step"] < 0 or len(line["quantiles"]) != len(components) or not lengths <= {len(line["levels"])}:
        return None
    quantiles = tuple(None if row is None else tuple(row) for row in line["quantiles"])
    return RecordedPlot(line["step"], components, tuple(line["levels"]), quantiles)


def alerts_from_json(line: Mapping[str, Any]) -> list[Alert]:
    """The alert of an ``alert`` line, in a list; an empty list if a field is missing, or of another type."""
    hints = hints_of(Finding) | {"phase": hints_of(Alert)["phase"], "since": int, "found": int}
    if not all(name in line and conforms(line[name], hint) for name, hint in hints.items()):
        return []
    if min(line["step"], line["since"], line["found"], line["count"]) < 0:
        return []
    return [alert_from_json(line)]


def _leads_out(place: str | None) -> bool:
    if place is None:
        return False
    path = PurePath(place)
    return path.is_absolute() or ".." in path.parts or "\0" in place or not 0 < len(place) < 1000


def _component(value: object) -> Component:
    """One component. A kind that this version does not know is ``other``."""
    if not isinstance(value, dict):
        raise NotARunError("one of its components is not a table")
    known = {f.name: value[f.name] for f in fields(Component) if f.name in value}
    dtype = known.get("dtype")
    if not (isinstance(dtype, str) and (dtype in DTYPES or _of_torch(dtype))):
        raise NotARunError(f"the dtype of a component is {str(known.get('dtype'))[:40]!r}")
    if known.get("part") is not None:
        known["part"] = _part(known["part"])
    for name, hint in hints_of(Component).items():
        if name in known and name not in ("dtype", "part") and not conforms(known[name], hint):
            raise NotARunError(f"the {name} of a component is {str(known[name])[:40]!r}")
    numbers = [*known.get("shape", ()), known.get("block") or 0, known.get("expert") or 0]
    if min(numbers) < 0 or len(numbers) > 34:
        raise NotARunError("a component has an impossible shape or place")
    if known.get("kind") not in CLASS_OF_KIND:
        known["kind"] = "other"
    try:
        return Component(**known | {"shape": tuple(known.get("shape", ())), "dtype": dtype})
    except TypeError as error:
        raise NotARunError(f"a component is not complete ({str(error)[:80]})") from error


def _of_torch(name: str) -> bool:
    """Whether this is the name of a dtype: one of which no weights are measured today."""
    import torch

    return isinstance(getattr(torch, name, None), torch.dtype)


def _part(value: object) -> Part:
    hints = hints_of(Part)
    if not isinstance(value, dict) or not all(k in value and conforms(value[k], hint) for k, hint in hints.items()):
        raise NotARunError("a part of a component does not have the form of one")
    ranges = tuple((start, stop) for start, stop in value["ranges"])
    return Part(value["label"], tuple(value["view"]), ranges, value["within"])


def _plain(value: object, form: Any) -> dict[str, Any]:
    """The entries of a table that have their types."""
    if not isinstance(value, dict):
        raise NotARunError("a table of it is missing")
    return conforming(value, form) or {}


def _attention(values: object) -> list[dict[str, Any]]:
    """The kinds of attention that have the form of one; of another version, they may have more."""
    found = (
        conforming(value, AttentionType, _ATTENTION) for value in (values if isinstance(values, (list, tuple)) else ())
    )
    return [value for value in found if value is not None]


def _optimizers(values: object) -> list[dict[str, Any]]:
    out = []
    for value in values if isinstance(values, Sequence) and not isinstance(values, str) else ():
        if (kept := conforming(value, _Optimizer)) is not None:
            groups = [group for g in kept.get("groups", ()) if (group := conforming(g, _Group)) is not None]
            out.append(kept | ({"groups": groups} if "groups" in kept else {}))
    return out
