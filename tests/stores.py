"""Local stores of the trackers, and how to read back what a run wrote to each: curves by key, as (step, value)."""

from __future__ import annotations

import atexit
import csv
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

# One store for all tests, set before either library is imported: making a database takes seconds.
_STORE = Path(tempfile.mkdtemp(prefix="weibull-monitor-tests-"))
atexit.register(shutil.rmtree, _STORE, ignore_errors=True)
os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{_STORE / 'mlflow.db'}"
os.environ["TRACKIO_DIR"] = str(_STORE / "trackio")

from trackers.test_tensorboard import scalars  # noqa: E402
from trackers.wandb_offline import history as wandb_rows  # noqa: E402

Curves = Mapping[str, list[tuple[int, float]]]


def tensorboard_curves(directory: Path) -> Curves:
    """Of every event file below a directory."""
    merged: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for folder in sorted({file.parent for file in directory.rglob("events.*")}):
        for key, points in scalars(folder).items():
            merged[key] += points
    return merged


def wandb_curves(directory: Path, step: str = "weibull_step") -> Curves:
    """Of every offline run below a directory; rows without the step metric are left out."""
    rows = [row for row in wandb_rows(directory) if step in row]
    files = ("weibull_pictures/", "weibull_tables/")  # their sizes and so on are no curves
    return _curves((row[step], {k: v for k, v in row.items() if not k.startswith(files)}) for row in rows)


def csv_curves(directory: Path) -> Curves:
    """Of Lightning's `CSVLogger`."""
    rows = [row for file in sorted(directory.rglob("metrics.csv")) for row in csv.DictReader(file.open())]
    return _curves((int(row["step"]), {k: float(v) for k, v in row.items() if v != ""}) for row in rows)


def mlflow_curves(name: str) -> Curves:
    """Of the run of this name."""
    import mlflow

    client = mlflow.MlflowClient()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (run,) = client.search_runs(experiments, f"attributes.run_name = '{name}'")
    histories = {key: client.get_metric_history(run.info.run_id, key) for key in run.data.metrics}
    return {key: [(point.step, point.value) for point in points] for key, points in histories.items()}


def mlflow_status(name: str) -> str:
    """RUNNING, FINISHED, …"""
    import mlflow

    client = mlflow.MlflowClient()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (run,) = client.search_runs(experiments, f"attributes.run_name = '{name}'")
    return str(run.info.status)


def trackio_curves(name: str, project: str = "weibull-monitor", step: str = "step") -> Curves:
    """Of the run of this name."""
    from trackio.sqlite_storage import SQLiteStorage

    return _curves((row[step], row) for row in SQLiteStorage.get_logs(project, name) if step in row)


def _curves(rows: Iterable[tuple[int, Mapping[str, Any]]]) -> Curves:
    curves: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for step, row in rows:
        for key, value in row.items():
            if isinstance(value, int | float):
                curves[key].append((int(step), float(value)))
    return curves
