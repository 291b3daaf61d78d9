"""A device whose results come later: nothing waits for them, and each sample is of its own step. The device's clock is a fake."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from late import Device
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from weibull_monitor import MemoryTracker, WeibullMonitor, read_history
from weibull_monitor.history.record import History
from weibull_monitor.integrations.transformers import WeibullCallback
from weibull_monitor.monitor.monitor import IN_FLIGHT

Train = Callable[..., list[float]]


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], Device]:
    def make(lag: float) -> Device:
        made = Device(lag)
        monkeypatch.setattr("weibull_monitor.measure.reader.reader.to_host", made.to_host)
        monkeypatch.setattr("weibull_monitor.scaling.force_reader.to_host", made.to_host)
        return made

    return make


def trained(where: Path, clock: Device, train: Train, steps: int = 40, **options: Any) -> History:
    torch.manual_seed(0)
    from conftest import TinyModel

    model = TinyModel()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    scheduler = LambdaLR(optimizer, lambda n: 1.0 - n / 100)
    monitor = WeibullMonitor(
        model, optimizer, output_dir=where, scheduler=scheduler, total_steps=steps, **{"every_n_steps": 3} | options
    )

    def after() -> None:
        monitor.step()
        scheduler.step()
        clock.tick()

    with monitor:
        train(model, optimizer, steps, after)
    return read_history(where)


def columns(history: History) -> list[Any]:
    """Everything that a sample says of its step, but for what it cost."""
    return [replace(snapshot, time=0.0, seconds=0.0) for snapshot in history.snapshots]


@pytest.mark.parametrize("lag", [0.5, 2, 7, 1000])
def test_late_samples_are_those_of_their_own_steps(
    tmp_path: Path, device: Callable[[float], Device], train: Train, lag: float
) -> None:
    at_once = trained(tmp_path / "at once", device(0), train, forces=True)
    late = trained(tmp_path / "late", device(lag), train, forces=True)
    assert [s.step for s in late.snapshots] == [s.step for s in at_once.snapshots]
    assert columns(late) == columns(at_once)  # k, λ, η, λ_wd, √I, S, forecasts and forces, to the last bit
    assert late.snapshots[-1].values("lambda_forecast")
    assert late.snapshots[-2].values("force_net")
    assert late.alerts == at_once.alerts


def test_no_step_waits_for_a_device_that_is_a_few_samples_behind(
    tmp_path: Path, device: Callable[[float], Device], train: Train
) -> None:
    clock = device(IN_FLIGHT - 0.5)
    waits = []

    class Tracker(MemoryTracker):
        def log(self, metrics: Any, step: int) -> None:
            super().log(metrics, step)
            waits.append(clock.waits)

    tracker = Tracker()
    trained(tmp_path, clock, train, steps=20, every_n_steps=1, trackers=[tracker], example_inputs=False)
    baseline = waits[0]
    assert baseline == 1  # it is taken when the monitor is made, before there is anything to hold up
    assert waits[: 20 - IN_FLIGHT] == [baseline] * (20 - IN_FLIGHT)
    assert [step for step, _ in tracker.records] == list(range(21))
    assert clock.under_way == 0
    assert clock.most_under_way <= IN_FLIGHT + 1


def test_no_more_than_a_few_samples_are_under_way(
    tmp_path: Path, device: Callable[[float], Device], train: Train
) -> None:
    clock = device(1e9)
    trained(tmp_path, clock, train, steps=20, every_n_steps=1)
    assert clock.most_under_way == IN_FLIGHT + 1


def test_a_sample_is_logged_as_soon_as_it_has_arrived(
    tmp_path: Path, device: Callable[[float], Device], tiny_model: nn.Module
) -> None:
    clock, tracker = device(2), MemoryTracker()
    optimizer = torch.optim.AdamW(tiny_model.parameters())
    monitor = WeibullMonitor(
        tiny_model, optimizer, every_n_steps=lambda step: step == 3, output_dir=tmp_path, trackers=[tracker]
    )
    logged = []
    for _ in range(8):
        monitor.step()
        logged.append([step for step, _ in tracker.records])
        clock.tick()
    assert logged == [[], [], [0], [0], [0, 3], [0, 3], [0, 3], [0, 3]]
    monitor.close()


@pytest.mark.parametrize("end", ["finish", "close", "state_dict", "sample", "exception"])
def test_whoever_needs_the_samples_waits_for_them(
    tmp_path: Path, device: Callable[[float], Device], tiny_model: nn.Module, end: str
) -> None:
    device(1e9)
    tracker = MemoryTracker()
    optimizer = torch.optim.AdamW(tiny_model.parameters())
    monitor = WeibullMonitor(tiny_model, optimizer, every_n_steps=1, output_dir=tmp_path, trackers=[tracker])
    monitor.step()
    monitor.step()
    assert [step for step, _ in tracker.records] == [0]
    monitor.state_dict(wait=False)
    assert [step for step, _ in tracker.records] == [0]
    if end == "exception":
        with pytest.raises(ZeroDivisionError), monitor:
            raise ZeroDivisionError
    else:
        getattr(monitor, end)()
    assert [step for step, _ in tracker.records] == [0, 1, 2]
    monitor.close()
    assert [step for step, _ in tracker.records] == [0, 1, 2]


def test_a_sample_that_cannot_be_delivered_is_reported_once_and_the_rest_goes_on(
    tmp_path: Path, device: Callable[[float], Device], train: Train, caplog: pytest.LogCaptureFixture
) -> None:
    clock = device(1.5)
    from conftest import TinyModel

    model, tracker = TinyModel(), MemoryTracker()
    optimizer = torch.optim.AdamW(model.parameters())
    monitor = WeibullMonitor(model, optimizer, every_n_steps=1, output_dir=tmp_path, trackers=[tracker])
    steps = itertools.count(1)

    def after() -> None:
        clock.broken = next(steps) in (4, 5)
        monitor.step()
        clock.tick()

    with caplog.at_level(logging.WARNING, "weibull_monitor"):
        losses = train(model, optimizer, 10, after)
        monitor.close()
    assert len(losses) == 10
    assert len(tracker.records) == 9  # of eleven
    assert caplog.text.count("an illegal memory access") == 1


def test_nothing_is_queued_into_a_graph_that_is_being_captured(
    tmp_path: Path, tiny_model: nn.Module, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monitor = WeibullMonitor(tiny_model, every_n_steps=1, output_dir=tmp_path)
    monitor.step()
    with monkeypatch.context() as capture:
        capture.setattr("torch.cuda.is_initialized", lambda: True)
        capture.setattr("torch.cuda.is_current_stream_capturing", lambda: True)
        monitor.step()
        monitor.step()
    monitor.step()
    monitor.close()
    assert [snapshot.step for snapshot in read_history(tmp_path).snapshots] == [0, 1, 4]
    assert caplog.text.count("call step() outside of the capture") == 1


def test_a_resumed_run_compiles_when_it_is_attached(
    tmp_path: Path, tiny_model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr("weibull_monitor.measure.reader.reader.kernels_for", lambda *about: asked.append(about))
    tiny_model.layers[0].double()  # type: ignore[index,union-attr]
    WeibullMonitor(tiny_model, output_dir=tmp_path, resume={"step": 5}).close(sample_last=False)
    assert asked == [(torch.device("cpu"), torch.float32), (torch.device("cpu"), torch.float64)]


def test_frozen_matrices_are_read_once_though_their_fits_come_late(
    tmp_path: Path, device: Callable[[float], Device], tiny_model: nn.Module
) -> None:
    for name, parameter in tiny_model.named_parameters():
        parameter.requires_grad_("mlp" in name)
    clock, tracker = device(2), MemoryTracker()
    optimizer = torch.optim.AdamW([p for p in tiny_model.parameters() if p.requires_grad])
    monitor = WeibullMonitor(
        tiny_model, optimizer, every_n_steps=1, output_dir=tmp_path, trackers=[tracker], detail="component"
    )
    for _ in range(6):
        monitor.step()
        clock.tick()
    monitor.close()
    names = [{key for key in metrics if key.startswith("weibull_component/")} for _, metrics in tracker.records]
    assert len(names) == 7
    assert all(keys == names[0] for keys in names)


def test_under_the_trainer_no_step_waits_and_a_resumed_run_is_the_same(
    tmp_path: Path, device: Callable[[float], Device]
) -> None:
    """The real Trainer: late samples are judged before a checkpoint is written, and not waited for otherwise."""

    def run(where: Path, lag: float, resume: bool = False) -> Device:
        torch.manual_seed(0)
        clock = device(lag)
        config = LlamaConfig(
            vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
        )
        data = [{"input_ids": torch.arange(8) + n, "labels": torch.arange(8) + n} for n in range(16)]
        arguments = TrainingArguments(
            str(where), max_steps=24, save_steps=10, per_device_train_batch_size=2, report_to=[], use_cpu=True,
            disable_tqdm=True, logging_strategy="no", learning_rate=1e-3,
        )  # fmt: skip

        class Ticking(WeibullCallback):
            def on_step_end(self, *args: Any, **kwargs: Any) -> None:
                super().on_step_end(*args, **kwargs)
                clock.tick()

        trainer = Trainer(LlamaForCausalLM(config), arguments, train_dataset=data, callbacks=[Ticking(every_n_steps=2)])
        trainer.train(resume_from_checkpoint=str(where / "checkpoint-10") if resume else None)
        return clock

    run(tmp_path / "at once", 0)
    clock = run(tmp_path / "late", 1.5)
    at_once, late = read_history(tmp_path / "at once"), read_history(tmp_path / "late")
    assert columns(late) == columns(at_once)
    assert clock.waits <= 4  # the baseline, two checkpoints, the end
    run(tmp_path / "late", 1.5, resume=True)
    assert columns(read_history(tmp_path / "late")) == columns(at_once)
