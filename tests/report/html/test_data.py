"""The data of the page, against the history and against what the run itself logged."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from report.html.trained import BROKEN, encoder_decoder, experts, llama, run
from scipy import stats

from weibull_monitor import ConfigurationError, MemoryTracker, read_history
from weibull_monitor.history import HistoryWriter
from weibull_monitor.history.alert import Alert, Finding
from weibull_monitor.history.metrics import OUTSIDE_OF_BLOCKS
from weibull_monitor.history.record import History
from weibull_monitor.measure.weibull import anchors
from weibull_monitor.report.html.alerts import intervals
from weibull_monitor.report.html.data import page_data
from weibull_monitor.report.html.encoding import Columns, error_of_median, floats, integers, matrix
from weibull_monitor.report.html.run import FEWEST, FRAMES, run_data, spread


def decoded(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype="<f4").astype(float)


def unpacked(table: dict[str, str], rows: int) -> np.ndarray:
    data = np.frombuffer(base64.b64decode(table["data"]), dtype="<u2").reshape(rows, -1).astype(float)
    low, high = decoded(table["low"]), decoded(table["high"])
    return np.where(data == 65535, np.nan, low + data / 65534 * (high - low))


@pytest.fixture(scope="module")
def data(history: History) -> dict[str, Any]:
    return run_data("x", history)


def test_packed_numbers_come_back_to_a_65000th_of_their_range() -> None:
    values = np.array([[1.2, -5.0, np.nan, 3.0], [1.3, 1e6, np.nan, 3.0], [np.nan, 7.0, np.nan, 3.0]])
    back = unpacked(integers(values), 3)
    assert np.isnan(back).tolist() == np.isnan(values).tolist()
    span = np.array([[0.1, 1e6, 1.0, 1.0]])
    assert np.nanmax(np.abs(back - values) / span) < 1.0 / 65000
    assert decoded(floats([1.5, math.nan])).tolist()[0] == 1.5


def test_the_error_of_a_median_is_that_of_drawn_medians() -> None:
    rng = np.random.default_rng(0)
    drawn = np.median(rng.normal(0.0, 0.3, size=(40_000, 25)), axis=1).std()
    assert error_of_median(np.full((1, 25), 0.3))[0] == pytest.approx(drawn, rel=0.04)  # 1.2533 is for many values


def test_columns_follow_components_that_come_and_go(history: History) -> None:
    first = history.snapshots[0]
    fewer = dataclasses.replace(
        first, components=first.components[1:], columns={name: values[1:] for name, values in first.columns.items()}
    )
    found = matrix([fewer, first], history.components, "k")
    assert np.isnan(found[0, 0])
    assert found[0, 1:].tolist() == found[1, 1:].tolist() == list(first.columns["k"][1:])


def test_curves_of_classes_and_kinds_are_what_was_logged(
    data: dict[str, Any], broken_run: tuple[Path, MemoryTracker]
) -> None:
    logged = broken_run[1].records
    assert data["steps"] == [step for step, _ in logged]

    def close(found: str, key: str) -> None:
        expected = [metrics.get(key, math.nan) for _, metrics in logged]
        np.testing.assert_allclose(decoded(found), expected, rtol=2e-6, atol=1e-6, err_msg=key)

    assert {one["name"] for one in data["classes"]} == {"selection", "transmission"}
    for one in data["classes"]:
        close(one["k"], f"weibull_class/{one['name']}_k")
        close(one["drift"], f"weibull_class/{one['name']}_drift_pct")
    kinds = {kind["name"] for kind in data["kinds"]}
    assert kinds == {"embedding", "attn_q", "attn_k", "attn_v", "attn_o", "ffn_gate", "ffn_up", "ffn_down", "lm_head"}
    for kind in data["kinds"]:
        close(kind["k"]["median"], f"weibull_k/{kind['name']}")
        if kind["name"] not in OUTSIDE_OF_BLOCKS:  # of one matrix, k is the lowest k
            close(kind["k"]["low"], f"weibull_k_min/{kind['name']}")
        close(kind["lambda"]["median"], f"weibull_lambda/{kind['name']}")
        close(kind["r2"], f"weibull_r2_min/{kind['name']}")
        close(kind["law"]["ratio"], f"weibull_scaling/budget_ratio/{kind['name']}")
        if kind["law"]["foretold"]:
            close(kind["law"]["forecast"], f"weibull_scaling/lambda_forecast/{kind['name']}")
    assert [kind["name"] for kind in data["kinds"] if not kind["law"]["covered"]] == ["embedding", "lm_head"]


def test_the_law_passes_through_where_it_began_and_where_it_is(data: dict[str, Any]) -> None:
    for kind in data["kinds"]:
        line, scale = decoded(kind["law"]["line"]), decoded(kind["lambda"]["median"])
        assert line[[0, -1]] == pytest.approx(scale[[0, -1]], rel=1e-5)
        assert kind["law"]["c"] == pytest.approx(decoded(kind["law"]["ratio"])[-1], rel=1e-6)


def test_noise_bands_are_of_the_size_that_the_published_constants_say(data: dict[str, Any]) -> None:
    (embedding,) = [kind for kind in data["kinds"] if kind["name"] == "embedding"]
    n = 50 * 64
    k, se = decoded(embedding["k"]["median"])[0], decoded(embedding["k"]["se"])[0]
    assert se == pytest.approx(1.137 * k / math.sqrt(n), rel=0.1)
    scale, error = decoded(embedding["lambda"]["median"])[0], decoded(embedding["lambda"]["se"])[0]
    assert error == pytest.approx(0.863 * scale / math.sqrt(n), rel=0.1)


def test_curves_of_many_samples_are_thinned(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weibull_monitor.report.html.run.DRAWN", 5)
    found = run_data("x", history)
    steps, every = found["steps"], [snapshot.step for snapshot in history.snapshots]
    assert {every[0], every[-1]} <= set(steps) < set(every)
    assert all(len(decoded(kind["k"]["median"])) == len(steps) for kind in found["kinds"])
    assert dict(found["facts"])["Samples"].startswith(f"{len(every):,}, ")


def test_single_matrices_are_the_history_at_the_frames(data: dict[str, Any], history: History) -> None:
    assert data["frames"] == list(range(len(history.snapshots)))  # few enough for all of them
    for column in ("k", "lambda", "r2"):
        expected = Columns(history)[column]
        found = unpacked(data["series"][column], len(data["frames"]))
        span = np.nanmax(expected, axis=0) - np.nanmin(expected, axis=0)
        assert np.nanmax(np.abs(found - expected) / np.maximum(span, 1e-4)) < 1e-3


def test_every_matrix_has_one_place_in_the_grid(data: dict[str, Any]) -> None:
    grid, names = data["grid"], [component["name"] for component in data["components"]]
    places = [place for row in grid["cells"] for cell in row for place in cell]
    assert sorted(places) == list(range(len(names)))
    row = grid["cells"][grid["blocks"].index("1")]
    assert [names[place] for place in row[grid["kinds"].index("attn_q")]] == [BROKEN]


def test_probability_plots_are_those_of_the_weights(data: dict[str, Any], history: History) -> None:
    steps, levels, size = data["plots"]["steps"], data["plots"]["levels"], len(data["components"])
    assert steps[0] == 0
    assert steps[-1] == history.snapshots[-1].step
    table = unpacked(data["plots"], len(levels)).reshape(len(levels), len(steps), size)
    weights = dict(llama().named_parameters())  # the same seed: as they were at the baseline
    for place, component in enumerate(data["components"]):
        values = weights[component["name"]].detach().double().abs().flatten()
        middle = [i for i, level in enumerate(levels) if 0.1 <= level <= 0.9]
        exact = values[values > 0].quantile(torch.tensor([levels[i] for i in middle]).double()).log().numpy()
        assert table[middle, 0, place] == pytest.approx(exact, abs=0.02)


def test_the_initialisation_and_the_published_range_are_told(data: dict[str, Any]) -> None:
    transmission = next(one for one in data["classes"] if one["name"] == "transmission")
    assert transmission["start"] == {"name": "normal", "k": anchors()["normal"].k}
    assert transmission["published"]["models"] == 20
    selection = next(one for one in data["classes"] if one["name"] == "selection")
    assert (round(selection["published"]["low"], 3), round(selection["published"]["high"], 3)) == (1.095, 1.164)


def test_facts_say_what_was_run(data: dict[str, Any]) -> None:
    facts = dict(data["facts"])
    assert facts["Model"] == "LlamaForCausalLM (llama)"
    assert facts["Attention"].startswith("GQA 4/2 heads of 16")
    assert facts["Optimizer"] == "AdamW (λ_wd 0.1, β 0.9, 0.999)"
    assert facts["Learning rate"] == "η up to 0.003, last 0.003"
    assert facts["Steps"] == "40 of 60"
    assert facts["Samples"].endswith("with a baseline, mostly every 4 steps")
    assert "% of all elements" in facts["Measured"]
    assert facts["Cost of monitoring"].endswith("% of the time between samples")


def test_tiles_say_what_to_see_first(data: dict[str, Any]) -> None:
    tiles = {tile["label"]: tile for tile in data["tiles"]}
    assert {"k of W_q and W_k", "k of feed-forward matrices", "S = Σ ηλ_wd", "Active alerts"} <= set(tiles)
    forecast = next(tile for label, tile in tiles.items() if label.startswith("λ of "))
    assert "expected within" in forecast["detail"]
    assert tiles["Active alerts"]["tone"] in ("warning", "bad")


def test_alerts_are_intervals() -> None:
    def finding(severity: Any, step: int) -> Finding:
        return Finding("dead", severity, step, "a", ("a", "b"), 2, "zeros", 0.5, (None, 0.1), 4.0, "Look.")

    told = [
        Alert("begins", 8, 8, finding("warning", 8)),
        Alert("worsens", 8, 16, finding("error", 16)),
        Alert("begins", 20, 20, finding("info", 20)),
        Alert("ends", 8, 24, finding("error", 16)),
    ]
    first, second = intervals(told)
    assert (first["since"], first["until"], first["severity"]) == (8, 24, "error")
    assert (second["since"], second["until"], second["expected"]) == (20, None, "at most 0.1")


def test_a_broken_matrix_is_told_with_its_step(data: dict[str, Any]) -> None:
    found = [alert for alert in data["alerts"] if alert["component"] == BROKEN and alert["severity"] != "info"]
    assert min(alert["since"] for alert in found) == 24


def test_runs_are_compared_at_the_last_common_step(three: list[tuple[str, History]]) -> None:
    found = page_data(three)
    table = found["differences"]
    assert (table["step"], table["steps"]) == (24, [24, 24, 24])
    row = next(row for row in table["rows"] if row["of"] == "attn_o")
    for (_, history), k in zip(three, row["k"], strict=True):
        snapshot = next(s for s in history.snapshots if s.step == 24)
        names = [c.name for c in history.components if c.kind == "attn_o"]
        assert k == pytest.approx(np.median([snapshot.values("k")[name] for name in names]))
    assert row["apart"] == pytest.approx(max(abs(k - row["k"][0]) for k in row["k"]))
    group = next(group for group in found["sweep"]["groups"] if group["name"] == "transmission")
    x, y = (np.array([end[key] for end in group["ends"]]) for key in ("effective", "grown"))
    assert group["effective"]["slope"] == pytest.approx((x @ y) / (x @ x))
    assert group["effective"]["r"] == pytest.approx(stats.pearsonr(x, y)[0])


def test_one_run_is_not_compared_and_two_make_no_sweep(three: list[tuple[str, History]]) -> None:
    assert page_data(three[:1])["differences"] is None
    assert page_data(three[:2])["sweep"] is None
    twice = page_data([three[0], three[0]])
    assert [one["name"] for one in twice["runs"]] == ["first", "first (2)"]


def test_a_history_without_samples_says_so(tmp_path: Path, history: History) -> None:
    writer = HistoryWriter(tmp_path)
    writer.write_run(history.runs[0])
    writer.close()
    found = page_data([("x", read_history(tmp_path)), ("y", History(tmp_path, (), ()))])
    assert [one["empty"] for one in found["runs"]] == ["This run has no samples yet.", "This history holds no run."]


def test_no_history_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="no run to report"):
        page_data([])


def test_a_sample_alone_has_no_drift_and_no_baseline(history: History) -> None:
    alone = dataclasses.replace(history, snapshots=history.snapshots[-1:], plots=history.plots[-1:], alerts=())
    found = run_data("x", alone)
    assert found["baseline"] is False
    assert np.isnan(decoded(found["classes"][0]["drift"])).all()
    assert found["classes"][0]["start"] is None
    assert (found["frames"], found["plots"]["steps"]) == ([0], [40])


@pytest.mark.parametrize(("make", "expected"), [(encoder_decoder, "cross_attn_q"), (experts, "router")])
def test_other_architectures(make: Any, expected: str, tmp_path: Path) -> None:
    run(tmp_path, make(), steps=4, optimized=False)
    found = run_data("x", read_history(tmp_path))
    assert expected in found["grid"]["kinds"]
    widest = max(len(cell) for row in found["grid"]["cells"] for cell in row)
    assert widest == (4 if make is experts else 1)
    assert all(kind["law"] is None for kind in found["kinds"])
    assert len(found["experts"]) == (3 if make is experts else 0)
    json.dumps(found, allow_nan=False)


def test_all_of_it_is_strict_json(three: list[tuple[str, History]]) -> None:
    json.dumps(page_data(three), allow_nan=False)


def test_long_runs_are_thinned_with_their_ends_and_alerts(history: History) -> None:
    samples = tuple(dataclasses.replace(history.snapshots[0], step=step) for step in range(1000))
    told = Alert("begins", 123, 123, history.alerts[0].finding)
    long = dataclasses.replace(history, snapshots=samples, alerts=(told,), plots=())
    frames = run_data("x", long)["frames"]
    assert len(frames) in (FRAMES, FRAMES + 1)
    assert {0, 123, 999} <= set(frames)
    assert len(run_data("x", long, share=1e-4)["frames"]) in (FEWEST, FEWEST + 1)
    assert spread(3, 1) == [0]


def test_what_is_wrong_is_one_sentence_with_three_digits(data: dict[str, Any], history: History) -> None:
    wrong = data["standing"]
    before, now = (dict(history.series(BROKEN, "lambda"))[step] for step in (20, 40))
    since = next(alert["since"] for alert in data["alerts"] if alert["rank"] == 3 and alert["until"] is None)
    assert since == 24  # the first sample after step 20, at which it was made eight times as large
    sentence = f"layers.1.self_attn.q_proj, λ × {now / before:.3g} since step 24."
    assert wrong["sentence"] in (f"1 matrix is wrong: {sentence}", wrong["sentence"])
    assert sentence in wrong["sentence"].replace(" and 1 more", "")
    assert (wrong["component"], wrong["column"], wrong["colour"]) == (BROKEN, "lambda", "within")
    assert data["headline"].startswith(wrong["sentence"])


def made(history: History, quantity: str, value: float | None, expected: Any, step: int, **other: Any) -> History:
    names = other.get("names", (history.components[1].name,))
    finding = Finding("a_rule", "warning", step, names[0], names, len(names), quantity, value, expected, None, "Look.")
    return dataclasses.replace(history, alerts=(Alert(other.get("phase", "begins"), step, step, finding),))


def test_the_colour_of_the_heatmap_is_what_the_alert_is_about(history: History) -> None:
    for quantity, colour in (("k", "k"), ("R²", "r2"), ("λ", "within"), ("RMS", "within"), ("Inf and NaN", "k")):
        data = run_data("x", made(history, quantity, 1.0, (0.2, 0.5), 24))
        assert data["standing"]["colour"] == colour, quantity
    names = tuple(c.name for c in history.components)
    assert run_data("x", made(history, "λ", 1.0, (0.2, 0.5), 24, names=names))["standing"]["colour"] == "growth"


def test_numbers_that_differ_differ_in_the_digits_shown(history: History) -> None:
    (alert,) = run_data("x", made(history, "RMS", 0.026281, (0.026279, 0.5), 24))["alerts"]
    assert alert["found"] == "RMS 0.026281"
    assert alert["expected"] == "0.026279 to 0.5"
    (alert,) = run_data("x", made(history, "RMS", 0.12143, (0.023691, 0.037034), 24))["alerts"]
    assert (alert["found"], alert["expected"]) == ("RMS 0.121", "0.0237 to 0.037")


def test_without_a_standing_alert_nothing_is_wrong(history: History) -> None:
    for calm in (dataclasses.replace(history, alerts=()), made(history, "k", 1.0, (0.2, 0.5), 24, phase="ends")):
        data = run_data("x", calm)
        assert data["standing"] is None
        assert data["headline"].startswith("Nothing is wrong: no warning or error is active. W_q and W_k")


def test_a_model_that_nothing_published_is_like_is_not_called_moved(history: History, monkeypatch: Any) -> None:
    monkeypatch.setattr("weibull_monitor.analysis.scope.MIN_PARAMETERS", 10**9)
    data = run_data("x", dataclasses.replace(history, alerts=()))
    assert data["headline"].endswith("No published model is comparable.")
    assert ": moved" not in data["headline"]
    assert all("moved" not in tile["detail"] for tile in data["tiles"])
    assert all("published" not in one for one in data["classes"])


def test_two_embeddings_have_a_cell_each(tmp_path: Path) -> None:
    model = torch.nn.ModuleDict(
        {"embed_tokens": torch.nn.Embedding(64, 32), "embed_positions": torch.nn.Embedding(16, 32)}
    )
    model["layers"] = torch.nn.ModuleList(torch.nn.ModuleDict({"q_proj": torch.nn.Linear(32, 32)}) for _ in range(2))
    run(tmp_path, model, steps=4)
    grid = run_data("x", read_history(tmp_path))["grid"]
    assert all(len(cell) < 2 for row in grid["cells"] for cell in row)
    assert {"embedding embed_tokens", "embedding embed_positions"} <= set(grid["kinds"])
