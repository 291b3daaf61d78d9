"""What rules make of the optimizer: its resets, the bound of its steps, and settings that it has by mistake or on purpose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from alerts.simulated import ATTENTION, Columns, alerts_in, alerts_of, component, components, healthy, samples_of
from alerts.test_rules import AT, UP, K, Q, frozen, only_infos, scaled
from alerts.test_setting_jump import rates
from weibull_monitor.alerts import AlertSettings, replay
from weibull_monitor.history.alert import Alert


def decayed(columns: list[Columns]) -> None:
    for n, now in enumerate(columns[AT:], 1):
        for name in ("lambda", "rms"):
            now[name] *= np.exp(-0.1 * n)
        now["weight_decay"][:] = 10.0


def resets(columns: list[Columns], at: int = AT) -> list[Alert]:
    """The alerts of `optimizer_reset` where the state is lost before sample ``at``."""
    samples = [
        replace(s, withheld={"optimizer_reset": 28} if n >= at else {"too_early": 28})
        for n, s in enumerate(samples_of(columns))
    ]
    return [a for a in replay(samples, None, [ATTENTION]) if a.finding.rule == "optimizer_reset"]


def test_a_reset_of_the_optimizer_raises_one_alert_at_the_first_sample_after_it() -> None:
    """The count stays for the rest of the run, because the law's budget is no longer known."""
    found = resets(healthy())
    assert [(a.phase, a.step) for a in found] == [("begins", 10 * AT), ("ends", 10 * (AT + 3))]
    assert found[0].finding.count == 28


@pytest.mark.parametrize(("share", "severity"), [(0.05, "info"), (0.45, "info"), (0.7, "warning"), (1.0, "warning")])
def test_a_reset_with_a_new_warm_up_is_meant(share: float, severity: str) -> None:
    columns = healthy(eta=2e-3)
    for now in columns[AT:]:
        now["eta"] = now["eta"] * share
    found = [a.finding for a in resets(columns)]
    assert [f.severity for f in found[:1]] == [severity]
    assert ("new phase" in found[0].meaning) is (severity == "info")


def begun(alerts: list[Alert]) -> list[str]:
    return [a.finding.severity for a in alerts if a.phase == "begins"]


def test_a_warm_up_between_two_samples_shows_in_the_sum_of_its_rates() -> None:
    """η of each step is added up, so that a warm-up that is over at the next sample is seen, too."""

    def phase(step: int) -> float:
        return 1e-3 * (1.0 - step / 400) * (min(1.0, (step - 150) / 4) if step > 150 else 1.0)

    columns = healthy()
    rates(columns, phase)
    assert phase(160) > 0.9 * phase(150)
    assert begun(resets(columns, 16)) == ["info"]
    rates(columns, lambda step: 1e-3 * (1.0 - step / 400))
    assert begun(resets(columns, 16)) == ["warning"]


@pytest.mark.parametrize("at", [12, 16, 20])
def test_a_reset_in_a_schedule_that_falls_smoothly_is_a_warning(at: int) -> None:
    columns = healthy()
    rates(columns, lambda step: 1e-3 * 0.5 * (1.0 + np.cos(np.pi * step / 240)))
    assert begun(resets(columns, at)) == ["warning"]


def test_the_bound_of_the_optimizer_is_that_of_the_steps_between_the_samples() -> None:
    """RMS 0.0203 + 10 steps of η 1e-3: up to 1.25 times 0.01 may be; ×1.5 is within, ×1.9 beyond, ×6 beyond Adam's own bound."""
    for factor, expected in ((1.5, None), (1.9, "warning"), (6.0, "error")):
        found = [
            a.finding for a in alerts_of(lambda c, f=factor: scaled(c, Q, f)) if a.finding.rule == "impossible_change"
        ]  # type: ignore[misc]
        assert [f.severity for f in found[:1]] == ([expected] if expected else [])


def test_optimizers_without_a_bound_have_no_impossible_change() -> None:
    def broken(columns: list[Columns]) -> None:
        for now in columns:
            now["update_max"][:] = now["element_max"][:] = np.nan
        scaled(columns, Q, 8.0)

    rules = {a.finding.rule for a in alerts_of(broken)}
    assert "impossible_change" not in rules
    assert "scale_shift" in rules


def test_weight_decay_by_mistake_is_found_though_each_matrix_moves_little() -> None:
    (known, *_) = [a for a in alerts_of(decayed) if a.finding.rule == "setting_jump"]
    assert (known.step, known.finding.count) == (10 * AT, len(components()))
    assert "λ_wd of its parameter group is 10; at step" in known.finding.meaning
    settings = AlertSettings.of({"setting_jump": False})
    found = [a for a in alerts_of(decayed, settings) if a.finding.rule == "scale_shift"]
    assert found[0].step <= 10 * (AT + 1)
    assert found[0].finding.count == len(components())
    assert "λ_wd 10" in found[0].finding.meaning


def test_a_fall_is_unusual_where_as_large_a_rise_is_not() -> None:
    """A matrix that learns grows by 2 to 7 % a sample; weight decay alone cannot take 15 % away."""

    def learning(columns: list[Columns]) -> None:
        chance, grown = np.random.default_rng(1), 0.0
        for now in columns[1:]:
            grown += chance.uniform(0.02, 0.07)
            for name in ("lambda", "rms"):
                now[name][K] *= np.exp(grown)

    def fallen(columns: list[Columns]) -> None:
        learning(columns)
        scaled(columns, K, 0.82)

    assert [a for a in alerts_of(learning) if a.finding.rule == "scale_shift"] == []
    assert [a.step for a in alerts_of(fallen) if a.finding.rule == "scale_shift"][:1] == [10 * AT]


def test_a_learning_rate_that_jumps_is_not_excused_by_itself() -> None:
    """η × 30 makes all steps 30 times as long: what moves as far as that would allow is still unusual."""

    def jumped(columns: list[Columns], factor: float) -> None:
        for n, now in enumerate(columns[AT:], 1):
            now["eta"] *= factor
            now["eta_sum"] += 0.01 * (factor - 1.0) * n
            for name in ("lambda", "rms"):
                now[name] *= np.exp(0.25 * n)

    assert "setting_jump" in {a.finding.rule for a in alerts_of(lambda c: jumped(c, 30.0))}
    assert "scale_shift" in {a.finding.rule for a in alerts_of(lambda c: jumped(c, 4.0))}


def test_a_warm_up_is_no_fault() -> None:
    """η rises in a line over the first 20 samples, and movement with it."""
    columns, path = healthy(samples=40), 0.0
    for n, now in enumerate(columns):
        share = min(1.0, n / 20)
        path += 1e-2 * share
        now["eta"][:], now["eta_sum"][:] = 1e-3 * share, path
        for name, start in (("lambda", columns[0]["lambda"]), ("rms", columns[0]["rms"])):
            now[name] = start * np.exp(4.0 * path)
        now["update_ratio"] = 0.25 * now["eta"] / now["rms"]
    assert only_infos(columns) == []


def test_a_frozen_matrix_and_a_finished_schedule_may_stand_still() -> None:
    columns = healthy()
    frozen(columns, UP)
    still = tuple(component(b, c.kind, trainable=i != UP) for i, c in enumerate(components()) for b in [c.block or 0])
    assert alerts_in(columns, "unchanged", of=still) == []
    columns = healthy()
    frozen(columns, UP)
    for now in columns[AT:]:
        now["eta"][:] = 1e-6  # the end of a cosine: bf16 loses all of it
    assert alerts_in(columns, "unchanged") == []
