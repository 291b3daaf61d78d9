"""One or a few matrices that something wrote to, where one rule alone would not be sure: what each is compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from alerts.simulated import ATTENTION, KINDS, Columns, component, components, healthy, index, window_in, window_of
from alerts.test_alone import AT, DOWN, FAR_APART, UP, K, Q, V, far_apart, scaled, warnings_of, young
from weibull_monitor.alerts import replay
from weibull_monitor.alerts.rules.alone import fall_alone, moved_together
from weibull_monitor.history.alert import Alert
from weibull_monitor.model.components import Component

OTHERS = [index(block, kind) for block in (0, 2, 3) for kind in ("attn_v", "ffn_up")]


def warnings_with(chosen: tuple[Component, ...], break_it: Callable[[list[Columns]], object]) -> list[Alert]:
    """Warnings of a young run of these components, each with the columns of the simulated one of that index."""
    columns = young()
    break_it(columns)
    kept = [
        replace(s, components=chosen, columns={name: values[: len(chosen)] for name, values in s.columns.items()})
        for s in far_apart(columns)
    ]
    return [a for a in replay(kept, None, [ATTENTION]) if a.phase == "begins" and a.finding.severity != "info"]


@pytest.mark.parametrize("matrix", [V, UP, DOWN, Q])
def test_a_fall_that_no_other_matrix_makes(matrix: int) -> None:
    """× 0.7 between samples far apart, while the matrix grows: less than twice what it has grown by in an interval."""
    found = warnings_of(lambda c: scaled(c, [matrix], 0.7))
    assert [(a.step, a.finding.rule) for a in found] == [(200, "scale_shift")]
    assert found[0].finding.component == components()[matrix].name
    assert "No other matrix shrank nearly as much." in found[0].finding.meaning


def test_a_fall_that_others_make_too_is_training() -> None:
    def several(columns: list[Columns]) -> None:
        scaled(columns, [V], 0.85)
        scaled(columns, OTHERS, 0.88)

    window = window_of(far_apart(broken(several))[: AT + 1])
    assert fall_alone(window, np.full(len(components()), 1e-3), np.zeros(1))[[V, *OTHERS]].max() < 1.0


def test_where_all_grow_a_fall_has_to_be_as_large_as_that() -> None:
    """A matrix that falls by 6 % while the others grow by a tenth is not alone with the size of its movement."""
    assert warnings_of(lambda c: scaled(c, [V], 0.9)) == []


def broken(break_it: Callable[[list[Columns]], object]) -> list[Columns]:
    columns = young()
    break_it(columns)
    return columns


def mixed(columns: list[Columns], members: list[int], by_k: float, factor: float) -> None:
    """Values of another size come into matrices, k and the scale change; k of all goes up and down by 0.02."""
    chance = np.random.default_rng(1)
    for now in columns:
        now["k"] = now["k"] + chance.choice([-0.01, 0.01], len(now["k"]))
    scaled(columns, members, factor)
    for now in columns[AT:]:
        now["k"][members] = columns[AT - 1]["k"][members] + by_k


@pytest.mark.parametrize(("matrix", "rule"), [(V, "body_break"), (K, "selection_shift")])
def test_k_and_the_scale_that_move_together_and_alone(matrix: int, rule: str) -> None:
    """Neither is enough for itself; both in one matrix are."""
    by_k, factor = -0.075, 0.65
    found = warnings_of(lambda c: mixed(c, [matrix], by_k, factor))
    assert rule in {a.finding.rule for a in found}
    told = next(a for a in found if a.finding.rule == rule).finding
    assert told.component == components()[matrix].name
    assert "too, and no other matrix changed like this" in told.meaning
    assert rule not in {a.finding.rule for a in warnings_of(lambda c: mixed(c, [matrix], by_k, 1.0))}


def test_k_and_the_scale_of_several_matrices_may_move_together() -> None:
    window = window_of(far_apart(broken(lambda c: mixed(c, [V, *OTHERS], -0.075, 0.65)))[: AT + 1])
    assert moved_together(window)[[V, *OTHERS]].max() < 1.0


def fused(block: int, kind: str) -> Component:
    """Q, k and v of a block are parts of one stored matrix."""
    parameter = f"model.layers.{block}.attn_qkv.weight"
    return component(block, kind, name=f"{parameter}[{kind[-1]}]", parameter=parameter)


def test_parts_of_one_stored_matrix_are_no_others_to_each_other() -> None:
    """A fused matrix × 1.5: v is compared with the matrices that are stored apart from it."""
    chosen = tuple(fused(c.block or 0, c.kind) if c.kind in ("attn_q", "attn_k", "attn_v") else c for c in components())
    struck = [index(1, kind) for kind in ("attn_q", "attn_k", "attn_v")]
    found = warnings_with(chosen, lambda c: scaled(c, struck, 1.5))
    assert [(a.step, a.finding.component) for a in found] == [(200, chosen[V].name)]


def test_a_matrix_is_compared_with_queries_and_keys_where_there_are_few_others() -> None:
    """Five of the matrices make neither queries nor keys."""
    kinds = [*KINDS[2:], "attn_q", "attn_k"]
    chosen = tuple(component(n // 7, kinds[n] if n < 7 else ("attn_q", "attn_k")[n % 2]) for n in range(9))
    found = warnings_with(chosen, lambda c: scaled(c, [1], 2.5))
    assert [(a.step, a.finding.component) for a in found] == [(200, chosen[1].name)]


def expert(number: int) -> Component:
    """Experts stored in one parameter."""
    name = "model.layers.1.experts.down_proj"
    return component(1, "ffn_down", name=f"{name}[expert {number}]", parameter=name, expert=number)


@pytest.mark.parametrize("factor", [1.6, 0.6])
def test_an_expert_is_compared_with_the_other_experts(factor: float) -> None:
    """One of eight, beside blocks in which attention wakes."""
    chosen = (*components()[:-8], *(expert(n) for n in range(8)))
    struck = len(chosen) - 3

    def breaks(columns: list[Columns]) -> None:
        scaled(columns, [index(block, "attn_q") for block in (0, 1)], 2.5)
        scaled(columns, [struck], factor)

    found = warnings_with(chosen, breaks)
    assert [(a.step, a.finding.component) for a in found] == [(200, chosen[struck].name)]
    assert "No other expert" in found[0].finding.meaning


def test_experts_that_wake_together_are_no_fault() -> None:
    chosen = (*components()[:-8], *(expert(n) for n in range(8)))
    struck = len(chosen) - 3
    assert warnings_with(chosen, lambda c: scaled(c, [struck, struck + 1], 1.6)) == []


def test_the_first_steps_do_not_say_how_far_a_matrix_moves() -> None:
    """RMSprop's are ten times as large as all later ones; brought to a long interval, nothing would ever be unusual."""
    columns = young()
    for now in columns[1:]:
        for name in ("lambda", "rms"):
            now[name] *= 1.1
    window = window_of(far_apart(columns)[: AT + 1])
    moved = np.abs(np.diff(np.log([now["rms"] for now in columns[:AT]]), axis=0))  # (intervals, components)
    assert (moved[0] > 0.09).all()
    lengths = np.diff(FAR_APART)[: AT - 1, None]
    later = (moved * np.sqrt(100 / lengths))[4:].max(axis=0)
    assert window.furthest("log rms") == pytest.approx(later, rel=1e-3)
    few = window_of(far_apart(columns)[: FAR_APART.index(32) + 1])  # two intervals after them: the first ones count
    assert (few.furthest("log rms") > 0.09).all()


def test_a_rise_far_beyond_all_others_needs_to_be_no_larger_than_ever() -> None:
    """It grew by as much before, but now the others hardly move."""

    def outliers(columns: list[Columns], factor: float) -> None:
        for now in columns[FAR_APART.index(64) :]:
            now["rms"][[V, *OTHERS]] *= 1.25
        last = columns[AT - 1]
        for now in columns[AT:]:
            for name in ("lambda", "rms"):
                now[name][:] = 1.02 * last[name]
            now["rms"][V] *= factor

    assert [a.finding.component for a in warnings_of(lambda c: outliers(c, 1.7))] == [components()[V].name]
    assert warnings_of(lambda c: outliers(c, 1.25)) == []


@pytest.mark.parametrize(("rms", "found"), [(1.0, False), (0.95, True)])
def test_a_scale_that_moves_only_with_k_is_one_movement(rms: float, found: bool) -> None:
    """λ is the RMS over √Γ(1 + 2/k), so it falls with k where the RMS stays."""
    matrix, columns = index(2, "attn_v"), healthy()
    for now in columns[-1:]:
        now["k"][matrix] -= 0.04
        now["rms"][matrix] *= rms
        now["lambda"][matrix] *= 0.978 * rms
    assert bool(moved_together(window_in(columns))[matrix] >= 1.0) is found
