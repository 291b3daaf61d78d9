"""Settings of the optimizer that jump: facts, whatever the matrices do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from alerts.simulated import Columns, alerts_of, components, healthy, index, scale_by, window_in
from weibull_monitor.alerts.rules.setting_jump import outgrown
from weibull_monitor.history.alert import Alert
from weibull_monitor.scaling.bounds import adam_bound

AT = 16
UP = index(2, "ffn_up")
ALL = slice(None)


def rates(
    columns: list[Columns], of_step: Callable[[int], float], members: slice | list[int] = ALL, every: int = 10
) -> None:
    """Sets η as a function of the step, from 1; matrices that are faster than before grow more."""
    path = 0.0
    for n, now in enumerate(columns):
        if n:
            path += sum(of_step(step) for step in range((n - 1) * every + 1, n * every + 1))
            now["eta"][members] = of_step(n * every)
            now["eta_sum"][members] = path


def grown(columns: list[Columns], by: float, members: slice | list[int] = ALL, start: int = AT) -> None:
    for n, now in enumerate(columns[start:], 1):
        scale_by(now, np.exp(by * n), members)


def jumps(break_it: Callable[[list[Columns]], object], **options: object) -> list[Alert]:
    """The warnings of the rule."""
    found = [a for a in alerts_of(break_it, **options) if a.finding.rule == "setting_jump"]  # type: ignore[arg-type]
    return [a for a in found if a.phase == "begins"]


def cosine(step: int) -> float:
    return 1e-3 * (0.02 + 0.98 * 0.5 * (1.0 + np.cos(np.pi * step / 240)))


def test_a_rate_of_one_group_that_jumps_is_found_although_it_is_below_its_peak() -> None:
    """At the end of a cosine, eight times η is less than it was at the start."""

    def late(columns: list[Columns], factor: float) -> None:
        rates(columns, cosine)
        rates(columns, lambda step: cosine(step) * (factor if step > 10 * AT else 1.0), [UP, UP + 1])
        grown(columns, 0.06, [UP, UP + 1], AT + 1)

    (alert,) = jumps(lambda c: late(c, 8.0))
    assert set(alert.finding.components) == {components()[UP].name, components()[UP + 1].name}
    assert alert.step == 10 * (AT + 1)
    assert "8 times as high against that of the others as before" in alert.finding.meaning
    assert jumps(lambda c: late(c, 2.0)) == []


def test_a_rate_that_makes_few_values_grow_is_found_by_the_rms() -> None:
    """Where some values grow far more than the others, k falls, and λ hardly moves or falls, too."""

    def late(columns: list[Columns]) -> None:
        rates(columns, lambda step: 1e-3 * (11.0 if step > 10 * AT else 1.0))
        for n, now in enumerate(columns):
            now["lambda"] *= np.exp(-0.01 * n)  # about at rest
            now["rms"] *= np.exp(-0.01 * n + 0.03 * max(0, n - AT))

    alert, *_ = jumps(late)
    assert "11 times as high as ever before; the RMS moved by +" in alert.finding.meaning


def test_a_group_that_does_not_move_further_is_not_told_of() -> None:
    def still(columns: list[Columns]) -> None:
        rates(columns, lambda step: 1e-3 * (8.0 if step > 10 * AT else 1.0), [UP])

    assert jumps(still) == []


@pytest.mark.parametrize("steps", [1, 5])
def test_a_burst_for_all_is_found_after_it_and_during_a_warm_up(steps: int) -> None:
    """Σ η tells of it, where η is back at the next sample; through a warm-up η is above all earlier values anyway."""

    def burst(columns: list[Columns], factor: float) -> None:
        first = 10 * (AT - 1) + 3
        rates(columns, lambda step: 5e-6 * step * (factor if first <= step < first + steps else 1.0))
        for now in columns[AT:]:
            scale_by(now, np.exp(0.2))

    for factor in (100.0, 10.0):
        (alert,) = jumps(lambda c, factor=factor: burst(c, factor))
        assert alert.step == 10 * AT
        assert "on average since step 150" in alert.finding.meaning
        assert "it was far higher in between" in alert.finding.meaning
    assert jumps(lambda c: burst(c, 1.7)) == []


def restarts(step: int) -> float:
    return 1e-3 * (0.02 + 0.98 * 0.5 * (1.0 + np.cos(np.pi * (step % 80) / 80)))


def stairs(step: int) -> float:
    return 2e-4 * (1 + min(4, step // 50))


@pytest.mark.parametrize(
    "course",
    [
        cosine,
        restarts,
        stairs,
        lambda step: 1e-3 * min(1.0, step / 150),
        lambda step: 2.5e-4 if step < 160 else 1e-3,
        lambda step: 1e-3 * (0.1 + 0.9 * abs(1.0 - 2.0 * (step / 20 % 1.0))),  # each other sample is at the top
        lambda step: 1e-3 * (0.1 + 0.9 * (step % 10) / 10),  # each sample is at the bottom
    ],
    ids=["cosine", "restarts", "stairs", "long warm-up", "four times at once", "cyclic", "cyclic, seen at its lowest"],
)
def test_courses_of_the_rate_of_all_are_no_jumps(course: Callable[[int], float]) -> None:
    def run(columns: list[Columns]) -> None:
        rates(columns, course)
        grown(columns, 0.08)

    assert jumps(run) == []


@pytest.mark.parametrize(
    "course",
    [
        lambda step: 1e-3,  # while the others come to an end
        lambda step: 0.0 if step <= 160 else 1e-3,  # unfrozen at once
        lambda step: 1e-3 * min(1.0, max(0, step - 60) / 150),  # unfrozen, with a warm-up of its own
        restarts,
    ],
    ids=["constant", "unfrozen", "late warm-up", "restarts"],
)
def test_a_group_with_a_schedule_of_its_own_is_no_jump(course: Callable[[int], float]) -> None:
    def run(columns: list[Columns]) -> None:
        rates(columns, cosine if course is not restarts else lambda step: 1e-3)
        rates(columns, course, [UP, UP + 1])
        grown(columns, 0.08, [UP, UP + 1], AT + 1)

    assert jumps(run) == []


def test_a_negative_rate_is_found_at_once() -> None:
    def climbs(columns: list[Columns]) -> None:
        for n, now in enumerate(columns[AT:], 1):
            now["eta"][UP] *= -1.0
            now["eta_sum"][UP] -= 0.02 * n

    (alert,) = jumps(climbs)
    assert (alert.step, alert.finding.component) == (10 * AT, components()[UP].name)
    assert "each step now makes the loss larger" in alert.finding.meaning
    assert alert.finding.expected == (0.0, None)


def test_a_monitor_that_is_called_at_every_fourth_step_sees_no_jump() -> None:
    def run(columns: list[Columns]) -> None:
        rates(columns, restarts)
        for now in columns:
            now["eta_sum"] *= 4.0
        grown(columns, 0.08)

    assert jumps(run) == []


def test_a_decay_that_jumps_or_is_negative_is_found_at_once() -> None:
    def decay(columns: list[Columns], value: float, first: float = 0.1) -> None:
        for n, now in enumerate(columns):
            now["weight_decay"][[UP]] = value if n >= AT else first

    (alert,) = jumps(lambda c: decay(c, 1.0))
    assert (alert.step, alert.finding.components) == (10 * AT, (components()[UP].name,))
    assert "λ_wd of its parameter group is 1; at step 100 it was 0.1" in alert.finding.meaning
    (alert,) = jumps(lambda c: decay(c, -0.1))
    assert alert.finding.expected == (0.0, None)
    for value, first in ((0.3, 0.1), (0.0, 0.1), (0.1, 0.0), (1e-4, 1e-6)):
        assert jumps(lambda c, value=value, first=first: decay(c, value, first)) == []


def test_a_decay_that_is_set_as_a_constant_over_the_rate_is_no_jump() -> None:
    def run(columns: list[Columns]) -> None:
        rates(columns, lambda step: 1e-3 if step < 150 else 1e-4 if step < 200 else 1e-5)
        for now in columns[1:]:
            now["weight_decay"] = 1e-4 / now["eta"]

    assert jumps(run) == []


def test_a_decay_that_follows_a_schedule_is_no_jump() -> None:
    def run(columns: list[Columns]) -> None:
        for n, now in enumerate(columns[1:], 1):
            now["weight_decay"][:] = 0.04 + 0.36 * 0.5 * (1.0 - np.cos(np.pi * n / len(columns)))

    assert jumps(run) == []


def test_the_alert_stands_until_the_setting_is_back() -> None:
    def decay(columns: list[Columns], back: int) -> None:
        for now in columns[AT:back]:
            now["weight_decay"] *= 10.0

    ends = [a.step for a in alerts_of(lambda c: decay(c, 99), samples=40) if a.phase == "ends"]
    assert ends == []
    (end,) = [a for a in alerts_of(lambda c: decay(c, 30), samples=40) if a.phase == "ends"]
    assert end.step == 10 * 32
    assert "undone: λ_wd is back" in end.text


def test_betas_that_change_are_found_by_the_bound_of_a_step() -> None:
    def bound(columns: list[Columns], value: float) -> None:
        for now in columns[AT:]:
            now["element_max"][:] = value

    (alert,) = jumps(lambda c: bound(c, np.nan))
    assert "now there is no such bound" in alert.finding.meaning
    assert alert.step == 10 * AT
    (alert,) = jumps(lambda c: bound(c, 1.16))
    assert "by 7.27 times η at most; now it can by 1.16 times" in alert.finding.meaning
    for within in (9.0, 5.06):  # what β₁ makes of it that goes from 0.95 to 0.85 and back
        assert jumps(lambda c, within=within: bound(c, within)) == []
    for beta1, beta2 in ((0.0, 0.999), (0.99, 0.999), (0.9, 0.99), (0.9, 0.9), (0.95, 0.1)):
        now = adam_bound(beta1, beta2)
        assert jumps(lambda c, now=now: bound(c, now if np.isfinite(now) else np.nan))


def test_the_rate_beside_that_of_the_others_is_exact() -> None:
    columns = healthy()
    rates(columns, cosine)
    rates(columns, lambda step: 5.0 * cosine(step) if step > 10 * AT else cosine(step), [UP])
    found = outgrown(window_in(columns[: AT + 2]))
    assert found.alone[UP] == pytest.approx(5.0)
    assert found.alone[UP + 1] in (0.0, pytest.approx(1.0))
    assert found.all[UP] == pytest.approx(5.0 * cosine(10 * AT + 10) / cosine(10), rel=0.1)
