"""The forecast of λ against published trajectories, and against the recursion that it follows."""

from __future__ import annotations

import math

import numpy as np
import pytest

from weibull_monitor.scaling.budget import Budget
from weibull_monitor.scaling.forecast import (
    UNKNOWN_DRIFT,
    ForecastPoint,
    RemainingBudget,
    SampleTrail,
    drift,
    equilibrium,
    forecast,
    ratio_between,
)
from weibull_monitor.scaling.learning_rates import RatesAhead

TOTAL = 20_000
STEPS = (1, 2_000, 5_000, 10_000, 20_000)
# η_peak, λ_wd and λ at these steps of eight published runs: T. Ding, arXiv:2606.19367 (2026), data CC BY 4.0. Linear warm-up
# over 200 steps, cosine to a tenth.
PUBLISHED = {
    "pythia-arch eta=3e-4 wd=0.01": (3e-4, 0.01, (0.017760, 0.020791, 0.025932, 0.030103, 0.031290)),
    "pythia-arch eta=1e-3 wd=0.01": (1e-3, 0.01, (0.017762, 0.033924, 0.057319, 0.073203, 0.076286)),
    "pythia-arch eta=1e-3 wd=0.01 seed 3": (1e-3, 0.01, (0.017753, 0.033582, 0.057069, 0.073102, 0.076245)),
    "pythia-arch eta=3e-3 wd=0.01": (3e-3, 0.01, (0.017760, 0.061650, 0.125507, 0.179892, 0.186056)),
    "pythia-arch eta=1e-3 wd=0.05": (1e-3, 0.05, (0.017762, 0.032452, 0.053022, 0.063446, 0.061675)),
    "pythia-arch eta=1e-3 wd=0.1": (1e-3, 0.1, (0.017762, 0.030787, 0.048552, 0.054423, 0.049107)),
    "pythia-arch eta=1e-3 wd=0.2": (1e-3, 0.2, (0.017762, 0.027667, 0.041423, 0.042140, 0.033860)),
    "llama-arch eta=1e-3 wd=0.01": (1e-3, 0.01, (0.017750, 0.037327, 0.059374, 0.074643, 0.077798)),
}


def rates(peak: float) -> np.ndarray:
    steps = np.arange(1, TOTAL + 1)
    cosine = 0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * (steps - 200) / (TOTAL - 200)))
    return peak * np.where(steps <= 200, steps / 200, cosine)


@pytest.mark.parametrize("run", PUBLISHED)
def test_from_half_of_each_published_run_the_end_is_within_five_per_cent(run: str) -> None:
    peak, weight_decay, scales = PUBLISHED[run]
    eta = rates(peak)
    points, budget, done = [], Budget(), 0
    for step, scale in zip(STEPS, scales, strict=True):
        for rate in eta[done:step]:
            budget = budget.advanced(float(rate), weight_decay)
        done = step
        points.append(ForecastPoint(step, scale, budget.integral, budget.decay))
    baseline, earlier, before, now, end = ForecastPoint(0, scales[0], 0.0, 0.0), *points[1:]
    c = ratio_between(before, now)
    assert c is not None
    rest = RatesAhead(eta[now.step :], now.step).rest(now.step, weight_decay)
    foretold = forecast(now, c, drift(baseline, earlier, before, now), rest, doublings=1.0)
    assert foretold.value == pytest.approx(end.lambda_, rel=0.05)
    assert foretold.low <= end.lambda_ <= foretold.high
    assert (foretold.high - foretold.low) / 2 < 0.15 * end.lambda_  # an interval that says something


def recursion(integral: float, decay: float, eta: np.ndarray, weight_decay: float) -> tuple[float, float]:
    for rate in eta:
        integral = integral * math.exp(-2 * rate * weight_decay) + 2 * rate**2
        decay += rate * weight_decay
    return integral, decay


@pytest.mark.parametrize("weight_decay", [0.01, 0.3, 5.0])
@pytest.mark.parametrize("steps", [1, 7, 4_096])
def test_the_rest_of_a_schedule_is_the_recursion_step_by_step(steps: int, weight_decay: float) -> None:
    eta = 1e-3 * np.random.default_rng(0).uniform(0.1, 1.0, steps)
    ahead = RatesAhead(eta, step=100)
    for at in {100, 100 + steps // 3, 100 + steps - 1, 100 + steps}:
        integral, decay = recursion(0.0, 0.0, eta[at - 100 :], weight_decay)
        assert ahead.rest(at, weight_decay) == pytest.approx(RemainingBudget(decay, integral), rel=1e-10, abs=1e-300)
        assert ahead.rate(at + 1) == (pytest.approx(eta[at - 100]) if at < 100 + steps else None)


@pytest.mark.parametrize("weight_decay", [0.01, 0.3])
def test_a_long_schedule_is_gathered_without_losing_what_matters(weight_decay: float) -> None:
    steps = 100_000
    eta = 1e-3 * (0.55 + 0.45 * np.cos(np.pi * np.arange(steps) / steps))
    ahead = RatesAhead(eta, step=0)
    for at in (0, 33_333, 90_007):
        integral, decay = recursion(0.0, 0.0, eta[at:], weight_decay)
        assert ahead.rest(at, weight_decay) == pytest.approx(RemainingBudget(decay, integral), rel=1e-4)


def test_c_of_recent_steps_is_found_where_c_changed() -> None:
    """λ is made by the recursion with c = 0.4 and then 0.7."""
    budgets, squares = [Budget()], [0.02**2]
    for step in range(2_000):
        c = 0.4 if step < 1_000 else 0.7
        budgets.append(budgets[-1].advanced(2e-3, 0.5))
        squares.append(squares[-1] * math.exp(-2 * 2e-3 * 0.5) + c**2 * 2 * 2e-3**2)
    point = {
        n: ForecastPoint(n, math.sqrt(squares[n]), budgets[n].integral, budgets[n].decay)
        for n in (0, 500, 1_000, 2_000)
    }
    assert ratio_between(point[0], point[1_000]) == pytest.approx(0.4)
    assert ratio_between(point[1_000], point[2_000]) == pytest.approx(0.7)
    assert 0.4 < (ratio_between(point[0], point[2_000]) or 0.0) < 0.7
    assert drift(*point.values()) == pytest.approx(math.log(0.7 / 0.4))
    assert drift(point[0], point[0], point[500], point[1_000]) == pytest.approx(0.0, abs=1e-9)


def test_where_there_is_no_recent_c() -> None:
    baseline = ForecastPoint(0, 0.02, 0.0, 0.0)
    assert ratio_between(baseline, ForecastPoint(10, 0.019, 1e-6, 0.01)) is None  # fell by more than decay
    assert ratio_between(baseline, ForecastPoint(10, 0.02, 0.0, 0.0)) is None  # no step of any size
    assert drift(baseline, baseline, baseline, ForecastPoint(10, 0.03, 1e-6, 0.01)) == UNKNOWN_DRIFT


def test_the_equilibrium_is_c_times_the_plain_value_and_its_interval_narrows_with_time() -> None:
    widths = []
    for spent in (0.05, 0.5, 5.0):
        found = equilibrium(ForecastPoint(100, 0.05, 0.01, spent), c=0.6, trend=0.1, plain=0.1)
        assert found.value == pytest.approx(0.06)
        assert found.low < found.value < found.high
        widths.append(found.high - found.low)
    assert widths == sorted(widths, reverse=True)


def test_the_trail_finds_half_of_the_way_and_forgets() -> None:
    trail = SampleTrail()
    steps = [*range(1, 100), *range(100, 20_001, 100)]
    for step in steps:
        trail.add(step, {"w": ForecastPoint(step, 0.0, 0.0, 0.0)})
        half = trail.until(step / 2).get("w")
        assert half is None or step / 2 - max(100, 0.04 * step) <= half.step <= step / 2
        assert (half is None) == (step < 2)
    assert trail.until(20_000 / 4)["w"].step > 0.95 * 4_800
    assert len(trail._samples) < 60
