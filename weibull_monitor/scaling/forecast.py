"""Where λ is going: at the end of the schedule, and in equilibrium if the learning rate stays the same.

Between two samples s < t the recursion of `weibull_monitor.scaling.budget` says, with c for the steps between them,

    λ_t² = λ_s²·exp(-2(S_t - S_s)) + c²·(I_t - I_s·exp(-2(S_t - S_s)))

so two samples give c of the recent steps, and the learning rates to come give λ at the end. The steps to come are assumed to
have the c of the second half of the steps so far. In the eight published runs (T. Ding, arXiv:2606.19367, 2026, CC BY 4.0) c of
the whole run rises during its first half, and c of the recent steps is closer to that of the remaining ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, NamedTuple

from weibull_monitor.history.snapshot import Estimate

MIN_DECAY: Final = 0.01
"""Smallest S that gives a forecast."""
MIN_SHARE: Final = 0.25
"""Smallest share of the run's steps that gives a forecast. At a tenth of the published runs the error is up to 37 %."""
MARGIN: Final = 0.2
"""Half width of the interval in ln c, beside its drift; docs/scaling.md says what it covers."""
NOISE: Final = 0.005
"""Relative error of λ itself that the interval allows for."""
UNKNOWN_DRIFT: Final = 0.5
"""Change of ln c per doubling of the steps that is assumed where there are too few samples."""
EQUILIBRIUM: Final = 3.0
"""S after which λ is at 99.8 % of its equilibrium's square."""


class ForecastPoint(NamedTuple):
    """One sample of one component."""

    step: int
    lambda_: float
    integral: float
    """I."""
    decay: float
    """S."""


def as_recorded(step: int, lambda_: float, effective: float, t_over_tau: float) -> ForecastPoint:
    """A sample with the nine digits that the history keeps, so that a resumed run forecasts exactly the same."""
    return ForecastPoint(step, _nine(lambda_), _nine(effective) ** 2, _nine(t_over_tau))


def _nine(value: float) -> float:
    return float(f"{value:.9g}")


class RemainingBudget(NamedTuple):
    """What the steps to come will spend."""

    decay: float
    """Σ ηλ_wd over them."""
    injection: float
    """What they add to I at the end."""


def ratio_between(before: ForecastPoint, now: ForecastPoint) -> float | None:
    """c of the steps between two samples; None if λ fell faster than decay alone would make it fall.

    With the baseline as ``before`` it is the budget ratio.

    >>> baseline = ForecastPoint(0, 0.01, 0.0, 0.0)
    >>> now = ForecastPoint(100, math.sqrt(0.01**2 * math.exp(-0.2) + 0.25e-4), 1e-4, 0.1)
    >>> round(ratio_between(baseline, now), 12)
    0.5
    """
    left = math.exp(-2.0 * (now.decay - before.decay))  # of the squares at the first sample
    injected = now.integral - before.integral * left
    grown = now.lambda_**2 - before.lambda_**2 * left
    return math.sqrt(grown / injected) if injected > 0 and grown > 0 else None


def drift(baseline: ForecastPoint, earlier: ForecastPoint, before: ForecastPoint, now: ForecastPoint) -> float:
    """Change of ln c per doubling of the steps: that of the recent steps or that of the whole run, whichever is larger.

    Args:
        baseline: The sample before the first step.
        earlier: A sample at about a quarter of the steps so far; the baseline if there is none.
        before: A sample at about half of them.
        now: The last sample.

    Returns:
        The size of the change, without its sign, because c may turn.
    """
    if not earlier.step <= before.step < now.step or before.step == 0:
        return UNKNOWN_DRIFT
    # c of the whole run at half of the steps and now; c of the second quarter and of the second half.
    changes = [
        (ratio_between(baseline, before), ratio_between(baseline, now)),
        (ratio_between(earlier, before), ratio_between(before, now)),
    ]
    doublings = math.log2(now.step / before.step)
    return max(abs(math.log(c1 / c0)) / doublings if c0 and c1 else UNKNOWN_DRIFT for c0, c1 in changes)


def forecast(now: ForecastPoint, c: float, trend: float, rest: RemainingBudget, doublings: float) -> Estimate:
    """λ after the steps to come, with an interval.

    Args:
        now: The last sample of the component.
        c: c of the recent steps.
        trend: The result of `drift`.
        rest: What the steps to come will spend.
        doublings: How many times the number of steps will double until then.

    Returns:
        The forecast with c of the recent steps. The interval lets ln c differ by `MARGIN`, and by its drift until then, up
        or down.

    >>> now = ForecastPoint(step=10_000, lambda_=0.06, integral=1.2e-2, decay=0.05)
    >>> forecast(now, c=0.6, trend=0.0, rest=RemainingBudget(decay=0.0, injection=0.0), doublings=0.0).value
    0.06
    """
    kept = now.lambda_**2 * math.exp(-2.0 * rest.decay)

    def at(ratio: float) -> float:
        return math.sqrt(kept + ratio**2 * rest.injection)

    low, high = _range(c, trend * doublings)
    return Estimate(at(c), at(low) * (1.0 - NOISE), at(high) * (1.0 + NOISE))


def equilibrium(now: ForecastPoint, c: float, trend: float, plain: float) -> Estimate:
    """λ in equilibrium, if η and λ_wd stay the same: c·√(η/λ_wd), with an interval like that of `forecast`.

    Args:
        now: The last sample of the component.
        c: c of the recent steps.
        trend: The result of `drift`; the drift is assumed to last until S is `EQUILIBRIUM`, and for at least one doubling.
        plain: √(η/λ_wd).
    """
    low, high = _range(c, trend * max(1.0, math.log2(EQUILIBRIUM / now.decay)))
    return Estimate(c * plain, low * plain * (1.0 - NOISE), high * plain * (1.0 + NOISE))


def _range(c: float, drifted: float) -> tuple[float, float]:
    return c * math.exp(-drifted - MARGIN), c * math.exp(drifted + MARGIN)


class SampleTrail:
    """The samples of every component so far, thinned out, to compute c of the recent steps with.

    It holds a few dozen samples at most: those after a quarter of the steps so far, each at least 4 % further than the one
    before it.
    """

    def __init__(self) -> None:
        self._samples: list[tuple[int, Mapping[str, ForecastPoint]]] = []

    def add(self, step: int, points: Mapping[str, ForecastPoint]) -> None:
        """Adds the sample of a step, by component name, unless it is too close to the last one."""
        if self._samples and step < 1.04 * self._samples[-1][0]:
            return
        self._samples.append((step, points))
        while len(self._samples) > 2 and self._samples[1][0] <= step / 4:
            del self._samples[0]

    def until(self, step: float) -> Mapping[str, ForecastPoint]:
        """The last sample at or before a step, by component name; empty if there is none."""
        return next((points for at, points in reversed(self._samples) if at <= step), {})
