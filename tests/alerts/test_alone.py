"""A movement that one matrix makes alone, between samples far apart, when the others move, too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from alerts.simulated import ATTENTION, KINDS, Columns, Sample, components, healthy, index, samples_of, window_of
from weibull_monitor.alerts import AlertSettings, replay
from weibull_monitor.alerts.rules.alone import largest_other
from weibull_monitor.alerts.rules.movement import usual_movement
from weibull_monitor.history.alert import Alert

FAR_APART = (0, 1, 2, 4, 8, 16, 32, 64, 100, 200, 300)
"""Steps of the samples of a run that is sampled every 100."""
AT = FAR_APART.index(200)
Q, K, V, UP, DOWN = (index(1, kind) for kind in ("attn_q", "attn_k", "attn_v", "ffn_up", "ffn_down"))
Q_OF_OTHERS = [index(block, "attn_q") for block in (0, 2)]


def young(seed: int = 0, eta: float = 2e-3) -> list[Columns]:
    """A run that begins to learn, sampled every 100: matrices grow at different speeds, W_q and W_k faster than the rest."""
    columns = healthy(len(FAR_APART), eta=eta)
    chance = np.random.default_rng(seed)
    size = len(columns[0]["k"])
    pace = chance.uniform(2e-4, 8e-4, size)  # growth of ln λ in one step
    pace[[i for i in range(size) if KINDS[i % len(KINDS)] in ("attn_q", "attn_k")]] *= 2.5
    start = columns[0]["lambda"].copy()
    for step, now in zip(FAR_APART, columns, strict=True):
        now["lambda"] = start * np.exp(pace * step)
        now["rms"] = now["lambda"] / 0.887
        now["eta_sum"] = (eta * step if step else np.nan) * np.ones(size)
    return columns


def far_apart(columns: list[Columns]) -> list[Sample]:
    return [replace(sample, step=step) for sample, step in zip(samples_of(columns), FAR_APART, strict=True)]


def warnings_of(break_it: Callable[[list[Columns]], object], settings: AlertSettings | None = None) -> list[Alert]:
    columns = young()
    break_it(columns)
    found = replay(far_apart(columns), settings, [ATTENTION])
    return [a for a in found if a.phase == "begins" and a.finding.severity != "info"]


def scaled(
    columns: list[Columns], members: list[int], factor: float, names: tuple[str, ...] = ("lambda", "rms")
) -> None:
    for now in columns[AT:]:
        for name in names:
            now[name][members] *= factor


def test_a_young_run_that_learns_has_no_warning() -> None:
    assert warnings_of(lambda c: None) == []


@pytest.mark.parametrize("matrix", [V, UP, DOWN])
def test_a_matrix_times_one_and_a_half_is_found_though_queries_and_keys_grow_as_much(matrix: int) -> None:
    """The others of its class do not, and it never grew so much in such a time."""
    found = warnings_of(lambda c: scaled(c, [matrix], 1.5))
    assert [(a.step, a.finding.rule) for a in found] == [(200, "scale_shift")]
    assert found[0].finding.component == components()[matrix].name


def test_a_query_is_compared_with_all_matrices() -> None:
    assert [a.step for a in warnings_of(lambda c: scaled(c, [Q], 2.2))] == [200]


def test_attention_that_wakes_in_several_blocks_is_no_fault() -> None:
    """One W_q goes furthest, as in every healthy run, but not alone."""

    def wakes(columns: list[Columns]) -> None:
        scaled(columns, [Q], 2.2)
        scaled(columns, Q_OF_OTHERS, 1.8)

    assert warnings_of(wakes) == []


def test_the_rms_alone_tells_of_outliers() -> None:
    """A few large values leave λ of the fit where it was; the alert speaks of the RMS then."""
    found = warnings_of(lambda c: scaled(c, [V], 1.6, ("rms",)))
    assert [a.finding.rule for a in found] == ["scale_shift"]
    assert "RMS went from" in found[0].finding.meaning
    assert "λ went from" not in found[0].finding.meaning
    assert "No other matrix, except perhaps W_q and W_k, grew nearly as much" in found[0].finding.meaning


def test_what_a_matrix_has_done_before_is_no_news() -> None:
    """It grew by as much in an earlier interval, so `own` is not reached."""

    def twice(columns: list[Columns]) -> None:
        scaled(columns, [V], 1.5)
        for now in columns[FAR_APART.index(100) :]:
            for name in ("lambda", "rms"):
                now[name][V] *= 1.5

    assert 200 not in [a.step for a in warnings_of(twice)]


def test_how_far_and_how_alone_are_settings() -> None:
    def broken(columns: list[Columns]) -> None:
        scaled(columns, [V], 1.5)

    for name, value in (("alone", 50.0), ("own", 50.0)):
        assert warnings_of(broken, AlertSettings.of({"scale_shift": {name: value}})) == []


def test_a_fall_of_k_that_one_matrix_makes_alone() -> None:
    """W_q of all blocks move by 0.02 in an interval; that of one falls by 0.12, less than thrice its largest past movement."""

    def breaks(columns: list[Columns]) -> None:
        error = columns[0]["k_se"][Q]
        columns[AT - 1]["k"][Q] = columns[AT - 2]["k"][Q] + 2.5 * error  # what it did before
        for now in columns[AT:]:
            now["k"][Q] = columns[AT - 1]["k"][Q] - 8.0 * error

    found = warnings_of(breaks)
    assert [(a.step, a.finding.rule) for a in found] == [(200, "selection_shift")]


def test_the_largest_of_the_others() -> None:
    sizes = np.array([[1.0, 5.0, 2.0, 0.0, 3.0, 4.0], [7.0, 7.0, 1.0, np.nan, 0.0, 2.0]])
    found = largest_other(sizes, np.ones(6, dtype=bool), np.arange(6))
    assert found.tolist() == [[5, 4, 5, 5, 5, 5], [7, 7, 7, 7, 7, 7]]
    assert np.isnan(
        largest_other(sizes[:, :5], np.ones(5, dtype=bool), np.arange(5))
    ).all()  # too few to say how matrices move


def test_the_past_holds_the_largest_movement_of_the_rms() -> None:
    columns = young()
    moved = np.log(columns[AT]["rms"][UP] / columns[AT - 1]["rms"][UP])
    window = window_of(far_apart(columns)[: AT + 2])
    assert window.furthest("log rms")[UP] == pytest.approx(moved, rel=1e-5)


def test_a_matrix_whose_own_rate_jumps_is_found_as_well() -> None:
    """η of its group is 15 times that of the others from then on."""

    def jumps(columns: list[Columns]) -> None:
        scaled(columns, [V], 1.6)
        for before, now in zip(columns[AT - 1 :], columns[AT:], strict=False):
            now["eta"][V] *= 15
            now["eta_sum"][V] = before["eta_sum"][V] + 15 * 2e-3 * 100

    found = warnings_of(jumps)
    assert [a.finding.component for a in found if a.step == 200] == [components()[V].name]


def test_recent_movements_of_longer_intervals_are_brought_to_the_length_of_the_last_one() -> None:
    """Samples that are denser for a while are compared with what such a time usually brings."""
    columns = young()
    columns[AT + 1]["eta_sum"][:] = 2e-3 * 210
    *before, last = far_apart(columns)
    dense = [*before, replace(last, step=210)]
    move = usual_movement(window_of(dense), "log lambda", 8)
    assert (move.recent < np.sqrt(np.mean(move.moves**2, axis=0)))[[V, UP]].all()
    assert move.recent[UP] == pytest.approx(np.sqrt(np.mean(np.minimum(move.moves, move.past) ** 2, axis=0))[UP])
