from __future__ import annotations

from pathlib import Path

import pytest
from trackers.wandb_offline import finished, history

from weibull_monitor.trackers import as_trackers
from weibull_monitor.trackers.wandb import WandbTracker

wandb = pytest.importorskip("wandb", reason="needs the wandb extra")


@pytest.fixture(autouse=True)
def _no_run_is_left_open() -> object:
    yield
    if wandb.run is not None:
        wandb.finish()


def test_a_run_of_its_own_is_begun_written_and_finished(tmp_path: Path) -> None:
    (tracker,) = as_trackers(["wandb"], tmp_path)
    tracker.log({"weibull_k/attn_q": 1.25}, step=0)
    tracker.log({"weibull_k/attn_q": 1.5}, step=100)
    tracker.close()
    assert wandb.run is None
    assert [(row["weibull_step"], row["weibull_k/attn_q"]) for row in history(tmp_path)] == [(0, 1.25), (100, 1.5)]
    metrics = [r.metric for r in finished(tmp_path) if r.WhichOneof("record_type") == "metric"]
    assert ("weibull_k/*", "weibull_step") in {(m.glob_name, m.step_metric) for m in metrics}


def test_inside_somebody_elses_run_nothing_of_theirs_is_dropped(tmp_path: Path) -> None:
    run = wandb.init(dir=str(tmp_path))
    tracker = WandbTracker(step_metric="train/global_step")
    for step in (1, 2, 3):
        run.log({"loss": 1.0 / step, "train/global_step": step})
        tracker.log({"weibull_k/attn_q": 1.0 + step}, step=step - 1)  # late by one: an earlier step than theirs
    tracker.close()
    assert wandb.run is run  # still open: it is theirs
    run.finish()
    rows = history(tmp_path)
    assert [row["loss"] for row in rows if "loss" in row] == [1.0, 0.5, 1 / 3]
    ours = [(row["train/global_step"], row["weibull_k/attn_q"]) for row in rows if "weibull_k/attn_q" in row]
    assert ours == [(0, 2.0), (1, 3.0), (2, 4.0)]


def test_a_missing_library_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    from weibull_monitor import MissingDependencyError

    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'weibull-monitor\[wandb\]'"):
        as_trackers(["wandb"], tmp_path)
