"""Screens: what they pass by, no rule finds; and in a calm run they pass by nearly all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from alerts.simulated import ATTENTION, Columns, healthy, index, samples_of, scale_by, watched, written
from alerts.test_ahead import troubled
from weibull_monitor.alerts import AlertSettings, Engine
from weibull_monitor.alerts.rules import RULES, screens
from weibull_monitor.alerts.window import SampleWindow


def with_writes(columns: list[Columns], seed: int) -> list[Columns]:
    source = np.random.default_rng(seed)
    columns = watched(columns)
    for at in source.choice(np.arange(1, len(columns)), 8, replace=False):
        some = source.choice(28, source.choice([1, 5, 28]), replace=False)
        written(columns, *some.tolist(), at=int(at), rms=float(source.choice([1e-5, 0.005, 0.2])), state=bool(at % 2))
    return columns


def asked_and_found(
    columns: list[Columns], settings: AlertSettings, withheld: Mapping[str, int] | None = None
) -> dict[str, list[tuple[bool, bool]]]:
    """For each rule whether it is asked and whether it finds something, at each sample."""
    window = SampleWindow([ATTENTION])
    out: dict[str, list[tuple[bool, bool]]] = {name: [] for name in RULES}
    for sample in samples_of(columns, withheld=withheld):
        window.push(sample)
        with np.errstate(all="ignore"):
            for name, rule in RULES.items():
                of_rule = getattr(settings, name)
                asked = bool(screens.may_find(name, window, of_rule))
                result = rule(window, of_rule)
                out[name].append((asked, result is not None and bool((result.strength >= 1.0).any())))
    return out


LOWER: dict[str, Any] = {
    "scale_shift": {"change": 0.02, "fall": 0.02, "z": 2.0, "far": 0.04, "alone": 1.1, "own": 1.1},
    "selection_shift": {"change": 0.005, "z": 2.0, "far": 0.01, "others": 2.0},
    "body_break": {"change": 0.005, "fall": 0.001, "r2": 0.998, "far": 0.01, "z": 1.5},
    "attention_scale": {"added": 0.01, "growth": 1.05, "ratio": 1.2, "equal": 1.5},
    "layer_outlier": {"k": 0.01, "log_lambda": 0.02, "z": 2.0},
    "impossible_change": {"sustained": 0.1},
    "transmission_exit": {"low": 1.2, "high": 1.21},
    "selection_drift": {"mild": 0.005, "z": 0.5},
    "selection_range": {"margin": 1e-4},
}
"""Thresholds at which rules find a lot."""


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("changed", [{}, LOWER])
def test_what_a_screen_passes_by_no_rule_finds(seed: int, changed: dict[str, Any]) -> None:
    columns = with_writes(troubled(seed, samples=60), seed)
    if seed % 3 == 1:
        for now in columns[30:]:
            now["update_max"][:] = now["element_max"][:] = np.nan
    if seed % 3 == 2:
        for n, now in enumerate(columns[20:]):
            scale_by(now, np.exp(-0.02 * n), [index(1, "attn_q"), index(2, "attn_k")])
    found = asked_and_found(columns, AlertSettings.of(changed), {"own_learning_rate": 28} if seed == 7 else None)
    for name, at in found.items():
        assert [n for n, (asked, finds) in enumerate(at) if finds and not asked] == [], name
    assert sum(any(finds for _, finds in at) for at in found.values()) >= 5


def test_in_a_calm_run_nearly_no_rule_with_a_screen_is_asked() -> None:
    columns = healthy(samples=60)
    for n, now in enumerate(columns):  # k has come to rest, and λ nearly
        scale_by(now, np.exp(-0.008 * n))
        now["k"] += 4e-4 * n
    found = asked_and_found(columns, AlertSettings())
    asked = {name: np.mean([at[n][0] for n in range(40, 60)]) for name, at in found.items() if name in screens.SCREENS}
    assert {name: share for name, share in asked.items() if share > 0.1} == {}


@pytest.mark.parametrize("seed", range(4))
def test_alerts_are_the_same_without_screens(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = samples_of(with_writes(troubled(seed), seed))

    def judged() -> tuple[list[Any], dict[str, Any]]:
        engine = Engine(AlertSettings(), [ATTENTION])
        return [alert.to_json() for sample in samples for alert in engine.observe(sample)], engine.state_dict()

    screened = judged()
    monkeypatch.setattr(screens, "SCREENS", {})
    assert judged() == screened
    assert len({alert["rule"] for alert in screened[0]}) > 3


def test_screens_are_of_rules_that_there_are() -> None:
    assert set(screens.SCREENS) <= set(RULES)
