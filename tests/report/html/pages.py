"""What tests of the page in a browser share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from weibull_monitor.history.record import History
from weibull_monitor.report.html import write

DRAWN = (
    "class-selection",
    "class-transmission",
    "attention",
    "heat",
    "probability",
    "kinds",
    "law",
    "forecast",
    "ranges",
)
"""The charts of every page."""
CUT = """[...document.querySelectorAll("main *")].filter(e => e.checkVisibility() && !e.closest("svg")
    && !e.classList.contains("plot")
    && ["auto", "scroll", "hidden"].includes(getComputedStyle(e).overflowX) && e.scrollWidth > e.clientWidth + 1)
    .map(e => `${e.tagName} ${e.id} ${e.className}`)"""
"""Elements whose content is wider than they are: on paper nobody can scroll."""


def until(page: Any, condition: str) -> None:
    """Waits until something is so. (playwright's own waiting evaluates text, which the page's policy forbids.)"""
    page.evaluate(
        f"""new Promise((done, fail) => {{
            const late = performance.now() + 60000;
            const look = () => ({condition}) ? done() : performance.now() > late ? fail(Error("not so")) : setTimeout(look, 20);
            look();
        }})"""
    )


def open_report(page: Any, histories: list[tuple[str, History]], where: Path) -> None:
    """Writes a report, opens it, and waits until the charts in view are drawn, or say why not."""
    file = write(histories, where / "report.html")
    page.goto(file.as_uri())
    until(page, "document.querySelector('[data-drawn]') || document.querySelector('.without')")


def draw_all(page: Any) -> dict[str, Any]:
    """Draws every chart, and returns what each shows: its marks in the document, and its message if it has none."""
    page.evaluate("WM.drawAll()")
    return page.evaluate(
        """Object.fromEntries([...document.querySelectorAll("[data-chart]")].map((box) => [box.dataset.chart, {
            marks: box.querySelectorAll(".scatterlayer .trace, .heatmaplayer image, .barlayer .bars").length,
            traces: (box.querySelector(".plot").data || []).length,
            message: box.querySelector(".notice").hidden ? null : box.querySelector(".notice").textContent,
            label: box.querySelector(".plot").getAttribute("aria-label"),
        }]))"""
    )
