"""One rule over time: hysteresis, cool-down, and one alert for many components."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np

from weibull_monitor.alerts.component_arrays import Ints
from weibull_monitor.alerts.rules import RuleResult, finding_of
from weibull_monitor.alerts.settings import RuleSettings
from weibull_monitor.alerts.statistics import Bools, Floats, quiet, reaches
from weibull_monitor.history.alert import Alert, apart, rank
from weibull_monitor.history.conform import conforms
from weibull_monitor.history.form import alerts_from_json

CLEARING_STRENGTH: Final = 0.8
"""An alert can clear only below this strength, so that a value which trembles about its threshold raises one alert."""

SMALL_JUMP: Final = 0.02
"""|Δ ln| of a level below which nothing is said of its coming back: training moves levels by as much."""
BACK: Final = 0.1
"""Share of a jump that may be left of it for a level to be back."""
BEYOND: Final = 0.5
"""Share of a jump, in the other direction, from which on a level is somewhere else than before."""
TINY: Final = 1e-300


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
        self._idle = True  # no alert stands, and no component is active or was found at the last sample
        # All (components,). Waiting: active, and in no alert yet. Hits and misses: samples in a row.
        self._active: Bools = np.zeros(0, dtype=bool)
        self._waiting = self._active
        self._hits: Ints = np.zeros(0, dtype=np.int64)
        self._misses = self._hits
        # Of active ones, where the levels of the rule were before the alert and at it, each (levels, components).
        self._jumps: tuple[Floats, Floats] | None = None

    @property
    def standing(self) -> list[Alert]:
        """Alerts that were raised and are not cleared."""
        return [alert for alert, _ in self._standing]

    @property
    def active(self) -> Bools:
        """Components that are in an alert, or wait for one, bool, shape (components,)."""
        return self._active

    @property
    def named(self) -> Bools:
        """`active` without those that are only in infos, shape (components,)."""
        infos = [members for alert, members in self._standing if rank(alert.finding.severity) < 2]
        return self._active & ~np.any(infos, axis=0) if infos else self._active

    @property
    def idle(self) -> bool:
        """Whether no alert stands, and no component is active or was found at the last sample."""
        return self._idle

    def found_at(self, levels: Floats) -> Bools:
        """Active components that an alert found when their levels were these (levels, components), shape (components,)."""
        if self._jumps is None:
            return np.zeros(len(self._names), dtype=bool)
        same: Bools = self._active & (self._jumps[1] == levels).all(axis=0)
        return same

    def pass_by(self) -> None:
        """Takes in a sample at which the rule, which is idle, finds nothing."""
        if self._since_alert is not None:
            self._since_alert += 1

    def adopt(self, names: tuple[str, ...]) -> None:
        """Sets the components' names; alerts of other components are dropped."""
        if self._names and names != self._names:
            self._standing, self._since_alert = [], None
        self._names = names
        self._make_room(len(names))
        self._idle = not self._standing

    def update(self, found: RuleResult, step: int, settings: RuleSettings, cool_down: int) -> list[Alert]:
        """Takes in the result of one more sample, and returns the new alerts.

        A component is active after ``settings.persist`` samples in a row at strength 1, until ``settings.clear`` samples in a
        row below 0.8. Components that become active at one sample share one alert. During the cool-down after an alert, others
        wait and then share one, unless they are more severe.
        """
        self.pass_by()
        if self._idle and not reaches(found.strength):
            return []  # nearly always
        hit = found.strength >= 1.0  # (components,)
        self._hits = np.where(hit, np.minimum(self._hits + 1, settings.persist), 0)
        started = (self._hits >= settings.persist) & ~self._active
        self._follow(found, started)
        calm = (found.strength < CLEARING_STRENGTH) & ~(self._displaced(found) & found.lasting)
        self._misses = np.where(self._active & calm, self._misses + 1, 0)
        over = self._active & (self._misses >= settings.clear)
        self._active = (self._active | started) & ~over
        self._waiting = (self._waiting | started) & ~over
        alerts = [
            *self._cleared(step, found),
            *self._worsened(found, hit, step, settings.sure),
            *self._raised(found, self._waiting & hit, step, cool_down, settings.sure),
        ]
        self._idle = not (self._standing or self._hits.any() or self._active.any())
        return alerts

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
            "jumps": self._jumps_by_component(),
            "standing": [{"alert": alert.to_json(), "members": _packed(members)} for alert, members in self._standing],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores what `state` returned, for the same components. Anything may be in a checkpoint.

        Raises:
            Exception: Of any type, if the state does not have that form. This object cannot be used any more then.
        """
        size = len(self._names)
        self._make_room(size)
        self._active, self._waiting = _unpacked(state["active"], size), _unpacked(state["waiting"], size)
        for name, counts in (("hot", self._hits), ("quiet", self._misses)):
            for index, count in state[name].items():
                counts[int(index)] = count
        since, told = state["since_told"], state["rank_told"]
        if not conforms([since, told], tuple[int | None, int]):
            raise ValueError("impossible counts")
        self._since_alert, self._last_rank = since, told
        for index, (before, at) in state.get("jumps", {}).items():
            self._jumps = self._jumps or (np.full((len(at), size), np.nan), np.full((len(at), size), np.nan))
            for kept, values in zip(self._jumps, (before, at), strict=True):
                kept[:, int(index)] = [np.nan if value is None else value for value in values]
        standing = [(alert, s["members"]) for s in state["standing"] for alert in alerts_from_json(s["alert"])]
        self._standing = [(alert, _unpacked(members, size)) for alert, members in standing]
        self._idle = False

    def _make_room(self, size: int) -> None:
        self._active, self._waiting = np.zeros(size, dtype=bool), np.zeros(size, dtype=bool)
        self._hits, self._misses = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)
        self._jumps = None

    def _follow(self, found: RuleResult, started: Bools) -> None:
        """Keeps where the levels of components that became active were before, and are now."""
        if found.levels is None or found.before is None or not started.any():
            return
        if self._jumps is None:
            self._jumps = np.full(found.levels.shape, np.nan), np.full(found.levels.shape, np.nan)
        for kept, values in zip(self._jumps, (found.before, found.levels), strict=True):
            kept[:, started] = values[:, started]

    def _displaced(self, found: RuleResult) -> Bools:
        """Whether a level is still nearer to where the alert found it than to where it was before, (components,)."""
        if self._jumps is None or found.levels is None:
            return np.zeros(len(self._names), dtype=bool)
        with quiet():
            before, at, now = (np.log(np.fmax(values, TINY)) for values in (*self._jumps, found.levels))
            jumped = np.abs(at - before)
            away = np.sign(at - before) * (now - before) > 0.5 * jumped
            displaced: Bools = (away & (jumped >= SMALL_JUMP)).any(axis=0)
        return displaced

    def _jumps_by_component(self) -> dict[str, Any]:
        if self._jumps is None:
            return {}
        held = ((int(i), self._jumps[0][:, i], self._jumps[1][:, i]) for i in np.flatnonzero(self._active))
        return {
            str(i): [[float(v) if np.isfinite(v) else None for v in values] for values in (before, at)]
            for i, before, at in held
        }

    def _cleared(self, step: int, found: RuleResult) -> list[Alert]:
        left = [(alert, members, members & self._active) for alert, members in self._standing]
        self._standing = [(alert, active) for alert, _, active in left if active.any()]
        return [
            replace(alert, phase="ends", step=step, ending=self._ending(alert, found))
            for alert, _, active in left
            if not active.any()
        ]

    def _ending(self, alert: Alert, found: RuleResult) -> str:
        """How the worst component of a cleared alert stands; empty for rules that find states."""
        if self._jumps is None or found.levels is None or alert.finding.component not in self._names:
            return ""
        i = self._names.index(alert.finding.component)
        moved = np.abs(np.log(np.fmax(self._jumps[1][:, i], TINY) / np.fmax(self._jumps[0][:, i], TINY)))
        if not (moved >= SMALL_JUMP).any():  # it was found by something else, such as the η of the others
            return ""
        level = int(np.nanargmax(moved))
        name, before, now = found.level_names[level], self._jumps[0][level, i], found.levels[level, i]
        if not np.isfinite(now):
            return f"no further jump, but {name} is not known now; it was {before:.4g} before step {alert.since}."
        was, is_now = apart(before, now)
        values = (
            f"it is {is_now}, and was {was} before step {alert.since} and {self._jumps[1][level, i]:.4g} at that step"
        )
        if self._displaced(found)[i]:
            return f"no further jump, but {name} has not come back: {values}."
        with quiet():
            at = self._jumps[1][level, i]
            left = np.log(np.fmax(now, TINY) / np.fmax(before, TINY)) / np.log(
                np.fmax(at, TINY) / np.fmax(before, TINY)
            )
        back = (
            "is back, and beyond where it was"
            if left < -BEYOND
            else "is back"
            if left <= BACK
            else "is more than half of the way back"
        )
        if found.lasting:
            return f"undone: {name} {back}: {values}."
        return f"{name} {back}: {values}. Training can do that, too: a matrix that was overwritten may still hold other values."

    def _worsened(self, found: RuleResult, hit: Bools, step: int, sure: float) -> list[Alert]:
        alerts = []
        for n, (alert, members) in enumerate(self._standing):
            now = members & hit
            if now.any() and int(found.severity[now].max()) > rank(alert.finding.severity):
                finding = finding_of(self._rule, found, now, step, self._names, sure)
                self._standing[n] = (Alert("worsens", alert.since, step, finding), members)
                alerts.append(self._standing[n][0])
        return alerts

    def _raised(self, found: RuleResult, members: Bools, step: int, cool_down: int, sure: float) -> list[Alert]:
        if not members.any():
            return []
        severity = int(found.severity[members].max())
        if self._since_alert is not None and self._since_alert <= cool_down and severity <= self._last_rank:
            return []
        self._waiting = self._waiting & ~members
        self._since_alert, self._last_rank = 0, severity
        alert = Alert("begins", step, step, finding_of(self._rule, found, members, step, self._names, sure))
        self._standing.append((alert, members))
        return [alert]


def _packed(members: Bools) -> str:
    """One bit per component, in hexadecimal: short enough for a checkpoint, whatever the names."""
    return np.packbits(members).tobytes().hex()


def _unpacked(text: str, size: int) -> Bools:
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), dtype=np.uint8), count=size).astype(bool)
