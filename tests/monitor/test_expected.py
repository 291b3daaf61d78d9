"""A change that was announced raises infos only, live and in a replay; what it does not explain is judged as always."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from weibull_monitor import WeibullMonitor, read_history
from weibull_monitor.alerts import AlertSettings, replay
from weibull_monitor.history.record import RecordedSnapshot

AT = 95
"""Steps after which the change comes."""


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 96), nn.GELU(), nn.Linear(96, 128), nn.GELU(), nn.Linear(128, 64))


def drawn_anew(net: nn.Sequential) -> None:
    with torch.no_grad():
        net[4].weight.normal_(std=0.3)


def run(
    place: Path,
    change: Callable[[nn.Sequential], None],
    announce: Callable[[WeibullMonitor, nn.Sequential], None] = lambda monitor, net: None,
    every: int = 10,
    **options: Any,
) -> tuple[list[Any], list[RecordedSnapshot]]:
    """The alerts and the samples of a small training that is changed in the midst."""
    net = network()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    alerts: list[Any] = []
    data = torch.randn(16, 64)
    with WeibullMonitor(
        net, optimizer, every_n_steps=every, output_dir=place, on_alert=alerts.append, **options
    ) as monitor:
        for step in range(1, 201):
            (net(data) - data).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            monitor.step()
            if step == AT:
                announce(monitor, net)
                change(net)
    samples = list(read_history(place).snapshots)
    of_step = [a for a in read_history(place).alerts if a.step > AT]
    again = [a for a in replay(samples, AlertSettings()) if a.step > AT]
    assert [(a.step, a.finding) for a in of_step] == [(a.step, a.finding) for a in again]
    return [a.finding for a in of_step], samples


@pytest.mark.parametrize("every", [5, 10, 50])
def test_infos_instead_of_errors(tmp_path: Path, every: int) -> None:
    alarmed, _ = run(tmp_path / "plain", drawn_anew, every=every)
    assert {"error", "warning"} & {finding.severity for finding in alarmed}
    found, samples = run(tmp_path / "announced", drawn_anew, lambda m, net: m.expect_change(net[4]), every=every)
    assert {finding.severity for finding in found} == {"info"}
    assert {finding.rule for finding in found} >= {f.rule for f in alarmed if f.severity != "info"}
    assert all(finding.meaning.startswith(f"A change was expected after step {AT}. ") for finding in found)
    first = next(sample for sample in samples if sample.step > AT)
    assert first.values("expected_after") == {"4.weight": AT}
    assert [s.step for s in samples if s.values("expected_after")] == [first.step]


def test_a_run_that_stops_at_errors_goes_on(tmp_path: Path) -> None:
    for announced in (False, True):
        net = network()
        with WeibullMonitor(
            net,
            torch.optim.AdamW(net.parameters()),
            every_n_steps=1,
            output_dir=tmp_path / str(announced),
            stop_on="error",
        ) as monitor:
            for _ in range(12):
                monitor.step()
            if announced:
                monitor.expect_change("4")
            drawn_anew(net)
            monitor.step()
            assert bool(monitor.stop_requested) is not announced


WAYS: dict[str, Callable[[nn.Sequential], tuple[Any, ...]]] = {
    "a module": lambda net: (net[4],),
    "a parameter": lambda net: (net[4].weight,),
    "a matrix by name": lambda net: ("4.weight",),
    "a module by name": lambda net: ("4",),
    "several": lambda net: (net[4].weight, net[4]),
}


@pytest.mark.parametrize("way", [*WAYS, "all"])
def test_what_can_be_named(tmp_path: Path, way: str) -> None:
    net = network()
    with WeibullMonitor(net, every_n_steps=1, output_dir=tmp_path) as monitor:
        monitor.step()
        monitor.expect_change(*WAYS[way](net) if way in WAYS else ())
        aside = monitor.sample()
        monitor.step()
        monitor.step()
    assert aside is not None
    wanted = {"4.weight": 1} if way in WAYS else {"0.weight": 1, "2.weight": 1, "4.weight": 1}
    assert aside.values("expected_after") == wanted
    values = [sample.values("expected_after") for sample in read_history(tmp_path).snapshots]
    assert values == [{}, {}, wanted, {}]


def test_another_matrix_is_judged_as_always(tmp_path: Path) -> None:
    def both(net: nn.Sequential) -> None:
        drawn_anew(net)
        with torch.no_grad():
            net[2].weight *= 3

    found, _ = run(tmp_path, both, lambda m, net: m.expect_change(net[4]))
    errors = {finding.component for finding in found if finding.severity == "error"}
    assert errors == {"2.weight"}


@pytest.mark.parametrize("announced", [False, True])
def test_a_new_phase_with_another_optimizer(tmp_path: Path, announced: bool) -> None:
    net = network()
    data = torch.randn(16, 64)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-4)
    with WeibullMonitor(net, optimizer, every_n_steps=5, output_dir=tmp_path) as monitor:
        for step in range(1, 151):
            if step == 101:
                if announced:
                    monitor.expect_change()
                optimizer = torch.optim.AdamW(net.parameters(), lr=9e-3)
                monitor.follow_optimizers(optimizer)
            (net(data) - data).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            monitor.step()
    alerts = [alert for alert in read_history(tmp_path).alerts if 100 < alert.step <= 110]
    assert "setting_jump" in {alert.finding.rule for alert in alerts}
    assert ({alert.finding.severity for alert in alerts} == {"info"}) is announced


def test_nan_is_an_error_as_always(tmp_path: Path) -> None:
    net = network()
    with WeibullMonitor(net, every_n_steps=1, output_dir=tmp_path) as monitor:
        for _ in range(3):
            monitor.step()
        monitor.expect_change()
        with torch.no_grad():
            net[4].weight[0, 0] = torch.nan
        monitor.step()
    (alert,) = [alert for alert in read_history(tmp_path).alerts if alert.finding.rule == "nonfinite"]
    assert (alert.finding.component, alert.finding.severity) == ("4.weight", "error")


def test_what_is_unknown_is_said_and_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    net = network()
    monitor = WeibullMonitor(net, output_dir=tmp_path)
    with caplog.at_level(logging.WARNING, "weibull_monitor"):
        monitor.expect_change("heads", nn.Linear(2, 2))
        monitor.expect_change(3)  # type: ignore[arg-type]
    assert "expect_change: 'heads' has no weights that are measured" in caplog.text
    assert "expect_change: this Linear has no weights that are measured" in caplog.text
    assert "expecting a change failed" in caplog.text
    monitor.step()
    monitor.close()
    monitor.expect_change(net)
    assert not any(sample.values("expected_after") for sample in read_history(tmp_path).snapshots)
