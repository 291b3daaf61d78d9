"""Weight decay in the gradient, steps that go on, and matrices that stand still: what explains a movement is an info."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from alerts.simulated import (
    SIDE,
    Columns,
    alerts_in,
    begun_in,
    component,
    components,
    healthy,
    index,
    scale_by,
    window_in,
)
from weibull_monitor.alerts.rules.broken import unchanged
from weibull_monitor.alerts.rules.decay import IN_GRADIENT, in_gradient
from weibull_monitor.alerts.rules.scale import impossible_change
from weibull_monitor.alerts.settings import ImpossibleChange, Unchanged
from weibull_monitor.history.alert import Alert
from weibull_monitor.measure.fit import fit_weibull

AT, EVERY, ETA = 15, 10, 1e-3
V = index(2, "attn_v")


def shrunk(columns: list[Columns], first: int = 1, share: float = 0.1) -> None:
    """Moves every value of each matrix to zero by a share of η a step, as sign(w) in place of w in the decay does."""
    weights = 0.02 * torch.randn(SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    for n, now in enumerate(columns):
        fallen = share * ETA * EVERY * max(0, n - first + 1)
        left = weights.abs() - fallen
        fit = fit_weibull(torch.where(left > 0.0, left, 1e-4 * weights.abs()))
        for name, value in (("k", fit.k), ("lambda", fit.lambda_), ("r2", fit.r2), ("rms", fit.rms)):
            assert value is not None
            now[name] = value * (1.0 + 1e-4 * np.random.default_rng(n).standard_normal(len(now[name])))
        now["largest"] = 4.0 * now["rms"]


def alerts_of(columns: list[Columns], coupled: int, rule: str = "") -> list[Alert]:
    return begun_in(columns, rule, withheld={"coupled_weight_decay": coupled})


def test_weights_that_decay_in_the_gradient_moves_to_zero_are_an_info() -> None:
    columns = healthy(eta=ETA)
    shrunk(columns)
    alerts = alerts_of(columns, len(columns[0]["k"]))
    assert {"scale_shift", "body_break", "selection_range", "transmission_exit"} & {a.finding.rule for a in alerts}
    assert {a.finding.severity for a in alerts} == {"info"}
    assert any(IN_GRADIENT in a.finding.meaning for a in alerts)


def test_the_same_under_decoupled_decay_is_a_warning() -> None:
    columns = healthy(eta=ETA)
    shrunk(columns)
    assert any(a.finding.severity == "warning" for a in alerts_of(columns, 0))


def test_a_matrix_that_is_scaled_down_beside_such_a_decay_is_a_warning() -> None:
    columns = healthy(eta=ETA)
    shrunk(columns, share=0.02)
    for now in columns[AT:]:
        scale_by(now, 0.6, V, largest=False)
    alerts = [a for a in alerts_of(columns, len(columns[0]["k"])) if a.finding.severity == "warning"]
    assert [(a.finding.rule, a.step, a.finding.component) for a in alerts] == [
        ("scale_shift", AT * EVERY, "model.layers.2.attn_v.weight")
    ]


def test_only_matrices_with_weight_decay_have_it_in_the_gradient() -> None:
    columns = healthy()
    for now in columns:
        now["weight_decay"][V] = 0.0
    window = window_in(columns, withheld={"coupled_weight_decay": 27})
    assert np.flatnonzero(~in_gradient(window)).tolist() == [V]
    few = window_in(columns, withheld={"coupled_weight_decay": 10})
    assert not in_gradient(few).any()  # which ones is not known


def falling(columns: list[Columns], i: int, rates: Callable[[int], float]) -> None:
    level = 1.0
    for n, now in enumerate(columns[1:]):
        level *= 1.0 - rates(n)
        for name in ("lambda", "rms"):
            now[name][i] = columns[0][name][i] * level


def test_a_fall_that_goes_on_is_an_info_and_one_that_begins_a_warning() -> None:
    """As of SGD with momentum, which multiplies weight decay by 1/(1 - β)."""
    columns = healthy(eta=ETA)
    falling(columns, V, lambda n: 0.07)
    alerts = alerts_of(columns, 0, "scale_shift")
    assert {a.finding.severity for a in alerts} <= {"info"}
    columns = healthy(eta=ETA)
    falling(columns, V, lambda n: 0.25 if n >= AT else 0.01)
    alerts = alerts_of(columns, 0, "scale_shift")
    assert [(a.finding.severity, a.step) for a in alerts] == [("warning", (AT + 1) * EVERY)]


def growing(columns: list[Columns], i: int, rates: list[float]) -> None:
    """RMS grows by these multiples of Σ η in the last intervals."""
    for n, rate in enumerate(rates, len(columns) - len(rates)):
        factor = 1.0 + rate * ETA * EVERY / columns[n - 1]["rms"][i]
        for name in ("lambda", "rms", "largest"):
            columns[n][name][i] = columns[n - 1][name][i] * factor


@pytest.mark.parametrize(
    ("rates", "strong"),
    [
        pytest.param([0.5, 0.9, 1.2, 1.8], False, id="steps that go on and grow"),
        pytest.param([0.0, 0.0, 0.0, 1.8], True, id="a jump"),
        pytest.param([0.1, 0.1, 0.3, 1.8], True, id="a jump after a little"),
    ],
)
def test_changes_within_the_bound_of_adam_may_go_on(rates: list[float], strong: bool) -> None:
    columns = healthy(eta=ETA)
    growing(columns, V, rates)
    result = impossible_change(window_in(columns), ImpossibleChange())
    assert result is not None
    assert bool(result.strength[V] >= 1.0) is strong


def test_a_few_values_may_all_go_to_the_bound() -> None:
    columns = healthy(eta=ETA)
    growing(columns, V, [6.0])
    few = tuple(component(b, k, shape=(4, 6) if (b, k) == (2, "attn_v") else (SIDE, SIDE)) for b, k in _places())
    result = impossible_change(window_in(columns, of=few), ImpossibleChange())
    assert result is not None
    assert result.strength[V] < 1.0
    growing(columns, V, [9.0])
    result = impossible_change(window_in(columns, of=few), ImpossibleChange())
    assert result is not None
    assert result.strength[V] >= 1.0
    assert result.severity[V] == 3


def _places() -> list[tuple[int, str]]:
    return [(block, kind) for block in range(4) for kind in ("attn_q", "attn_k", "attn_v", "attn_o", *FFN)]


FFN = ("ffn_gate", "ffn_up", "ffn_down")


def still(columns: list[Columns], i: int, before: float) -> None:
    """A matrix that moves by a share of what the others do, and then not at all."""
    for n, now in enumerate(columns[1:], 1):
        moved = min(n, len(columns) - 2)
        for name in ("k", "lambda", "r2", "rms"):
            now[name][i] = columns[0][name][i] * (1.0 + before * moved)


@pytest.mark.parametrize(("before", "severity"), [(1e-2, 2), (1e-6, 1)])
def test_a_matrix_that_hardly_moved_before_may_stand_still(before: float, severity: int) -> None:
    columns = healthy()
    still(columns, V, before)
    result = unchanged(window_in(columns), Unchanged())
    assert result is not None
    assert result.strength[V] >= 1.0
    assert result.severity[V] == severity


def test_an_expert_without_tokens_is_an_info() -> None:
    columns = healthy()
    still(columns, V, 1e-2)
    experts = tuple(component(b, k, expert=0 if (b, k) == (2, "attn_v") else None) for b, k in _places())
    result = unchanged(window_in(columns, of=experts), Unchanged())
    assert result is not None
    assert result.strength[V] >= 1.0
    assert result.severity[V] == 1
    assert "no tokens" in result.meaning(V)


@pytest.mark.parametrize("coupled", [True, False])
def test_a_kind_that_grew_first_and_then_fades_has_not_left_its_band(coupled: bool) -> None:
    """λ comes down from its highest while k falls below all published models, and is still as large as at the start."""
    columns = healthy(40, eta=ETA)
    falls = [i for i, c in enumerate(components()) if c.kind == "ffn_down"]
    for n, now in enumerate(columns):
        now["k"][falls] -= 0.012 * max(0, n - 10)
        now["lambda"][falls] *= np.exp(0.02 * min(n, 10) - 0.018 * max(0, n - 10))
    withheld = {"coupled_weight_decay": len(columns[0]["k"]) if coupled else 0}
    found = alerts_in(columns, "transmission_exit", withheld=withheld)
    assert found
    assert any(a.finding.severity == "warning" for a in found) != coupled


def test_the_first_sample_of_a_run_without_one_at_step_0_is_judged() -> None:
    columns = healthy(4, eta=ETA)[1:]
    for withheld in ("coupled_weight_decay", "norm_scaled"):
        assert begun_in(columns, withheld={withheld: len(columns[0]["k"])}) == []
