from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from weibull_monitor import ConfigurationError, WeibullMonitor, read_history
from weibull_monitor.trackers import MemoryTracker, as_trackers
from weibull_monitor.trackers.tensorboard import TensorBoardTracker


def scalars(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar in a directory, as TensorBoard's own reader gives it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(directory), size_guidance={"scalars": 0})
    reader.Reload()
    return {tag: [(e.step, e.value) for e in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def test_scalars_are_read_back_with_their_steps(tmp_path: Path) -> None:
    (tracker,) = as_trackers(["tensorboard"], tmp_path)
    tracker.log({"weibull_k/attn_q": 1.25, "weibull_lambda/attn_q": 0.5}, step=0)
    tracker.log({"weibull_k/attn_q": 1.5}, step=100)
    assert scalars(tmp_path)["weibull_k/attn_q"] == [(0, 1.25), (100, 1.5)]  # before close: a live page shows it
    tracker.close()
    assert scalars(tmp_path) == {"weibull_k/attn_q": [(0, 1.25), (100, 1.5)], "weibull_lambda/attn_q": [(0, 0.5)]}


def test_a_writer_that_is_lent_is_written_through_and_left_open(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(tmp_path))
    tracker = TensorBoardTracker(tmp_path / "unused", writer=writer)
    tracker.log({"weibull_k/attn_q": 1.25}, step=1)
    tracker.close()
    writer.add_scalar("train/loss", 2.0, 1)
    writer.close()
    assert set(scalars(tmp_path)) == {"weibull_k/attn_q", "train/loss"}
    assert len(list(tmp_path.glob("events.*"))) == 1
    assert not (tmp_path / "unused").exists()


def test_a_missing_library_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    from weibull_monitor import MissingDependencyError

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'weibull-monitor\[tensorboard\]'"):
        as_trackers(["tensorboard"], tmp_path)


@pytest.fixture
def _in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of one second in one process are read in the order of their numbers as text, in which 10 is before 9."""
    from tensorboard.summary.writer import event_file_writer

    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(1000))


def resumed(model: nn.Module, where: Path) -> None:
    """Eight steps, and from a checkpoint of the fourth on once more."""
    optimizer, state = torch.optim.AdamW(model.parameters()), None
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    for first, last in ((1, 8), (5, 10)):
        options = {"every_n_steps": 1, "output_dir": where, "trackers": ["tensorboard"], "resume": state}
        with WeibullMonitor(model, optimizer, **options) as monitor:
            for step in range(first, last + 1):
                optimizer.step()
                monitor.step()
                if step == 4:
                    state = monitor.state_dict()


@pytest.mark.usefixtures("_in_order")
def test_after_a_resumption_each_step_is_there_once(tmp_path: Path, tiny_model: nn.Module) -> None:
    resumed(tiny_model, tmp_path)
    assert [step for step, _ in scalars(tmp_path)["weibull_k/attn_q"]] == list(range(11))


@pytest.mark.usefixtures("_in_order")
def test_a_resumption_costs_no_curve_of_another_writer_in_the_directory(tmp_path: Path, tiny_model: nn.Module) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(20):
            writer.add_scalar("loss", 1.0, step)
    resumed(tiny_model, tmp_path)
    assert [step for step, _ in scalars(tmp_path)["loss"]] == list(range(20))


def test_everything_of_a_named_model_has_its_name(tmp_path: Path, tiny_model: nn.Module) -> None:
    pytest.importorskip("matplotlib", reason="needs the report extra")
    optimizer = torch.optim.AdamW(tiny_model.parameters(), lr=1e-3)
    memory, out = MemoryTracker(), tmp_path / "run"
    options = {"every_n_steps": 1, "output_dir": out, "trackers": ["tensorboard", memory], "pictures_every": 1}
    with WeibullMonitor(tiny_model, optimizer, name="student", **options) as monitor:
        with torch.no_grad():
            tiny_model.layers[0].self_attn["q_proj"].weight[0, 0] = float("nan")  # an alert, which has a tag of its own
        monitor.step()
        assert all(key.startswith("student/weibull_") for key in monitor.sample().metrics("component"))
    assert all(key.startswith("student/weibull_") for _, metrics in memory.records for key in metrics)
    assert "student/weibull_alerts/active" in memory.records[-1][1]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(out / "weibull" / "student"))
    reader.Reload()
    tags = reader.Tags()
    assert tags["images"]
    assert tags["tensors"]
    found = {tag for kind in ("scalars", "images", "tensors") for tag in tags[kind]}
    assert {tag for tag in found if not tag.startswith("student/weibull_")} == {"custom_scalars__config__"}
    assert read_history(out).runs[0].name == "student"


@pytest.mark.parametrize("name", ["", "a b", "/a", "a/", 3])
def test_a_name_that_trackers_cannot_take_is_refused(name: Any, tmp_path: Path, tiny_model: nn.Module) -> None:
    with pytest.raises(ConfigurationError, match="name is"):
        WeibullMonitor(tiny_model, output_dir=tmp_path, name=name)
