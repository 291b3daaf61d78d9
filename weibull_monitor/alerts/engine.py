"""The engine: it runs the rules on every sample, and raises, worsens and clears alerts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any, Final

import numpy as np

from weibull_monitor.alerts.ahead import may_find_at
from weibull_monitor.alerts.rule_state import RuleState
from weibull_monitor.alerts.rules import RULES, RuleResult
from weibull_monitor.alerts.rules.screens import may_find
from weibull_monitor.alerts.rules.writes import unwritten
from weibull_monitor.alerts.samples import Sample
from weibull_monitor.alerts.settings import AlertSettings, RuleSettings
from weibull_monitor.alerts.statistics import Floats, quiet, reaches
from weibull_monitor.alerts.window import CAPACITY, SampleWindow
from weibull_monitor.errors import ConfigurationError
from weibull_monitor.history.alert import Alert, rank

AHEAD: Final = 512
"""Samples of a recorded run that are looked at together, at most …"""
TOGETHER: Final = 1 << 14
"""… and their number times that of the components: temporaries of a few MB."""
WORTH: Final = 8
"""Fewer samples are judged one by one."""
STRONGER_RULES: Final = {
    "outside_write": ("impossible_change", "nonfinite", "dead", "misplaced"),
    "scale_shift": ("impossible_change", "nonfinite", "setting_jump", "misplaced", "outside_write"),
    "selection_shift": ("misplaced", "outside_write"),
    "body_break": ("misplaced", "outside_write"),
    "unchanged": ("nonfinite",),
}
"""A rule skips a component where one of these stronger rules found the same fault at the same sample."""
EXPLAINED_BY: Final = {
    "attention_scale": ("impossible_change", "outside_write"),
    "all_jumped": (
        "impossible_change",
        "outside_write",
        "scale_shift",
        "selection_shift",
        "body_break",
        "setting_jump",
        "misplaced",
    ),
    "misplaced": ("initialised_anew", "outside_write"),
    "scale_shift": ("misplaced", "outside_write"),
    "selection_shift": ("outside_write",),
    "body_break": ("outside_write",),
    "layer_outlier": ("initialised_anew", "impossible_change", "outside_write"),
    "scale_runaway": ("impossible_change", "outside_write"),
}
"""A rule skips a component while an alert of one of these rules stands, whose jump it would find again and again."""
BY_WRITING: Final = frozenset({"scale_shift", "selection_shift", "body_break", "all_jumped", "misplaced"})
"""Rules about sudden changes. They raise only infos for a matrix that is watched if no write to it was seen, because then the
optimizer moved it: they found 3 of 84 replayed faults of gradients and rates, and nearly all false alarms were of this sort."""
WHOLE: Final = frozenset({"outside_write"})
"""Rules whose infos are about the whole model. These take nothing from rules that say what became of it, nor do infos of those
from them."""
EVER: Final = "nonfinite"
"""The rule whose findings no announced change explains."""
ANNOUNCED: Final = 2
"""Samples at which what others find is an info, from the first after the announcement on …"""
REMEMBERED: Final = {"setting_jump": 8, "optimizer_reset": 8, "update_growth": 8, "update_excess": 8}
"""… and of rules that find the same jump again, as they compare with a number of samples."""
BY_WARNINGS: Final = frozenset({"attention_scale", "all_jumped"})
"""Rules that an info about a jump explains nothing of: they find what comes after a change that was announced."""


class Engine:
    """Runs all rules on every sample and returns the new alerts.

    The result depends on the samples and the settings alone, so a recorded history gives the same alerts again.

    Args:
        settings: Thresholds.
        attention: The model's types of attention, as in the history's ``run`` line.
        initial: The standard deviation that the model's configuration initialises matrices with, if known: in the history, the
            ``initializer_range`` of the model.
        recorded: Whether `observe_all` is called, which needs more memory.

    >>> engine = Engine(AlertSettings())
    >>> engine.standing
    ()
    """

    def __init__(
        self,
        settings: AlertSettings,
        attention: Iterable[Mapping[str, Any]] = (),
        initial: float | None = None,
        recorded: bool = False,
    ) -> None:
        self._settings = settings
        self._window = SampleWindow(attention, initial, AHEAD if recorded else CAPACITY)
        self._states = {name: RuleState(name) for name in RULES if self._settings_of(name).enabled}
        self._names: tuple[str, ...] = ()
        self._ignored: dict[str, Any] = {}  # by rule, bool, (components,)

    @property
    def standing(self) -> tuple[Alert, ...]:
        """Alerts that were raised and are not cleared."""
        return tuple(alert for state in self._states.values() for alert in state.standing)

    @property
    def active(self) -> int:
        """Number of these that are warnings or errors: ``weibull_alerts/active``."""
        return sum(rank(alert.finding.severity) > 1 for alert in self.standing)

    def observe(self, sample: Sample) -> list[Alert]:
        """Judges one more sample.

        Args:
            sample: A `Snapshot`, or a sample of a history.

        Returns:
            The new alerts, by rule: raised, worse, or cleared.
        """
        with quiet():
            self._push(sample)
            window, states = self._window, self._states
            may = {name for name, s in states.items() if not s.idle or may_find(name, window, self._settings_of(name))}
            return self._judged(may)

    def observe_all(self, samples: Sequence[Sample]) -> list[Alert]:
        """Judges samples one after the other, as `observe` does, many times as fast if few of them raise alerts."""
        alerts: list[Alert] = []
        first = 0
        while first < len(samples):
            some = self._alike(samples[first : first + AHEAD])
            if not some:
                alerts += self.observe(samples[first])
            else:
                with quiet():
                    alerts += self._observe_together(some)
            first += max(1, len(some))
        return alerts

    def _alike(self, samples: Sequence[Sample]) -> Sequence[Sample]:
        """Of these samples the first ones that can be judged together; none if that is not worth while."""
        components = self._window.known
        if len(self._window.steps) < CAPACITY or not components:
            return ()
        most = min(AHEAD, TOGETHER // len(components))
        count = next(
            (n for n, s in enumerate(samples[:most]) if s.components is not components or s.step == 0),
            min(most, len(samples)),
        )
        return samples[:count] if count >= WORTH else ()

    def _observe_together(self, samples: Sequence[Sample]) -> list[Alert]:
        window = self._window
        window.move_down()
        places = []
        for sample in samples:
            self._push(sample)
            places.append(window.place())
        may = may_find_at(window, places, self._settings)
        alerts: list[Alert] = []
        for n, place in enumerate(places):
            asked = {name for name, state in self._states.items() if may[name][n] or not state.idle}
            if asked:
                window.go_to(place)
            alerts += self._judged(asked)
        window.go_to(places[-1])
        return alerts

    def _judged(self, asked: Set[str]) -> list[Alert]:
        """The new alerts of some rules at the latest sample; the others are idle and find nothing."""
        alerts: list[Alert] = []
        found: dict[str, RuleResult] = {}
        for name, state in self._states.items():
            if name not in asked:
                if name != "unchanged":  # that says nothing where all matrices move
                    state.pass_by()
                continue
            settings = self._settings_of(name)
            result = RULES[name](self._window, settings)
            if result is not None:
                found[name] = self._admitted(name, result, found)
                alerts += state.update(found[name], self._window.steps[-1], settings, self._settings.cool_down)
        return alerts

    def state_dict(self) -> dict[str, Any]:
        """The state that does not follow from the history, as JSON can hold it; empty if there is none."""
        states = {name: state for name, of_rule in self._states.items() if (state := of_rule.state())}
        return {"components": len(self._names), "rules": states} if states else {}

    def load_state_dict(self, state: object, samples: Sequence[Sample]) -> None:
        """Restores what `state_dict` returned.

        Args:
            state: The result of `state_dict`; ignored if the number of components has changed.
            samples: The samples of the run up to there, from its history. They raise no alerts.

        Raises:
            ConfigurationError: If the state of a rule does not have the form of one; that of the others is restored.
        """
        for sample in samples:
            self._push(sample)
        rules = state.get("rules") if isinstance(state, Mapping) and state.get("components") == len(self._names) else {}
        broken = []
        for name, of_rule in rules.items() if isinstance(rules, Mapping) else ():
            if name in self._states:
                try:
                    self._states[name].restore(of_rule)
                except Exception:  # a checkpoint may hold anything
                    self._states[name] = RuleState(name)
                    self._states[name].adopt(self._names)
                    broken.append(name)
        if broken:
            raise ConfigurationError(f"the state of {', '.join(broken)} cannot be read; these rules start again")

    def _settings_of(self, rule: str) -> RuleSettings:
        settings: RuleSettings = getattr(self._settings, rule)
        return settings

    def _push(self, sample: Sample) -> None:
        self._window.push(sample)
        names = self._window.components.names
        if names == self._names:
            return
        self._names = names
        for name, state in self._states.items():
            state.adopt(names)
            patterns = [re.compile(pattern) for pattern in self._settings_of(name).ignore]
            self._ignored[name] = np.array([any(p.search(n) for p in patterns) for n in names], dtype=bool)

    def _admitted(self, name: str, result: RuleResult, found: Mapping[str, RuleResult]) -> RuleResult:
        """The result without components that are ignored or found by a stronger rule, as severe as it is sure and allowed."""
        if not reaches(result.strength):
            return result
        out = self._ignored[name].copy()  # (components,)
        for stronger in STRONGER_RULES.get(name, ()):
            if stronger in found:
                sure = found[stronger].severity > 1 if stronger in WHOLE or name in WHOLE else True
                out |= (found[stronger].strength >= 1.0) & sure
        for other in EXPLAINED_BY.get(name, ()):
            if other in self._states:
                state = self._states[other]
                out |= state.named if other in WHOLE or name in BY_WARNINGS else state.active
        if name == "scale_shift" and "impossible_change" in self._states:  # it finds jumps of the interval before, too
            levels = np.stack([self._window.before("rms"), self._window.before("largest")])
            out |= self._states["impossible_change"].found_at(levels)
        if result.together is not None:  # what explains one of two explains the other
            first, second = result.together
            explained = out.copy()
            out[first] |= explained[second]
            out[second] |= explained[first]
        settings = self._settings_of(name)
        severity = np.where(result.strength < settings.sure, 1, np.minimum(result.severity, rank(settings.at_most)))
        if name in BY_WRITING:
            severity = np.where(unwritten(self._window), 1, severity)
        # (components,); NaN where nothing was announced
        after = np.fmax.reduce(self._window["expected_after"][-REMEMBERED.get(name, ANNOUNCED) :])
        if name != EVER and np.isfinite(after).any():
            severity, result = np.where(np.isfinite(after), 1, severity), _announced(result, after)
        return replace(result, strength=np.where(out, 0.0, result.strength), severity=severity.astype(np.int8))


def _announced(result: RuleResult, after: Floats) -> RuleResult:
    """The same, which says of components whose change was announced that it was, and after which step."""
    found = result.meaning

    def meaning(i: int) -> str:
        return found(i) if np.isnan(after[i]) else f"A change was expected after step {after[i]:.0f}. {found(i)}"

    return replace(result, meaning=meaning)


def replay(
    samples: Iterable[Sample],
    settings: AlertSettings | None = None,
    attention: Iterable[Mapping[str, Any]] = (),
    initial: float | None = None,
) -> list[Alert]:
    """The alerts of a recorded run, in order; with the same settings, those that the run itself raised.

    Args:
        samples: Its samples, by rising step: ``read_history(path).snapshots``.
        settings: Thresholds; the defaults if not given.
        attention: ``read_history(path).runs[-1].attention``. Without it, ranges that depend on attention are wide.
        initial: ``read_history(path).runs[-1].model.get("initializer_range")``.
    """
    return Engine(settings or AlertSettings(), attention, initial, recorded=True).observe_all([*samples])
