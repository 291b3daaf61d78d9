"""Matrices that begin at zero or next to it: what their steps make of them is not a fault while they grow."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from alerts.simulated import KINDS, Columns, alerts_in, begun_in, components, healthy, index, scale_by, window_in
from weibull_monitor.alerts.rules.layers import layer_outlier
from weibull_monitor.alerts.rules.steps import from_nothing
from weibull_monitor.alerts.settings import LayerOutlier
from weibull_monitor.model.components import Part

ETA, AT = 1e-3, 26
V, Q = index(2, "attn_v"), index(2, "attn_q")


def begun_at_nothing(columns: list[Columns], i: int, settled: int) -> None:
    """A matrix of 1e-10 that reaches the size of the others at a sample, five times as large at each of the last ones before."""
    for n, now in enumerate(columns):
        scale_by(now, max(1e-8, 0.2 ** max(0, settled - n)), i)


@pytest.mark.parametrize("i", [Q, V])
@pytest.mark.parametrize(("settled", "severity"), [(AT - 2, "info"), (AT - 12, "warning")])
def test_the_shape_of_what_still_grows_from_nothing_is_an_info_however_old_the_run(
    i: int, settled: int, severity: str
) -> None:
    """Its past movements are those of another size, until it has kept its size for as long as the past that counts."""
    columns = healthy(AT + 4, eta=ETA)
    begun_at_nothing(columns, i, settled)
    for now in columns[AT:]:
        now["k"][i] -= 0.3
        now["r2"][i] -= 0.03
    alerts = [a for a in begun_in(columns) if a.finding.rule in ("selection_shift", "body_break") and a.step == 10 * AT]
    assert {a.finding.severity for a in alerts} == {severity}
    assert all(("began at zero" in a.finding.meaning) == (severity == "info") for a in alerts)


@pytest.mark.parametrize(("nothing", "severities"), [(True, {"info"}), (False, {"info", "warning"})])
def test_what_began_at_nothing_is_judged_by_what_changes_and_not_by_where_it_is(
    nothing: bool, severities: set[str]
) -> None:
    """It was made by steps alone; an alert when it has settled would be no news."""
    columns = healthy(AT + 10, eta=ETA)
    if nothing:
        begun_at_nothing(columns, V, 12)
    for n, now in enumerate(columns):
        now["r2"][V] = max(0.85, 0.998 - 0.006 * n)
    alerts = alerts_in(columns, "body_break")
    assert {a.finding.severity for a in alerts} == severities


def test_a_matrix_that_is_still_next_to_nothing_may_grow_by_any_factor() -> None:
    """Its steps are tiny as long as the gradient that reaches it is; λ says nothing of it."""
    columns = healthy(AT + 4, eta=ETA)
    for n, now in enumerate(columns):
        for name in ("lambda", "rms", "largest"):
            now[name][V] = 1e-10 * (1.01**n if n < AT else 40.0) * now[name][V] / 0.02
    alerts = [a for a in begun_in(columns) if "attn_v" in a.finding.component and a.finding.rule == "scale_shift"]
    assert {a.finding.severity for a in alerts} == {"info"}
    assert "began at zero" in alerts[0].finding.meaning


@pytest.mark.parametrize("grows", [True, False])
def test_a_kind_that_grows_from_nothing_may_have_any_median_k(grows: bool) -> None:
    columns, kinds = healthy(AT, eta=ETA), [index(block, "attn_q") for block in range(4)]
    for n, now in enumerate(columns):
        now["k"][kinds] = 1.2054 if n < 10 else 0.1
        scale_by(now, 0.5 ** (AT - n) if grows else 1.0, kinds)
    about = [a for a in begun_in(columns) if a.finding.rule in ("selection_range", "selection_drift", "layer_outlier")]
    assert "info" in {a.finding.severity for a in about} or not grows
    assert ("warning" in {a.finding.severity for a in about}) == (not grows)


@pytest.mark.parametrize("nothing", [True, False])
def test_one_block_of_a_kind_that_grows_from_nothing_wakes_first(nothing: bool) -> None:
    """However quickly it does: the others have still the size of the start, which is no size to be compared with."""
    columns, kind = healthy(AT, blocks=8, eta=ETA), [index(block, "attn_q") for block in range(8)]
    for n, now in enumerate(columns):
        scale_by(now, 5e-3 if nothing else 1.0, kind)
        for name in ("lambda", "rms", "largest"):
            now[name][kind] *= np.exp(-0.01 * n)
        scale_by(now, 50.0 if n == AT - 1 else 1.0, [index(3, "attn_q")])
    result, first = layer_outlier(window_in(columns, blocks=8), LayerOutlier()), index(3, "attn_q")
    assert result.strength[first] >= LayerOutlier.sure
    assert result.severity[first] == (1 if nothing else 2)
    assert ("sum of the steps" in result.meaning(first)) == nothing


def test_a_fused_matrix_grows_from_nothing_as_long_as_one_of_its_parts_does() -> None:
    """Values of several sizes are one population no sooner than the last part has grown."""
    columns, whole = healthy(AT, eta=ETA), index(1, "attn_v")
    names = [index(1, kind) for kind in KINDS[:3]]
    of = list(components())
    for place in names:
        part = Part(of[place].kind[-1], of[place].shape, ((0, 256), (0, 256)))
        of[place] = replace(of[place], parameter="fused", part=None if place == whole else part)
    for now in columns:
        for name in ("lambda", "rms", "largest"):
            now[name][names[0]] = 1e-10
            now[name][whole] *= 1e-8 if now is columns[0] else 1.0
    window = window_in(columns, of=tuple(of))
    assert from_nothing(window)[names].tolist() == [True, False, True]
    for now in columns[1:]:
        now["rms"][names[0]] = now["lambda"][names[0]] = 0.02
    assert not from_nothing(window_in(columns, of=tuple(of)))[whole]


@pytest.mark.parametrize("i", [Q, V])
def test_a_change_of_shape_of_what_no_optimizer_steps_says_so(i: int) -> None:
    columns = healthy(AT + 4, eta=ETA)
    for n, now in enumerate(columns):
        for name in ("eta", "eta_sum", "weight_decay", "update_max"):
            now[name][i] = np.nan
        now["k"][i] -= 0.3 if n >= AT else 0.0
    alerts = [a for a in begun_in(columns) if a.finding.rule in ("selection_shift", "body_break")]
    assert {a.finding.severity for a in alerts} == {"info"}
    assert all("does not know how far a step may move it" in a.finding.meaning for a in alerts)


@pytest.mark.parametrize("start", [1e-10, 0.02])
def test_an_adapter_that_grows_from_nothing_does_not_jump(start: float) -> None:
    outside = replace(components()[V], name="lora_B.weight", kind="adapter_b", block=None, parameter="lora_B.weight")
    columns = healthy(AT + 4, eta=ETA)
    for n, now in enumerate(columns):
        for name in ("lambda", "rms", "largest"):
            now[name][V] = start * 1.01**n * (4.0 if n >= AT else 1.0) * now[name][V] / now["rms"][V]
    alerts = begun_in(columns, of=tuple(outside if i == V else c for i, c in enumerate(components())))
    about = {a.finding.severity for a in alerts if a.finding.component == outside.name}
    assert about == ({"error"} if start > 1e-3 else set())


def without_rate(columns: list[Columns]) -> list[Columns]:
    """As of an optimizer that scales its steps by the weights, such as Adafactor without ``lr``: no η, and no bound."""
    for now in columns:
        for name in ("eta", "eta_sum", "update_max", "element_max"):
            now[name][:] = np.nan
    return columns


@pytest.mark.parametrize(("grown", "severity"), [(slice(None), "info"), (slice(V, V + 1), "warning")])
def test_a_model_that_has_outgrown_its_start_consists_of_its_steps(grown: slice, severity: str) -> None:
    """Where steps have no known size, only what most matrices did says that the start was nothing beside them."""
    columns = without_rate(healthy(AT + 4))
    for n, now in enumerate(columns):
        scale_by(now, 0.9 ** (AT + 4 - n), grown)
    for now in columns[AT:]:
        now["k"][V] -= 0.3
        now["r2"][V] -= 0.05
    about = [a for a in begun_in(columns) if a.finding.rule == "body_break" and a.step == 10 * AT]
    assert {a.finding.severity for a in about} == {severity}


def test_what_begins_at_zero_under_steps_of_unknown_size_may_have_any_median_k() -> None:
    columns, kinds = without_rate(healthy(AT)), [index(block, "ffn_down") for block in range(4)]
    for n, now in enumerate(columns):
        now["k"][kinds] = 0.9 if n else np.nan
        scale_by(now, 1e-3 * n, kinds)
    about = [a for a in begun_in(columns) if a.finding.rule == "transmission_exit"]
    assert {a.finding.severity for a in about} == {"info"}


def test_a_body_of_values_that_are_still_next_to_nothing_grows_from_nothing() -> None:
    """A few rows of a matrix may have grown before the others: the RMS is theirs, and λ that of the others."""
    columns = healthy(AT + 4, eta=ETA)
    for n, now in enumerate(columns):
        now["lambda"][V], now["rms"][V] = 1e-4, 4e-3 if n else 1.1e-4
        now["r2"][V] -= 0.03 if n >= AT else 0.0
    about = [a for a in begun_in(columns) if a.finding.rule == "body_break" and a.step == 10 * AT]
    assert {a.finding.severity for a in about} == {"info"}


@pytest.mark.parametrize("by_training", [True, False])
def test_a_fall_of_all_under_steps_of_unknown_size_is_training_where_k_moves_with_it(by_training: bool) -> None:
    """No Σ η bounds it, but neither weight decay nor a factor moves k."""
    columns = without_rate(healthy(AT + 1, every=100))
    for name in ("lambda", "rms", "largest"):
        columns[AT][name] *= 0.85
    columns[AT]["k"] -= 0.02 if by_training else 0.0
    for now in columns:
        now["weight_decay"][:] = 0.0
    about = alerts_in(columns, "scale_shift", every=100)
    assert {a.finding.severity for a in about} == {"info" if by_training else "warning"}
    said = about[0].finding.meaning
    assert ("takes back" if by_training else "settings of the optimizer, whose η is not known") in said
