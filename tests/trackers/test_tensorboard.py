from __future__ import annotations

from pathlib import Path

import pytest

from weibull_monitor.trackers import as_trackers
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
