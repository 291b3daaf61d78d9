"""`outside_write`: what writes to a matrix between two steps, and what only seems to be a fault."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from alerts.simulated import Columns, begun_in, component, healthy, index, samples_of, scale_by, watched, written
from weibull_monitor.alerts import AlertSettings, replay
from weibull_monitor.history.alert import Finding

AT = 16
Q, UP, DOWN = (index(2, kind) for kind in ("attn_q", "ffn_up", "ffn_down"))


def findings(columns: list[Columns], **options: object) -> list[Finding]:
    return [a.finding for a in begun_in(columns, **options) if a.finding.rule == "outside_write"]


def test_a_write_is_named_with_its_step_and_what_it_did() -> None:
    columns = watched(healthy())
    for now in columns[AT:]:
        scale_by(now, 1.03, UP)  # within what the other rules take for usual
    written(columns, UP, at=AT, rms=0.0006, after=157)
    (alert,) = begun_in(columns)
    found = alert.finding
    assert (found.rule, found.severity, found.count, alert.step) == ("outside_write", "warning", 1, 10 * AT)
    assert found.component == "model.layers.2.ffn_up.weight"
    assert found.value == pytest.approx(0.0006)
    assert "after step 157" in found.meaning
    assert "multiplied by 1.0" in found.meaning


def test_values_that_were_exchanged_are_seen_though_their_distribution_stayed() -> None:
    columns = watched(healthy())
    written(columns, Q, DOWN, at=AT, rms=0.028)
    (found,) = findings(columns)
    assert found.count == 2
    assert "k and λ stayed" in found.meaning


@pytest.mark.parametrize(("rms", "found"), [(0.00031, True), (0.00029, False)])
def test_a_write_has_to_be_more_than_a_few_steps(rms: float, found: bool) -> None:
    columns = watched(healthy())
    written(columns, UP, at=AT, rms=rms)
    assert bool(findings(columns)) is found


def test_rounding_is_no_write() -> None:
    columns = watched(healthy())
    for now in columns[1:]:
        now["step_rms"] *= 1e-3  # a very small η, and weights that were moved to another dtype and back
    written(columns, *range(0, 24, 2), at=AT, rms=1e-4)
    assert not findings(columns)


def test_few_values_count_if_the_distribution_shows_them() -> None:
    for by, found in ((0.0, False), (0.04, True)):
        columns = watched(healthy())
        written(columns, UP, at=AT, rms=0.0)
        for now in columns[AT:]:
            now["rms"][UP] *= 1.0 + by
        said = [f.meaning for f in findings(columns)]
        assert bool(said) is found
        assert not found or "few of its values changed" in said[0]


@pytest.mark.parametrize("every", [1, 3, 12])
def test_a_habit_of_the_training_is_not_told(every: int) -> None:
    columns = watched(healthy(60))
    for n in range(every, 60, every):
        written(columns, UP, at=n, rms=0.005)
    told = findings(columns)
    assert len(told) == (0 if every < 4 else 1)  # the first time that it is seen, it is one


def test_what_goes_on_is_told_once() -> None:
    columns = watched(healthy(40))
    for n in range(AT, 40):
        written(columns, UP, at=n, rms=0.005)
    assert len(findings(columns)) == 1


def test_the_whole_model_is_an_info() -> None:
    columns = watched(healthy())
    written(columns, *range(len(columns[0]["k"])), at=AT, rms=0.005)
    (found,) = findings(columns)
    assert found.severity == "info"
    assert "So did it to most others" in found.meaning


def test_a_write_to_the_whole_model_is_one_though_it_moved_some_matrices_more() -> None:
    columns = watched(healthy())
    written(columns, *range(len(columns[0]["k"])), at=AT, rms=0.0002)
    written(columns, UP, at=AT, rms=0.005)
    (found,) = findings(columns)
    assert (found.severity, found.count) == ("info", 1)


def test_moments_that_were_written_to() -> None:
    columns = watched(healthy())
    written(columns, UP, at=AT, after=152, state=True)
    for now in columns[AT:]:
        now["step_rms"][UP] *= 12.0
    (found,) = findings(columns)
    assert (found.severity, found.quantity) == ("warning", "RMS of a step")
    assert re.search(r"moments\) after step 152\. A step is 12 times as large", found.meaning)


def frozen(columns: list[Columns]) -> None:
    for now in columns:
        now["step_rms"][UP] = np.nan


def young(columns: list[Columns]) -> None:
    for now in columns[: AT - 2]:
        now["step_rms"][:] = np.nan


@pytest.mark.parametrize("change", [frozen, young])
def test_what_no_step_moves_and_what_was_just_begun_are_not_judged(change: Callable[[list[Columns]], None]) -> None:
    columns = watched(healthy())
    change(columns)
    written(columns, UP, at=AT)
    assert not findings(columns)


def test_one_fault_is_one_alert() -> None:
    columns = watched(healthy())
    for now in columns[AT:]:
        scale_by(now, 0.9, UP)
    written(columns, UP, at=AT, rms=0.002)
    assert [a.finding.rule for a in begun_in(columns) if a.finding.severity != "info"] == ["outside_write"]
    assert [a.finding.rule for a in begun_in(watched(healthy()))] == []


def test_a_stronger_rule_says_when_it_was_written() -> None:
    columns = watched(healthy())
    for now in columns[AT:]:
        scale_by(now, 8.0, UP)
    written(columns, UP, at=AT, rms=0.14, after=158)
    alert = begun_in(columns)[0]
    assert alert.finding.rule == "impossible_change"
    assert "after step 158" in alert.finding.meaning


def test_without_a_watch_nothing_is_found_and_nothing_is_lost() -> None:
    columns = healthy()
    for now in columns[AT:]:
        scale_by(now, 0.9, UP)
    assert [a.finding.rule for a in begun_in(columns) if a.finding.severity != "info"] == ["scale_shift"]


def test_a_long_record_gives_the_same_alerts_at_once() -> None:
    columns = watched(healthy(120))
    written(columns, UP, at=70, rms=0.005)
    written(columns, Q, at=90, state=True)
    samples = samples_of(columns)
    found = [
        (a.step, a.finding.component)
        for a in replay(samples)
        if a.finding.rule == "outside_write" and a.phase != "ends"
    ]
    assert found == [(700, "model.layers.2.ffn_up.weight"), (900, "model.layers.2.attn_q.weight")]
    silenced = replay(samples, AlertSettings.of({"outside_write": False}))
    assert not [a for a in silenced if a.finding.rule == "outside_write"]
    assert component(2, "ffn_up").name == found[0][1]


def test_where_no_write_was_seen_a_jump_is_one_of_the_steps() -> None:
    for watch in (True, False):
        columns = healthy()
        for now in columns[AT:]:
            scale_by(now, 0.9, UP)
        (found,) = [a.finding for a in begun_in(watched(columns) if watch else columns, "scale_shift")]
        assert found.severity == ("info" if watch else "warning")
        assert ("No write to it between two steps was seen" in found.meaning) is watch


def test_a_write_that_changes_nothing_is_no_habit() -> None:
    columns = watched(healthy(40))
    for n in range(5, 40, 5):
        written(columns, *range(len(columns[0]["k"])), at=n, rms=0.0)  # an average that is evaluated
    written(columns, UP, at=33, rms=0.005)
    assert [f.component for f in findings(columns)] == ["model.layers.2.ffn_up.weight"]


def test_rounding_of_all_does_not_hide_what_was_done_to_one() -> None:
    columns = watched(healthy())
    written(columns, *range(len(columns[0]["k"])), at=AT, rms=1e-8)
    written(columns, UP, at=AT, rms=0.03)
    (found,) = findings(columns)
    assert (found.severity, found.count) == ("warning", 1)


def test_the_moments_of_the_whole_model_are_an_info() -> None:
    columns = watched(healthy())
    written(columns, *range(len(columns[0]["k"])), at=AT, state=True)
    (found,) = findings(columns)
    assert found.severity == "info"


@pytest.mark.parametrize(("longer", "severity"), [(2.0, "info"), (5.0, "warning")])
def test_moments_of_the_whole_model_are_a_warning_where_steps_are_longer_than_ever(
    longer: float, severity: str
) -> None:
    columns = watched(healthy())
    written(columns, *range(len(columns[0]["k"])), at=AT, state=True)
    for now in columns[AT:]:
        now["step_rms"] *= longer
    (found,) = findings(columns)
    assert (found.severity, found.quantity) == (severity, "RMS of a step")


def test_moments_are_named_by_a_stronger_rule_too() -> None:
    columns = watched(healthy())
    for now in columns[AT:]:
        scale_by(now, 8.0, UP)
    written(columns, UP, at=AT, after=158, state=True)
    alert = begun_in(columns)[0]
    assert alert.finding.rule == "impossible_change"
    assert "(its moments) after step 158" in alert.finding.meaning
