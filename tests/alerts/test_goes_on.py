"""Movements of healthy matrices that go on as before, come back, or are no larger than what nothing can tell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from alerts.simulated import Columns, alerts_in, begun_in, healthy, index, samples_of, scale_by, window_in, window_of
from weibull_monitor.alerts.rules.alone import at_once
from weibull_monitor.alerts.rules.decay import gathers, lost_most, scaled_to_zero
from weibull_monitor.alerts.rules.runaway import scale_runaway
from weibull_monitor.alerts.rules.scale import scale_shift
from weibull_monitor.alerts.rules.steps import one_way, unwinds
from weibull_monitor.alerts.settings import ScaleRunaway, ScaleShift
from weibull_monitor.alerts.window import SampleWindow

ETA, AT = 1e-3, 20
V, Q = index(2, "attn_v"), index(2, "attn_q")


def judged(window: SampleWindow) -> list[str]:
    """What `scale_shift` makes of each matrix at the latest sample."""
    result = scale_shift(window, ScaleShift())
    assert result is not None
    known = zip(result.strength, result.severity, strict=True)
    return ["nothing" if strength < 1.0 else ("", "info", "warning")[severity] for strength, severity in known]


def rising(factors: list[float], i: int = V) -> list[Columns]:
    """A run in which a matrix moves by these factors at the last samples, one after the other."""
    columns, size = healthy(AT + len(factors), eta=ETA), 1.0
    for now, factor in zip(columns[AT:], factors, strict=True):
        size *= factor
        scale_by(now, size, i)
    return columns


@pytest.mark.parametrize("i", [V, Q])
@pytest.mark.parametrize(
    ("factors", "severity"),
    [
        pytest.param([1.06, 1.16, 1.35], "info", id="by a factor in each interval, as what leaves a plateau"),
        pytest.param([1.35], "warning", id="at once"),
        pytest.param([1.005, 1.35], "warning", id="at once, after next to nothing"),
        pytest.param([1.06, 1.02, 1.35], "warning", id="at once, after it had nearly stopped"),
        pytest.param([1.11, 1.35], "warning", id="from some step on, which was within the interval before"),
    ],
)
def test_a_rise_that_gathers_speed_is_an_info_and_one_that_comes_at_once_is_a_warning(
    i: int, factors: list[float], severity: str
) -> None:
    columns = rising(factors, i)
    window = window_in(columns)
    assert judged(window)[i] == severity
    assert bool(gathers(window)[i]) == (severity == "info")


def test_all_matrices_that_fall_faster_and_faster_do_not_begin_to_learn() -> None:
    """As under a weight decay that is too strong from some step on."""
    columns = healthy(AT + 3, eta=ETA)
    for now, factor in zip(columns[AT:], [0.98, 0.94, 0.87], strict=True):
        scale_by(now, factor)
    window = window_in(columns)
    assert gathers(window).all()
    assert set(judged(window)) == {"warning"}


def test_a_rise_counts_for_less_where_a_part_of_it_was_seen_before() -> None:
    sudden, half = (at_once(window_in(rising(factors)))[V] for factors in ([1.3], [1.3, 1.3]))
    assert half < 0.8 < 0.95 < sudden


@pytest.mark.parametrize(
    ("factors", "long", "steps", "lost"),
    [
        pytest.param([1.4, 1.0, 1.0, 0.68], 1.0, 10, True, id="what was added long ago goes in one interval"),
        pytest.param([1.4, 1.0, 1.0, 0.77], 20.0, 1000, False, id="in as long an interval, some is left"),
        pytest.param([1.4, 1.0, 1.0, 0.68], 20.0, 1000, True, id="in as long an interval, nothing is left"),
        pytest.param([1.4, 0.75], 1.0, 10, False, id="what has come in one interval goes in the next"),
        pytest.param([1.4, 1.0, 1.0, 0.77], 40.0, 20, False, id="in an interval whose steps replace the matrix"),
    ],
)
def test_what_training_has_added_may_go_as_it_came(factors: list[float], long: float, steps: int, lost: bool) -> None:
    columns = rising(factors)
    for n, now in enumerate(columns):
        now["lambda"][V] = columns[0]["lambda"][V] * now["lambda"][V] / healthy(len(columns), eta=ETA)[n]["lambda"][V]
    columns[-1]["eta_sum"] = columns[-2]["eta_sum"] + long * ETA * 10
    samples = samples_of(columns)
    samples = [replace(s, step=s.step if s is not samples[-1] else samples[-2].step + steps) for s in samples]
    window = window_of(samples)
    moved = np.log(window.now("lambda") / window.before("lambda"))
    assert bool(lost_most(window, moved, np.zeros(len(moved)))[V]) is lost


@pytest.mark.parametrize(
    ("scaled", "factor", "few", "severity"),
    [
        (True, 0.9, False, "info"),
        (False, 0.9, False, "warning"),
        (True, 0.6, False, "warning"),
        pytest.param(True, 0.9, True, "warning", id="one that falls alone was scaled, or its gradient has gone"),
    ],
)
def test_decay_moves_what_lamb_steps_by_eta_a_step(scaled: bool, factor: float, few: bool, severity: str) -> None:
    """Its steps have the size η·‖w‖ whatever they are made of; where the gradient is small, that is weight decay alone."""
    columns = healthy(AT + 4, eta=1e-2)
    fallen = [V] if few else [index(block, kind) for block in range(3) for kind in ("attn_q", "attn_v")]
    for now in columns:
        now["update_max"] *= np.nan
    for now in columns[AT:]:
        scale_by(now, factor, fallen)
    withheld = {"step_scaled_by_weight": len(columns[0]["k"])} if scaled else {}
    window = window_in(columns[: AT + 1], withheld=withheld)
    assert {judged(window)[i] for i in fallen} == {severity}
    assert scaled_to_zero(window)[fallen].all() == (severity == "info")


@pytest.mark.parametrize(("errors", "severities"), [(1.5, set()), (6.0, {"warning"})])
def test_k_of_a_small_matrix_has_not_changed_by_less_than_its_errors(errors: float, severities: set[str]) -> None:
    """Beside a jump of the scale, which `scale_shift` judges."""
    columns = healthy(AT + 4, eta=ETA)
    for now in columns:
        now["k_se"][Q] *= 4.0
    for now in columns[AT:]:
        now["k"][Q] -= errors * now["k_se"][Q]
        scale_by(now, 1.3, Q)
    assert {a.finding.severity for a in begun_in(columns, "selection_shift")} - {"info"} == severities


@pytest.mark.parametrize(("k", "straight", "expected"), [(1.5, 0.9, True), (1.5, 0.05, False), (1.0, 0.9, False)])
def test_values_of_one_size_come_back_by_what_steps_can_do(k: float, straight: float, expected: bool) -> None:
    """k was 2.1; R² falls while some values have gone back and others have not. Two sizes mixed have a k below that of all."""
    columns = healthy(AT + 1, eta=ETA)
    for now in columns:
        now["k"][Q], now["rms"][Q] = 2.1, 0.05
    columns[-1]["rms"][Q] = np.sqrt(0.05**2 - straight * (10 * ETA) ** 2)
    columns[-1]["k"][Q], columns[-1]["r2"][Q] = k, 0.98
    assert bool(unwinds(window_in(columns))[Q]) is expected


@pytest.mark.parametrize(("before", "expected"), [(0.0255, True), (0.0399, False)])
def test_steps_that_went_one_way_before_have_made_a_part_of_k_already(before: float, expected: bool) -> None:
    """From 0.02 to 0.047 in two intervals k rises by 0.5; from 0.04 on it would not."""
    columns = healthy(AT + 1, eta=2.2e-3)
    for now in columns[:-2]:
        now["rms"][Q], now["k"][Q] = 0.0201, 1.244
    columns[-2]["rms"][Q], columns[-2]["k"][Q] = 0.0255, 1.257
    if not expected:
        for now in columns[:-1]:
            now["rms"][Q] = before
    columns[-1]["rms"][Q], columns[-1]["k"][Q] = 0.0473, 2.045
    assert bool(one_way(window_in(columns))[Q]) is expected


def test_an_embedding_that_comes_to_rest_is_an_info() -> None:
    """It moved by a thousandth, by less than a bin, and not at all; one that stands still at once is a warning."""

    def rest(share: float) -> set[str]:
        columns = healthy(AT + 4, eta=ETA)
        for n, now in enumerate(columns):
            ahead = n - AT
            now["rms"][V] = now["lambda"][V] = 0.02 * (
                1.0 if ahead >= 0 else np.exp(-share if ahead == -1 else 0.004 * ahead)
            )
            now["k"][V], now["r2"][V] = 1.2 + (1e-3 * ahead if ahead < 0 else 0.0), 0.997
        return {a.finding.severity for a in begun_in(columns, "unchanged")}

    assert (rest(1e-7), rest(0.01)) == ({"info"}, {"warning"})


@pytest.mark.parametrize(("bound", "severities"), [(np.nan, {"info"}), (7.27, {"info", "warning"})])
def test_steps_of_the_size_of_the_gradient_may_get_ten_times_as_small(bound: float, severities: set[str]) -> None:
    """Such as of keys whose attention stays uniform: by half of what shows in an interval, and then not at all."""
    columns = healthy(AT + 12, eta=ETA)
    for n, now in enumerate(columns):
        now["rms"][V] = now["lambda"][V] = 0.02 * (1.0 if n >= AT else np.exp(5e-5 * (n - AT)))
        now["k"][V], now["r2"][V], now["update_max"][:] = 1.2 + (1e-5 * (n - AT) if n < AT else 0.0), 0.997, bound
    assert {a.finding.severity for a in alerts_in(columns, "unchanged")} == severities


def test_what_rests_for_longer_than_the_window_is_no_worse_for_it() -> None:
    """When it came to rest, it was known how slow it had been; after 32 samples it is not any more."""
    columns = healthy(AT + 45, eta=ETA)
    for n, now in enumerate(columns):
        now["rms"][V] = now["lambda"][V] = 0.02 * (1.0 if n >= AT else np.exp(1e-7 * (n - AT)))
        now["k"][V], now["r2"][V] = 1.2 + (1e-5 * (n - AT) if n < AT else 0.0), 0.997
    assert [(a.phase, a.finding.severity) for a in alerts_in(columns, "unchanged")] == [("begins", "info")]


def test_nothing_has_run_away_where_the_sum_of_the_rates_is_not_known() -> None:
    """As of an optimizer that does not count its steps, called at another pace than the monitor."""
    columns = healthy(AT + 20, eta=ETA)
    for now in columns:
        now["eta_sum"][::3] = np.nan
    result = scale_runaway(window_in(columns), ScaleRunaway())
    assert result is not None
    assert not (result.strength >= 1.0).any()


@pytest.mark.parametrize(("i", "severity"), [(V, 2), (Q, 1)])
def test_w_q_and_w_k_may_be_pushed_as_far_as_attention_scale_allows(i: int, severity: int) -> None:
    """Fifteen times as far as the others, for the same η."""
    columns = healthy(AT + 1, eta=ETA)
    for n, now in enumerate(columns):
        others = np.sqrt(now["lambda"] ** 2 - columns[0]["lambda"] ** 2)
        now["lambda"][i] = np.hypot(columns[0]["lambda"][i], 15.0 * np.median(others)) if n else now["lambda"][i]
    result = scale_runaway(window_in(columns), ScaleRunaway())
    assert result is not None
    assert result.strength[i] >= 1.0
    assert 1 + (result.strength[i] >= ScaleRunaway.sure) == severity
