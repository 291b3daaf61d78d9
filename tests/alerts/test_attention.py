"""What `attention_scale` makes of growth whose cause is in the learning rates, and of growth whose cause is not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from alerts.simulated import KINDS, Columns, healthy, index, window_in
from weibull_monitor.alerts.rules.attention import BEYOND, attention_scale
from weibull_monitor.alerts.rules.result import RuleResult
from weibull_monitor.alerts.settings import AttentionScale

AT = 18
"""The sample after which W_q and W_k of block 2 grow."""
Q, K = index(2, "attn_q"), index(2, "attn_k")
OTHERS = [index(2, kind) for kind in KINDS[2:]]
EVERY = 10


def grow(columns: list[Columns], factor: float = 2.5, others: float = 1.02) -> None:
    """RMS_q and RMS_k grow by ``factor`` in one interval, all others by ``others``: they move nine times as far."""
    for now in columns[AT:]:
        now["rms"] *= others
        now["rms"][[Q, K]] *= factor / others


def rate(columns: list[Columns], times: float, members: list[int], start: int = AT) -> None:
    """Their η is ``times`` what it was, from the step of the sample before ``start`` on."""
    for n, now in enumerate(columns[start:], 1):
        now["eta"][members] *= times
        now["eta_sum"][members] += (times - 1.0) * 1e-3 * EVERY * n


def judged(change: Callable[[list[Columns]], object], settings: AttentionScale | None = None) -> RuleResult:
    columns = healthy(samples=AT + 1)
    change(columns)
    result = attention_scale(window_in(columns), settings or AttentionScale())
    assert result is not None
    return result


def test_growth_with_one_rate_for_all_is_an_info() -> None:
    """So it is where attention of a healthy run begins to work: it moves up to eight times as far as the others."""
    found = judged(grow)
    assert found.strength[Q] == found.strength[K] == 1.0
    assert found.severity[Q] == found.severity[K] == 1
    assert "Their η was not higher than that of the others" in found.meaning(Q)


@pytest.mark.parametrize(
    ("members", "times", "names"),
    [([Q, K], 10.0, "W_q and W_k"), ([K], 5.0, "W_k"), ([Q], 30.0, "W_q")],
)
def test_growth_at_a_higher_rate_is_a_warning_that_names_it(members: list[int], times: float, names: str) -> None:
    def change(columns: list[Columns]) -> None:
        grow(columns)
        rate(columns, times, members)

    found = judged(change)
    assert found.strength[Q] > 1.0
    assert found.severity[Q] == found.severity[K] == 2
    assert f"the η of {names} was {times:.3g} times that of the others" in found.meaning(Q)


def test_with_a_higher_rate_less_is_enough() -> None:
    """Six times as far as the others: with one rate for all that is nothing."""

    def change(columns: list[Columns]) -> None:
        grow(columns, factor=1.75)
        rate(columns, 10.0, [Q, K])

    assert judged(change).strength[Q] > 1.0
    assert judged(lambda columns: grow(columns, factor=1.75)).strength[Q] < 1.0


def test_a_rate_that_was_higher_from_the_start_is_found_as_well() -> None:
    def change(columns: list[Columns]) -> None:
        grow(columns)
        rate(columns, 10.0, [Q, K], start=1)

    assert judged(change).severity[Q] == 2


def test_a_rate_that_rose_for_all_is_found_by_what_it_was_after_the_warm_up() -> None:
    def change(columns: list[Columns]) -> None:
        grow(columns)
        rate(columns, 10.0, list(range(len(columns[0]["k"]))))

    found = judged(change)
    assert found.severity[Q] == 2
    assert "the η of W_q and W_k was 10 times that after the warm-up" in found.meaning(Q)


def test_a_higher_rate_without_growth_raises_nothing() -> None:
    found = judged(lambda columns: rate(columns, 2.0, [Q, K], start=1))
    assert (found.strength < 1.0).all()


def test_a_rate_that_is_a_little_higher_is_not_taken_for_the_cause() -> None:
    def change(columns: list[Columns]) -> None:
        grow(columns)
        rate(columns, 3.0, [Q, K], start=1)

    found = judged(change)
    assert found.severity[Q] == 1
    assert "Their η was 3 times that of the others" in found.meaning(Q)


def forget(columns: list[Columns]) -> None:
    """As with an optimizer that chooses its rate."""
    for now in columns:
        for name in ("eta", "eta_sum"):
            now[name][:] = np.nan


def another_optimizer(columns: list[Columns]) -> None:
    """η of an optimizer that is not known says nothing beside that of AdamW: Muon's is fifty times as high."""
    for now in columns:
        now["update_max"][[Q, K]] = np.nan
    rate(columns, 50.0, [Q, K], start=1)


@pytest.mark.parametrize("unknown", [forget, another_optimizer])
def test_rates_that_cannot_be_compared_count_as_equal(unknown: Callable[[list[Columns]], None]) -> None:
    def change(columns: list[Columns]) -> None:
        grow(columns)
        unknown(columns)

    found = judged(change)
    assert found.severity[Q] == 1
    assert "cannot be compared" in found.meaning(Q)


def test_growth_far_beyond_what_healthy_runs_have_is_a_warning_with_any_rate() -> None:
    found = judged(lambda columns: grow(columns, factor=6.0))
    assert found.strength[Q] >= BEYOND
    assert found.severity[Q] == 2
    assert judged(lambda columns: grow(columns, factor=6.0), AttentionScale(equal=9.0)).severity[Q] == 1


def test_matrices_whose_rate_is_0_are_not_compared_with() -> None:
    """They stand still because they should. Displacements are compared with those of the two that are trained, or with none."""

    def still(columns: list[Columns], members: list[int]) -> None:
        grow(columns, factor=1.5, others=1.1)
        for now in columns[1:]:
            now["rms"][members] = columns[0]["rms"][members]
            now["eta"][members] = now["eta_sum"][members] = 0.0

    assert judged(lambda columns: still(columns, [])).strength[Q] < 1.0
    assert judged(lambda columns: still(columns, OTHERS[:3])).strength[Q] < 1.0
    assert judged(lambda columns: still(columns, OTHERS)).strength[Q] == 0.0
