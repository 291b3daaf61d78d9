"""The engine: one alert when a fault is found, one when it is cleared; state that survives a resumption."""

from __future__ import annotations

import json

import numpy as np
import pytest

from alerts.simulated import ATTENTION, Columns, alerts_of, components, healthy, index, samples_of
from weibull_monitor.alerts import AlertSettings, Engine
from weibull_monitor.history.alert import Alert

AT = 12
UP = index(1, "ffn_up")


def tell(columns: list[Columns], settings: AlertSettings | None = None) -> list[Alert]:
    engine = Engine(settings or AlertSettings(), [ATTENTION])
    return [a for s in samples_of(columns) for a in engine.observe(s) if a.finding.severity != "info"]


def phases(alerts: list[Alert], rule: str) -> list[tuple[str, int]]:
    return [(a.phase, a.step // 10) for a in alerts if a.finding.rule == rule]


def with_nonfinite(columns: list[Columns], at: list[int], i: int = UP) -> list[Columns]:
    for n in at:
        columns[n]["nonfinite"][i] = 1.0
    return columns


def test_what_lasts_is_told_once_and_its_end_once() -> None:
    assert phases(tell(with_nonfinite(healthy(), [10, 11, 12, 13])), "nonfinite") == [("begins", 10), ("ends", 16)]


def test_what_comes_and_goes_is_one_alert() -> None:
    """Absent for fewer samples in a row than ``clear``: it has not ended."""
    assert phases(tell(with_nonfinite(healthy(), [8, 10, 12, 14])), "nonfinite") == [("begins", 8), ("ends", 17)]


def test_a_value_that_trembles_about_its_threshold_is_told_once() -> None:
    columns = healthy(samples=40)
    for n, now in enumerate(columns[AT:]):
        now["r2"][UP] = 0.9495 if n % 4 == 0 else 0.957  # strength 1.01 and 0.86
    assert phases(tell(columns), "body_break") == [("begins", AT)]


def test_many_matrices_are_one_alert_that_names_the_worst() -> None:
    def broken(columns: list[Columns]) -> None:
        for now in columns[AT:]:
            now["nonfinite"][:] = 1.0
            now["nonfinite"][UP] = 50.0

    (alert,) = [a for a in alerts_of(broken) if a.finding.rule == "nonfinite"]
    assert alert.finding.count == len(components())
    assert alert.finding.component == components()[UP].name
    assert len(alert.finding.components) == 20
    assert f"and {len(components()) - 1} more" in alert.text


def test_within_the_cool_down_others_wait_and_are_told_together() -> None:
    columns = healthy(samples=30)
    for n, i in ((10, 0), (11, 1), (12, 2)):
        for now in columns[n:]:
            now["nonfinite"][i] = 1.0
    alerts = [a for a in tell(columns) if a.finding.rule == "nonfinite"]
    assert [(a.step // 10, a.finding.count) for a in alerts] == [(10, 1), (14, 2)]
    quick = tell(columns, AlertSettings.of({"cool_down": 0}))
    assert [a.step // 10 for a in quick if a.finding.rule == "nonfinite"] == [10, 11, 12]


def test_what_is_graver_does_not_wait() -> None:
    columns = healthy(samples=30)
    columns[10]["rms"][0] *= 1.9  # beyond what is sustained: a warning
    for now in columns[11:]:
        now["rms"][0] *= 1.9
        now["rms"][1] *= 8.0  # impossible: an error, one sample later
    alerts = [a for a in tell(columns) if a.finding.rule == "impossible_change" and a.phase == "begins"]
    assert [(a.step // 10, a.finding.severity) for a in alerts] == [(10, "warning"), (11, "error")]


def test_what_gets_graver_is_told_again() -> None:
    columns = healthy(samples=30, blocks=4)
    for n, now in enumerate(columns):
        for block in range(4):
            now["k"][index(block, "ffn_up")] -= 0.008 * n  # leaves the band, later every published model
    told = Engine(AlertSettings(), [ATTENTION])
    alerts = [a for s in samples_of(columns) for a in told.observe(s) if a.finding.rule == "transmission_exit"]
    assert [(a.phase, a.finding.severity) for a in alerts] == [("begins", "info"), ("worsens", "warning")]
    assert alerts[0].since == alerts[1].since


def test_titles_are_stable_and_short() -> None:
    titles = {a.title for a in tell(with_nonfinite(healthy(), [10]))} | {
        a.title for a in tell(with_nonfinite(healthy(seed=3), [14], 2))
    }
    assert titles == {"weibull: nonfinite (error)", "weibull: nonfinite is over"}


def test_rules_can_be_silenced_wholly_in_part_or_in_gravity() -> None:
    columns = with_nonfinite(healthy(), [10])
    assert tell(columns, AlertSettings.of({"nonfinite": False})) == []
    assert tell(columns, AlertSettings.of({"nonfinite": {"ignore": [r"ffn_up\.weight$"]}})) == []
    assert [a.finding.severity for a in tell(columns, AlertSettings.of({"nonfinite": {"at_most": "warning"}}))][:1] == [
        "warning"
    ]


def test_a_weaker_rule_skips_what_a_stronger_one_has_found() -> None:
    def scaled(columns: list[Columns]) -> None:
        for now in columns[AT:]:
            now["lambda"][UP] *= 8.0
            now["rms"][UP] *= 8.0

    rules = [a.finding.rule for a in alerts_of(scaled) if a.step == 10 * AT]
    assert rules == ["impossible_change"]


def broken_run() -> list[Columns]:
    """Something that stands, something that waits and something that counts, at the sample of the checkpoint."""
    columns = with_nonfinite(healthy(samples=40), [18, 19, 20, 21, 22], UP)
    for now in columns[20:26]:
        now["nonfinite"][3] = 2.0
    for now in columns[20:]:
        now["k"][5] -= 0.2
        now["lambda"][2] *= 0.7
        now["rms"][2] *= 0.7
    for n, now in enumerate(columns):
        for block in range(4):
            now["k"][index(block, "attn_o")] -= 0.006 * n
    return columns


@pytest.mark.parametrize("checkpoint", [9, 18, 20, 21, 23, 27])
def test_a_resumed_engine_raises_the_alerts_of_an_uninterrupted_one(checkpoint: int) -> None:
    samples = samples_of(broken_run())
    whole = Engine(AlertSettings(), [ATTENTION])
    expected = [whole.observe(sample) for sample in samples]
    first = Engine(AlertSettings(), [ATTENTION])
    for sample in samples[: checkpoint + 1]:
        first.observe(sample)
    state = json.loads(json.dumps(first.state_dict()))
    second = Engine(AlertSettings(), [ATTENTION])
    second.load_state_dict(state, samples[: checkpoint + 1])
    assert second.standing == first.standing
    assert [second.observe(sample) for sample in samples[checkpoint + 1 :]] == expected[checkpoint + 1 :]
    assert any(expected[checkpoint + 1 :])


def test_the_state_of_a_healthy_run_is_empty() -> None:
    engine = Engine(AlertSettings.of({"selection_drift": False}), [ATTENTION])
    for sample in samples_of(healthy()):
        engine.observe(sample)
    assert engine.state_dict() == {}
    assert engine.active == 0


def test_a_state_of_other_components_is_forgotten() -> None:
    engine = Engine(AlertSettings(), [ATTENTION])
    for sample in samples_of(with_nonfinite(healthy(), [22, 23])):
        engine.observe(sample)
    assert engine.active == 1
    other = Engine(AlertSettings(), [ATTENTION])
    other.load_state_dict(engine.state_dict(), samples_of(healthy(blocks=5), blocks=5))
    assert other.standing == ()


def test_components_that_come_and_go_keep_their_own_past() -> None:
    """A block is added in the middle; the others go on being judged by their own movement, the new one by none."""
    before, after = healthy(samples=12, blocks=4), healthy(samples=30, blocks=5)[12:]
    for n, now in enumerate(after):
        for name in now:
            now[name][: 4 * 7] = healthy(samples=30, blocks=4)[12 + n][name]
    samples = samples_of(before) + [type(s)(s.step + 120, s.components, s.columns) for s in samples_of(after, blocks=5)]
    engine = Engine(AlertSettings(), [ATTENTION])
    assert [a.text for s in samples for a in engine.observe(s) if a.finding.severity != "info"] == []


def test_the_window_is_bounded_and_slides() -> None:
    from weibull_monitor.alerts.window import CAPACITY, SampleWindow

    columns = healthy(samples=3 * CAPACITY + 5)
    window = SampleWindow([ATTENTION])
    for sample in samples_of(columns):
        window.push(sample)
    assert len(window.steps) == len(window["k"]) == CAPACITY
    expected = np.stack([now["k"] for now in columns[-CAPACITY:]])
    np.testing.assert_allclose(window["k"], expected, rtol=1e-8)
    np.testing.assert_allclose(window.baseline["k"], columns[0]["k"], rtol=1e-8)
