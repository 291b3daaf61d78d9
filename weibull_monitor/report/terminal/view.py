"""What a run shows now, as values: what `draw` puts on the screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from weibull_monitor.analysis import ComparedSample, compared_sample_at, expected_range
from weibull_monitor.analysis.diagnosis import diagnose
from weibull_monitor.errors import ConfigurationError
from weibull_monitor.history.alert import Alert
from weibull_monitor.history.follower import CLASSES, FollowedSample, HistoryTail
from weibull_monitor.history.record import History, RecordedSnapshot
from weibull_monitor.model.components import representatives
from weibull_monitor.report.text.run import kind_row

RECENT: Final = 5
"""Alerts that are kept of those that do not stand any more."""


@dataclass(frozen=True)
class ClassLine:
    """One class.

    Attributes:
        name: ``selection`` or ``transmission``.
        k: Median over its matrices.
        published: The published range, in words; empty where nothing comparable is published.
        position: Where k lies relative to it; empty likewise.
        drift: Change of the median since the first sample, as a share.
        trend: k at every sample.
    """

    name: str
    k: float
    published: str
    position: str
    drift: float
    trend: tuple[float, ...]


@dataclass(frozen=True)
class KindLine:
    """One kind.

    Attributes:
        cells: What `weibull_monitor.report.text.run.kind_row` says of it.
        forecast: λ at the end of the run, with its interval: value, low, high; None if there is none.
        r2: R² of the worst matrix.
        trend: k at every sample.
    """

    cells: tuple[str, ...]
    forecast: tuple[float, float, float] | None
    r2: float | None
    trend: tuple[float, ...]


@dataclass(frozen=True)
class Suspect:
    """A matrix to look at.

    Attributes:
        name: Its name.
        k: Shape.
        r2: R² of the fit.
        why: What is odd about it, or in what it comes first.
        odd: Whether `weibull_monitor.analysis.diagnosis` lists it.
    """

    name: str
    k: float
    r2: float
    why: str
    odd: bool


@dataclass(frozen=True)
class View:
    """A run as it is now.

    Attributes:
        path: Its history.
        model: What it trains.
        step: Step of the last sample.
        total_steps: Steps of the whole run, if known.
        samples: How many there are.
        time: When the last one was taken (Unix time, in seconds).
        cost: What the last sample cost, in seconds; None if that was not recorded.
        share: Share of the time since the first sample that samples took; None likewise.
        t_over_tau: Training time in units of τ; None if not known.
        classes: The classes.
        kinds: The kinds, in the model's order.
        suspects: The worst components, the worst first.
        standing: Alerts that have begun and not ended, the newest first.
        recent: The last of those that ended.
    """

    path: str
    model: str
    step: int
    total_steps: int | None
    samples: int
    time: float
    cost: float | None
    share: float | None
    t_over_tau: float | None
    classes: tuple[ClassLine, ...]
    kinds: tuple[KindLine, ...]
    suspects: tuple[Suspect, ...]
    standing: tuple[Alert, ...]
    recent: tuple[Alert, ...]


def view_of(tail: HistoryTail) -> View | None:
    """What there is to see; None while there is no sample.

    Args:
        tail: The history, as it was read last.
    """
    points, history = tail.points, tail.history()
    if not points or not history.snapshots:
        return None
    first, last, record = history.snapshots[0], history.snapshots[-1], history.runs[-1]
    sample = compared_sample_at(history)
    spent = list(last.values("t_over_tau").values())
    standing, ended = alerts_now(history.alerts)
    parameters = record.model.get("parameters")
    size = f"{_si(parameters)} parameters" if isinstance(parameters, int) else ""
    parts = [str(record.model.get("class") or "model"), size, str(sample.attention or "no self-attention")]
    return View(
        path=str(history.path),
        model=", ".join(part for part in parts if part),
        step=last.step,
        total_steps=record.total_steps,
        samples=len(points),
        time=last.time,
        cost=last.seconds,
        share=_share(points),
        t_over_tau=median(spent) if spent else None,
        classes=_classes(points, sample),
        kinds=_kinds(points, first, last),
        suspects=_suspects(history, sample),
        standing=standing,
        recent=ended,
    )


def alerts_now(alerts: Sequence[Alert]) -> tuple[tuple[Alert, ...], tuple[Alert, ...]]:
    """Which alerts stand, the newest first, and the last that ended, out of all that were told in order.

    >>> from weibull_monitor.alerts import Finding
    >>> finding = Finding("dead", "error", 40, "a", ("a",), 1, "zeros", 0.5, (None, 0.01), None, "Look there.")
    >>> begun, worse = Alert("begins", 40, 40, finding), Alert("worsens", 40, 60, finding)
    >>> [alert.step for alert in alerts_now([begun, worse])[0]]
    [60]
    >>> alerts_now([begun, worse, Alert("ends", 40, 90, finding)])[0]
    ()
    """
    standing: dict[tuple[str, int], Alert] = {}
    ended: list[Alert] = []
    for alert in alerts:
        key = (alert.finding.rule, alert.since)  # of a rule, one alert at most begins at a sample
        standing.pop(key, None)
        if alert.phase == "ends":
            ended.append(alert)
        else:
            standing[key] = alert
    return tuple(reversed(standing.values())), tuple(reversed(ended[-RECENT:]))


def _classes(points: Sequence[FollowedSample], sample: ComparedSample) -> tuple[ClassLine, ...]:
    lines = []
    for name in CLASSES:
        trend = tuple(point.classes[name] for point in points if name in point.classes)
        if trend:
            expected = expected_range(name, sample.attention)
            published, position = (str(expected), expected.position(trend[-1])) if expected else ("", "")
            lines.append(ClassLine(name, trend[-1], published, position, trend[-1] / trend[0] - 1.0, trend))
    return tuple(lines)


def _kinds(points: Sequence[FollowedSample], first: RecordedSnapshot, last: RecordedSnapshot) -> tuple[KindLine, ...]:
    shown = representatives(last.components)
    ends = [last.values(f"lambda_forecast{end}") for end in ("", "_low", "_high")]
    r2 = last.values("r2")
    lines = []
    for kind in dict.fromkeys(c.label for c in shown):
        members = [c for c in shown if c.label == kind]
        foretold = [tuple(end[c.name] for end in ends) for c in members if all(c.name in end for end in ends)]
        value, low, high = (median(column) for column in zip(*foretold, strict=True)) if foretold else (0.0, 0.0, 0.0)
        lines.append(
            KindLine(
                cells=tuple(kind_row(members, first, last)),
                forecast=(value, low, high) if foretold else None,
                r2=min((r2[c.name] for c in members if c.name in r2), default=None),
                trend=tuple(point.kinds[kind] for point in points if kind in point.kinds),
            )
        )
    return tuple(lines)


def _suspects(history: History, sample: ComparedSample) -> tuple[Suspect, ...]:
    """What the diagnosis lists; then the matrix with the lowest R², and the one that has drifted furthest from its siblings."""
    try:
        odd = diagnose(history).odd
    except ConfigurationError:  # no matrix has a fit
        return ()
    found = {o.name: Suspect(o.name, o.k, o.r2, o.why, True) for o in odd}
    members = [c.name for c in representatives(sample.components) if c.name in sample.k]
    if members:
        worst = min(members, key=lambda name: sample.r2[name])
        found.setdefault(worst, Suspect(worst, sample.k[worst], sample.r2[worst], "lowest R² of all", False))
    by_kind: dict[str, list[str]] = {}
    for c in representatives(sample.components):
        if c.name in sample.k and c.name in sample.baseline:
            by_kind.setdefault(c.label, []).append(c.name)
    away: dict[str, float] = {}
    for names in by_kind.values():
        drift = {name: sample.k[name] / sample.baseline[name] - 1.0 for name in names}
        away |= {name: drift[name] - median(drift.values()) for name in names if len(names) > 1}
    if away:
        name = max(away, key=lambda name: abs(away[name]))
        why = f"drifts from its kind: {100 * away[name]:+.2f} %"
        found.setdefault(name, Suspect(name, sample.k[name], sample.r2[name], why, False))
    return tuple(found.values())


def _share(points: Sequence[FollowedSample]) -> float | None:
    spent = [point.seconds for point in points[1:] if point.seconds is not None]
    elapsed = points[-1].time - points[0].time
    return sum(spent) / elapsed if spent and elapsed > 0.0 else None


def _si(count: int) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)
