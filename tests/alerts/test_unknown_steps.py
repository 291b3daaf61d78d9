"""What steps can and cannot make of a matrix: where their size is not known, and where they are all that there is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from alerts.simulated import Columns, alerts_in, alerts_of, begun_in, components, healthy, index, scale_by, window_in
from weibull_monitor import fit_weibull
from weibull_monitor.alerts.rules.steps import from_nothing, one_way

AT, ETA = 15, 2e-3
V, Q = index(2, "attn_v"), index(1, "attn_q")


def unknown(columns: list[Columns], *names: str, at: object = slice(None)) -> None:
    for now in columns:
        for name in names:
            now[name][at] = np.nan


@pytest.mark.parametrize(("stepped", "severity"), [(True, "warning"), (False, "info")])
def test_what_no_known_optimizer_steps_may_move_as_it_likes(stepped: bool, severity: str) -> None:
    """Weights that are computed from others, as with spectral norm."""
    columns = healthy()
    if not stepped:
        unknown(columns, "eta", "eta_sum", "weight_decay", "update_max", "element_max", at=V)
    for now in columns[AT:]:
        scale_by(now, 0.7, V, largest=False)
    alerts = begun_in(columns, "scale_shift")
    assert [a.finding.severity for a in alerts] == [severity]
    assert ("computed from other parameters" in alerts[0].finding.meaning) is not stepped
    assert "not known" not in alerts[0].finding.meaning or not stepped


@pytest.mark.parametrize(("reason", "severity"), [("own_learning_rate", "warning"), ("step_not_eta", "info")])
def test_what_keeps_its_own_step_sizes_may_move_as_it_likes(reason: str, severity: str) -> None:
    """Rprop makes the step of each value up to 1.2 times as long at each step, whatever η is."""
    columns = healthy()
    unknown(columns, "eta", "eta_sum", "weight_decay", "update_max", "element_max")
    for now in columns[AT:]:
        scale_by(now, 2.0, V)
    alerts = [a.finding for a in alerts_in(columns, "scale_shift", withheld={reason: len(components())})]
    assert [a.severity for a in alerts if a.component == components()[V].name][:1] == [severity]


def test_a_rate_that_the_optimizer_raises_is_no_setting_that_jumps() -> None:
    columns = healthy(30, eta=ETA)
    for now in columns[AT:]:
        now["eta"][:] *= 30.0
        now["eta_sum"][:] += 29.0 * ETA
        scale_by(now, 1.3)
    assert alerts_in(columns, "setting_jump", withheld={"no_weight_decay": len(components())})
    assert not alerts_in(columns, "setting_jump", withheld={"own_learning_rate": len(components())})


@pytest.mark.parametrize("deviations", [1.0, 1.5, 2.0, 3.0, 5.0])
def test_normal_values_that_take_steps_of_one_size_have_the_k_of_such_steps(deviations: float) -> None:
    """Fits of the values themselves say what k and the RMS become."""
    random = torch.Generator().manual_seed(0)
    w = 0.02 * torch.randn(500_000, generator=random)
    stepped = w + 0.02 * deviations * torch.randn(500_000, generator=random).sign()
    fits = [fit_weibull(values) for values in (w, stepped)]
    columns = healthy(AT + 1, eta=0.02 * deviations / 10 * 1.02)  # Σ η of ten steps
    for now, fit in ((columns[-2], fits[0]), (columns[-1], fits[1])):
        for name, value in (("k", fit.k), ("lambda", fit.lambda_), ("rms", fit.rms), ("r2", fit.r2)):
            now[name][V] = value
    assert bool(one_way(window_in(columns))[V])


def test_codes_that_are_read_wrongly_have_a_k_that_steps_do_not_make() -> None:
    """Offset codes of four bits, read as two's complement, grow by just what steps in one direction would give."""
    columns = healthy(AT + 1, eta=ETA)
    for now in columns:
        now["k"][Q], now["rms"][Q] = 1.22, 0.0349
    columns[-1]["k"][Q], columns[-1]["rms"][Q], columns[-1]["r2"][Q] = 2.51, 0.0598, 0.994
    assert not one_way(window_in(columns))[Q]


@pytest.mark.parametrize(("factor", "severities"), [(1.3, []), (1e6, ["warning"])])
def test_a_growth_beyond_any_step_is_found_without_a_bound(factor: float, severities: list[str]) -> None:
    columns = healthy()
    unknown(columns, "update_max", "element_max")
    for now in columns[AT:]:
        now["rms"][V] *= factor  # a flipped exponent bit moves the RMS alone
    assert [a.finding.severity for a in begun_in(columns, "impossible_change")] == severities


@pytest.mark.parametrize(("start", "expected"), [(1e-10, True), (0.0, True), (0.02, False)])
def test_a_matrix_that_begins_at_next_to_nothing(start: float, expected: bool) -> None:
    columns = healthy(30, eta=ETA)
    columns[0]["rms"][V] = start
    assert bool(from_nothing(window_in(columns[:5]))[V]) is expected
    assert not from_nothing(window_in(columns))[V]  # it is as old as the others by then


def test_the_shape_of_what_began_at_next_to_nothing_is_an_info() -> None:
    def shape(begun: float) -> set[str]:
        columns = healthy(12, eta=ETA)
        columns[0]["rms"][V] = begun
        for now in columns[6:]:
            now["r2"][V], now["k"][V] = 0.85, 0.8
        return {a.finding.severity for a in begun_in(columns, "body_break")}

    assert (shape(0.02), shape(1e-10)) == ({"warning"}, {"info"})


@pytest.mark.parametrize(("times", "severities"), [(1.5, set()), (0.6, {"warning"})])
def test_a_strong_drift_up_from_an_initialisation_is_an_info(times: float, severities: set[str]) -> None:
    """Lion and steps like its make k rise in any attention; only specialised attention makes it fall."""

    def drift(columns: list[Columns]) -> None:
        rows = [index(block, "attn_k") for block in range(4)]
        for n, now in enumerate(columns):
            now["k"][rows] *= times ** min(1.0, n / 18)

    assert {a.finding.severity for a in alerts_of(drift) if a.finding.rule == "selection_drift"} == severities


def test_one_block_that_departs_a_little_is_an_info() -> None:
    def departs(by: float) -> set[str]:
        columns = healthy(blocks=8)
        for n, now in enumerate(columns):
            scale_by(now, np.exp(by * min(1.0, n / 20)), V)
        return {a.finding.severity for a in alerts_in(columns, "layer_outlier", blocks=8)}

    assert (departs(0.5), departs(1.5)) == ({"info"}, {"info", "warning"})


def test_steps_of_which_no_sum_is_known_count_as_those_before() -> None:
    """As after an optimizer was replaced: η still stands in the old one, and the matrices move as before."""
    columns = healthy(40)
    unknown(columns[AT:], "eta_sum")
    assert not [a for a in begun_in(columns) if a.finding.severity != "info"]
    works = window_in(columns[: AT + 2])["work"][-4:]  # (samples, components)
    np.testing.assert_allclose(works, np.broadcast_to(works[:1], works.shape), rtol=1e-6)


@pytest.mark.parametrize(("k", "expected"), [(0.06, True), (0.30, False)])
def test_a_short_interval_of_a_growth_in_steps_of_unknown_size(k: float, expected: bool) -> None:
    """ln RMS has risen by 0.8 since the start, and by 0.16 in the last interval: less than asked for, if it stood alone."""
    columns = healthy(AT + 1)
    unknown(columns, "eta", "eta_sum", "weight_decay", "update_max", "element_max")
    for n, now in enumerate(columns):
        scale_by(now, np.exp(0.043 * min(n, AT - 1) + 0.15 * (n == AT)), V)
    columns[-1]["k"][V] += k
    assert bool(one_way(window_in(columns))[V]) is expected


def test_k_of_few_values_may_rise_by_its_error_more_than_steps_explain() -> None:
    columns = healthy(AT + 1, eta=ETA)
    for now, (k, rms) in zip(columns[-3:], [(1.2206, 0.033358), (1.2439, 0.04055), (1.5506, 0.053331)], strict=True):
        now["k"][V], now["rms"][V], now["k_se"][V] = k, rms, 0.025
        now["eta_sum"][V] = 0.032 * (1 + now["eta_sum"][V])
    for n, now in enumerate(columns[-3:]):
        now["eta_sum"][V] = 0.4 + 0.032 * n
    assert one_way(window_in(columns))[V]
    for now in columns[-3:]:
        now["k_se"][V] = 1e-4
    assert not one_way(window_in(columns))[V]


@pytest.mark.parametrize(("known", "found"), [(True, True), (False, False)])
def test_a_warm_up_that_nobody_sees_may_last_as_long_as_samples_get_further_apart(known: bool, found: bool) -> None:
    """Where η is not known, as of weights that are copied from others, nothing tells a fall from a warm-up before step 64."""
    columns = healthy(7, every=10)
    if not known:
        unknown(columns, "eta", "eta_sum", "weight_decay", "update_max", "element_max", at=slice(None))
    scale_by(columns[6], 0.7, V, largest=False)
    later = healthy(10, every=10)
    if not known:
        unknown(later, "eta", "eta_sum", "weight_decay", "update_max", "element_max", at=slice(None))
    scale_by(later[9], 0.7, V, largest=False)
    assert bool(begun_in(columns, "scale_shift")) == found
    assert begun_in(later, "scale_shift")
