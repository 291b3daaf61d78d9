"""What healthy runs do when they begin to learn: steps that all go one way, and single matrices that begin before the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from alerts.simulated import (
    ATTENTION,
    Columns,
    alerts_in,
    begun_in,
    component,
    components,
    healthy,
    index,
    samples_of,
    scale_by,
    window_in,
)
from weibull_monitor.alerts import replay
from weibull_monitor.alerts.component_arrays import ComponentArrays
from weibull_monitor.alerts.rules.movement import LESS_ALIKE, caution
from weibull_monitor.history.alert import Alert
from weibull_monitor.model.components import Part

AT, ETA, EVERY = 15, 1e-3, 10
V, Q = index(2, "attn_v"), index(2, "attn_q")


def found(break_it: Callable[[list[Columns]], object], **options: float) -> list[Alert]:
    columns = healthy(eta=ETA, **options)  # type: ignore[arg-type]
    break_it(columns)
    return begun_in(columns)


def bent(columns: list[Columns], i: int, k: float, straight: float) -> None:
    """k of a matrix changes at once, R² falls, and RMS² grows by a share of (Σ η)²."""
    for now in columns[AT:]:
        now["k"][i] += k
        now["r2"][i] -= 0.02
        grown = np.sqrt(1.0 + straight * (ETA * EVERY / columns[AT]["rms"][i]) ** 2)
        scale_by(now, grown, i)


@pytest.mark.parametrize("i", [Q, V])
def test_a_k_that_rises_because_all_steps_go_one_way_is_an_info(i: int) -> None:
    """As of values W₀ ± Σ η: the optimizer explains it, and nothing was overwritten."""
    alerts = [a for a in found(lambda c: bent(c, i, 0.14, 0.9)) if a.finding.rule in ("selection_shift", "body_break")]
    assert {a.finding.severity for a in alerts} == {"info"}
    assert all("in one direction" in a.finding.meaning and "overwritten" not in a.finding.meaning for a in alerts)


@pytest.mark.parametrize("i", [Q, V])
@pytest.mark.parametrize(
    ("k", "straight"),
    [
        pytest.param(0.4, 0.0, id="the RMS stays"),
        pytest.param(0.4, -0.9, id="the RMS falls"),
        pytest.param(0.4, 0.9, id="k rises far more than the RMS"),
        pytest.param(-0.3, 0.9, id="k falls, as of two sizes"),
        pytest.param(0.4, 25.0, id="further than the optimizer goes"),
    ],
)
def test_a_k_that_changes_for_another_reason_is_a_warning(i: int, k: float, straight: float) -> None:
    alerts = [a for a in found(lambda c: bent(c, i, k, straight)) if a.finding.severity == "warning"]
    assert {a.step for a in alerts} == {AT * EVERY}
    assert any(a.finding.rule in ("selection_shift", "body_break") for a in alerts)


def test_thresholds_are_higher_in_a_young_run_and_come_down_smoothly() -> None:
    columns = healthy(24, eta=ETA)
    factors = [float(caution(window_in(columns[:n]))[V]) for n in (6, 10, 13, 20)]  # at 50, 90, 120, 190 steps
    assert factors == pytest.approx([LESS_ALIKE, 1.0 + (LESS_ALIKE - 1.0) / 2, 1.0, 1.0])


def test_trained_weights_are_not_young() -> None:
    columns = healthy(8, eta=ETA)
    for now in columns:
        now["k"] *= 0.8
    assert caution(window_in(columns)).tolist() == [1.0] * len(components())


def test_the_warm_up_is_young_however_long_it_is() -> None:
    columns = healthy(24, eta=ETA)
    for n, now in enumerate(columns):
        now["eta"] *= n
    assert caution(window_in(columns)).tolist() == [LESS_ALIKE] * len(components())


def test_a_large_fall_is_found_in_the_warm_up() -> None:
    def falls(columns: list[Columns]) -> None:
        for n, now in enumerate(columns):
            now["eta"] *= 1.0 + 0.02 * n
            now["eta_sum"] *= 1.0 + 0.01 * n
        for now in columns[AT:]:
            scale_by(now, 0.75, V)

    alerts = [a for a in found(falls) if a.finding.severity != "info"]
    assert [(a.step, a.finding.component) for a in alerts] == [(AT * EVERY, components()[V].name)]


def fall_in_the_last_interval(columns: list[Columns], before: float) -> list[Alert]:
    """A matrix that training has doubled loses most of that in an interval, with this Σ η before it in units of its own."""
    for n, now in enumerate(columns):
        now["weight_decay"] *= 0.0
        scale_by(now, np.exp(0.08 * min(n, 8)) if n < len(columns) - 1 else np.exp(0.08), V)
    columns[-1]["eta_sum"] = columns[-2]["eta_sum"] * (1.0 + 1.0 / before)
    samples = samples_of(columns)
    samples[-1] = replace(samples[-1], step=round(samples[-2].step * (1.0 + 1.0 / before)))
    alerts = replay(samples, None, [ATTENTION])
    return [a for a in alerts if a.step == samples[-1].step and a.finding.severity != "info"]


def test_an_interval_longer_than_the_run_before_may_take_away_what_training_has_added() -> None:
    assert fall_in_the_last_interval(healthy(16, eta=6e-3), 0.6) == []
    assert [a.finding.rule for a in fall_in_the_last_interval(healthy(16, eta=6e-3), 15.0)] == ["scale_shift"]


def test_a_jump_of_eta_just_before_a_sample_is_one_at_the_next_sample_too() -> None:
    columns = healthy(24, eta=ETA)
    for now in columns[AT:]:
        now["eta"] *= 4.0
    assert [bool(window_in(columns[:n]).jumped.all()) for n in range(AT, AT + 4)] == [False, True, True, False]


def test_the_tensor_of_all_experts_is_compared_with_other_matrices() -> None:
    """Down-projections have the kind of their experts, gate and up one of their own; either tensor is one matrix of the model."""
    tensor = component(0, "ffn_down", name="experts", parameter="experts", shape=(4, 64, 64))
    parts = [Part(f"expert {e}", tensor.shape, ((e, e + 1), (0, 64), (0, 64))) for e in range(4)]
    single = [replace(tensor, name=f"experts[{e}]", expert=e, part=part) for e, part in enumerate(parts)]
    assert ComponentArrays.of((tensor, *single)).body.tolist() == [True] + [False] * 4


@pytest.mark.parametrize(("times", "warned"), [(1.0, False), (2.0, False), (10.0, True)])
def test_a_smaller_fall_of_all_is_enough_where_weight_decay_has_jumped(times: float, warned: bool) -> None:
    def falls(columns: list[Columns]) -> None:
        for n, now in enumerate(columns[AT:]):
            now["weight_decay"] *= times
            scale_by(now, np.exp(-0.055 * (n + 1)))

    assert bool([a for a in found(falls) if a.finding.severity != "info"]) == warned


@pytest.mark.parametrize(
    ("k", "times", "warned"), [(0.3, 1.0, True), (0.3, 1.2, False), (0.02, 1.0, False), (-0.3, 1.0, True)]
)
def test_a_sudden_change_of_k_of_an_embedding_is_found(k: float, times: float, warned: bool) -> None:
    """Unlike its own past, and more than steps that go one way explain."""
    outside = replace(components()[V], name="embed.weight", kind="embedding", block=None, parameter="embed.weight")
    columns = healthy(eta=ETA)
    for now in columns[AT:]:
        now["k"][V] += k
        scale_by(now, times, V)
    of = tuple(outside if i == V else c for i, c in enumerate(components()))
    alerts = alerts_in(columns, of=of)
    assert bool([a for a in alerts if a.finding.rule == "body_break" and a.finding.severity != "info"]) == warned
