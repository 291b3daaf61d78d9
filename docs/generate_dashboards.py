"""Draws the pictures of docs/dashboards.md from a real run: a frame of ``watch``, pages of TensorBoard, W&B's heatmap.

    make demo
    python docs/generate_dashboards.py runs/demo

Needs ``pip install 'weibull-monitor[transformers,tensorboard,report]' playwright`` and Chromium (Debian's package); no network.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright
from rich.console import Console

from weibull_monitor import read_history
from weibull_monitor.history.follower import HistoryTail
from weibull_monitor.history.record import History
from weibull_monitor.report.terminal.draw import draw
from weibull_monitor.report.terminal.view import view_of
from weibull_monitor.trackers.heatmap import Heatmap, heatmap_from, plotly_figure

FIGURES = Path(__file__).parent / "figures"


def main() -> None:
    """Draws all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run of the quickstart, with TensorBoard")
    run = Path(parser.parse_args().run)
    with sync_playwright() as driver, tempfile.TemporaryDirectory() as place:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        watch(browser, run, Path(place))
        wandb(browser, run, Path(place))
        with tensorboard(run) as address:
            page_of(browser, f"{address}/#custom_scalars", "path.area", "dashboard-tensorboard-charts", 1230, 760)
            page_of(browser, f"{address}/#images", "img", "dashboard-tensorboard-heatmaps", 1230, 780)
    for picture in FIGURES.glob("dashboard-*.png"):
        Image.open(picture).convert("RGB").quantize(256).save(picture, optimize=True)


def watch(browser: Any, run: Path, place: Path) -> None:
    """A frame of 80 × 24, as the terminal has it."""
    tail = HistoryTail(run)
    tail.poll()
    view = view_of(tail)
    assert view is not None, f"{run} holds no samples"
    console = Console(record=True, width=80, height=24, file=io.StringIO(), force_terminal=True)
    console.print(draw(view, 80, 24, now=view.time + 3))
    console.save_svg(str(place / "watch.svg"), title="weibull-monitor watch runs/demo")
    svg = (place / "watch.svg").read_text()
    width, height = (round(float(size)) for size in re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)[0])
    page = browser.new_page(viewport={"width": width, "height": height})
    page.goto(f"file://{place / 'watch.svg'}")
    page.screenshot(path=FIGURES / "dashboard-watch.png")


def wandb(browser: Any, run: Path, place: Path) -> None:
    """The figure that W&B gets, drawn by plotly outside of W&B."""
    figure = plotly_figure(heatmap_of_last(read_history(run)))
    figure.update_layout(width=800, height=440)
    figure.update_layout(updatemenus=[figure.layout.updatemenus[0].update(active=1)])  # λ, which shows the fault
    for panel, trace in enumerate(figure.data):
        trace.visible = panel == 1
    figure.write_html(place / "heatmap.html")
    page = browser.new_page(viewport={"width": 816, "height": 456})
    page.goto(f"file://{place / 'heatmap.html'}")
    page.wait_for_selector(".heatmaplayer image", state="attached")
    page.screenshot(path=FIGURES / "dashboard-wandb-heatmap.png")


def heatmap_of_last(history: History) -> Heatmap:
    """The last recorded sample, as `weibull_monitor.trackers.heatmap.heatmap_of` lays a live one out."""
    first, last = history.snapshots[0], history.snapshots[-1]
    return heatmap_from(last.step, last.components, last.values("k"), last.values("lambda"), first.values("k"))


@contextmanager
def tensorboard(run: Path) -> Iterator[str]:
    """The address of a TensorBoard that has read the run."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(run), "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/data/plugin/custom_scalars/layout") as answer:
                    if len(answer.read()) > 10:
                        break
            except OSError:
                pass
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def page_of(browser: Any, address: str, drawn: str, name: str, width: int, height: int) -> None:
    """A picture of a page, once what matters is drawn."""
    page = browser.new_page(viewport={"width": width, "height": height})
    page.goto(address)
    page.wait_for_selector(drawn, state="attached", timeout=30_000)
    page.wait_for_timeout(2_000)  # charts move into their place
    page.screenshot(path=FIGURES / f"{name}.png")


if __name__ == "__main__":
    main()
