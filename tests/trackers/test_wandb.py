from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from trackers.wandb_offline import finished, history

from weibull_monitor import WeibullMonitor, read_history
from weibull_monitor.history import History
from weibull_monitor.trackers import as_trackers
from weibull_monitor.trackers.class_figure import ClassCurves
from weibull_monitor.trackers.wandb import WandbTracker, _warn_once

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


def media(directory: Path, kind: str) -> list[dict[str, Any]]:
    """The media files of the offline runs below a directory, in the order in which they were logged."""
    found = [r.files.files[0].path for r in finished(directory) if r.WhichOneof("record_type") == "files"]
    (place,) = directory.glob("wandb/offline-run-*/files")
    return [json.loads((place / path).read_text()) for path in found if path.startswith(f"media/{kind}/")]


def summary(directory: Path) -> dict[str, Any]:
    """What the table of runs shows."""
    kept: dict[str, Any] = {}
    for record in finished(directory):
        if record.WhichOneof("record_type") == "summary":
            for item in record.summary.update:
                kept["|".join(item.nested_key) or item.key] = json.loads(item.value_json)
    return kept


def monitored(model: torch.nn.Module, train: Callable[..., list[float]], where: Path, tracker: WandbTracker) -> History:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    options: dict[str, Any] = {"output_dir": where, "trackers": [tracker], "pictures_every": 4}
    with WeibullMonitor(model, optimizer, every_n_steps=1, **options) as monitor:
        train(model, optimizer, 6, monitor.step)
    return read_history(where)


def test_the_heatmap_and_the_table_of_fits_are_in_the_run(
    tmp_path: Path, tiny_model: torch.nn.Module, train: Callable[..., list[float]]
) -> None:
    pytest.importorskip("plotly", reason="needs the report extra")
    recorded = monitored(tiny_model, train, tmp_path, WandbTracker(directory=tmp_path))
    rows = [row for row in history(tmp_path) if "weibull_tables/fits/_type" in row]
    assert [row["weibull_step"] for row in rows] == [3, 6]  # the fourth sample, and the last
    tables, figures = media(tmp_path, "table"), media(tmp_path, "plotly")
    heatmaps = [figure for figure in figures if figure["data"][0]["type"] == "heatmap"]
    assert len(tables) == len(heatmaps) == 2
    for step, table, figure in zip((3, 6), tables, heatmaps, strict=True):
        (sample,) = [s for s in recorded.snapshots if s.step == step]
        k = sample.values("k")
        fits = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
        assert {fit["name"]: fit["k"] for fit in fits} == pytest.approx(k, rel=1e-8)
        shown = [value for row in figure["data"][0]["z"] for value in row if value is not None]
        assert sorted(shown) == pytest.approx(sorted(k.values()), rel=1e-8)


def test_the_classes_are_drawn_in_their_published_band(
    tmp_path: Path, tiny_model: torch.nn.Module, train: Callable[..., list[float]]
) -> None:
    pytest.importorskip("plotly", reason="needs the report extra")
    recorded = monitored(tiny_model, train, tmp_path, WandbTracker(directory=tmp_path))
    last = [figure for figure in media(tmp_path, "plotly") if figure["data"][0]["type"] == "scatter"][-1]
    curves = {trace["name"]: trace for trace in last["data"] if trace["name"] != "published"}
    assert curves["transmission"]["x"] == [sample.step for sample in recorded.snapshots]
    names = [c.name for c in recorded.components if c.component_class == "selection"]
    k = sorted(recorded.snapshots[-1].values("k")[name] for name in names)
    assert curves["selection"]["y"][-1] == pytest.approx((k[1] + k[2]) / 2, rel=1e-6)
    band = next(trace for trace in last["data"] if trace["name"] == "published")
    low = next(row["weibull_band/selection_low"] for row in history(tmp_path) if "weibull_band/selection_low" in row)
    assert min(band["y"]) == pytest.approx(low)
    assert max(band["x"]) == 6


def test_a_long_run_is_thinned_out_and_keeps_its_ends() -> None:
    curves = ClassCurves()
    for step in range(5_000):
        curves.add({"weibull_class/selection_k": 1.2}, step)
    (trace,) = curves.figure({}).data
    assert len(trace.x) <= 1_000
    assert (trace.x[0], trace.x[-1]) == (0, 4_999)


def test_the_table_of_runs_shows_the_least_of_some_keys_and_the_last_of_others(
    tmp_path: Path, tiny_model: torch.nn.Module, train: Callable[..., list[float]]
) -> None:
    recorded = monitored(tiny_model, train, tmp_path, WandbTracker(directory=tmp_path))
    shown = summary(tmp_path)
    names = [c.name for c in recorded.components if c.label == "attn_q"]
    lowest = [min(s.values("r2")[name] for name in names) for s in recorded.snapshots]
    assert shown["weibull_r2_min/attn_q"] == {
        "min": pytest.approx(min(lowest), rel=1e-8),
        "last": pytest.approx(lowest[-1], rel=1e-8),
    }
    now = sorted(recorded.snapshots[-1].values("k")[name] for name in names)
    assert shown["weibull_k/attn_q"] == pytest.approx((now[0] + now[1]) / 2, rel=1e-8)
    assert set(shown["weibull_alerts/active"]) == {"max", "last"}
    hidden = {
        r.metric.glob_name or r.metric.name
        for r in finished(tmp_path)
        if r.WhichOneof("record_type") == "metric" and r.metric.options.hidden
    }
    assert {"weibull_band/*", "weibull_health/components", "weibull_step"} <= hidden


def test_pictures_ride_along_with_an_owner_who_counts_steps(
    tmp_path: Path, tiny_model: torch.nn.Module, train: Callable[..., list[float]]
) -> None:
    run = wandb.init(dir=str(tmp_path))
    optimizer = torch.optim.AdamW(tiny_model.parameters(), lr=1e-2)
    monitor = WeibullMonitor(
        tiny_model,
        optimizer,
        every_n_steps=1,
        output_dir=tmp_path,
        trackers=[WandbTracker(run, ride_along=True)],
        pictures_every=2,
    )
    for step in range(8):
        train(tiny_model, optimizer, 1, monitor.step)
        run.log({"loss": 1.0 / (step + 1)}, step=10 * step)
    monitor.close()
    run.finish()
    rows = history(tmp_path)
    assert [row["loss"] for row in rows if "loss" in row] == [1.0 / (step + 1) for step in range(8)]
    drawn = [row for row in rows if "weibull_tables/fits/_type" in row]
    assert [row["weibull_step"] for row in drawn] == [1, 3, 5, 7, 8]
    assert all("weibull_k/attn_q" in row for row in drawn)  # with the sample that they show, not in rows of their own
    assert [row["weibull_step"] for row in rows if "weibull_k/attn_q" in row] == list(range(9))


def test_without_plotly_there_is_the_table_and_one_warning(
    tmp_path: Path,
    tiny_model: torch.nn.Module,
    train: Callable[..., list[float]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    _warn_once.cache_clear()
    monitored(tiny_model, train, tmp_path, WandbTracker(directory=tmp_path))
    assert len(media(tmp_path, "table")) == 2
    assert media(tmp_path, "plotly") == []
    assert caplog.text.count("W&B gets no heatmap") == 1
    assert "pip install 'weibull-monitor[report]'" in caplog.text
