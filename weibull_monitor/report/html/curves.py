"""The curves over the steps: every class and kind, with the published range and the forecast of the scaling law."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from weibull_monitor.analysis import initialisation_of
from weibull_monitor.analysis.diagnosis import Diagnosis
from weibull_monitor.measure.weibull import anchors
from weibull_monitor.model.adapters import of_adapters
from weibull_monitor.model.components import CLASS_OF_KIND, Component, attention_pairs, distinct
from weibull_monitor.report.html.encoding import Array, Columns, error_of_median, floats, highest, lowest, median
from weibull_monitor.report.kinds import by_kind

CLASSES = ("selection", "transmission")


def classes(columns: Columns, diagnosis: Diagnosis | None) -> list[dict[str, Any]]:
    """k of both classes over the samples, as ``weibull_class/…_k`` has it, with the published range and the anchor."""
    if of_adapters(columns.components):
        return _of_adapters(columns)
    found = []
    for name in CLASSES:
        at = _places(columns, [c for c in distinct(columns.components) if c.component_class == name])
        if len(at):
            k = columns["k"][:, at]
            drift = 100.0 * (median(k / k[0]) - 1.0) if columns.history.baseline else np.full(len(k), np.nan)
            entry: dict[str, Any] = {
                "name": name,
                "k": floats(median(k)),
                "low": floats(lowest(k)),
                "high": floats(highest(k)),
            }
            entry |= {"drift": floats(drift), "start": anchor(columns, at), "update": update(columns, at)}
            found.append(entry | _published(name, diagnosis))
    return found


def _of_adapters(columns: Columns) -> list[dict[str, Any]]:
    """The same for what adapters add to the weights of each class, whose own k cannot move."""
    found: list[dict[str, Any]] = []
    adapters = columns.history.runs[-1].model.get("adapters") or {}
    for name in CLASSES:
        of = {a for a, one in adapters.items() if CLASS_OF_KIND.get(str(one.get("kind"))) == name}
        at = _places(columns, [c for c in columns.components if c.name in of])
        k = columns["delta_k"][:, at]
        if len(at) and np.isfinite(k).any():
            entry = {"name": name, "k": floats(median(k)), "low": floats(lowest(k)), "high": floats(highest(k))}
            found.append(entry | {"drift": floats(np.full(len(k), np.nan)), "start": None, "adapters": True})
    return found


def update(columns: Columns, at: Array) -> dict[str, Any] | None:
    """How far the last step moved these matrices at each sample, RMS(u)·η/RMS(w); None if updates were not read."""
    ratio = columns["update_ratio"][:, at]  # (samples, matrices)
    if not np.isfinite(ratio).any():
        return None
    return {"median": floats(median(ratio)), "high": floats(highest(ratio))}


def attention(columns: Columns) -> dict[str, Any] | None:
    """The scale of attention over the samples: median, lowest and highest over the blocks; None if no block has one."""
    history = columns.history
    place = {component.name: i for i, component in enumerate(columns.components)}
    pairs = [p for p in attention_pairs(columns.components, history.runs[-1].attention) if p.head is None]
    pairs = [p for p in pairs if p.query in place and p.key in place]
    if not pairs:
        return None
    rms, factor = columns["rms"], np.array([pair.factor for pair in pairs])
    scale = factor * rms[:, [place[p.query] for p in pairs]] * rms[:, [place[p.key] for p in pairs]]  # (samples, pairs)
    if not np.isfinite(scale).any():
        return None
    return {"median": floats(median(scale)), "low": floats(lowest(scale)), "high": floats(highest(scale))}


def kinds(columns: Columns, diagnosis: Diagnosis | None) -> list[dict[str, Any]]:
    """k, λ and the law of every kind over the samples."""
    found = []
    by_label = by_kind(columns.components)
    if of_adapters(columns.components):  # what is trained comes first
        by_label = dict(sorted(by_label.items(), key=lambda item: not any(c.trainable for c in item[1])))
    for label, members in by_label.items():
        at = _places(columns, members)
        entry = {"name": label, "class": members[0].component_class, "matrices": len(at)}
        entry |= {"k": _band(columns, "k", at), "lambda": _band(columns, "lambda", at), "start": anchor(columns, at)}
        entry |= {"r2": floats(lowest(columns["r2"][:, at])), "law": law(columns, at)}
        found.append(entry | _published(label, diagnosis))
    return found


def law(columns: Columns, at: Array) -> dict[str, Any] | None:
    """The scaling law for one kind: medians over its matrices; None where no sample has √I.

    Args:
        columns: The columns of the run.
        at: Places of the kind's matrices in the columns.

    Returns:
        Among others ``covered``, whether the law covers the kind (attention and feed-forward layers, docs/scaling.md), and
        ``line``, λ if c had always had its last value, √(λ_0²·exp(-2S) + c²·I): the closer λ follows it, the more constant
        c was.
    """
    root = columns["effective"][:, at]  # (samples, matrices)
    if not np.isfinite(root).any():
        return None
    spent, scale = columns["t_over_tau"][:, at], columns["lambda"][:, at]
    first = scale[0] if columns.history.baseline else np.full(len(at), np.nan)
    # What decay has left of λ_0²; the rest of λ² was put there by the optimizer, and c is its ratio to √I.
    kept = first**2 * np.exp(-2.0 * np.nan_to_num(spent))
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.sqrt(scale**2 - kept) / root
        now = ratio[-1]
        line = np.sqrt(kept + now**2 * np.nan_to_num(root) ** 2)
    ratio[~np.isfinite(ratio)] = np.nan
    c = median(now[np.newaxis])[0]
    one = columns.components[at[0]]
    foretold = columns["lambda_forecast"][:, at]
    # A median over some of the matrices would not go with λ, the median over all.
    partly = np.any(np.isfinite(scale) & ~np.isfinite(foretold), axis=1)
    ends = {
        end: floats(median(np.where(partly[:, np.newaxis], np.nan, columns[f"lambda_forecast{end}"][:, at])))
        for end in ("", "_low", "_high")
    }
    return {
        "root": floats(median(np.where(np.isfinite(scale), np.nan_to_num(root), np.nan))),
        "ratio": floats(median(ratio)),
        "c": float(c) if np.isfinite(c) else None,
        "line": floats(median(line)),
        "forecast": ends[""],
        "low": ends["_low"],
        "high": ends["_high"],
        "covered": one.component_class != "none" or one.kind.startswith("attn_"),
        "foretold": not partly[-1] and bool(np.isfinite(foretold[-1]).any()),
    }


def anchor(columns: Columns, at: Array) -> dict[str, Any] | None:
    """The initialisation that fits the baseline of these matrices; None without a baseline, or if none fits."""
    if columns.history.baseline is None:
        return None
    start = median(columns["k"][:1, at])[0]
    if not np.isfinite(start) or start <= 0:
        return None
    name = initialisation_of(float(start))
    like = anchors()[name].k
    return {"name": called(name), "k": like} if abs(start / like - 1.0) < 0.01 else None


def called(initialisation: str) -> str:
    """The name of an anchor in words.

    >>> called("truncated_normal_2"), called("normal")
    ('normal (cut at 2σ)', 'normal')
    """
    return f"normal (cut at {initialisation[-1]}σ)" if initialisation.startswith("truncated") else initialisation


def _band(columns: Columns, column: str, at: Array) -> dict[str, str]:
    values = columns[column][:, at]
    relative = columns["k_se"][:, at] / columns["k"][:, at]
    normal = anchors()["normal"]
    error = relative * values * (normal.lambda_noise / normal.k_noise if column == "lambda" else 1.0)
    return {
        "median": floats(median(values)),
        "low": floats(lowest(values)),
        "high": floats(highest(values)),
        "se": floats(error_of_median(error)),
    }


def _published(of: str, diagnosis: Diagnosis | None) -> dict[str, Any]:
    known = diagnosis.sample.expected(of) if diagnosis else None
    return {"published": {"low": known.low, "high": known.high, "models": known.models}} if known else {}


def _places(columns: Columns, members: Sequence[Component]) -> Array:
    index = {component.name: place for place, component in enumerate(columns.components)}
    return np.array([index[c.name] for c in members], dtype=np.intp)
