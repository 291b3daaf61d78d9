"""Sudden movements that are no fault: growth as fast as ever, shapes that come back, η that rises again or by stairs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from alerts.simulated import ATTENTION, Columns, begun_in, components, healthy, index, samples_of, scale_by, window_in
from weibull_monitor.alerts import replay
from weibull_monitor.alerts.rules.movement import LESS_ALIKE, caution
from weibull_monitor.alerts.rules.steps import one_way
from weibull_monitor.history.alert import Alert

AT, EVERY, ETA = 15, 10, 1e-3
V = index(2, "attn_v")


def warnings_of(columns: list[Columns]) -> list[Alert]:
    return [a for a in begun_in(columns) if a.finding.severity != "info"]


def test_eta_that_rises_by_stairs_has_not_jumped() -> None:
    columns = healthy(24, eta=ETA)
    for n, now in enumerate(columns):
        now["eta"] *= 1.0 + 0.5 * max(0, n - AT + 1)
    assert not any(window_in(columns[:n]).jumped.any() for n in range(AT, 24))


def test_a_run_is_young_again_where_eta_has_been_low() -> None:
    columns = healthy(40, eta=ETA)
    low = range(18, 24)
    spent = np.zeros(len(columns[0]["k"]))
    for n, now in enumerate(columns[1:], 1):
        now["eta"] *= 0.01 if n in low else 1.0
        spent = spent + EVERY * now["eta"]
        now["eta_sum"] = spent.copy()
    factors = [float(caution(window_in(columns[:n]))[V]) for n in (18, 22, 27, 39)]
    assert factors == pytest.approx([1.0, 1.0, LESS_ALIKE, 1.0], abs=0.01)


@pytest.mark.parametrize(("k", "severity"), [(0.0, "warning"), (-0.02, "info")])
def test_most_matrices_shrink_with_their_k_where_training_takes_back_what_it_added(k: float, severity: str) -> None:
    columns = healthy(eta=ETA)
    for n, now in enumerate(columns[1:], 1):
        scale_by(now, np.exp(0.04 * min(n, AT - 1)))
        scale_by(
            now, 0.85 if n >= AT else 1.0, largest=False
        )  # steps of η take more from the others than from the largest
        now["k"] += k if n >= AT else 0.0
        now["weight_decay"] *= 0.0
    found = begun_in(columns, "scale_shift")
    assert [(a.step, a.finding.severity) for a in found] == [(AT * EVERY, severity)]


def test_a_matrix_that_comes_back_to_the_shape_of_others_has_not_broken() -> None:
    columns = healthy(eta=ETA)
    for n, now in enumerate(columns):
        now["k"][V], now["r2"][V] = (1.9, 0.983) if n < AT else (1.4, 0.991)
    assert warnings_of(columns) == []
    for n, now in enumerate(columns):
        now["r2"][V] = 0.991 if n < AT else 0.98  # a worse line than before
    assert {a.finding.rule for a in warnings_of(columns)} == {"body_break"}


def test_a_small_matrix_that_grows_as_fast_as_ever_does_not_grow_alone() -> None:
    """At samples far apart, the same steps are a larger share of what is small: a constant speed in η is not a jump."""
    steps = (0, 1, 2, 4, 8, 16, 32, 64, 100, 200, 300)

    def run(speed: float, late: float) -> list[Alert]:
        columns = healthy(len(steps), eta=ETA)
        for n, now in enumerate(columns):
            now["eta_sum"] = np.full(len(now["k"]), ETA * steps[n] if n else np.nan)
            for i in range(len(now["k"])):
                small = 0.3 if i == V else 1.0
                start = small * columns[0]["rms"][0]
                grown = (speed * ETA) ** 2 * (steps[n] + (late**2 - 1.0) * max(0, steps[n] - 100) * (i == V))
                now["rms"][i] = np.sqrt(start**2 + grown)
                now["lambda"][i] = 0.887 * now["rms"][i]
        samples = [replace(s, step=step) for s, step in zip(samples_of(columns), steps, strict=True)]
        found = replay(samples, None, [ATTENTION])
        return [a for a in found if a.phase == "begins" and a.finding.severity != "info"]

    assert run(0.7, 1.0) == []
    assert [(a.finding.rule, a.finding.component) for a in run(0.7, 3.0)] == [("scale_shift", components()[V].name)]


def test_growth_of_all_values_is_one_way_without_a_known_size_of_steps() -> None:
    columns = healthy(eta=4 * ETA)
    for now in columns:
        now["update_max"] *= np.nan
    for name in ("lambda", "rms"):
        columns[-1][name][V] *= 1.3
    columns[-1]["k"][V] += 0.1
    assert np.flatnonzero(one_way(window_in(columns))).tolist() == [V]
