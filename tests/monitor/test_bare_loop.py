"""A loop of one's own: counting, schedules, choosing components, optimizers that come and go."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from weibull_monitor import MemoryTracker, Schedule, Snapshot, WeibullMonitor, fit_weibull, read_history
from weibull_monitor.measure.bins import bins_of
from weibull_monitor.measure.plain.solve import hashes

Train = Callable[..., list[float]]
Q = "layers.0.self_attn.q_proj.weight"


def adamw(parameters: Any, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, **({"lr": 1e-3, "weight_decay": 0.1} | options))


def sampled(where: Path) -> list[int]:
    return [snapshot.step for snapshot in read_history(where).snapshots]


@pytest.mark.parametrize(
    ("schedule", "steps"),
    [
        (4, [0, 1, 2, 4, 8, 12, 14]),
        (Schedule(every=4), [0, 1, 2, 4, 8, 12, 14]),
        (Schedule(every=4, early=0), [0, 4, 8, 12, 14]),
        (Schedule(every=1000, early=8), [0, 1, 2, 4, 8, 14]),
        (lambda step: step in (3, 14), [0, 3, 14]),
    ],
    ids=["every n", "both", "every n only", "geometric only", "any callable"],
)
def test_schedules(schedule: Any, steps: list[int], tmp_path: Path, tiny_model: nn.Module, train: Train) -> None:
    optimizer = adamw(tiny_model.parameters())
    with WeibullMonitor(tiny_model, optimizer, every_n_steps=schedule, output_dir=tmp_path) as monitor:
        train(tiny_model, optimizer, 14, monitor.step)
    assert sampled(tmp_path) == steps


def test_people_who_count_themselves(tmp_path: Path, tiny_model: nn.Module, caplog: pytest.LogCaptureFixture) -> None:
    tracker = MemoryTracker()
    optimizer = adamw(tiny_model.parameters())
    with WeibullMonitor(tiny_model, optimizer, every_n_steps=2, output_dir=tmp_path, trackers=[tracker]) as monitor:
        for step in (1, 2, 2, 2, 3, 4, 4):  # micro-batches repeat the number
            monitor.step(step)
        monitor.step(1)  # a counter that began anew with the epoch
        monitor.step(2)
        monitor.step(5, last=True)
    assert [step for step, _ in tracker.records] == [0, 1, 2, 4, 5]
    assert monitor.state_dict()["budgets"][0][0][1] == pytest.approx(5 * 1e-3 * 0.1)  # each step is spent once
    assert caplog.text.count("step went back from 4 to 1") == 1


def test_a_counter_from_zero_leaves_the_baseline_alone(tmp_path: Path, tiny_model: nn.Module) -> None:
    before = fit_weibull(tiny_model.get_parameter(Q)).k
    with WeibullMonitor(tiny_model, every_n_steps=1, output_dir=tmp_path) as monitor:
        for step in range(3):
            with torch.no_grad():
                tiny_model.get_parameter(Q).mul_(2).add_(0.01)
            monitor.step(step)
    assert dict(read_history(tmp_path).series(Q))[0] == pytest.approx(before, rel=1e-8)
    assert sampled(tmp_path) == [0, 1, 2]


def test_a_sample_on_demand_is_returned_and_not_logged(tmp_path: Path, tiny_model: nn.Module, train: Train) -> None:
    tracker = MemoryTracker()
    optimizer = adamw(tiny_model.parameters())
    with WeibullMonitor(tiny_model, optimizer, output_dir=tmp_path, trackers=[tracker]) as monitor:
        train(tiny_model, optimizer, 3, monitor.step)
        snapshot = monitor.sample()
        assert isinstance(snapshot, Snapshot)
        assert snapshot.step == 3
        assert snapshot.fits[Q].k == pytest.approx(fit_weibull(tiny_model.get_parameter(Q)).k, rel=1e-12)
        assert snapshot.metrics()["weibull_scaling/budget_ratio/attn_q"] > 0
        assert [step for step, _ in tracker.records] == [0, 1, 2]


def test_choosing_components_and_every_one_of_them_logged(tmp_path: Path, tiny_model: nn.Module) -> None:
    tracker = MemoryTracker()
    with WeibullMonitor(
        tiny_model,
        output_dir=tmp_path,
        trackers=[tracker],
        detail="component",
        include="self_attn",
        exclude=[r"layers\.1\."],
        kinds={"o_proj": "attn_gate"},
    ) as monitor:
        monitor.step()
    names = {key.split("/")[1] for key in tracker.records[-1][1] if key.startswith("weibull_component/")}
    assert names == {f"layers.0.self_attn.{name}.weight" for name in ("q_proj", "k_proj", "o_proj")}
    assert {c.kind for c in monitor.discovery.components} == {"attn_q", "attn_k", "attn_gate"}


def test_no_optimizer_and_one_that_is_added_later(tmp_path: Path, tiny_model: nn.Module, train: Train) -> None:
    first, second = tiny_model.layers[0], tiny_model.layers[1]
    optimizer, late = adamw(first.parameters()), adamw(second.parameters(), lr=2e-3)
    with WeibullMonitor(tiny_model, every_n_steps=1, output_dir=tmp_path) as monitor:
        monitor.step()
        assert monitor.sample().scaling[Q].eta is None
        monitor.add_optimizer(optimizer)
        monitor.add_optimizer(optimizer)  # twice does no harm
        train(tiny_model, optimizer, 1, monitor.step)
        assert monitor.sample().scaling[Q].budget_ratio is not None  # it had not stepped: all is known
        train(tiny_model, late, 1)  # behind the monitor's back
        monitor.add_optimizer(late)
        train(tiny_model, late, 1, lambda: (optimizer.step(), monitor.step()))
        scaling = monitor.sample().scaling
    assert scaling[Q].t_over_tau == pytest.approx(2 * 1e-3 * 0.1)
    unknown = scaling["layers.1.self_attn.q_proj.weight"]
    assert (unknown.eta, unknown.t_over_tau, unknown.budget_ratio) == (2e-3, None, None)


def test_several_optimizers(tmp_path: Path, tiny_model: nn.Module) -> None:
    often, seldom = adamw(tiny_model.layers[0].parameters()), adamw(tiny_model.layers[1].parameters(), lr=2e-3)
    with WeibullMonitor(tiny_model, [often, seldom], every_n_steps=2, output_dir=tmp_path) as monitor:
        for step in range(1, 7):
            monitor.optimizer_stepped(often)
            if step % 3 == 0:
                monitor.optimizer_stepped(seldom)
            monitor.step()
        monitor.step()  # unsaid, both
        state = monitor.state_dict()
    assert sampled(tmp_path) == [0, 1, 2, 4, 6, 7]
    assert state["budgets"][0][0][1] == pytest.approx(7 * 1e-3 * 0.1)
    assert state["budgets"][1][0][1] == pytest.approx(3 * 2e-3 * 0.1)
    with WeibullMonitor(tiny_model, [often, seldom], output_dir=tmp_path, resume=state) as monitor:
        assert monitor.state_dict() == state
        with_new = [often, seldom, adamw([nn.Parameter(torch.zeros(2, 2))])]
    with WeibullMonitor(tiny_model, with_new, output_dir=tmp_path, resume=state) as monitor:
        assert monitor.state_dict()["budgets"][2] is None  # what it spent before is not known
        assert monitor.state_dict()["budgets"][:2] == state["budgets"]


def test_groups_that_are_added_are_followed_and_groups_that_go_make_the_past_unknown(
    tmp_path: Path, tiny_model: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    optimizer = adamw(tiny_model.layers[0].parameters())
    with WeibullMonitor(tiny_model, optimizer, every_n_steps=1, output_dir=tmp_path) as monitor:
        monitor.step()
        optimizer.add_param_group({"params": list(tiny_model.layers[1].parameters()), "lr": 4e-3})
        monitor.step()
        scaling = monitor.sample().scaling
        assert scaling[Q].t_over_tau == pytest.approx(2 * 1e-3 * 0.1)
        assert scaling["layers.1.self_attn.q_proj.weight"].t_over_tau == pytest.approx(4e-3 * 0.1)
        del optimizer.param_groups[0]
        monitor.step()
        assert monitor.sample().scaling["layers.1.self_attn.q_proj.weight"].t_over_tau is None
    assert "failed" not in caplog.text


def test_an_optimizer_that_chooses_its_own_rate_has_none(tmp_path: Path, tiny_model: nn.Module) -> None:
    optimizer = adamw(tiny_model.parameters())
    optimizer.param_groups[0]["lr"] = None  # as Adafactor with relative_step
    with WeibullMonitor(tiny_model, optimizer, every_n_steps=1, output_dir=tmp_path) as monitor:
        monitor.step()
        assert monitor.sample().scaling[Q].eta is None


def test_parameters_that_come_and_go_between_samples(tmp_path: Path, tiny_model: nn.Module) -> None:
    optimizer = adamw(tiny_model.parameters())
    with WeibullMonitor(tiny_model, optimizer, every_n_steps=1, output_dir=tmp_path) as monitor:
        monitor.step()
        tiny_model.extra = nn.Linear(32, 32)
        monitor.step()
        del tiny_model.layers[1]
        monitor.step()
    by_step = {s.step: {c.name for c in s.components} for s in read_history(tmp_path).snapshots}
    assert len(by_step[1]) == 10
    assert by_step[2] == by_step[1] | {"extra.weight"}
    assert by_step[3] == {name for name in by_step[2] if "layers.1" not in name}


def test_attached_twice_the_later_goes_on_alone(
    tmp_path: Path, tiny_model: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = MemoryTracker(), MemoryTracker()
    monitors = [
        WeibullMonitor(tiny_model, every_n_steps=1, output_dir=tmp_path, trackers=[tracker])
        for tracker in (first, second)
    ]
    for _ in range(3):
        for monitor in monitors:
            monitor.step()
    for monitor in monitors:
        monitor.close()
    assert first.closed
    assert first.records == []
    assert [step for step, _ in second.records] == [0, 1, 2, 3]
    assert (tmp_path / "weibull" / "history.jsonl").read_text().count('"type":"snapshot"') == 4  # each step once
    assert caplog.text.count("another monitor writes to") == 1


def test_an_error_in_the_loop_leaves_the_block_as_it_was_and_the_history_complete(
    tmp_path: Path, tiny_model: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)

    def training() -> None:
        with WeibullMonitor(tiny_model, every_n_steps=3, output_dir=tmp_path) as monitor:
            for _ in range(5):
                monitor.step()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training()
    assert sampled(tmp_path) == [0, 1, 2, 3, 4, 5]
    assert caplog.text == ""


def test_a_default_device_or_dtype_of_the_program_is_not_the_monitors(tmp_path: Path, tiny_model: nn.Module) -> None:
    """As after ``torch.set_default_device("cuda")`` where some of the weights are on the CPU."""
    expected = fit_weibull([p.detach() for p in tiny_model.parameters() if p.dim() == 2])
    bins_of.cache_clear()
    hashes.cache_clear()
    torch.set_default_dtype(torch.float16)
    try:
        with torch.device("meta"):
            monitor = WeibullMonitor(tiny_model, adamw(tiny_model.parameters()), forces=True, output_dir=tmp_path)
            monitor.step()
            monitor.close()
    finally:
        torch.set_default_dtype(torch.float32)
    for snapshot in read_history(tmp_path).snapshots:
        assert list(snapshot.values("k").values()) == pytest.approx([fit.k for fit in expected], rel=1e-8)
