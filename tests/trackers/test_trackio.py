"""The Trackio tracker against its real local database."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from stores import trackio_curves

from weibull_monitor import MissingDependencyError
from weibull_monitor.trackers.trackio import TrackioTracker, active_run

trackio = pytest.importorskip("trackio", reason="needs the trackio extra")
QUIET = {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False}


def test_a_run_of_its_own_is_begun_written_and_finished(tmp_path: Path) -> None:
    tracker = TrackioTracker(directory=tmp_path / "own-run")
    assert active_run() is not None
    for step in (0, 1, 100):
        tracker.log({"weibull_k/attn_q": 1.2 + step, "weibull_component/h.0.c_attn.weight[q]/k": 0.9}, step)
    tracker.close()
    curves = trackio_curves("own-run")
    assert curves["weibull_k/attn_q"] == [(0, 1.2), (1, 2.2), (100, 101.2)]
    assert curves["weibull_component/h.0.c_attn.weight[q]/k"] == [(0, 0.9), (1, 0.9), (100, 0.9)]
    assert active_run() is None


def test_an_active_run_is_written_to_on_its_owners_axis_and_left_open() -> None:
    run = trackio.init("theirs", name="host-run", **QUIET)
    trackio.log({"loss": 2.5, "train/global_step": 7})
    tracker = TrackioTracker(step_metric="train/global_step")
    tracker.log({"weibull_k/attn_q": 1.2}, 700)
    tracker.close()
    assert active_run() is run
    trackio.log({"loss": 2.4, "train/global_step": 701})
    trackio.finish()
    theirs = trackio_curves("host-run", project="theirs")
    assert theirs["loss"] == [(0, 2.5), (2, 2.4)]  # their own count goes on in ones
    assert trackio_curves("host-run", "theirs", "train/global_step")["weibull_k/attn_q"] == [(700, 1.2)]


def test_a_finished_run_is_not_written_to(tmp_path: Path) -> None:
    run = trackio.init("theirs", name="finished", **QUIET)
    run.finish()  # as Accelerate does, which leaves it in Trackio's context
    tracker = TrackioTracker(directory=tmp_path / "after-it")
    tracker.log({"weibull_k/attn_q": 1.2}, 3)
    tracker.close()
    assert trackio_curves("after-it")["weibull_k/attn_q"] == [(3, 1.2)]
    assert active_run() is None


def test_a_missing_library_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'weibull-monitor\[trackio\]'"):
        TrackioTracker()
