"""The forecast of λ against published trajectories, and against the recursion that it follows."""

from __future__ import annotations

import math

import numpy as np
import pytest

from weibull_monitor.scaling.budget import Budget
from weibull_monitor.scaling.forecast import (
    DAMPING,
    Growth,
    Points,
    RemainingBudget,
    Trail,
    equilibrium,
    forecast,
    growth,
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
def test_from_half_of_each_published_run_the_end_is_within_two_per_cent(run: str) -> None:
    peak, weight_decay, scales = PUBLISHED[run]
    eta = rates(peak)
    trail, budget, done = Trail(), Budget(), 0
    for step, scale in zip(STEPS[:-1], scales, strict=False):
        for rate in eta[done:step]:
            budget = budget.advanced(float(rate), weight_decay)
        done = step
        now = Points.of(step, {"w": (scale, math.sqrt(budget.integral), budget.decay, budget.path)})
        trail.add(now)
    rest = RatesAhead(eta[now.step :], now.step).rest(now.step, weight_decay)
    found = forecast(now, growth(trail, np.array([scales[0]]), now, TOTAL), np.array([rest]).T)
    value, low, high = (float(end[0]) for end in found)
    assert value == pytest.approx(scales[-1], rel=0.02)
    assert low <= scales[-1] <= high
    assert (high - low) / 2 < 0.2 * scales[-1]  # an interval that says something


def recursion(eta: np.ndarray, weight_decay: float) -> RemainingBudget:
    integral = decay = path = 0.0
    for rate in eta:
        integral = integral * math.exp(-2 * rate * weight_decay) + 2 * rate**2
        decay += rate * weight_decay
        path += rate
    return RemainingBudget(decay, integral, path)


@pytest.mark.parametrize("weight_decay", [0.01, 0.3, 5.0])
@pytest.mark.parametrize("steps", [1, 7, 4_096])
def test_the_rest_of_a_schedule_is_the_recursion_step_by_step(steps: int, weight_decay: float) -> None:
    eta = 1e-3 * np.random.default_rng(0).uniform(0.1, 1.0, steps)
    ahead = RatesAhead(eta, step=100)
    for at in {100, 100 + steps // 3, 100 + steps - 1, 100 + steps}:
        expected = recursion(eta[at - 100 :], weight_decay)
        assert ahead.rest(at, weight_decay) == pytest.approx(expected, rel=1e-10, abs=1e-300)
        assert ahead.rate(at + 1) == (pytest.approx(eta[at - 100]) if at < 100 + steps else None)


@pytest.mark.parametrize("weight_decay", [0.01, 0.3])
def test_a_long_schedule_is_gathered_without_losing_what_matters(weight_decay: float) -> None:
    steps = 100_000
    eta = 1e-3 * (0.55 + 0.45 * np.cos(np.pi * np.arange(steps) / steps))
    ahead = RatesAhead(eta, step=0)
    for at in (0, 33_333, 90_007):
        assert ahead.rest(at, weight_decay) == pytest.approx(recursion(eta[at:], weight_decay), rel=1e-4)


def walked(
    squares_added: list[float], steps: int = 2_000, eta: float = 2e-3, weight_decay: float = 0.5
) -> list[Points]:
    """Every hundredth sample of matrices whose λ² follows the recursion with these c², by quarters of the steps."""
    budget, square, found = Budget(), 0.02**2, []
    for step in range(1, steps + 1):
        budget = budget.advanced(eta, weight_decay)
        c2 = squares_added[min(3, 4 * (step - 1) // steps)]
        square = square * math.exp(-2 * eta * weight_decay) + c2 * 2 * eta**2
        if step % 100 == 0:
            row = (math.sqrt(square), math.sqrt(budget.integral), budget.decay, budget.path)
            found.append(Points.of(step, {"w": row}))
    return found


def growth_of(samples: list[Points], total: int) -> Growth:
    trail = Trail()
    for sample in samples[:-1]:
        trail.add(sample)
    return growth(trail, np.array([0.02]), samples[-1], total)


@pytest.mark.parametrize("c2", [0.5, 0.1, 0.0, -0.001])
def test_a_constant_c_is_found_whatever_its_sign_and_the_forecast_is_exact(c2: float) -> None:
    samples = walked([c2] * 4)
    found = growth_of(samples[:10], total=2_000)
    assert found.recent == pytest.approx([c2], abs=1e-6)
    assert found.expected == pytest.approx([c2], abs=1e-6)
    rest = np.array([recursion(np.full(1_000, 2e-3), 0.5)]).T
    value, low, high = (float(end[0]) for end in forecast(samples[9], found, rest))
    assert value == pytest.approx(samples[-1].values[0, 0], rel=1e-6)
    assert low < value < high


def test_a_part_of_the_change_of_c_goes_on_and_widens_the_interval() -> None:
    samples = walked([0.2, 0.2, 0.6, 0.6])[:16]  # at 1,600: the second half begins at 800, c changes at 1,000
    found, steady = growth_of(samples, total=6_400), growth_of(walked([0.6] * 4)[:16], total=6_400)
    late = found.recent
    assert 0.4 < late < 0.6
    # Middles of the second quarter, the second half and the rest on a logarithmic scale: 1 and 1.5 doublings apart.
    assert found.expected == pytest.approx(late + DAMPING * 1.5 * (late - 0.2), abs=1e-6)
    assert steady.missed == pytest.approx([0.0], abs=1e-6)
    # A forecast at 800 with c² = 0.2 instead of that of the next steps.
    before, now = samples[7].values[:, 0], samples[15].values[:, 0]
    left = math.exp(-2 * (now[2] - before[2]))
    foretold = math.sqrt(before[0] ** 2 * left + 0.2 * (now[1] - before[1] * left))
    assert found.missed == pytest.approx([math.log(now[0] / foretold)], rel=0.1)


def test_a_matrix_that_falls_too_fast_has_no_forecast() -> None:
    now = Points.of(10, {"w": (0.02, 1e-3, 0.01, 0.1)})
    found = Growth(np.array([-5.0]), np.array([-5.0]), np.array([np.nan]))
    assert np.isnan(forecast(now, found, np.array([[0.01], [1.0], [0.1]]))).all()
    assert np.isnan(equilibrium(now, found, np.array([0.1]))).all()


def test_a_matrix_that_some_samples_lack_is_forecast_from_the_others() -> None:
    samples = walked([0.5] * 4)
    trail = Trail()
    for n, sample in enumerate(samples[:-1]):
        trail.add(sample if n % 2 else Points.of(sample.step, {}))
    assert growth(trail, np.array([0.02]), samples[-1], 4_000).recent == pytest.approx([0.5], abs=1e-6)


def test_the_equilibrium_is_c_times_the_plain_value_and_its_interval_narrows_with_time() -> None:
    widths = []
    for spent in (0.05, 0.5, 5.0):
        now = Points.of(100, {"w": (0.05, 0.1, spent, spent)})
        found = Growth(np.array([0.36]), np.array([0.36]), np.array([0.02]))
        value, low, high = (float(end[0]) for end in equilibrium(now, found, plain=np.array([0.1])))
        assert value == pytest.approx(0.06)
        assert low < value < high
        widths.append(high - low)
    assert widths == sorted(widths, reverse=True)


def test_the_trail_keeps_what_is_needed_and_forgets() -> None:
    trail = Trail()
    for step in [*range(1, 100), *range(100, 20_001, 100)]:
        trail.add(Points.of(step, {}))
        steps = [points.step for points in trail]
        assert len(steps) < 60
        for share in (0.25, 0.5):
            before = [n for n in steps if n <= share * step]
            assert step < 4 or before[-1] >= share * step - max(100, 0.04 * step)
