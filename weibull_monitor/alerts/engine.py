"""The engine: rules in, alerts out. One when something begins, one when it gets worse, one when it ends."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from weibull_monitor.alerts.rule_state import RuleState
from weibull_monitor.alerts.rules import RULES, RuleResult
from weibull_monitor.alerts.settings import AlertSettings, RuleSettings
from weibull_monitor.alerts.window import Sample, SampleWindow
from weibull_monitor.history.alert import Alert, rank

CLAIMED_BY: Final = {"scale_shift": ("impossible_change", "nonfinite"), "unchanged": ("nonfinite",)}
"""Rules that stay silent of a component of which a stronger one has found the same at the same sample."""


class Engine:
    """Looks at every sample through all rules, and tells what is new.

    Everything it does follows from the samples and the settings alone, so a recorded history gives the same alerts again.

    Args:
        settings: Thresholds.
        attention: Kinds of attention of the model, as the history's ``run`` line has them.

    >>> engine = Engine(AlertSettings())
    >>> engine.standing
    ()
    """

    def __init__(self, settings: AlertSettings, attention: Iterable[Mapping[str, Any]] = ()) -> None:
        self._settings = settings
        self._window = SampleWindow(attention)
        self._tracks = {name: RuleState(name) for name in RULES if self._of(name).enabled}
        self._names: tuple[str, ...] = ()
        self._ignored: dict[str, Any] = {}

    @property
    def standing(self) -> tuple[Alert, ...]:
        """Alerts that have begun and not ended."""
        return tuple(alert for track in self._tracks.values() for alert in track.standing)

    @property
    def active(self) -> int:
        """Number of those that are warnings or errors: ``weibull_alerts/active``."""
        return sum(rank(alert.finding.severity) > 1 for alert in self.standing)

    def observe(self, sample: Sample) -> list[Alert]:
        """Takes in one more sample and returns what is new, by rule.

        Args:
            sample: A `Snapshot`, or one read from a history.
        """
        self._push(sample)
        told: list[Alert] = []
        found: dict[str, RuleResult] = {}
        for name, track in self._tracks.items():
            settings = self._of(name)
            given = RULES[name](self._window, settings)
            if given is None:
                continue
            found[name] = self._admitted(name, given, found)
            told += track.follow(found[name], self._window.step, settings, self._settings.cool_down)
        return told

    def state_dict(self) -> dict[str, Any]:
        """What does not follow from the history: small, as JSON can hold it, and empty while there is nothing to tell."""
        states = {name: state for name, track in self._tracks.items() if (state := track.state())}
        return {"components": len(self._names), "rules": states} if states else {}

    def load_state_dict(self, state: Mapping[str, Any], samples: Sequence[Sample]) -> None:
        """Goes on where `state_dict` was taken.

        Args:
            state: What it returned; what it tells is forgotten if the components are not those any more.
            samples: The samples of the run up to there, from its history; nothing is told of them.
        """
        for sample in samples:
            self._push(sample)
        if state.get("components") == len(self._names):
            for name, of_rule in state["rules"].items():
                if name in self._tracks:
                    self._tracks[name].restore(of_rule)

    def _of(self, rule: str) -> RuleSettings:
        settings: RuleSettings = getattr(self._settings, rule)
        return settings

    def _push(self, sample: Sample) -> None:
        self._window.push(sample)
        names = self._window.facts.names
        if names == self._names:
            return
        self._names = names
        for name, track in self._tracks.items():
            track.adopt(names)
            patterns = [re.compile(pattern) for pattern in self._of(name).ignore]
            self._ignored[name] = np.array([any(p.search(n) for p in patterns) for n in names], dtype=bool)

    def _admitted(self, name: str, given: RuleResult, found: Mapping[str, RuleResult]) -> RuleResult:
        """The reading without components that are ignored or claimed by a stronger rule, and no graver than allowed."""
        if not (given.strength >= 1.0).any():
            return given
        out = self._ignored[name].copy()
        for stronger in CLAIMED_BY.get(name, ()):
            if stronger in found:
                out |= found[stronger].strength >= 1.0
        worst = rank(self._of(name).at_most)
        return replace(given, strength=np.where(out, 0.0, given.strength), severity=np.minimum(given.severity, worst))
