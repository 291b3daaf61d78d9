"""Steps that have the size of the gradient, as under SGD: a rise alone is judged by what comes after it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from alerts.simulated import Columns, alerts_in, components, healthy, index, scale_by
from weibull_monitor.history.alert import Alert

OLD, YOUNG, ETA = 16, 6, 1e-2
"""Samples after 160 steps, and after 60, in a run whose η is constant."""
V = index(2, "attn_v")
OUTPUTS = [index(block, "attn_o") for block in range(4)]


def found(change: Callable[[list[Columns]], object], bounded: bool, rule: str = "scale_shift") -> list[Alert]:
    columns = healthy(26, eta=ETA)
    for now in columns:
        now["weight_decay"] *= 0.0
        now["update_max"][:] = now["element_max"][:] = 7.27 if bounded else np.nan
    change(columns)
    size = {} if bounded else {"step_not_eta": len(components())}
    return [a for a in alerts_in(columns, rule, withheld=size) if a.phase != "ends"]


def grow(columns: list[Columns], at: int, *by: float) -> None:
    """One matrix grows by these ln RMS, one after the other from a sample on; then it grows as all do."""
    for n, now in enumerate(columns[at:]):
        scale_by(now, np.exp(sum(by[: n + 1])), V)


def serious(alerts: list[Alert]) -> list[int]:
    return [a.step for a in alerts if a.finding.severity != "info"]


def test_a_rise_that_rests_is_found_at_the_next_sample() -> None:
    alerts = found(lambda c: grow(c, OLD, 0.25), bounded=False)
    assert serious(alerts) == [10 * (OLD + 1)]
    assert "as large as the gradient" in alerts[0].text
    assert (alerts[0].step, alerts[0].finding.severity) == (10 * OLD, "info")
    assert serious(found(lambda c: grow(c, OLD, 0.25), bounded=True))[0] == 10 * OLD


@pytest.mark.parametrize("at", [OLD, YOUNG])
def test_a_rise_that_goes_on_is_what_learning_does(at: int) -> None:
    """As in healthy models under SGD, whose next interval had 0.23 to 1.7 times as much."""
    assert serious(found(lambda c: grow(c, at, 0.25, 0.15, 0.08, 0.04), bounded=False)) == []


def test_a_rise_by_orders_of_magnitude_is_found_at_once_but_in_a_young_run() -> None:
    assert serious(found(lambda c: grow(c, OLD, 0.7, 0.6), bounded=False))[0] == 10 * OLD
    assert serious(found(lambda c: grow(c, YOUNG, 0.7, 0.6), bounded=False)) == []


@pytest.mark.parametrize(("bounded", "steps"), [(False, []), (True, [10 * OLD])])
def test_a_gradient_may_take_back_all_that_it_added_in_one_interval(bounded: bool, steps: list[int]) -> None:
    """A scale that rises by 6 %, and falls back to its start, as momentum overshoots."""

    def back(columns: list[Columns]) -> None:
        for n, now in enumerate(columns):
            level = 0.06 if n in (OLD - 1, OLD) else 0.0
            for name in ("lambda", "rms", "largest"):
                now[name][V] = columns[0][name][V] * np.exp(level + 1e-3 * (-1) ** n)

    assert serious(found(back, bounded)) == steps


@pytest.mark.parametrize(
    ("start", "bounded", "severity"),
    [(0.0, False, "info"), (0.0, True, "info"), (1.0, False, "warning"), (1.0, True, "warning")],
)
def test_outputs_that_began_at_zero_have_the_shape_of_their_steps(start: float, bounded: bool, severity: str) -> None:
    def shape(columns: list[Columns]) -> None:
        for n, now in enumerate(columns):
            now["k"][OUTPUTS] = 0.6 if n else 1.2054 if start else np.nan
            if not n:
                scale_by(now, start, OUTPUTS)

    alerts = found(shape, bounded, "transmission_exit")
    assert {a.finding.component for a in alerts} <= {components()[i].name for i in OUTPUTS}
    assert alerts[-1].finding.severity == severity
    assert ("that of the steps since then" in alerts[-1].text) == (severity == "info")
