"""What happens to a whole model: a jump of most matrices in one interval, and quiet after it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from alerts.simulated import KINDS, Columns, alerts_of, components, scale_by
from weibull_monitor.alerts.common_movement import OF_ALL, common_movement
from weibull_monitor.alerts.component_arrays import ComponentArrays

AT = 12
"""The first sample after the fault."""


def jumped(columns: list[Columns], share: float = 1.0, at: int = AT, by: float = 0.02) -> None:
    """k of the first matrices, by four times the error of its fit: too little for the rules about one matrix."""
    for now in columns[at:]:
        of = np.arange(len(now["k"])) < share * len(now["k"])
        now["k"] = now["k"] - by * of


def rules_of(break_it: Callable[[list[Columns]], object]) -> list[tuple[str, int]]:
    return [(a.finding.rule, a.step // 10) for a in alerts_of(break_it) if a.phase != "ends"]


def test_a_jump_of_all_is_found_at_the_second_sample_after_it() -> None:
    """The first one alone does not tell it from training that goes faster."""
    found = [a for a in alerts_of(jumped) if a.phase != "ends"]
    assert [(a.finding.rule, a.step // 10) for a in found] == [("all_jumped", AT + 1)]
    assert found[0].finding.count > 20
    assert "100 % of the matrices" in found[0].text
    assert f"before step {10 * AT}" in found[0].text


def test_a_jump_of_fewer_than_half_is_none_of_all() -> None:
    assert rules_of(lambda columns: jumped(columns, share=0.4)) == []


def test_movement_that_goes_on_as_fast_is_training() -> None:
    def faster(columns: list[Columns]) -> None:
        for n, _ in enumerate(columns[AT:]):
            jumped(columns, at=AT + n, by=0.01)

    assert "all_jumped" not in dict(rules_of(faster))


def test_growth_that_as_many_steps_in_random_directions_make_is_training() -> None:
    """Σ η of an interval is 0.01 and the RMS 0.02: ten steps that do not cancel make RMS² grow by 1e-5, so ln RMS by 0.0124."""

    def grown(columns: list[Columns]) -> None:
        for n, now in enumerate(columns):
            factor = np.exp(-0.009 * n) * (np.exp(0.0124) if n >= AT else 1.0)  # about still otherwise
            now["lambda"], now["rms"] = factor * now["lambda"], factor * now["rms"]

    assert "all_jumped" not in dict(rules_of(grown))


def test_matrices_that_were_frozen_until_then_do_not_jump() -> None:
    def unfrozen(columns: list[Columns]) -> None:
        still = np.arange(len(columns[0]["k"])) >= 8
        for n, now in enumerate(columns):
            for name in ("k", "lambda", "rms", "r2", "largest"):
                now[name] = np.where(still & (n < AT), columns[0][name], now[name])
            now["eta_sum"] = np.where(still, now["eta_sum"] - 0.01 * min(n, AT - 1), now["eta_sum"])
            if n < AT:
                now["eta"] = np.where(still, 0.0, now["eta"])
        jumped(columns)

    assert "all_jumped" not in dict(rules_of(unfrozen))


def test_what_another_rule_has_named_already_is_not_named_again() -> None:
    def scaled(columns: list[Columns]) -> None:
        for now in columns[AT:]:
            scale_by(now, 8.0)

    found = dict(rules_of(scaled))
    assert found["impossible_change"] == AT
    assert "all_jumped" not in found


def test_the_medians_are_those_of_numpy() -> None:
    parts = ComponentArrays.of(components())
    chance = np.random.default_rng(0)
    for stepped in (np.ones(28, dtype=bool), np.arange(28) < 9, np.arange(28) < 5):
        moved, work = chance.random((4, 28)), chance.random(28)
        found = common_movement(parts, stepped, moved, work)
        assert found.shape == (OF_ALL,)
        if stepped.sum() < 6:
            assert np.isnan(found).all()
        else:
            expected = [*np.median(moved[:, stepped], axis=1), np.median(work[stepped]), stepped.sum()]
            assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_healthy_runs_of_any_cadence_have_no_jump(seed: int) -> None:
    assert alerts_of(seed=seed, every=100, samples=40) == []


def apart(columns: list[Columns]) -> None:
    """Each block has its own scale, k and largest value, further apart than a matrix moves between two samples."""
    block = np.arange(len(columns[0]["k"])) // len(KINDS)
    for now in columns:
        now["lambda"], now["rms"] = (now[name] * 1.04**block for name in ("lambda", "rms"))
        now["k"], now["largest"] = now["k"] - 0.02 * block, now["largest"] * 1.2**block


def one_too_early(columns: list[Columns]) -> None:
    apart(columns)
    for now in columns[AT:]:
        for name in ("lambda", "rms", "k", "largest", "r2"):
            now[name][: -len(KINDS)] = now[name][len(KINDS) :].copy()


def test_blocks_that_are_one_too_early_are_found_at_the_first_sample() -> None:
    found = [a for a in alerts_of(one_too_early) if a.finding.rule == "misplaced" and a.phase != "ends"]
    assert [a.step for a in found] == [10 * AT]
    assert found[0].finding.count == 21
    assert "model.layers.1.attn_q.weight had at step 110" in found[0].text
    assert "blocks are one too early" in found[0].text


def test_blocks_that_follow_each_other_are_not_misplaced() -> None:
    """Each block comes to where the next one was, but so does the last one: all go the same way."""

    def trail(columns: list[Columns]) -> None:
        apart(columns)
        for now in columns[AT:]:
            now["lambda"], now["rms"] = 1.04 * now["lambda"], 1.04 * now["rms"]
            now["k"], now["largest"] = now["k"] - 0.02, 1.2 * now["largest"]

    assert "misplaced" not in dict(rules_of(trail))


def test_two_layers_that_change_places_are_too_few() -> None:
    def two(columns: list[Columns]) -> None:
        apart(columns)
        for now in columns[AT:]:
            for name in ("lambda", "rms", "k", "largest"):
                now[name][[0, len(KINDS)]] = now[name][[len(KINDS), 0]]

    assert "misplaced" not in dict(rules_of(two))
