"""When trackers draw, and what: heatmaps and tables against the samples that they show."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import torch

from weibull_monitor import ConfigurationError, MemoryTracker, MissingDependencyError, WeibullMonitor
from weibull_monitor.history.record import RunRecord
from weibull_monitor.history.snapshot import Reference, Snapshot
from weibull_monitor.model.components import Component
from weibull_monitor.trackers.fit_table import COLUMNS, table_of
from weibull_monitor.trackers.heatmap import heatmap_from, heatmap_of, image, plotly_figure


class Draws(MemoryTracker):
    """A tracker with all optional methods but ``alert``."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, int]] = []

    def begin(self, record: RunRecord) -> None:
        self.calls.append(("begin", -1 if record.resumed_from is None else record.resumed_from))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        super().log(metrics, step)
        self.calls.append(("log", step))

    def picture(self, snapshot: Snapshot) -> None:
        self.calls.append(("picture", snapshot.step))

    @property
    def drawn(self) -> list[int]:
        return [step for what, step in self.calls if what == "picture"]


@pytest.fixture
def snapshot(tiny_model: torch.nn.Module, tmp_path: Path) -> Snapshot:
    """A sample with a baseline from which every other matrix has drifted by 10 %."""
    with WeibullMonitor(tiny_model, output_dir=tmp_path) as monitor:
        sample = monitor.sample()
    assert sample is not None
    start = {
        name: Reference(fit.k / (1.1 if place % 2 else 1.0), fit.lambda_ / 2.0)
        for place, (name, fit) in enumerate(sample.fits.items())
    }
    return replace(sample, step=70, baseline=start)


def test_a_tracker_gets_the_run_then_samples_then_draws_now_and_then_and_at_the_end(
    tiny_model: torch.nn.Module, train: Callable[..., list[float]], tmp_path: Path
) -> None:
    tracker, two_methods = Draws(), MemoryTracker()
    optimizer = torch.optim.AdamW(tiny_model.parameters())
    with WeibullMonitor(
        tiny_model, optimizer, every_n_steps=1, output_dir=tmp_path, trackers=[tracker, two_methods], pictures_every=4
    ) as monitor:
        train(tiny_model, optimizer, 9, monitor.step)
    assert tracker.calls[:2] == [("begin", -1), ("log", 0)]
    assert tracker.drawn == [3, 7, 9]  # the 4th and the 8th sample, and the last
    assert tracker.calls[-2:] == [("log", 9), ("picture", 9)]
    assert len(two_methods.records) == 10


def test_no_pictures_if_none_are_wanted_and_none_of_a_model_that_was_not_trained(
    tiny_model: torch.nn.Module, train: Callable[..., list[float]], tmp_path: Path
) -> None:
    for every, steps in ((0, 3), (1000, 0)):
        tracker = Draws()
        optimizer = torch.optim.AdamW(tiny_model.parameters())
        with WeibullMonitor(
            tiny_model, optimizer, output_dir=tmp_path / str(every), trackers=[tracker], pictures_every=every
        ) as monitor:
            train(tiny_model, optimizer, steps, monitor.step)
        assert tracker.drawn == []
    with pytest.raises(ConfigurationError, match="pictures_every is -1; pass a number of samples, or 0"):
        WeibullMonitor(tiny_model, output_dir=tmp_path, pictures_every=-1)


def test_a_picture_that_fails_is_one_warning_and_nothing_else(
    tiny_model: torch.nn.Module, train: Callable[..., list[float]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Draws):
        def begin(self, record: RunRecord) -> None:
            raise ValueError("no")

        def picture(self, snapshot: Snapshot) -> None:
            raise MissingDependencyError("matplotlib", "report")

    broken, good = Broken(), Draws()
    optimizer = torch.optim.AdamW(tiny_model.parameters())
    with WeibullMonitor(
        tiny_model, optimizer, every_n_steps=1, output_dir=tmp_path, trackers=[broken, good], pictures_every=1
    ) as monitor:
        train(tiny_model, optimizer, 5, monitor.step)
    assert good.drawn == [0, 1, 2, 3, 4, 5]
    assert [step for step, _ in broken.records] == [0, 1, 2, 3, 4, 5]
    assert caplog.text.count("drawing for Broken failed") == 1
    assert caplog.text.count("beginning with Broken failed") == 1
    assert "pip install 'weibull-monitor[report]'" in caplog.text


def test_the_heatmap_has_every_matrix_in_its_place(snapshot: Snapshot) -> None:
    heatmap = heatmap_of(snapshot)
    assert heatmap.kinds == ("attn_q", "attn_k", "attn_o", "ffn_in", "ffn_out")
    assert heatmap.blocks == ("0", "1")
    k, scale, drift = heatmap.panels
    for c in snapshot.components:
        row, column = heatmap.blocks.index(str(c.block)), heatmap.kinds.index(c.label)
        assert k.values[row][column] == snapshot.fits[c.name].k
    assert sorted({round(v, 9) for row in drift.values for v in row if v is not None}) == [0.0, 10.0]
    assert drift.limits == pytest.approx((-10.0, 10.0))  # so that white means no drift
    assert [panel.key for panel in heatmap_of(replace(snapshot, step=0)).panels] == [
        "k",
        "lambda",
    ]  # no drift at the baseline
    for c in snapshot.components:
        usual = median(snapshot.fits[d.name].lambda_ for d in snapshot.components if d.label == c.label)
        row, column = heatmap.blocks.index(str(c.block)), heatmap.kinds.index(c.label)
        assert scale.values[row][column] == pytest.approx(snapshot.fits[c.name].lambda_ / usual)


def test_a_matrix_whose_scale_is_out_of_line_has_a_colour_of_its_own_also_among_experts() -> None:
    experts = [component("layers.0.mlp", "ffn_up", expert=expert) for expert in range(4)] + [
        component("layers.0.attn.q", "attn_q"),
        component("layers.1.attn.q", "attn_q", block=1),
    ]
    scale = dict.fromkeys([c.name for c in experts], 0.02) | {experts[2].name: 0.08}
    heatmap = heatmap_from(9, experts, dict.fromkeys(scale, 1.2), scale, {})
    panel = heatmap.panels[1]
    assert panel.values == [[4.0, 1.0], [None, 1.0]]
    assert panel.limits == (0.25, 4.0)
    assert panel.ticks[1][0] == "× 0.25"
    pixels = image(heatmap, panel)
    from matplotlib import colormaps

    colour = np.array([round(255 * part) for part in colormaps["RdBu_r"](1.0)[:3]])
    assert (np.abs(pixels.astype(int) - colour).max(axis=2) <= 1).sum() > 500
    (trace,) = [
        t for t in plotly_figure(heatmap).to_plotly_json()["data"] if t["colorbar"]["title"]["text"] == panel.name
    ]
    assert trace["z"][0][0] == 2.0  # in doublings, so that × 4 is as far from × 1 as × 0.25
    assert trace["customdata"][0][0] == 4.0


def component(name: str, kind: str, block: int = 0, expert: int | None = None) -> Component:
    path = f"{name}.{expert}.weight" if expert is not None else f"{name}.weight"
    return Component(path, kind, block, expert, False, (4, 4), torch.float32, True, path, tower="layers")


def test_the_interactive_figure_holds_the_values_and_changes_between_the_panels(snapshot: Snapshot) -> None:
    pytest.importorskip("plotly", reason="needs the report extra")
    heatmap = heatmap_of(snapshot)
    figure = plotly_figure(heatmap).to_plotly_json()
    for trace, panel in zip(figure["data"], heatmap.panels, strict=True):
        assert [list(row) for row in trace["customdata"]] == [list(row) for row in panel.values]
        assert (trace["zmin"], trace["zmax"]) == tuple(map(panel.drawn, panel.limits))
        assert trace["zmin"] < 0.0 or trace["zmin"] == min(value for row in panel.values for value in row if value)
    assert [trace["visible"] for trace in figure["data"]] == [True, False, False]
    (menu,) = figure["layout"]["updatemenus"]
    assert [button["args"][0]["visible"].index(True) for button in menu["buttons"]] == [0, 1, 2]


def test_the_image_shows_high_and_low_k_in_different_colours_and_touches_nothing_global(snapshot: Snapshot) -> None:
    pytest.importorskip("matplotlib", reason="needs the report extra")
    heatmap = heatmap_of(replace(snapshot, step=0))
    pixels = image(heatmap, heatmap.panels[0])
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3
    from matplotlib import colormaps

    for share in (0.0, 1.0):  # the lowest and the highest k are there, in the colours of the ends
        colour = np.array([round(255 * part) for part in colormaps["viridis"](share)[:3]])
        assert (np.abs(pixels.astype(int) - colour).max(axis=2) <= 1).sum() > 500
    program = (
        "import sys; from weibull_monitor.trackers.heatmap import Heatmap, HeatmapPanel, image;"
        "panel = HeatmapPanel('k', 'k', [[1.0]], (0.0, 1.0)); image(Heatmap('t', ('a',), ('0',), (panel,)), panel);"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_missing_libraries_are_named(snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for draw in (plotly_figure, lambda heatmap: image(heatmap, heatmap.panels[0])):
        with pytest.raises(MissingDependencyError, match=r"weibull-monitor\[report\]"):
            draw(heatmap_of(snapshot))


def test_the_table_has_a_row_for_each_matrix(snapshot: Snapshot) -> None:
    table = table_of(snapshot)
    assert table.left_out == 0
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in table.rows]
    assert [row["name"] for row in rows] == [c.name for c in snapshot.components]
    for row in rows:
        fit = snapshot.fits[str(row["name"])]
        assert (row["k"], row["lambda"], row["r2"], row["elements"]) == (fit.k, fit.lambda_, fit.r2, fit.n)
        assert row["growth"] == pytest.approx(2.0)
        assert row["effective_sqrt_eta_over_wd"] is None  # there is no optimizer


def test_a_table_that_is_too_long_keeps_what_lies_furthest_from_its_kind(snapshot: Snapshot) -> None:
    kept = {row[0] for row in table_of(snapshot, most=4).rows}
    assert table_of(snapshot, most=4).left_out == len(snapshot.components) - 4 == 6
    away = {}
    for c in snapshot.components:
        siblings = [snapshot.fits[d.name].k for d in snapshot.components if d.label == c.label]
        away[c.name] = abs(math.log(snapshot.fits[c.name].k / median(siblings)))
    assert min(away[name] for name in kept) >= max(away[name] for name in away.keys() - kept)
