"""What a monitor holds on to: while it trains, when it ends, when it is copied, and when it is interrupted or fails."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from weibull_monitor import ConfigurationError, MemoryTracker, WeibullMonitor, read_history

needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")


def open_files() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def steps(path: Path) -> list[int]:
    return [snapshot.step for snapshot in read_history(path).snapshots]


def test_a_closed_monitor_lets_go_of_model_and_optimizer(tmp_path: Path, tiny_model: nn.Module) -> None:
    model = copy.deepcopy(tiny_model)
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer)
    options: dict[str, Any] = {"every_n_steps": 1, "forces": True, "scheduler": schedule, "total_steps": 9}
    monitor = WeibullMonitor(model, optimizer, output_dir=tmp_path, trackers=["tensorboard"], **options)
    monitor.step()
    components, state = monitor.discovery.components, monitor.state_dict()
    monitor.close()
    gone = [weakref.ref(model), weakref.ref(optimizer), weakref.ref(next(model.parameters()))]
    del model, optimizer, schedule, options
    gc.collect()
    assert [reference() for reference in gone] == [None, None, None]
    assert monitor.last is not None
    assert monitor.last.step == 1
    assert (monitor.discovery.components, monitor.state_dict()["budgets"]) == (components, state["budgets"])
    assert (monitor.is_main, monitor.over, bool(monitor.stop_requested)) == (True, True, False)
    monitor.step()
    monitor.finish()
    monitor.close()
    with pytest.raises(ConfigurationError, match="the monitor is closed"):
        monitor.sample()
    with pytest.raises(ConfigurationError, match="the monitor is closed"):
        monitor.load_state_dict(state)


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, lambda monitor: pickle.loads(pickle.dumps(monitor))])
def test_a_copy_is_closed_and_the_original_goes_on(copied: Any, tmp_path: Path, tiny_model: nn.Module) -> None:
    tiny_model.monitor = WeibullMonitor(
        tiny_model, output_dir=tmp_path, every_n_steps=1
    )  # a model that is copied for its average
    monitor = tiny_model.monitor
    monitor.step()
    twin = copied(monitor)
    twin.step()
    twin.close()
    assert twin.over
    assert twin.last.step == 1
    assert twin.state_dict()["step"] == 1
    assert twin.output_dir == tmp_path
    averaged = copy.deepcopy(tiny_model)
    del twin, averaged
    gc.collect()
    monitor.step()
    monitor.close()
    assert steps(tmp_path) == [0, 1, 2]


@needs_proc
def test_a_monitor_that_is_dropped_closes_its_files(tmp_path: Path, tiny_model: nn.Module) -> None:
    before, threads = open_files(), {*threading.enumerate()}
    for number in range(4):
        monitor = WeibullMonitor(tiny_model, output_dir=tmp_path / str(number), trackers=["tensorboard"])
        monitor.step()
        del monitor  # as after an exception
    assert open_files() <= before
    for thread in threading.enumerate():
        if "EventLogger" in type(thread).__name__:
            thread.join(10)
    assert not {*threading.enumerate()} - threads


class Broken(MemoryTracker):
    def __init__(self) -> None:
        raise RuntimeError("no server")


@needs_proc
@pytest.mark.parametrize("fails", ["trackers", "later"])
def test_a_monitor_that_cannot_be_made_closes_what_it_opened(
    fails: str, tmp_path: Path, tiny_model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = MemoryTracker()
    trackers: list[Any] = [mine, "tensorboard"]
    if fails == "trackers":
        monkeypatch.setattr("weibull_monitor.trackers.memory.MemoryTracker.in_directory", lambda directory: Broken())
        trackers.append("memory")
    elif fails == "later":
        monkeypatch.setattr("weibull_monitor.monitor.recorder.Recorder.take_over", lambda self: Broken())
    kept, before = [], open_files()
    for _ in range(3):
        with pytest.raises((RuntimeError, TypeError, AttributeError, ValueError)) as caught:
            WeibullMonitor(tiny_model, output_dir=tmp_path, trackers=trackers)
        kept.append(caught)  # and with it the frames, as a notebook does
    assert open_files() <= before
    assert not mine.closed


def test_the_last_step_is_not_sampled_once_its_weights_are_replaced(
    tmp_path: Path, tiny_model: nn.Module, train: Any, caplog: pytest.LogCaptureFixture
) -> None:
    optimizer = torch.optim.SGD(tiny_model.parameters(), lr=0.1)
    average = torch.optim.swa_utils.AveragedModel(tiny_model)
    with WeibullMonitor(tiny_model, optimizer, output_dir=tmp_path, every_n_steps=2) as monitor:
        train(tiny_model, optimizer, 3, lambda: (monitor.step(), average.update_parameters(tiny_model)))
        for own, mean in zip(tiny_model.parameters(), average.module.parameters(), strict=True):
            own.data.copy_(mean.data)
    assert steps(tmp_path) == [0, 1, 2]
    assert [m for m in caplog.messages if "the weights are no longer those after step 3" in m]


def test_the_last_step_is_sampled_if_its_weights_are_there(tmp_path: Path, tiny_model: nn.Module, train: Any) -> None:
    optimizer = torch.optim.SGD(tiny_model.parameters(), lr=0.1)
    with WeibullMonitor(tiny_model, optimizer, output_dir=tmp_path, every_n_steps=2) as monitor:
        train(tiny_model, optimizer, 3, monitor.step)
        with torch.no_grad():
            tiny_model.layers[0].mlp["fc1"].bias.add_(0.0)
    assert steps(tmp_path) == [0, 1, 2, 3]
