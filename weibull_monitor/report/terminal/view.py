"""The present state of a run, as the values that `draw` puts on the screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from weibull_monitor.analysis import ComparedSample, compared_sample
from weibull_monitor.analysis.diagnosis import OddMatrix, diagnose
from weibull_monitor.errors import ConfigurationError, visible
from weibull_monitor.history.alert import Alert, rank
from weibull_monitor.history.follower import CLASSES, FollowedSample, HistoryTail
from weibull_monitor.history.record import History, RecordedSnapshot
from weibull_monitor.model.adapters import of_adapters
from weibull_monitor.model.components import Component
from weibull_monitor.report.kinds import by_kind, frozen_kinds
from weibull_monitor.report.text.run import kind_row

ALERTED: Final = 8
"""How many components with alerts are listed among the worst."""
RECENT: Final = 5
"""How many cleared alerts are kept."""


@dataclass(frozen=True)
class ClassLine:
    """One class.

    Attributes:
        name: ``selection`` or ``transmission``.
        k: Median over its matrices.
        published: The published range, in words; empty where nothing comparable is published.
        position: Where k lies relative to that range; empty without one.
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
        cells: The row of `weibull_monitor.report.text.run.kind_row`.
        forecast: λ at the end of the run, with its interval: value, low, high; None if there is none.
        r2: R² of the worst matrix.
        trend: k at every sample.
    """

    cells: tuple[str, ...]
    forecast: tuple[float, float, float] | None
    r2: float | None
    trend: tuple[float, ...]


@dataclass(frozen=True)
class View:
    """A run as it is now.

    Attributes:
        path: Path of its history.
        model: The model in words.
        step: Step of the last sample.
        total_steps: Steps of the whole run, if known.
        samples: How many there are.
        time: When the last one was taken (Unix time, in seconds).
        cost: Seconds that the last sample took; None if not recorded.
        share: Share of the time since the first sample that samples took; None if not recorded.
        attention: Median and highest scale of attention over the blocks, now; None if no block has one.
        updates: How far the last step moved a matrix in units of its size, median and highest; None if updates are not read.
        t_over_tau: Training time in units of τ; None if not known.
        classes: The classes.
        kinds: The kinds, in the model's order.
        suspects: The worst components: those with alerts that stand, then those that the diagnosis lists as odd.
        odd: How many of these, from the first, have an alert or are odd.
        standing: Alerts that are active, the newest first.
        recent: The last alerts that were cleared.
    """

    path: str
    model: str
    step: int
    total_steps: int | None
    samples: int
    time: float
    cost: float | None
    share: float | None
    attention: tuple[float, float] | None
    updates: tuple[float, float] | None
    t_over_tau: float | None
    classes: tuple[ClassLine, ...]
    kinds: tuple[KindLine, ...]
    suspects: tuple[OddMatrix, ...]
    odd: int
    standing: tuple[Alert, ...]
    recent: tuple[Alert, ...]


def view_of(tail: HistoryTail) -> View | None:
    """The state of a run as of the last poll of its history; None while there is no sample."""
    points, history = tail.points, tail.history()
    if not points or not history.snapshots:
        return None
    first, last, record = history.snapshots[0], history.snapshots[-1], history.runs[-1]
    sample = compared_sample(history)
    spent = list(last.values("t_over_tau").values())
    moved = list(last.values("update_ratio").values())
    standing, ended = alerts_now(history.alerts)
    suspects, odd = _suspects(history, sample, standing)
    parameters = record.model.get("parameters")
    size = f"{_si(parameters)} parameters" if isinstance(parameters, int) else ""
    parts = [str(record.model.get("class") or "model"), size, str(sample.attention or "no self-attention was found")]
    return View(
        path=visible(str(history.path)),
        model=", ".join(part for part in parts if part),
        step=last.step,
        total_steps=record.total_steps,
        samples=tail.samples,
        time=last.time,
        cost=last.seconds,
        share=_share(points, tail.seconds),
        attention=points[-1].attention,
        updates=(median(moved), max(moved)) if moved else None,
        t_over_tau=median(spent) if spent else None,
        classes=_classes(points, sample),
        kinds=_kinds(points, first, last),
        suspects=suspects,
        odd=odd,
        standing=standing,
        recent=ended,
    )


def alerts_now(alerts: Sequence[Alert]) -> tuple[tuple[Alert, ...], tuple[Alert, ...]]:
    """The active alerts, the newest first, and the last cleared ones, out of all alerts in order.

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
        key = (alert.finding.rule, alert.since)  # a rule raises one alert per sample at most
        standing.pop(key, None)
        if alert.phase == "ends":
            ended.append(alert)
        else:
            standing[key] = alert
    return tuple(reversed(standing.values())), tuple(reversed(ended[-RECENT:]))


def _classes(points: Sequence[FollowedSample], sample: ComparedSample) -> tuple[ClassLine, ...]:
    lines = []
    for name in CLASSES if not of_adapters(sample.components) else ():  # a frozen class does not move
        trend = tuple(point.classes[name] for point in points if name in point.classes)
        if trend:
            expected = sample.expected(name)
            published, position = (str(expected), expected.position(trend[-1])) if expected else ("", "")
            lines.append(ClassLine(name, trend[-1], published, position, trend[-1] / trend[0] - 1.0, trend))
    return tuple(lines)


def _kinds(points: Sequence[FollowedSample], first: RecordedSnapshot, last: RecordedSnapshot) -> tuple[KindLine, ...]:
    ends = [last.values(f"lambda_forecast{end}") for end in ("", "_low", "_high")]
    r2 = last.values("r2")
    lines = []
    frozen = frozen_kinds(last.components)
    for kind, members in by_kind(last.components).items():
        if kind in frozen:
            continue
        names = [c.name for c in members if c.name in r2]
        known = bool(names) and all(name in end for name in names for end in ends)
        value, low, high = (median(end[name] for name in names) if known else 0.0 for end in ends)
        lines.append(
            KindLine(
                cells=tuple(kind_row(members, first, last)),
                forecast=(value, low, high) if known else None,
                r2=min((r2[c.name] for c in members if c.name in r2), default=None),
                trend=tuple(point.kinds[kind] for point in points if kind in point.kinds),
            )
        )
    return tuple(lines)


def _suspects(history: History, sample: ComparedSample, standing: Sequence[Alert]) -> tuple[tuple[OddMatrix, ...], int]:
    """Matrices with alerts, odd matrices, and the number of both; then that of the lowest R² and that which drifts most."""
    try:
        odd = diagnose(history).odd
    except ConfigurationError:  # no matrix has a fit
        return (), 0
    by_name = {c.name: c for c in sample.components}
    found: dict[str, OddMatrix] = {}
    for alert in sorted(standing, key=lambda one: (-rank(one.finding.severity), one.since)):
        for name in alert.finding.components if rank(alert.finding.severity) > 1 else ():
            if name in by_name and name in sample.k and len(found) < ALERTED:
                why = f"{alert.finding.rule}, since step {alert.since:,}"
                c = by_name[name]
                found.setdefault(name, OddMatrix(name, c.label, c.block, sample.k[name], sample.r2[name], why))
    for o in odd:
        found.setdefault(o.name, o)
    known = len(found)
    kinds = [[c for c in members if c.name in sample.k] for members in by_kind(sample.components).values()]
    away: list[tuple[float, Component]] = []
    for members in kinds:
        drift = [(sample.k[c.name] / sample.baseline[c.name] - 1.0, c) for c in members if c.name in sample.baseline]
        if len(drift) > 1:
            away += [(moved - median(m for m, _ in drift), c) for moved, c in drift]
    everything = [c for members in kinds for c in members]
    worst = [(min(everything, key=lambda c: sample.r2[c.name]), "lowest R² of all")] if everything else []
    if away:
        moved, c = max(away, key=lambda pair: abs(pair[0]))
        worst.append((c, f"drifts from its kind: {100 * moved:+.2f} %"))
    for c, why in worst:
        found.setdefault(c.name, OddMatrix(c.name, c.label, c.block, sample.k[c.name], sample.r2[c.name], why))
    return tuple(found.values()), known


def _share(points: Sequence[FollowedSample], spent: float | None) -> float | None:
    elapsed = points[-1].time - points[0].time
    return spent / elapsed if spent is not None and elapsed > 0.0 else None


def _si(count: int) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)
