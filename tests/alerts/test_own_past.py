"""What a matrix has done before, what training has added to it, and how fast it moves for its η."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from alerts.simulated import KINDS, Columns, alerts_in, alerts_of, components, healthy, index, window_in
from weibull_monitor.alerts import AlertSettings
from weibull_monitor.alerts.window import JUMP
from weibull_monitor.history.alert import Alert

AT = 15
V, UP, Q = index(2, "attn_v"), index(2, "ffn_up"), index(2, "attn_q")
BODY = 4 * len(KINDS)


def scaled(columns: list[Columns], members: int | slice, log_factor: float, start: int) -> None:
    for now in columns[start:]:
        for name in ("lambda", "rms"):
            now[name][members] *= np.exp(log_factor)


def grown_and_given_back(columns: list[Columns], back: float) -> None:
    """One matrix grows by 0.12 in each of the first four intervals, and later gives a part of that back."""
    for n in range(1, 5):
        scaled(columns, V, 0.12, n)
    scaled(columns, V, -back, AT)


def begun(break_it: Callable[[list[Columns]], object], rule: str = "scale_shift") -> list[tuple[int, str]]:
    """Step and worst component of the warnings of a rule, at a rate for which no such change is impossible."""
    found = [a for a in alerts_of(break_it, eta=3e-3) if a.phase == "begins"]
    return [(a.step, a.finding.component.split(".", 2)[2]) for a in found if a.finding.rule == rule]


def test_what_training_has_added_it_may_take_away_as_fast() -> None:
    assert begun(lambda c: grown_and_given_back(c, 0.14)) == []


def test_a_fall_that_takes_away_most_of_it_at_once_is_found() -> None:
    assert begun(lambda c: grown_and_given_back(c, 0.5)) == [(10 * AT, "2.attn_v.weight")]


def test_a_fall_below_the_start_needs_no_size_that_was_never_seen() -> None:
    """A matrix that has hardly grown, and falls by a quarter."""
    assert begun(lambda c: scaled(c, V, -0.3, AT)) == [(10 * AT, "2.attn_v.weight")]


def with_embedding(break_it: Callable[[list[Columns]], object]) -> list[Alert]:
    """Warnings of a run in which the last matrix is an embedding."""
    columns = healthy()
    break_it(columns)
    chosen = (*components()[:-1], replace(components()[-1], kind="embedding", block=None))
    return [alert for alert in alerts_in(columns, of=chosen) if alert.finding.severity != "info"]


def test_a_model_that_outruns_its_own_past_is_found() -> None:
    """As after the second moment was lost: all matrices grow at once, faster for their η than they ever did."""
    found = with_embedding(lambda c: scaled(c, slice(None), 0.12, AT))
    assert {a.finding.rule for a in found} == {"scale_shift"}
    assert found[0].finding.count > BODY // 2


def test_blocks_that_outrun_their_past_begin_to_learn() -> None:
    """The embedding goes on as before, so it is not the optimizer. That they are quiet again is for another rule."""
    found = with_embedding(lambda c: scaled(c, slice(0, BODY - 1), 0.12, AT))
    assert {a.finding.rule for a in found} == {"all_jumped"}


@pytest.mark.parametrize(
    ("blocks", "embedding", "found"), [(0.015, 0.07, True), (0.01, 0.01, False), (-0.02, 0.07, False)]
)
def test_a_model_whose_parts_both_outrun_their_past_is_found_on_average(
    blocks: float, embedding: float, found: bool
) -> None:
    """Blocks that are 1.2 times as fast as ever and an embedding that is 1.65 times as fast, while all grow by 6 % a sample."""

    def faster(columns: list[Columns]) -> None:
        for n in range(1, len(columns)):
            scaled(columns, slice(None), 0.05, n)
        scaled(columns, slice(0, BODY - 1), blocks, AT)
        scaled(columns, slice(BODY - 1, BODY), embedding, AT)

    assert bool(with_embedding(faster)) is found


@pytest.mark.parametrize("bound", [1.0, np.nan])
def test_steps_of_one_size_outrun_nothing(bound: float) -> None:
    """Steps that are signs are as fast as their directions agree; those without a bound have no usual size."""

    def lost(columns: list[Columns]) -> None:
        scaled(columns, slice(None), 0.12, AT)
        for now in columns:
            now["update_max"][:] = bound

    assert not [a for a in with_embedding(lost) if a.finding.rule == "scale_shift"]


def test_a_query_that_outruns_its_past_and_the_others_is_found() -> None:
    assert begun(lambda c: scaled(c, Q, 0.35, AT)) == [(10 * AT, "2.attn_q.weight")]


def test_a_rise_with_a_negative_weight_decay_is_no_chance() -> None:
    def wrong_sign(columns: list[Columns], sign: float) -> None:
        for n in range(AT, len(columns)):
            scaled(columns, slice(None), 0.1, n)
            columns[n]["weight_decay"][:] = sign

    found = alerts_of(lambda c: wrong_sign(c, -3.0))
    assert found[0].finding.rule == "setting_jump"
    assert found[0].step == 10 * AT
    found = alerts_of(lambda c: wrong_sign(c, -3.0), AlertSettings.of({"setting_jump": False}))
    assert found[0].finding.rule == "scale_shift"
    assert found[0].step <= 10 * (AT + 1)


def test_a_short_burst_of_the_rate_between_two_samples_is_a_jump() -> None:
    """Every sample sees the same η; the sum over one interval says that it was higher in between."""
    columns = healthy()
    for now in columns[AT:]:
        now["eta_sum"] += 0.01 * (JUMP - 1.0) * 1.1
    assert window_in(columns[: AT + 1]).jumped.all()
    assert not window_in(columns[:AT]).jumped.any()


def test_the_furthest_movement_is_of_all_samples_kept() -> None:
    """It grows with the root of the work where the last interval is longer, and leaves out the latest movement."""
    columns = healthy()
    scaled(columns, UP, 0.2, 6)
    ratios = np.diff(np.log([now["lambda"][UP] for now in columns[: AT + 1]]))
    expected = float(np.abs(ratios[:-1]).max())
    assert window_in(columns[: AT + 1]).furthest("log lambda")[UP] == pytest.approx(expected, rel=1e-6)
    for now in columns[AT:]:
        now["eta_sum"] += 0.03  # four times as much, of which twice counts as work
    longer = window_in(columns[: AT + 1]).furthest("log lambda")[UP]
    assert longer == pytest.approx(2**0.5 * expected, rel=1e-6)


def test_k_above_a_uniform_distribution_is_an_info() -> None:
    """Attention that takes one direction before it begins to learn has it."""
    columns = healthy()
    for n, now in enumerate(columns):
        for block in range(4):
            now["k"][index(block, "attn_k")] += 0.03 * n
    found = alerts_in(columns, "selection_range")
    assert found
    assert {a.finding.severity for a in found} == {"info"}


@pytest.mark.parametrize(("i", "rule"), [(V, "body_break"), (Q, "selection_shift")])
@pytest.mark.parametrize(("before", "found"), [(0.0, True), (-0.3, False)])
def test_a_change_of_k_is_sure_only_if_it_is_larger_than_ever(i: int, rule: str, before: float, found: bool) -> None:
    """A matrix whose k was lower by more for one sample may well change again."""

    def moved(columns: list[Columns]) -> None:
        for n, now in enumerate(columns):
            now["k"][i] += before * (n == AT - 5) + 0.25 * (n >= AT)

    alerts = [a for a in alerts_of(moved, eta=3e-3) if a.finding.rule == rule and a.step == 10 * AT]
    assert any(a.finding.severity == "warning" for a in alerts) == found
