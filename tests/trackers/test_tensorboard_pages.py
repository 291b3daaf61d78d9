"""What TensorBoard shows: read by its own readers, and by a browser from a real TensorBoard."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser import chromium, page_of
from conftest import TinyModel

from weibull_monitor import WeibullMonitor, read_history
from weibull_monitor.analysis import expected_range

pytest.importorskip("tensorboard", reason="needs the tensorboard extra")
pytest.importorskip("matplotlib", reason="needs the report extra")
from trackers.test_tensorboard import scalars


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run with k of W_q well below where it began, so that there is something to see."""
    where = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    model = TinyModel()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    options: dict[str, Any] = {"scheduler": lambda step: 1.0, "total_steps": 12, "pictures_every": 8}
    with WeibullMonitor(model, optimizer, every_n_steps=1, output_dir=where, trackers=["tensorboard"], **options) as m:
        for _ in range(12):
            with torch.no_grad():
                for layer in model.layers:
                    layer.self_attn["q_proj"].weight.mul_(1.0 + 0.3 * torch.rand(32, 32).pow(4))
            m.step()
    return where


def events(directory: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(directory), size_guidance={"images": 0, "tensors": 0, "scalars": 0})
    reader.Reload()
    return reader


def test_the_band_is_a_margin_chart_of_curves_that_are_logged_at_the_same_steps(run: Path) -> None:
    from tensorboard.plugins.custom_scalar import layout_pb2

    (event,) = events(run).Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    curves = scalars(run)
    margins = [
        chart.margin.series[0] for category in layout.category for chart in category.chart if chart.margin.series
    ]
    assert [series.value for series in margins] == ["weibull_class/selection_k", "weibull_class/transmission_k"]
    for series in margins:
        steps = [step for step, _ in curves[series.value]]
        assert steps == [step for step, _ in curves[series.lower]] == [step for step, _ in curves[series.upper]]
    expected = expected_range("attn_q", "mha")
    assert expected is not None
    for end, edge in (("low", expected.low), ("high", expected.high)):
        logged = [value for _, value in curves[f"weibull_band/selection_{end}"]]
        assert logged == pytest.approx([edge] * len(logged), rel=1e-6)


def test_every_chart_of_the_layout_finds_curves(run: Path) -> None:
    from tensorboard.plugins.custom_scalar import layout_pb2

    (event,) = events(run).Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    logged = scalars(run)
    for category in layout.category:
        for chart in category.chart:
            for pattern in chart.multiline.tag:  # TensorBoard matches from the beginning
                assert any(re.match(pattern, key) for key in logged), f"{chart.title}: {pattern}"


def test_the_heatmaps_are_images_of_the_samples_that_were_due_and_of_the_last(run: Path) -> None:
    from PIL import Image

    reader = events(run)
    for tag in ("weibull_pictures/k", "weibull_pictures/lambda", "weibull_pictures/drift"):
        images = reader.Images(tag)
        assert [image.step for image in images] == [7, 12]
        pixels = [np.asarray(Image.open(io.BytesIO(image.encoded_image_string))) for image in images]
        assert pixels[0].shape[0] > 200
        assert (pixels[0] != pixels[1]).any()


def test_hyper_parameters_are_in_the_same_file(run: Path) -> None:
    from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    assert len(list(run.rglob("events.*"))) == 1
    content = events(run).summary_metadata[SESSION_START_INFO_TAG].plugin_data.content
    started = HParamsPluginData.FromString(content).session_start_info
    assert started.hparams["model"].string_value == "TinyModel"
    assert started.hparams["optimizer"].string_value == "AdamW"
    assert started.hparams["weight_decay"].number_value == 0.1
    assert started.hparams["total_steps"].number_value == 12


def test_a_writer_that_its_owner_closed_is_not_opened_again(
    tiny_model: torch.nn.Module, train: Callable[..., list[float]], tmp_path: Path
) -> None:
    from torch.utils.tensorboard import SummaryWriter

    from weibull_monitor.trackers.tensorboard import TensorBoardTracker

    writer = SummaryWriter(str(tmp_path / "host"))
    tracker = TensorBoardTracker(tmp_path, writer=writer)
    optimizer = torch.optim.AdamW(tiny_model.parameters())
    monitor = WeibullMonitor(tiny_model, optimizer, every_n_steps=1, output_dir=tmp_path, trackers=[tracker])
    train(tiny_model, optimizer, 2, monitor.step)
    writer.close()
    monitor.close()
    assert len(list((tmp_path / "host").glob("events.*"))) == 1
    assert read_history(tmp_path).snapshots[-1].step == 2


@pytest.fixture(scope="module")
def address(run: Path) -> Iterator[str]:
    """A real TensorBoard that serves the run."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(run), "--port", "0", "--host", "127.0.0.1"]
    with (run / "tensorboard.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        yield address_of(server, run / "tensorboard.log")
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)


def address_of(server: subprocess.Popen[bytes], log: Path) -> str:
    """Where TensorBoard has said that it is, once it has read the run: before that the answer is empty."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()
        if found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text()):
            with suppress(OSError):
                url = f"{found[0]}/data/plugin/custom_scalars/layout"
                if len(urllib.request.urlopen(url, timeout=60).read()) > 10:
                    return found[0]
        time.sleep(0.1)
    pytest.fail(f"TensorBoard does not answer: {log.read_text()}")


def test_a_browser_sees_the_band_and_the_heatmap(address: str) -> None:
    with chromium() as browser:
        with page_of(browser, width=1400, height=1000, offline=False) as (page, seen):
            page.goto(f"{address}/#custom_scalars")
            # The charts lie in shadow trees, which playwright's selectors look into.
            page.wait_for_selector("tf-custom-scalar-margin-chart-card path", state="attached")
            page.wait_for_function(BAND)
            page.wait_for_selector("text=selection: k in the published band")
        with page_of(browser, width=1400, height=1000, offline=False) as (page, seen):
            page.goto(f"{address}/#images")
            page.wait_for_function(IMAGES)
    outside = [url for url in seen.requests if not url.startswith(address)]
    assert outside == []


FIND = """
  const found = [];
  const walk = (node, selector) => {
    if (node.matches && node.matches(selector)) found.push(node);
    if (node.shadowRoot) walk(node.shadowRoot, selector);
    for (const child of node.children || []) walk(child, selector);
  };
"""
BAND = (
    "() => {" + FIND + "walk(document.body, 'path.area');"
    "return found.filter(p => p.getBBox().width > 100 && p.getBBox().height > 20).length === 2; }"
)
"""The shaded area of a Margin chart, one a class; the curves are of the class ``line``."""
IMAGES = (
    "() => {" + FIND + "walk(document.body, 'img');"
    "return found.filter(i => i.complete && i.naturalWidth > 200).length === 3; }"
)
"""The latest heatmaps of k, of λ against its kind, and of the drift of k."""
