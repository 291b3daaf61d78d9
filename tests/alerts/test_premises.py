"""Rules are silent where what they presume is not known to hold, and a finding is as severe as it is sure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from alerts.simulated import KINDS, Columns, alerts_in, alerts_of, begun_in, component, components, healthy, index
from weibull_monitor import WeibullMonitor, read_history
from weibull_monitor.alerts import AlertSettings
from weibull_monitor.alerts.samples import READ
from weibull_monitor.history.alert import Alert
from weibull_monitor.history.columns import WRITES
from weibull_monitor.monitor.schedule import Schedule

AT = 15
Q, V, UP = index(2, "attn_q"), index(2, "attn_v"), index(2, "ffn_up")


def all_alerts(break_it: Callable[[list[Columns]], object], of: object = None, **options: int) -> list[Alert]:
    columns = healthy(**options)
    break_it(columns)
    return begun_in(columns, of=of, **options)


def grown(columns: list[Columns], members: list[int], share: float, start: int = AT) -> None:
    for now in columns[start:]:
        for name in ("lambda", "rms"):
            now[name][members] *= np.exp(share)


def test_a_finding_that_is_not_sure_is_an_info() -> None:
    """Two matrices that grow together are unlike their past, but neither is alone."""
    found = [a for a in all_alerts(lambda c: grown(c, [V, UP], 0.09)) if a.finding.rule == "scale_shift"]
    assert [a.finding.severity for a in found] == ["info"]
    found = [a for a in all_alerts(lambda c: grown(c, [V, UP], 0.3)) if a.finding.rule == "scale_shift"]
    assert [a.finding.severity for a in found] == ["warning"]


def test_how_sure_a_warning_must_be_is_a_setting() -> None:
    apart = [V, index(1, "ffn_up")]  # of two blocks, and of two kinds
    assert alerts_of(lambda c: grown(c, apart, 0.25), AlertSettings.of({"scale_shift": {"sure": 9.0}})) == []
    assert alerts_of(lambda c: grown(c, apart, 0.09), AlertSettings.of({"scale_shift": {"sure": 1.0}})) != []


def test_a_model_that_begins_to_learn_as_a_whole_is_no_fault() -> None:
    """After a plateau all matrices move at once: none of them is unusual beside the others."""

    def learning(columns: list[Columns]) -> None:
        for n, now in enumerate(columns[AT:], 1):
            for name in ("lambda", "rms"):
                now[name] *= np.exp(0.05 * min(n, 4) * np.linspace(0.7, 1.3, len(now[name])))

    assert alerts_of(learning) == []


def test_a_matrix_that_was_frozen_has_no_usual_movement() -> None:
    """Its block is unfrozen in the middle, and then learns as fast as others did at the beginning."""

    def unfrozen(columns: list[Columns]) -> None:
        member = [index(3, kind) for kind in KINDS]
        spent = columns[AT - 1]["eta_sum"][0]
        for now in columns[:AT]:
            for name in ("k", "lambda", "rms", "r2"):
                now[name][member] = columns[0][name][member]
            now["eta_sum"][member] = np.nan if now is columns[0] else 0.0
        for n, now in enumerate(columns[AT:], 1):
            now["eta_sum"][member] -= spent
            for name in ("lambda", "rms"):
                now[name][member] = columns[0][name][member] * np.exp(0.15 * min(n, 4))
            now["k"][member] = columns[0]["k"][member] - 0.02 * min(n, 4)

    assert {a.finding.rule for a in alerts_of(unfrozen)} <= {"layer_outlier"}


def test_what_has_never_moved_beside_others_that_do_is_an_info() -> None:
    def unused(columns: list[Columns]) -> None:
        for now in columns:
            for name in ("k", "lambda", "rms", "r2", "zeros"):
                now[name][UP] = columns[0][name][UP]

    found = [a for a in all_alerts(unused) if a.finding.rule == "unchanged"]
    assert [a.finding.severity for a in found] == ["info"]


def test_that_nothing_moves_at_all_is_a_warning() -> None:
    """As with bf16 weights and a rate that is lost in rounding."""

    def still(columns: list[Columns]) -> None:
        for now in columns:
            for name in ("k", "lambda", "rms", "r2", "zeros"):
                now[name][:] = columns[0][name]

    found = [a for a in all_alerts(still) if a.finding.rule == "unchanged"]
    assert found[0].finding.severity == "warning"


@pytest.mark.parametrize("kind", ["attn_o", "ffn_down"])
def test_a_projection_that_begins_at_zero_has_not_broken(kind: str) -> None:
    """After Adam's first step all its values have one size; then it becomes a population."""
    member = [index(block, kind) for block in range(4)]

    def from_zero(columns: list[Columns]) -> None:
        for n, now in enumerate(columns):
            if n == 0:
                for name in ("k", "lambda", "r2", "k_se"):
                    now[name][member] = np.nan
                now["rms"][member], now["zeros"][member] = 0.0, 256.0 * 256
                continue
            now["rms"][member] = 3e-3 * n
            now["lambda"][member] = 2.7e-3 * n
            now["r2"][member] = 0.998 - 0.4 * 0.5**n
            now["k"][member] = 1.2 + 1.5 * 0.5**n

    assert alerts_of(from_zero) == []


def test_a_block_with_a_rate_of_its_own_is_no_outlier_to_be_warned_of() -> None:
    def slower(columns: list[Columns]) -> None:
        i = index(5, "attn_v")
        for n, now in enumerate(columns[1:], 1):
            now["eta_sum"][i] *= 0.1
            now["lambda"][i] = columns[0]["lambda"][i] * np.exp(-0.025 * n)
            now["rms"][i] = now["lambda"][i] / 0.887

    assert "layer_outlier" not in {a.finding.rule for a in alerts_of(slower, blocks=8)}


def test_replaying_every_fifth_sample_is_what_sampling_less_often_gives(tmp_path: Path) -> None:
    """η, Σ η and the bound belong to the sample: what an interval has spent does not depend on the samples within it."""

    def train(every: int) -> Path:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(48, 96), nn.ReLU(), nn.Linear(96, 48))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 60)
        with WeibullMonitor(model, optimizer, every_n_steps=every, output_dir=tmp_path / str(every)) as monitor:
            for _ in range(60):
                loss = (model(torch.randn(8, 48)) ** 2).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                monitor.step()
                scheduler.step()
        return tmp_path / str(every)

    often, seldom = (read_history(train(every)) for every in (4, 20))
    due = Schedule(20)
    kept = [s for s in often.snapshots if s.step == 0 or due(s.step)]
    assert [s.step for s in kept] == [s.step for s in seldom.snapshots]
    for one, other in zip(kept, seldom.snapshots, strict=True):
        same = [c for c in READ if c not in WRITES]  # those are of an interval, and add up
        assert {c: one.columns[c] for c in same} == {c: other.columns[c] for c in same}


def test_experts_may_get_no_gradient() -> None:
    """An expert that no token is sent to has a gradient of zero, and only weight decay moves it."""
    made = [replace(c, expert=0) if i == UP else c for i, c in enumerate(components())]
    assert made[UP] == component(2, "ffn_up", expert=0)

    def idle(columns: list[Columns]) -> None:
        for n, now in enumerate(columns[AT:], 1):
            now["k"][UP] = columns[AT - 1]["k"][UP]
            for name in ("lambda", "rms"):
                now[name][UP] = columns[AT - 1][name][UP] * np.exp(-1e-3 * n)

    rules = {a.finding.rule for a in all_alerts(idle, of=tuple(made))}
    assert "no_gradient" not in rules


@pytest.mark.parametrize("every", [1, 2])
def test_a_scheduler_that_steps_before_the_monitor_shows_the_next_rate(every: int, tmp_path: Path) -> None:
    """η falls to a hundredth at step 4: the step before was taken at the rate of before, though only the new one is seen."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128, bias=False), nn.ReLU(), nn.Linear(128, 32, bias=False))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [4], 0.01)
    with WeibullMonitor(model, optimizer, every_n_steps=every, output_dir=tmp_path) as monitor:
        for _ in range(8):
            model(torch.randn(16, 64)).square().mean().backward()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            monitor.step()
    assert not read_history(tmp_path).alerts


@pytest.mark.parametrize("size", [32, 400])
def test_equal_values_that_leave_their_bin_together_have_not_moved_further(size: int, tmp_path: Path) -> None:
    """A scale of ones has no fit, and its RMS is known to half a bin."""
    model = nn.Sequential(nn.Linear(64, 64, bias=False))
    model.scale = nn.Parameter(torch.ones(1, size))  # type: ignore[assignment]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with WeibullMonitor(model, optimizer, every_n_steps=1, output_dir=tmp_path) as monitor:
        for _ in range(4):
            (model(torch.ones(8, 64)).square().mean() - model.scale.square().sum()).backward()
            optimizer.step()
            optimizer.zero_grad()
            monitor.step()
    history = read_history(tmp_path)
    assert "scale" in {c.name for c in history.components}
    assert not history.alerts


@pytest.mark.parametrize(("side", "severities"), [(256, {"info", "warning"}), (64, {"info"})])
def test_bands_of_published_models_say_nothing_sure_of_very_small_ones(side: int, severities: set[str]) -> None:
    """28 matrices of 256 × 256 have 1.8 M elements, of 64 × 64 0.1 M."""
    columns = healthy(40)
    falls = [i for i, c in enumerate(components()) if c.kind == "ffn_down"]
    for n, now in enumerate(columns):
        now["k"][falls] -= 0.01 * max(0, n - 10)
    of = tuple(replace(c, shape=(side, side)) for c in components())
    assert {a.finding.severity for a in alerts_in(columns, "transmission_exit", of=of)} == severities


def test_k_that_rises_from_an_initialisation_of_few_values_has_no_strong_drift() -> None:
    """k of small matrices at an initialisation may be far from 1.2; a rise is a strong drift only of trained weights."""
    columns = healthy(40)
    asked = [i for i, c in enumerate(components()) if c.kind == "attn_q"]
    for n, now in enumerate(columns):
        now["k"][asked] += -0.09 + 0.025 * max(0, n - 5)
    found = [a.finding.severity for a in alerts_in(columns, "selection_drift") if a.finding.count]
    assert found
    assert set(found) == {"info"}


@pytest.mark.parametrize(("r2", "severity"), [(0.68, "warning"), (0.96, "info")])
def test_what_is_computed_from_other_parameters_may_change_its_scale_but_not_break(r2: float, severity: str) -> None:
    """Spectral norm divides a matrix by one number: two populations come from what was written to it."""
    columns = healthy()
    for n, now in enumerate(columns):
        for name in ("eta", "eta_sum", "weight_decay", "update_max", "element_max"):
            now[name][V] = np.nan
        if n >= AT:
            now["k"][V], now["r2"][V] = 0.9, r2
    alerts = [a for a in alerts_in(columns, "body_break") if a.phase == "begins"]
    assert [a.finding.severity for a in alerts] == [severity]
