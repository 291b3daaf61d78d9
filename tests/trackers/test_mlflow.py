"""The MLflow tracker against a real local store."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from stores import mlflow_curves, mlflow_status

from weibull_monitor import MissingDependencyError
from weibull_monitor.trackers.mlflow import MlflowTracker

mlflow = pytest.importorskip("mlflow", reason="needs the mlflow extra")


def test_a_run_of_its_own_is_begun_written_and_ended(tmp_path: Path) -> None:
    directory = tmp_path / "own-run"
    tracker = MlflowTracker(directory=directory)
    for step in (0, 1, 100):
        tracker.log({"weibull_k/attn_q": 1.2 + step, "weibull_lambda/attn_q": 0.02}, step)
    tracker.close()
    assert mlflow_curves("own-run") == {
        "weibull_k/attn_q": [(0, 1.2), (1, 2.2), (100, 101.2)],
        "weibull_lambda/attn_q": [(0, 0.02), (1, 0.02), (100, 0.02)],
    }
    assert mlflow_status("own-run") == "FINISHED"
    assert mlflow.active_run() is None


def test_an_active_run_is_written_to_and_left_open() -> None:
    with mlflow.start_run(run_name="theirs"):
        mlflow.log_metric("loss", 2.5, step=7)
        tracker = MlflowTracker()
        tracker.log({"weibull_k/attn_q": 1.2}, 7)
        tracker.close()
        mlflow.log_metric("loss", 2.4, step=8)
        assert mlflow_status("theirs") == "RUNNING"
    assert mlflow_curves("theirs") == {"weibull_k/attn_q": [(7, 1.2)], "loss": [(7, 2.5), (8, 2.4)]}


def test_names_that_mlflow_refuses_and_more_metrics_than_it_takes_at_once(tmp_path: Path) -> None:
    tracker = MlflowTracker(directory=tmp_path / "many")
    tracker.log({f"weibull_component/h.{i}.attn.c_attn.weight[q]/k": float(i) for i in range(1100)}, 3)
    tracker.close()
    curves = mlflow_curves("many")
    assert len(curves) == 1100
    assert curves["weibull_component/h.1099.attn.c_attn.weight_q_/k"] == [(3, 1099.0)]


def test_what_the_store_refuses_is_raised_and_not_swallowed(tmp_path: Path) -> None:
    tracker = MlflowTracker(directory=tmp_path / "refused")
    run_id = mlflow.active_run().info.run_id
    mlflow.end_run()
    mlflow.MlflowClient().delete_run(run_id)
    tracker.log({"weibull_k/attn_q": 1.2}, 1)
    with pytest.raises(mlflow.exceptions.MlflowException):
        tracker.close()


def test_a_missing_library_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'weibull-monitor\[mlflow\]'"):
        MlflowTracker()
