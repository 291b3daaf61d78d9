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


def train(monitor: WeibullMonitor, net: nn.Sequential, optimizer: torch.optim.Optimizer, steps: int) -> None:
    """Steps on one batch."""
    data = torch.randn(16, 64, generator=torch.Generator().manual_seed(1))
    for _ in range(steps):
        (net(data) - data).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        monitor.step()


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
    with WeibullMonitor(net, optimizer, every_n_steps=every, output_dir=place, **options) as monitor:
        train(monitor, net, optimizer, AT)
        announce(monitor, net)
        change(net)
        train(monitor, net, optimizer, 200 - AT)
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
    "all": lambda net: (net,),
    "nothing": lambda net: (),
}
WANTED = {"all": {"0.weight": 1, "2.weight": 1, "4.weight": 1}, "nothing": {}}


@pytest.mark.parametrize("way", WAYS)
def test_what_can_be_named(tmp_path: Path, way: str) -> None:
    net = network()
    with WeibullMonitor(net, every_n_steps=1, output_dir=tmp_path) as monitor:
        monitor.step()
        monitor.expect_change(*WAYS[way](net))
        aside = monitor.sample()
        monitor.step()
        monitor.step()
    assert aside is not None
    wanted = WANTED.get(way, {"4.weight": 1})
    assert aside.values("expected_after") == wanted
    values = [sample.values("expected_after") for sample in read_history(tmp_path).snapshots]
    assert values == [{}, {}, wanted, {}]


class Tied(nn.Module):
    """An embedding that is the output layer, too, and a matrix that is made of others."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(64, 32)
        self.body = nn.utils.parametrizations.weight_norm(nn.Linear(32, 32))
        self.lm_head = nn.Linear(32, 64, bias=False)
        self.lm_head.weight = self.embed.weight


TIED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "the other module": (lambda net: net.lm_head, "embed.weight"),
    "its name": (lambda net: "lm_head", "embed.weight"),
    "the name of its parameter": (lambda net: "lm_head.weight", "embed.weight"),
    "a parametrized module": (lambda net: net.body, "body.weight"),
    "its name, then": (lambda net: "body", "body.weight"),
    "what it is made of": (lambda net: net.body.parametrizations.weight.original1, "body.weight"),
    "the name of that": (lambda net: "body.parametrizations.weight.original1", "body.weight"),
}
WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "none": lambda net: net,
    "DataParallel": nn.DataParallel,
    "compiled": lambda net: torch.compile(net, backend="eager"),  # type: ignore[return-value]
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("way", TIED)
def test_weights_of_several_names_and_wrapped_models(tmp_path: Path, way: str, wrapper: str) -> None:
    net = Tied()
    one, wanted = TIED[way]
    with WeibullMonitor(WRAPPERS[wrapper](net), every_n_steps=1, output_dir=tmp_path) as monitor:
        monitor.expect_change(one(net))
        sample = monitor.sample()
    assert sample is not None
    assert list(sample.values("expected_after")) == [wanted]


def test_a_module_that_was_replaced_already(tmp_path: Path) -> None:
    net = network()
    with WeibullMonitor(net, every_n_steps=1, output_dir=tmp_path) as monitor:
        monitor.step()
        net[4] = nn.Linear(128, 64)
        monitor.expect_change(net[4])
        monitor.step()
    assert read_history(tmp_path).snapshots[-1].values("expected_after") == {"4.weight": 1}


def test_it_outlives_a_checkpoint_and_samples_beside_the_schedule(tmp_path: Path) -> None:
    net = network()
    with WeibullMonitor(net, every_n_steps=10, output_dir=tmp_path / "first") as monitor:
        for _ in range(75):
            monitor.step()
        monitor.expect_change("4")
        state = monitor.state_dict()
    with WeibullMonitor(net, every_n_steps=10, output_dir=tmp_path / "second", resume=state) as again:
        for _ in range(25):
            again.step()
    found = {s.step: s.values("expected_after") for s in read_history(tmp_path / "second").snapshots if s.step > 75}
    assert found == {80: {"4.weight": 75}, 90: {}, 100: {}}
    broken = state | {"expected": {"4.weight": "x", 3: 4}}
    with WeibullMonitor(net, output_dir=tmp_path / "third", resume=broken) as third:
        assert third._sampler.expected == {}


@pytest.mark.parametrize("announced", [False, True])
@pytest.mark.parametrize("every", [1, 10, 50])
@pytest.mark.parametrize("setting", ["lr", "weight_decay"])
def test_a_setting_that_jumps_on_purpose_stops_nothing(
    tmp_path: Path, setting: str, every: int, announced: bool
) -> None:
    net = network()
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-4)
    with WeibullMonitor(net, optimizer, every_n_steps=every, output_dir=tmp_path, stop_on="warning") as monitor:
        train(monitor, net, optimizer, 4 * every + 204)
        if announced:
            monitor.expect_change(net)
        optimizer.param_groups[0][setting] *= 40.0
        train(monitor, net, optimizer, 12 * every)
        if announced or setting == "weight_decay":  # a jump of η of the whole model may be an info at once
            assert bool(monitor.stop_requested) is not announced


def test_what_comes_later_is_judged_as_always(tmp_path: Path) -> None:
    net = network()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    with WeibullMonitor(net, optimizer, every_n_steps=10, output_dir=tmp_path) as monitor:
        train(monitor, net, optimizer, 155)
        monitor.expect_change(net[4])
        drawn_anew(net)
        train(monitor, net, optimizer, 100)
        drawn_anew(net)
        train(monitor, net, optimizer, 45)
    alerts = [alert for alert in read_history(tmp_path).alerts if alert.phase != "ends"]
    assert {a.finding.severity for a in alerts if 155 < a.step <= 255} == {"info"}
    assert "error" in {a.finding.severity for a in alerts if a.step > 255}


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
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-4)
    with WeibullMonitor(net, optimizer, every_n_steps=5, output_dir=tmp_path) as monitor:
        train(monitor, net, optimizer, 100)
        if announced:
            monitor.expect_change(net)
        optimizer = torch.optim.AdamW(net.parameters(), lr=9e-3)
        monitor.follow_optimizers(optimizer)
        train(monitor, net, optimizer, 50)
    alerts = [alert for alert in read_history(tmp_path).alerts if 100 < alert.step <= 110]
    assert "setting_jump" in {alert.finding.rule for alert in alerts}
    assert ({alert.finding.severity for alert in alerts} == {"info"}) is announced


def test_nan_is_an_error_as_always(tmp_path: Path) -> None:
    net = network()
    with WeibullMonitor(net, every_n_steps=1, output_dir=tmp_path) as monitor:
        for _ in range(3):
            monitor.step()
        monitor.expect_change(net)
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
        monitor.expect_change(None, net[1])  # type: ignore[arg-type]
        monitor.expect_change()
    assert "expect_change: 'heads' has no weights that are measured" in caplog.text
    assert "expect_change: this Linear has no weights that are measured" in caplog.text
    assert "expect_change: this NoneType has no weights that are measured" in caplog.text
    assert "expect_change: this GELU has no weights that are measured" in caplog.text
    assert "expect_change() names nothing" in caplog.text
    monitor.step()
    monitor.close()
    monitor.expect_change(net)
    assert not any(sample.values("expected_after") for sample in read_history(tmp_path).snapshots)
