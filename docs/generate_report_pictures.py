"""Takes the pictures of docs/report.md: trains a small model, breaks one of its matrices, and opens its report in Chromium.

    python docs/generate_report_pictures.py            # trains what is not in runs/report yet: two minutes on two cores
    python docs/generate_report_pictures.py --again    # trains anew
    python docs/generate_report_pictures.py --page     # only writes the page, to runs/report/report.html

Needs ``pip install 'weibull-monitor[dev]'``, the system's Chromium (Debian: ``chromium``) and no network. The run is one of
400 steps with a cosine schedule, stopped after 240, so that there is something to forecast. After step 140 a quarter of the
rows of one feed-forward matrix are made twelve times as large: two populations in one matrix, which no single k describes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import torch

from weibull_monitor import WeibullMonitor, read_history
from weibull_monitor.report.html import write

ROOT: Final = Path(__file__).parents[1]
sys.path += [str(ROOT / "examples"), str(ROOT / "tests")]

RUN, FIGURES = ROOT / "runs" / "report", ROOT / "docs" / "figures"
BROKEN, BROKEN_AT = "model.layers.2.mlp.down_proj.weight", 140
STEPS, STOPPED = 400, 240


def train(where: Path) -> None:
    """The run that the pictures show."""
    from small_llama import LibrarySources, small_llama

    torch.manual_seed(0)
    model = small_llama(width=96, blocks=6)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS, eta_min=2e-4)
    data, draw = LibrarySources(window=64), torch.Generator().manual_seed(0)
    options = {"scheduler": scheduler, "total_steps": STEPS, "every_n_steps": 10, "output_dir": where}
    with WeibullMonitor(model, optimizer, **options) as monitor:  # type: ignore[arg-type]
        for step in range(1, STOPPED + 1):
            tokens = torch.stack(
                [data[i]["input_ids"] for i in torch.randint(len(data), (8,), generator=draw).tolist()]
            )
            loss = model(input_ids=tokens, labels=tokens).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            monitor.step()
            scheduler.step()
            if step == BROKEN_AT:
                with torch.no_grad():
                    matrix = model.get_parameter(BROKEN)
                    matrix[: len(matrix) // 4] *= 12.0


def picture(
    browser: Any, page: Path, name: str, shown: str | None = None, width: int = 1280, height: int = 1500
) -> None:
    """One picture for light pages and one for dark ones: of the whole window, or of an element."""
    from browser import page_of
    from PIL import Image

    for scheme, ending in (("light", ""), ("dark", "-dark")):
        with page_of(browser, width, height, scheme) as (tab, _):  # type: ignore[arg-type]
            tab.goto(page.resolve().as_uri())
            tab.evaluate("WM.drawAll()")
            tab.wait_for_timeout(300)  # fonts and layout settle
            taken = tab.locator(shown) if shown else tab
            taken.screenshot(path=FIGURES / f"{name}{ending}.png")
            if shown:  # without a heatmap, whose colours would show it
                drawn = Image.open(FIGURES / f"{name}{ending}.png").quantize(256)
                drawn.save(FIGURES / f"{name}{ending}.png", optimize=True)
            print(f"docs/figures/{name}{ending}.png")


def main() -> None:
    """Trains, writes the page, takes the pictures."""
    if "--again" in sys.argv[1:] or not (RUN / "weibull" / "history.jsonl").is_file():
        train(RUN)
    page = write([("small-llama", read_history(RUN))], RUN / "report.html")
    print(page.relative_to(ROOT))
    if "--page" in sys.argv[1:]:
        return
    from browser import chromium

    with chromium() as browser:
        picture(browser, page, "report", height=1420)
        picture(browser, page, "report-probability", "#probability")
        picture(browser, page, "report-law", "#law")
        picture(browser, page, "report-phone", width=390, height=844)


if __name__ == "__main__":
    main()
