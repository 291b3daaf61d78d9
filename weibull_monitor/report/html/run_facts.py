"""The head of the page in words: facts of a run, a sentence, and the figures to see first."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timezone
from statistics import median
from typing import Any

import numpy as np

from weibull_monitor.analysis.diagnosis import Diagnosis, KindDiagnosis
from weibull_monitor.errors import visible
from weibull_monitor.history.reasons import EXPLANATION
from weibull_monitor.history.record import History, RunRecord
from weibull_monitor.model.adapters import of_adapters
from weibull_monitor.model.components import AttentionType
from weibull_monitor.report.html.curves import called
from weibull_monitor.report.html.encoding import Columns
from weibull_monitor.report.text.alerts import severities

NAMES = {"selection": "W_q and W_k", "feed-forward": "feed-forward matrices"}


def facts(history: History, columns: Columns | None = None) -> list[tuple[str, str]]:
    """The run and its measurement, as pairs of a label and a text.

    Args:
        history: The history.
        columns: Its columns, if it has samples; they hold the learning rates.
    """
    if not history.runs:
        return []
    run, samples = history.runs[-1], history.snapshots
    found = [("Model", _model(run)), ("Parameters", _number(run.model.get("parameters")))]
    found += [("Checkpoints", str(run.model["source"]))] if run.model.get("source") else []
    found += [("Attention", "; ".join(map(_attention, run.attention)) or "not recorded")]
    found += [("Optimizer", "; ".join(map(_optimizer, run.optimizers)) or "not recorded")]
    found += [("Learning rate", rates)] if columns is not None and (rates := _rates(columns)) else []
    found += [("Measured", _coverage(history)), ("Not measured", _skipped(run))]
    found += [("Adapters", adapters)] if (adapters := _adapters(history)) else []
    found += [("Remarks", remarks)] if (remarks := _remarks(run)) else []
    if samples:
        of = f" of {run.total_steps:,}" if run.total_steps else ""
        found += [("Steps", f"{samples[-1].step:,}{of}"), ("Samples", _samples(history))]
    found += [("Processes", str(run.world_size)), ("Cost of monitoring", _cost(history))]
    resumed = [f"{one.resumed_from:,}" for one in history.runs if one.resumed_from]
    found += [("Resumed at step", ", ".join(resumed))] if resumed else []
    found += [("Began", _time(history.runs[0].started)), ("Fit", str(run.protocol.get("fit", "not recorded")))]
    return [*found, ("weibull-monitor", run.version), ("History", visible(str(history.path)))]


def tiles(
    columns: Columns, diagnosis: Diagnosis | None, kinds: list[dict[str, Any]], alerts: list[dict[str, Any]]
) -> list[dict[str, str]]:
    """The figures to see first: ``label``, ``value``, ``detail`` and ``tone`` (``good``, ``plain``, ``warning``, ``bad``)."""
    found = [_tile_of_class(one.median.kind, one) for one in diagnosis.classes] if diagnosis else []
    if of_adapters(columns.components):
        found = _tiles_of_adapters(columns.history)
    if diagnosis is not None:
        sample = diagnosis.sample
        state = (
            f"T·η_peak·λ_wd {_significant(sample.peak_time)}: {diagnosis.training}"
            if sample.peak_time
            else sample.clock
        )
        found.append(_tile("S = Σ ηλ_wd", _significant(sample.t_over_tau), state or "not known"))
    return [*found, *_tile_of_forecast(columns, kinds), _tile_of_alerts(alerts)]


def _tile(label: str, value: str, detail: str, tone: str = "plain") -> dict[str, str]:
    return {"label": label, "value": value, "detail": detail, "tone": tone}


def headline(diagnosis: Diagnosis | None, wrong: str) -> str:
    """The run in a few sentences: what is wrong now, then the classes.

    Args:
        diagnosis: The diagnosis; None if no matrix has a fit.
        wrong: What is wrong now; empty if no alert is active.
    """
    parts = [wrong or "Nothing is wrong: no warning or error is active."]
    adapted = diagnosis is not None and of_adapters(diagnosis.sample.components)
    if adapted:
        parts.append("Only adapters are trained: the figures are those of what they add to the frozen weights.")
    alone = []
    for one in diagnosis.classes if diagnosis and not adapted else ():
        name, k = NAMES[one.median.kind], f"a median k of {one.median.k:.3f}"
        if one.result.expected:
            parts.append(f"{name[0].upper()}{name[1:]} have {k} (published: {one.result.expected}): {one.verdict}.")
        else:
            alone.append(f"{name} have {k}, {_drift(one)} from {_start(one)}")
    if alone:
        said = "; ".join(alone)
        parts.append(f"{said[0].upper()}{said[1:]}. No published model is comparable.")
    return " ".join(parts)


def _drift(one: KindDiagnosis) -> str:
    return f"{100 * one.result.drift:+.2f} %".replace("-", "−")


def _start(one: KindDiagnosis) -> str:
    known = {"baseline": "the baseline", "own": "its initialisation"}
    return known.get(one.result.against) or f"{called(one.result.against)} initialisation"


def withheld(history: History) -> list[tuple[int, str]]:
    """Why matrices have no forecast of λ: the number of matrices and the reason in words, the most frequent first."""
    reasons: Mapping[str, int] = history.snapshots[-1].withheld if history.snapshots else {}
    known: Mapping[str, str] = {str(reason): words for reason, words in EXPLANATION.items()}
    return sorted(((count, known.get(reason, reason)) for reason, count in reasons.items()), reverse=True)


def _tile_of_class(name: str, one: KindDiagnosis) -> dict[str, str]:
    tones = {"as published": "good", "not as published": "warning"}
    expected = one.result.expected
    published = f"\npublished {expected}" if expected else ""
    verdict = one.verdict if expected else "nothing comparable is published"
    detail = f"{verdict}{published}\n{_drift(one)} from {_start(one)}"
    return _tile(f"k of {NAMES[name]}", f"{one.median.k:.3f}", detail, tones.get(one.verdict, "plain"))


def _tile_of_forecast(columns: Columns, kinds: list[dict[str, Any]]) -> list[dict[str, str]]:
    """λ now and at the end for the kind that has a forecast for most matrices; empty without a forecast."""
    foretold = [kind for kind in kinds if kind["law"] and kind["law"]["foretold"]]
    history = columns.history
    total = history.runs[-1].total_steps
    if not foretold or not total or history.snapshots[-1].step >= total:
        return []
    kind = max(foretold, key=lambda one: (one["class"] == "transmission", one["matrices"]))["name"]
    names = {c.name for c in columns.components if c.label == kind}
    ends = [median(_of(history, f"lambda_forecast{end}", names)) for end in ("", "_low", "_high")]
    now = median(_of(history, "lambda", names))
    detail = f"expected within {ends[1]:.3g}–{ends[2]:.3g} · now {now:.3g}"
    return [_tile(f"λ of {kind} at step {total:,}", f"{ends[0]:.3g}", detail)]


def _of(history: History, column: str, names: set[str]) -> list[float]:
    return [value for name, value in history.snapshots[-1].values(column).items() if name in names]


def _tile_of_alerts(alerts: list[dict[str, Any]]) -> dict[str, str]:
    active = [one for one in alerts if one["until"] is None]
    tone = {3: "bad", 2: "warning", 1: "plain"}.get(max((one["rank"] for one in active), default=0), "good")
    cleared = len(alerts) - len(active)
    parts = [severities(one["severity"] for one in active), f"{cleared} cleared" if cleared else ""]
    detail = " · ".join(filter(None, parts)) or "none were raised"
    return _tile("Active alerts", str(len(active)), detail, tone)


def _model(run: RunRecord) -> str:
    name, family = str(run.model.get("class") or "not recorded"), run.model.get("model_type")
    return f"{name} ({family})" if family else name


def _attention(recorded: Mapping[str, Any]) -> str:
    try:
        return str(AttentionType(**recorded))
    except TypeError:  # of another version
        return ", ".join(f"{key} {value}" for key, value in recorded.items())


def _optimizer(recorded: Mapping[str, Any]) -> str:
    groups = []
    for group in recorded.get("groups", ()):
        words = [f"λ_wd {group['weight_decay']:g}"] if group.get("weight_decay") is not None else []
        if betas := group.get("betas"):
            words.append("β " + ", ".join(f"{beta:g}" for beta in betas))
        if group.get("momentum"):
            words.append(f"momentum {group['momentum']:g}")
        law = group.get("law", "applies")
        words += [] if law == "applies" else [f"no scaling law: {EXPLANATION.get(law, law)}"]
        groups.append(", ".join(words))
    return f"{recorded.get('class', '?')}" + (f" ({' | '.join(filter(None, groups))})" if any(groups) else "")


def _rates(columns: Columns) -> str:
    """The highest η and the last, over all matrices; empty if no matrix was stepped."""
    eta = columns["eta"]
    if not np.isfinite(eta).any():
        return ""
    last = eta[np.isfinite(eta).any(axis=1)][-1]
    return f"η up to {np.nanmax(eta):.3g}, last {np.nanmax(last):.3g}"


def _coverage(history: History) -> str:
    stored = [c for c in history.components if c.part is None]
    parts = len(history.components) - len(stored)
    text = f"{len(stored):,} matrices" + (f" and {parts:,} parts of them" if parts else "")
    total = history.runs[-1].model.get("parameters")
    if isinstance(total, int) and total > 0:
        text += f": {100 * min(1.0, sum(c.numel for c in stored) / total):.1f} % of all elements"
    other = sum(c.kind == "other" for c in stored)
    return text + (f"; {other:,} not recognised" if other else "")


def _skipped(run: RunRecord) -> str:
    reasons: dict[str, list[str]] = {}
    for name, reason in run.skipped.items():
        reasons.setdefault(reason, []).append(name)
    texts = [
        f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {reason}"
        for reason, names in reasons.items()
    ]
    return "; ".join(texts) or "nothing but vectors (biases, norms)"


def _tiles_of_adapters(history: History) -> list[dict[str, str]]:
    """How large what adapters add is beside the weights, for each kind of these."""
    last, adapters = history.snapshots[-1], history.runs[-1].model.get("adapters") or {}
    ratios, shapes = last.values("delta_ratio"), last.values("delta_k")
    kinds: dict[str, list[str]] = {}
    for name, one in adapters.items():
        if name in ratios:
            kinds.setdefault(str(one["kind"]), []).append(name)
    tiles = []
    for kind, names in list(kinds.items())[:4]:
        k = [shapes[name] for name in names if name in shapes]
        size = f"{100 * median(ratios[name] for name in names):.3g} %"
        detail = f"RMS(ΔW) of RMS(W)\nk of ΔW {median(k):.3f}" if k else "B is zero, as it begins"
        tiles.append(_tile(f"ΔW of {kind}", size, detail))
    return tiles


def _adapters(history: History) -> str:
    """The adapters in words."""
    if not history.runs or not (found := history.runs[-1].model.get("adapters")):
        return ""
    groups = Counter((str(a["kind"]), int(a["rank"]), float(a["scaling"]), bool(a["dora"])) for a in found.values())
    return "; ".join(
        f"{count} of {kind}: rank {rank}, s {scaling:.3g}{', DoRA' * dora}"
        for (kind, rank, scaling, dora), count in groups.items()
    )


def _remarks(run: RunRecord) -> str:
    """What a scan says of single matrices, each sentence once."""
    of: dict[str, list[str]] = {}
    for name, texts in (run.model.get("remarks") or {}).items():
        of.setdefault("; ".join(texts), []).append(name)
    return "; ".join(f"{names[0]}{' and others' * (len(names) > 1)}: {text}" for text, names in of.items())


def _samples(history: History) -> str:
    steps = [snapshot.step for snapshot in history.snapshots]
    gaps = Counter(b - a for a, b in itertools.pairwise(steps))
    often = gaps.most_common(1)[0][0] if gaps else None
    baseline = "with a baseline" if steps[0] == 0 else "without a baseline"
    return f"{len(steps):,}, {baseline}" + (f", mostly every {often:,} steps" if often and len(steps) > 3 else "")


def _cost(history: History) -> str:
    """Seconds per sample, and their share of the time between two samples: medians."""
    samples = history.snapshots
    spent = [s.seconds for s in samples if s.seconds is not None]
    if not spent:
        return "not recorded"
    text = f"{_significant(median(spent))} s per sample"
    pairs = [(b.seconds, b.time - a.time) for a, b in itertools.pairwise(samples) if b.step - a.step > 1]
    shares = [100.0 * cost / gap for cost, gap in pairs[-64:] if cost is not None and gap > 0]
    return text + (f", {_significant(median(shares))} % of the time between samples" if shares else "")


def _time(unix: float) -> str:
    return datetime.fromtimestamp(unix, timezone.utc).strftime("%Y-%m-%d %H:%M UTC") if unix > 1e6 else "not recorded"


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "not recorded"


def _significant(value: float | None) -> str:
    """Two significant digits, never as 1e-05."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    digits = max(0, 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(digits, 6)}f}"
