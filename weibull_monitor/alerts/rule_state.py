"""One rule over time: hysteresis, cool-down, and the grouping of many components into one alert."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np

from weibull_monitor.alerts.rules import RuleResult, finding_of
from weibull_monitor.alerts.settings import RuleSettings
from weibull_monitor.alerts.statistics import Bools
from weibull_monitor.history.alert import Alert, alert_from_json, rank

CLEARING_STRENGTH: Final = 0.8
"""What stands goes on standing while its strength is this or more: a value that trembles about its threshold is told once."""


class RuleState:
    """What stands of one rule.

    Args:
        rule: The rule's name.
    """

    def __init__(self, rule: str) -> None:
        self._rule = rule
        self._names: tuple[str, ...] = ()
        self._standing: list[tuple[Alert, Bools]] = []
        self._since_told: int | None = None
        self._rank_told = 0
        self._active: Bools = np.zeros(0, dtype=bool)
        self._waiting, self._hot, self._quiet = self._active, np.zeros(0, np.int64), np.zeros(0, np.int64)

    @property
    def standing(self) -> list[Alert]:
        """Alerts that have begun and not ended."""
        return [alert for alert, _ in self._standing]

    def adopt(self, names: tuple[str, ...]) -> None:
        """Takes over the components' names; what stood of others is forgotten."""
        if self._names and names != self._names:
            self._standing, self._since_told = [], None
        self._names = names
        self._make_room(len(names))

    def follow(self, found: RuleResult, step: int, settings: RuleSettings, cool_down: int) -> list[Alert]:
        """Takes in the reading of one more sample, and returns what is new.

        A component is active from ``settings.persist`` samples in a row at strength 1 until ``settings.clear`` samples in a row
        below 0.8. What becomes active at one sample is one alert. Within the cool-down after one, others wait, and are then told
        together, unless they are graver.
        """
        if self._since_told is not None:
            self._since_told += 1
        hit = found.strength >= 1.0
        if not (self._standing or hit.any() or self._hot.any() or self._active.any()):
            return []  # as nearly always
        self._hot = np.where(hit, np.minimum(self._hot + 1, settings.persist), 0)
        begun = (self._hot >= settings.persist) & ~self._active
        self._quiet = np.where(self._active & (found.strength < CLEARING_STRENGTH), self._quiet + 1, 0)
        over = self._active & (self._quiet >= settings.clear)
        self._active = (self._active | begun) & ~over
        self._waiting = (self._waiting | begun) & ~over
        told = self._ended(step) + self._worsened(found, hit, step)
        return told + self._begun(found, hit, step, cool_down)

    def state(self) -> dict[str, Any]:
        """What has to be kept for a resumption, as JSON can hold it; empty if there is nothing."""
        hot = self._hot * ~self._active
        if not (self._active.any() or hot.any() or self._since_told is not None):
            return {}
        return {
            "active": _packed(self._active),
            "waiting": _packed(self._waiting),
            "hot": {str(i): int(hot[i]) for i in np.flatnonzero(hot)},
            "quiet": {str(i): int(self._quiet[i]) for i in np.flatnonzero(self._quiet)},
            "since_told": self._since_told,
            "rank_told": self._rank_told,
            "standing": [{"alert": alert.to_json(), "members": _packed(members)} for alert, members in self._standing],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from `state`, with the same components."""
        size = len(self._names)
        self._make_room(size)
        self._active, self._waiting = _unpacked(state["active"], size), _unpacked(state["waiting"], size)
        for name, target in (("hot", self._hot), ("quiet", self._quiet)):
            for index, count in state[name].items():
                target[int(index)] = count
        self._since_told, self._rank_told = state["since_told"], state["rank_told"]
        self._standing = [(alert_from_json(s["alert"]), _unpacked(s["members"], size)) for s in state["standing"]]

    def _make_room(self, size: int) -> None:
        self._active, self._waiting = np.zeros(size, dtype=bool), np.zeros(size, dtype=bool)
        self._hot, self._quiet = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)

    def _ended(self, step: int) -> list[Alert]:
        still = [(alert, members & self._active) for alert, members in self._standing]
        self._standing = [(alert, members) for alert, members in still if members.any()]
        return [replace(alert, phase="ends", step=step) for alert, members in still if not members.any()]

    def _worsened(self, found: RuleResult, hit: Bools, step: int) -> list[Alert]:
        told = []
        for n, (alert, members) in enumerate(self._standing):
            now = members & hit
            if now.any() and int(found.severity[now].max()) > rank(alert.finding.severity):
                finding = finding_of(self._rule, found, now, step, self._names)
                self._standing[n] = (Alert("worsens", alert.since, step, finding), members)
                told.append(self._standing[n][0])
        return told

    def _begun(self, found: RuleResult, hit: Bools, step: int, cool_down: int) -> list[Alert]:
        members = self._waiting & hit
        if not members.any():
            return []
        gravest = int(found.severity[members].max())
        if self._since_told is not None and self._since_told <= cool_down and gravest <= self._rank_told:
            return []
        self._waiting = self._waiting & ~members
        self._since_told, self._rank_told = 0, gravest
        alert = Alert("begins", step, step, finding_of(self._rule, found, members, step, self._names))
        self._standing.append((alert, members))
        return [alert]


def _packed(members: Bools) -> str:
    """One bit a component, in hexadecimal: short enough for a checkpoint's state, whatever the names."""
    return np.packbits(members).tobytes().hex()


def _unpacked(text: str, size: int) -> Bools:
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), dtype=np.uint8), count=size).astype(bool)
