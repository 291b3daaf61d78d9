from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from weibull_monitor import ConfigurationError, WeibullMonitor, fit_weibull, read_history
from weibull_monitor.history import HistoryWriter, RunRecord
from weibull_monitor.history.columns import COLUMNS, DELTAS, EXPECTED, FORCES, UPDATES, WRITES
from weibull_monitor.history.follower import HistoryTail
from weibull_monitor.history.record import FILE
from weibull_monitor.history.snapshot import Estimate, Forces, Scaling, Snapshot, Update
from weibull_monitor.history.writer import _numbers
from weibull_monitor.model.components import discover


def record(model: torch.nn.Module, resumed_from: int | None = None) -> RunRecord:
    return RunRecord(
        started=1.5,
        resumed_from=resumed_from,
        model={"class": "TinyModel"},
        world_size=1,
        protocol={},
        attention=[],
        optimizers=[],
        components=discover(model).components,
        skipped={"x": "because"},
        version="0",
    )


def snapshot(model: torch.nn.Module, step: int) -> Snapshot:
    components = discover(model).components
    parameters = dict(model.named_parameters())
    fits = {c.name: fit_weibull(parameters[c.parameter]) for c in components}
    return Snapshot(
        step, 100.0 + step, components, fits, scaling={c.name: Scaling(eta=1e-3, weight_decay=0.1) for c in components}
    )


def test_what_is_written_is_read_back(tmp_path: Path, tiny_model: torch.nn.Module) -> None:
    writer, taken = HistoryWriter(tmp_path), snapshot(tiny_model, 3)
    writer.write_run(record(tiny_model))
    writer.write_snapshot(taken)
    writer.close()
    for path in (tmp_path, tmp_path / "weibull", tmp_path / FILE):
        history = read_history(path)
        assert history.runs == (record(tiny_model),)
        (read,) = history.snapshots
        assert (read.step, read.time) == (3, 103.0)
        for name, fit in taken.fits.items():
            assert read.values("k")[name] == pytest.approx(fit.k, rel=1e-8)
            assert read.values("lambda")[name] == pytest.approx(fit.lambda_, rel=1e-8)
            assert read.values("zeros")[name] == fit.zeros
            assert read.values("eta")[name] == 1e-3
    assert history.components == discover(tiny_model).components


def test_a_live_sample_and_the_recorded_one_are_read_alike(tmp_path: Path, tiny_model: torch.nn.Module) -> None:
    taken = snapshot(tiny_model, 3)
    name = taken.components[0].name
    forecast = Estimate(0.3, 0.2, 0.4)
    taken = dataclasses.replace(
        taken,
        fits={**taken.fits, name: fit_weibull(torch.full((200,), math.inf))},
        scaling={
            **taken.scaling,
            name: Scaling(effective=0.1, t_over_tau=0.2, forecast=forecast, equilibrium=forecast),
        },
        forces={name: Forces(-0.1, 0.2, -0.3, -0.2, None)},
        updates={name: Update(1.1, 0.7, 0.8, 0.01)},
    )
    writer = HistoryWriter(tmp_path)
    writer.write_run(record(tiny_model))
    writer.write_snapshot(taken)
    writer.close()
    (read,) = read_history(tmp_path).snapshots
    for column in COLUMNS:
        assert taken.values(column) == pytest.approx(read.values(column), rel=1e-8), column
        assert [v is None for v in taken.column(column)] == [v is None for v in read.columns[column]], column
    assert taken.values("lambda_forecast_high") == {name: 0.4}
    assert taken.values("force_decay") == {name: -0.3}
    assert [taken.values(column)[name] for column in UPDATES] == [1.1, 0.7, 0.8, 0.01]
    assert name not in taken.values("k")
    assert taken.values("nonfinite")[name] == 200


def test_each_line_is_strict_json_of_the_documented_shape(tmp_path: Path, tiny_model: torch.nn.Module) -> None:
    writer, taken = HistoryWriter(tmp_path), snapshot(tiny_model, 0)
    name = taken.components[0].name
    broken = Snapshot(0, 0.0, taken.components, {**taken.fits, name: fit_weibull(torch.full((200,), math.inf))})
    writer.write_run(record(tiny_model))
    writer.write_snapshot(broken)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    run, line = [json.loads(text, parse_constant=refuse) for text in (tmp_path / FILE).read_text().splitlines()]
    assert run["type"] == "run"
    assert run["schema"] == 1
    assert run["components"][0] | {"kind": "attn_q", "component_class": "selection", "block": 0} == run["components"][0]
    assert line["type"] == "snapshot"
    columns = set(COLUMNS) - set(FORCES) - set(UPDATES) - set(DELTAS) - set(WRITES) - set(EXPECTED)
    assert set(line) == {"type", "step", "time", "seconds", "withheld", *columns}
    assert all(len(line[column]) == len(run["components"]) for column in columns)
    assert (line["k"][0], line["rms"][0], line["eta"][0], line["nonfinite"][0]) == (None, None, None, 200)


def test_a_torn_line_is_passed_over_and_closed_by_the_next_writer(tmp_path: Path, tiny_model: torch.nn.Module) -> None:
    writer = HistoryWriter(tmp_path)
    writer.write_run(record(tiny_model))
    writer.write_snapshot(snapshot(tiny_model, 0))
    writer.write_snapshot(snapshot(tiny_model, 1))
    writer.close()
    file = tmp_path / FILE
    file.write_bytes(file.read_bytes()[:-40])
    assert [s.step for s in read_history(tmp_path).snapshots] == [0]
    writer = HistoryWriter(tmp_path)
    writer.write_run(record(tiny_model, resumed_from=0))
    writer.write_snapshot(snapshot(tiny_model, 1))
    assert [s.step for s in read_history(tmp_path).snapshots] == [0, 1]


def test_after_a_resume_the_later_line_of_a_step_wins(tmp_path: Path, tiny_model: torch.nn.Module) -> None:
    writer = HistoryWriter(tmp_path)
    writer.write_run(record(tiny_model))
    for step in (0, 10, 20):
        writer.write_snapshot(snapshot(tiny_model, step))
    with torch.no_grad():
        tiny_model.layers[0].self_attn["q_proj"].weight.mul_(2)
    writer.write_run(record(tiny_model, resumed_from=10))
    writer.write_snapshot(snapshot(tiny_model, 20))
    history = read_history(tmp_path)
    assert [s.step for s in history.snapshots] == [0, 10, 20]
    series = dict(history.series("layers.0.self_attn.q_proj.weight", "lambda"))
    assert series[20] == pytest.approx(2 * series[10], rel=1e-6)
    assert len(history.runs) == 2
    assert history.baseline is not None


def test_a_run_that_begins_anew_in_the_same_place_replaces_the_one_before(
    tmp_path: Path, tiny_model: torch.nn.Module
) -> None:
    writer = HistoryWriter(tmp_path)
    for steps in ((0, 1, 2), (0, 5)):
        writer.write_run(record(tiny_model))
        for step in steps:
            writer.write_snapshot(snapshot(tiny_model, step))
    assert [s.step for s in read_history(tmp_path).snapshots] == [0, 5]
    assert len((tmp_path / FILE).read_text().splitlines()) == 7  # nothing was rewritten


def test_as_a_data_frame(tmp_path: Path, tiny_model: torch.nn.Module) -> None:
    writer = HistoryWriter(tmp_path)
    writer.write_run(record(tiny_model))
    for step in (0, 1):
        writer.write_snapshot(snapshot(tiny_model, step))
    frame = read_history(tmp_path).to_pandas()
    assert len(frame) == 2 * 10
    assert set(frame.columns) == {"step", "time", "name", "kind", "component_class", "block", *COLUMNS}
    q = frame[(frame["kind"] == "attn_q") & (frame["step"] == 1)]
    assert q["block"].tolist() == [0, 1]
    assert q["k"].notna().all()


def test_an_empty_history_is_an_empty_frame(tmp_path: Path) -> None:
    HistoryWriter(tmp_path).close()
    history = read_history(tmp_path)
    assert (history.runs, history.snapshots, history.baseline) == ((), (), None)
    assert len(history.to_pandas()) == 0


def test_a_line_written_before_a_field_was_added_is_read(tmp_path: Path, tiny_model: torch.nn.Module) -> None:
    writer = HistoryWriter(tmp_path)
    writer.write_run(record(tiny_model))
    line = json.loads((tmp_path / FILE).read_text())
    for component in line["components"]:
        del component["part"], component["tower"], component["why"]
    del line["attention"]
    (tmp_path / FILE).write_text(json.dumps(line) + "\n")
    assert read_history(tmp_path).components[0].part is None


def test_a_newer_schema_is_refused_with_advice(tmp_path: Path) -> None:
    (tmp_path / "weibull").mkdir()
    (tmp_path / FILE).write_text('{"type":"run","schema":99}\n')
    with pytest.raises(ConfigurationError, match=r"schema 99.*upgrade weibull-monitor"):
        read_history(tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        {"type": "run"},
        {"type": "run", "schema": "one"},
        {"type": "run", "schema": 1, "resumed_from": None, "components": 3},
        {"type": "run", "schema": 1, "resumed_from": "yesterday", "components": []},
        {"type": "run", "schema": 1, "resumed_from": 1.5, "components": []},
        {"type": "run", "schema": 1, "resumed_from": None, "components": [{"name": "w", "dtype": "no", "shape": []}]},
    ],
)
def test_json_that_is_not_a_history_is_refused(tmp_path: Path, line: dict[str, object]) -> None:
    file = tmp_path / "other.jsonl"
    file.write_text(json.dumps(line) + "\n")
    with pytest.raises(
        ConfigurationError, match=r"other\.jsonl is not a history .*; name one that a monitored run wrote"
    ):
        read_history(file)


def test_samples_and_plots_that_do_not_fit_their_run_are_passed_over(
    tmp_path: Path, tiny_model: torch.nn.Module
) -> None:
    writer = HistoryWriter(tmp_path)
    writer.write_run(record(tiny_model))
    writer.write_snapshot(snapshot(tiny_model, 0))
    kept = json.loads((tmp_path / FILE).read_text().splitlines()[-1])
    assert kept["type"] == "snapshot"
    with (tmp_path / FILE).open("a") as file:
        for line in (
            {"type": "snapshot"},
            {"type": "snapshot", "step": "one", "time": 0.0},
            kept | {"step": "one"},
            kept | {"step": 1, "k": ["high"] * len(kept["k"])},
            kept | {"step": 1, "time": 10**400},
            kept | {"step": 1, "k": 3},
            {"type": "plot"},
            {"type": "plot", "step": 0, "levels": 3, "quantiles": []},
            {"type": "plot", "step": 0, "levels": [], "quantiles": [None]},
            {"type": "alert"},
        ):
            file.write(json.dumps(line) + "\n")
    history = read_history(tmp_path)
    assert [s.step for s in history.snapshots] == [0]
    assert history.plots == history.alerts == ()
    tail = HistoryTail(tmp_path)
    assert tail.poll()
    assert [point.step for point in tail.points] == [0]


def test_a_place_without_history_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no history at"):
        read_history(tmp_path)


@pytest.mark.parametrize("place", ["/dev/null/run", "/proc/run"])
def test_a_directory_that_cannot_be_written_is_refused_at_construction(place: str, tiny_model: torch.nn.Module) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot be written to .*pass another output_dir"):
        WeibullMonitor(tiny_model, output_dir=place)


def test_every_force_has_a_column() -> None:
    assert tuple(f"force_{field.name}" for field in dataclasses.fields(Forces)) == FORCES


def test_probability_plots_are_kept_at_each_doubling_and_at_the_end(
    tmp_path: Path, tiny_model: torch.nn.Module
) -> None:
    with WeibullMonitor(tiny_model, every_n_steps=10, output_dir=tmp_path) as monitor:
        for _ in range(75):
            monitor.step()
    history = read_history(tmp_path)
    assert [plot.step for plot in history.plots] == [0, 1, 2, 4, 8, 16, 32, 64, 75]
    plot, name = history.plots[-1], history.components[0].name
    found = plot.of(name)
    weights = dict(tiny_model.named_parameters())[history.components[0].parameter].detach().abs().flatten().double()
    assert found is not None
    exact = weights.quantile(torch.tensor(plot.levels).double()).log().tolist()
    assert found[3:-3] == pytest.approx(exact[3:-3], abs=0.02)  # of 1,024 values; beyond are single ones
    assert plot.of("nobody") is None


def test_a_resumption_goes_on_plotting_where_its_checkpoint_was(tmp_path: Path, tiny_model: torch.nn.Module) -> None:
    monitor = WeibullMonitor(tiny_model, every_n_steps=10, output_dir=tmp_path)
    for step in range(1, 21):
        monitor.step()
        if step == 12:
            state = monitor.state_dict()
    monitor.close()
    assert [plot.step for plot in read_history(tmp_path).plots] == [0, 1, 2, 4, 8, 16, 20]
    with WeibullMonitor(tiny_model, every_n_steps=10, output_dir=tmp_path, resume=state) as resumed:
        for _ in range(10):
            resumed.step()
    assert [plot.step for plot in read_history(tmp_path).plots] == [0, 1, 2, 4, 8, 16, 22]


@pytest.mark.parametrize("room", [0, 1, 40])
def test_after_a_full_disk_the_next_sample_is_kept(
    room: int, tmp_path: Path, tiny_model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk takes some bytes of a line and then no more; later there is room again."""
    writer, left, write = HistoryWriter(tmp_path), [room], os.write

    def full(fd: int, data: bytes) -> int:
        if not left[0]:
            raise OSError(28, "No space left on device")
        taken, left[0] = min(left[0], len(data)), max(0, left[0] - len(data))
        return write(fd, data[:taken])

    monkeypatch.setattr("weibull_monitor.history.writer.os.write", full)
    with pytest.raises(OSError, match="No space"):
        writer.write_run(record(tiny_model))
    for step in (1, 2):
        with pytest.raises(OSError, match="No space"):
            writer.write_snapshot(snapshot(tiny_model, step))
    left[0] = 10**9
    writer.write_snapshot(snapshot(tiny_model, 3))
    left[0] = room
    with pytest.raises(OSError, match="No space"):
        writer.write_snapshot(snapshot(tiny_model, 4))
    left[0] = 10**9
    writer.write_snapshot(snapshot(tiny_model, 5))
    writer.close()
    history = read_history(tmp_path)
    assert history.runs == (record(tiny_model),)
    assert [s.step for s in history.snapshots] == [3, 5]


def test_a_name_that_the_history_does_not_have_is_an_error_that_says_what_is_near(
    tmp_path: Path, tiny_model: torch.nn.Module
) -> None:
    writer = HistoryWriter(tmp_path)
    writer.write_run(record(tiny_model))
    writer.write_snapshot(snapshot(tiny_model, 1))
    writer.close()
    history = read_history(tmp_path)
    with pytest.raises(
        KeyError, match=r"'layers.0.self_attn.q_prj.weight'; did you mean 'layers.0.self_attn.q_proj.weight'"
    ):
        history.series("layers.0.self_attn.q_prj.weight")
    with pytest.raises(KeyError, match=r"q_proj'; did you mean 'layers.0.self_attn.q_proj.weight'"):
        history.series("q_proj")
    with pytest.raises(KeyError, match="'lambda_'; did you mean 'lambda'"):
        history.series("layers.0.self_attn.q_proj.weight", "lambda_")
    with pytest.raises(KeyError, match="'lambda_'; did you mean 'lambda'"):
        history.snapshots[0].values("lambda_")
    with pytest.raises(KeyError, match="'lambda_'; did you mean 'lambda'"):
        snapshot(tiny_model, 1).column("lambda_")
    assert history.series("layers.0.self_attn.q_proj.weight", "lambda_forecast") == []


def test_numbers_are_written_as_json_writes_what_nine_digits_leave() -> None:
    chance = np.random.default_rng(0)
    sizes = 10.0 ** chance.integers(-300, 300, 3000)
    ties = (chance.integers(10**8, 10**9, 1000) + 0.5) / 10.0 ** chance.integers(0, 20, 1000)
    special = [0.0, -0.0, math.nan, math.inf, -math.inf, 1.0, 1e8, 1e9, 123456789.5, 0.99999999951, 1e15, 1e16, 1e22]
    values = np.concatenate([chance.normal(size=3000) * sizes, chance.random(1000), ties, special, [5e-324, 1.7e308]])
    for some in (values, np.full(3, 0.1), np.full(3, 2.0), np.full(2, math.nan), np.array([])):
        rounded = [float(f"{value:.9g}") if math.isfinite(value) else None for value in some.tolist()]
        assert _numbers(some) == json.dumps(rounded, separators=(",", ":"))
