"""Trainings that write to their weights themselves: projections, clips, noise, averages. And faults beside such habits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from alerts.simulated import Columns, alerts_in, begun_in, healthy, index, scale_by, watched, window_in, written
from weibull_monitor import WeibullMonitor, read_history
from weibull_monitor.alerts import AlertSettings
from weibull_monitor.alerts.rules.maximum import impossible_change

AT = 16
UP = index(2, "ffn_up")


def rules(columns: list[Columns]) -> list[tuple[str, str]]:
    return [(a.finding.rule, a.finding.severity) for a in begun_in(columns)]


def after_each_step(columns: list[Columns], size: float, *members: int) -> list[Columns]:
    """Ten writes of this RMS in each interval, to some matrices or to all."""
    for now in columns[1:]:
        of = list(members) or slice(None)
        now["written"][of], now["written_rms"][of], now["written_after"][of] = 10.0, size * np.sqrt(10.0), 99.0
    return columns


@pytest.mark.parametrize(("size", "expected"), [(0.02, []), (1e-5, [("impossible_change", "error")])])
def test_the_bound_of_the_optimizer_says_nothing_of_what_is_written_after_each_step(
    size: float, expected: list[tuple[str, str]]
) -> None:
    columns = after_each_step(watched(healthy()), size)
    for now in columns[AT:]:
        scale_by(now, 8.0)
    assert [found for found in rules(columns) if found[0] == "impossible_change"] == expected


@pytest.mark.parametrize(("factor", "expected"), [(1.35, []), (1.6, [("impossible_change", "error")])])
def test_writes_explain_the_rms_as_far_as_twice_their_sum(factor: float, expected: list[tuple[str, str]]) -> None:
    """Ten writes of 0.0005: up to 0.01, beside an RMS of 0.024; the optimizer's bound is 0.0073."""
    columns = after_each_step(watched(healthy(eta=1e-4)), 5e-4)
    for now in columns[AT:]:
        scale_by(now, factor, UP, largest=False)
    assert [found for found in rules(columns) if found[0] == "impossible_change"] == expected


@pytest.mark.parametrize(("factor", "expected"), [(1.2, []), (2.0, [("impossible_change", "error")])])
def test_writes_explain_the_largest_value_as_far_as_16_times_their_size(
    factor: float, expected: list[tuple[str, str]]
) -> None:
    """Ten writes of 0.0005: up to 0.025, beside a largest value of 0.105; the optimizer's bound is 0.0073."""
    columns = after_each_step(watched(healthy(eta=1e-4)), 5e-4)
    for now in columns[AT:]:
        now["largest"][UP] *= factor
    assert [found for found in rules(columns) if found[0] == "impossible_change"] == expected


def test_two_writes_of_a_size_before_are_a_habit_and_one_is_not() -> None:
    """Such as an average that is put in now and then: seldom, but as large each time."""

    def strength(writes: tuple[int, ...]) -> float:
        columns = watched(healthy())
        for n, at in enumerate(writes):
            written(columns, UP, at=at, rms=0.2)
            for now in columns[at:]:
                scale_by(now, 10.0 if n % 2 == 0 else 0.1, UP)
        result = impossible_change(window_in(columns[: writes[-1] + 1]), AlertSettings().impossible_change)
        assert result is not None
        return float(result.strength[UP])

    assert strength((4, 8, 12)) == 0.0
    assert strength((8, 12)) >= 1.0


def test_a_write_that_is_larger_than_the_habit_is_no_habit() -> None:
    columns = after_each_step(watched(healthy()), 0.002)
    columns[AT]["written_rms"][UP] = 0.14
    for now in columns[AT:]:
        scale_by(now, 8.0, UP)
    assert ("impossible_change", "error") in rules(columns)


@pytest.mark.parametrize(
    ("times", "after", "severity"),
    [(10.0, 1.0, None), (1.0, 1.0, "warning"), (10.0, 5.0, None), (1.0, 5.0, "warning")],
)
def test_many_clips_at_once_are_a_habit_and_one_is_not(times: float, after: float, severity: str | None) -> None:
    """Writes after half of the steps are a habit at once."""
    columns = watched(healthy())
    for now in columns[1:]:
        scale_by(now, 0.2)
    written(columns, *range(len(columns[0]["k"])), at=1, rms=0.014, after=after)
    columns[1]["written"][:] = times
    found = [severity for rule, severity in rules(columns) if rule == "impossible_change"]
    assert found[:1] == ([severity] if severity else [])


def test_an_average_of_earlier_weights_is_an_info() -> None:
    columns = watched(healthy())
    for n, now in enumerate(columns):
        scale_by(now, 1.0 + 0.09 * n if n < AT else 1.0 + 0.09 * (AT - 8))
    written(columns, *range(len(columns[0]["k"])), at=AT, rms=0.014, after=157)
    found = [severity for rule, severity in rules(columns) if rule == "impossible_change"]
    assert set(found) == {"info"}


@pytest.mark.parametrize("harmless", [1e-5, 0.0])
def test_a_fault_beside_a_harmless_write_to_all_is_no_average(harmless: float) -> None:
    columns = watched(healthy())
    for n, now in enumerate(columns):
        scale_by(now, 1.0 + 0.03 * n)
    for now in columns[AT:]:
        scale_by(now, 0.85, UP)
    written(columns, *range(len(columns[0]["k"])), at=AT, rms=harmless)
    columns[AT]["written_rms"][UP] = 0.005
    assert [severity for rule, severity in rules(columns) if severity != "info"]


def test_writes_as_large_as_in_two_intervals_before_are_a_habit() -> None:
    columns = watched(healthy())
    for n, at in enumerate((6, 10, 14)):
        written(columns, *range(len(columns[0]["k"])), at=at, rms=0.2)
        for now in columns[at:]:
            scale_by(now, 10.0 if n % 2 == 0 else 0.1)
    found = [a.step for a in begun_in(columns, "impossible_change") if a.finding.severity == "error"]
    assert 140 not in found


@pytest.mark.parametrize(("again", "expected"), [(True, []), (False, [("outside_write", "warning")])])
def test_what_seemed_to_begin_a_habit_and_was_not_repeated_is_a_warning(
    again: bool, expected: list[tuple[str, str]]
) -> None:
    columns = watched(healthy())
    for now in columns[2:]:
        scale_by(now, 1.2, UP)
    for at in (1, *([2, 3] if again else [])):
        columns[at]["written"][UP], columns[at]["written_rms"][UP], columns[at]["written_after"][UP] = 10.0, 0.02, 2.0
    assert [found for found in rules(columns) if found[0] == "outside_write"] == expected


def test_a_write_to_the_rest_of_the_model_is_one_beside_a_habit_of_some() -> None:
    columns = after_each_step(watched(healthy()), 0.001, *range(7))
    written(columns, *range(7, 28), at=AT, rms=0.02)
    (found,) = [a.finding for a in begun_in(columns, "outside_write")]
    assert (found.severity, found.count) == ("info", 21)


@pytest.mark.parametrize("habit", [1e-3, 1e-5, 0.0])
def test_what_was_done_to_one_matrix_shows_beside_what_is_done_to_all_at_each_step(habit: float) -> None:
    columns = after_each_step(watched(healthy()), habit)
    columns[AT]["written_rms"][UP] = 0.02
    (found,) = [a.finding for a in begun_in(columns, "outside_write")]
    assert (found.severity, found.component) == ("warning", "model.layers.2.ffn_up.weight")


@pytest.mark.parametrize(("of_steps", "found"), [(1.0, False), (0.001, True)])
def test_a_matrix_whose_steps_go_on_does_not_stall(of_steps: float, found: bool) -> None:
    columns = watched(healthy(40))
    for n, now in enumerate(columns[30:], 1):
        now["step_rms"][UP] *= of_steps
        for name in ("k", "lambda", "rms"):
            now[name][UP] = columns[29][name][UP] * (1 + 1e-8 * n)
    assert bool(begun_in(columns, "scale_stall")) is found


def test_a_stall_ends() -> None:
    columns = healthy(60)
    for n, now in enumerate(columns[30:40], 1):
        for name in ("k", "lambda", "rms"):
            now[name][UP] = columns[29][name][UP] * (1 + 1e-8 * n)
    assert [a.phase for a in alerts_in(columns, "scale_stall")] == ["begins", "ends"]


def clip(model: nn.Module) -> None:
    for p in model.parameters():
        p.data.clamp_(-0.01, 0.01)


def normalise(model: nn.Module) -> None:
    for p in model.parameters():
        if p.ndim == 2:
            p.copy_(nn.functional.normalize(p, dim=-1))


@pytest.mark.parametrize("every", [1, 10])
@pytest.mark.parametrize("habit", [clip, normalise])
def test_trainings_that_clip_or_normalise_raise_no_alarm(
    habit: Callable[[nn.Module], None], every: int, tmp_path: Path
) -> None:
    """The critic of a Wasserstein GAN (arXiv:1701.07875, algorithm 1), and the rows of nGPT (arXiv:2410.01131)."""
    torch.manual_seed(0)
    model = nn.Sequential(*(m for _ in range(4) for m in (nn.Linear(48, 48), nn.LeakyReLU())))
    optimizer = torch.optim.RMSprop(model.parameters(), lr=5e-5)
    with WeibullMonitor(model, optimizer, output_dir=tmp_path, every_n_steps=every, example_inputs=False) as monitor:
        for step in range(60):
            model(torch.randn(16, 48)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            monitor.step()
            with torch.no_grad():
                habit(model)
                if step == 40:
                    model[2].weight[3, 5] = 40.0
    assert any(a.finding.severity == "info" and a.step == 2 for a in read_history(tmp_path).alerts)
    alarms = [a.finding for a in read_history(tmp_path).alerts if a.finding.severity != "info" and a.phase != "ends"]
    assert {(f.rule, f.component, f.step) for f in alarms} == (
        {("impossible_change", "2.weight", 42 if every == 1 else 50)} if habit is normalise or every == 1 else set()
    )
