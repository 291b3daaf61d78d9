"""One rule over time: hysteresis, cool-down, and one alert for many components."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np

from weibull_monitor.alerts.component_arrays import Ints
from weibull_monitor.alerts.rules import RuleResult, finding_of
from weibull_monitor.alerts.settings import RuleSettings
from weibull_monitor.alerts.statistics import Bools
from weibull_monitor.history.alert import Alert, alert_from_json, rank

CLEARING_STRENGTH: Final = 0.8
"""An alert can clear only below this strength, so that a value which trembles about its threshold raises one alert."""


class RuleState:
    """The alerts and counters of one rule.

    Args:
        rule: The rule's name.
    """

    def __init__(self, rule: str) -> None:
        self._rule = rule
        self._names: tuple[str, ...] = ()
        self._standing: list[tuple[Alert, Bools]] = []  # each alert with its members, (components,)
        self._since_alert: int | None = None  # samples since the last alert was raised
        self._last_rank = 0  # and its severity
        # All (components,). Waiting: active, and in no alert yet. Hits and misses: samples in a row.
        self._active: Bools = np.zeros(0, dtype=bool)
        self._waiting = self._active
        self._hits: Ints = np.zeros(0, dtype=np.int64)
        self._misses = self._hits

    @property
    def standing(self) -> list[Alert]:
        """Alerts that were raised and are not cleared."""
        return [alert for alert, _ in self._standing]

    def adopt(self, names: tuple[str, ...]) -> None:
        """Sets the components' names; alerts of other components are dropped."""
        if self._names and names != self._names:
            self._standing, self._since_alert = [], None
        self._names = names
        self._make_room(len(names))

    def update(self, found: RuleResult, step: int, settings: RuleSettings, cool_down: int) -> list[Alert]:
        """Takes in the result of one more sample, and returns the new alerts.

        A component is active after ``settings.persist`` samples in a row at strength 1, until ``settings.clear`` samples in a
        row below 0.8. Components that become active at one sample share one alert. During the cool-down after an alert, others
        wait and then share one, unless they are more severe.
        """
        if self._since_alert is not None:
            self._since_alert += 1
        hit = found.strength >= 1.0  # (components,)
        if not (self._standing or hit.any() or self._hits.any() or self._active.any()):
            return []  # nearly always
        self._hits = np.where(hit, np.minimum(self._hits + 1, settings.persist), 0)
        started = (self._hits >= settings.persist) & ~self._active
        self._misses = np.where(self._active & (found.strength < CLEARING_STRENGTH), self._misses + 1, 0)
        over = self._active & (self._misses >= settings.clear)
        self._active = (self._active | started) & ~over
        self._waiting = (self._waiting | started) & ~over
        return [
            *self._cleared(step),
            *self._worsened(found, hit, step),
            *self._raised(found, self._waiting & hit, step, cool_down),
        ]

    def state(self) -> dict[str, Any]:
        """The state that a resumed run needs, as JSON can hold it; empty if there is none."""
        hits = self._hits * ~self._active
        if not (self._active.any() or hits.any() or self._since_alert is not None):
            return {}
        return {  # the keys are a file format: checkpoints hold them
            "active": _packed(self._active),
            "waiting": _packed(self._waiting),
            "hot": {str(i): int(hits[i]) for i in np.flatnonzero(hits)},
            "quiet": {str(i): int(self._misses[i]) for i in np.flatnonzero(self._misses)},
            "since_told": self._since_alert,
            "rank_told": self._last_rank,
            "standing": [{"alert": alert.to_json(), "members": _packed(members)} for alert, members in self._standing],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores what `state` returned, for the same components."""
        size = len(self._names)
        self._make_room(size)
        self._active, self._waiting = _unpacked(state["active"], size), _unpacked(state["waiting"], size)
        for name, counts in (("hot", self._hits), ("quiet", self._misses)):
            for index, count in state[name].items():
                counts[int(index)] = count
        self._since_alert, self._last_rank = state["since_told"], state["rank_told"]
        self._standing = [(alert_from_json(s["alert"]), _unpacked(s["members"], size)) for s in state["standing"]]

    def _make_room(self, size: int) -> None:
        self._active, self._waiting = np.zeros(size, dtype=bool), np.zeros(size, dtype=bool)
        self._hits, self._misses = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)

    def _cleared(self, step: int) -> list[Alert]:
        left = [(alert, members & self._active) for alert, members in self._standing]
        self._standing = [(alert, members) for alert, members in left if members.any()]
        return [replace(alert, phase="ends", step=step) for alert, members in left if not members.any()]

    def _worsened(self, found: RuleResult, hit: Bools, step: int) -> list[Alert]:
        alerts = []
        for n, (alert, members) in enumerate(self._standing):
            now = members & hit
            if now.any() and int(found.severity[now].max()) > rank(alert.finding.severity):
                finding = finding_of(self._rule, found, now, step, self._names)
                self._standing[n] = (Alert("worsens", alert.since, step, finding), members)
                alerts.append(self._standing[n][0])
        return alerts

    def _raised(self, found: RuleResult, members: Bools, step: int, cool_down: int) -> list[Alert]:
        if not members.any():
            return []
        severity = int(found.severity[members].max())
        if self._since_alert is not None and self._since_alert <= cool_down and severity <= self._last_rank:
            return []
        self._waiting = self._waiting & ~members
        self._since_alert, self._last_rank = 0, severity
        alert = Alert("begins", step, step, finding_of(self._rule, found, members, step, self._names))
        self._standing.append((alert, members))
        return [alert]


def _packed(members: Bools) -> str:
    """One bit per component, in hexadecimal: short enough for a checkpoint, whatever the names."""
    return np.packbits(members).tobytes().hex()


def _unpacked(text: str, size: int) -> Bools:
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), dtype=np.uint8), count=size).astype(bool)
