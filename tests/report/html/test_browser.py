"""The page in a real browser: every chart drawn, everything works, nothing asked of a network."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import chromium, page_of
from report.html.pages import CUT, DRAWN, draw_all, open_report, until
from report.html.trained import BROKEN, Hostile, encoder_decoder, experts, llama, run

from weibull_monitor import read_history
from weibull_monitor.history.alert import Alert, Finding
from weibull_monitor.history.record import History

QUIET = "WM.run().components.map(component => component.name)"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def shown(browser: Any, history: History, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any]]:
    """One page of the broken run that several tests use; each leaves it in working order."""
    with page_of(browser, 1280, 1000) as (page, seen):
        open_report(page, [("broken", history)], tmp_path_factory.mktemp("page"))
        yield page, seen
        assert seen.errors == []
        assert seen.requests == []


def test_the_page_opens_with_what_is_wrong(shown: tuple[Any, Any], history: History) -> None:
    page, _ = shown
    page.reload()
    until(page, "WM.drawnAt")
    assert "layers.1.self_attn.q_proj" in page.text_content("#headline strong")
    order = page.evaluate("[...document.querySelectorAll('main > section')].filter(e => !e.hidden).map(e => e.id)")
    assert order[:5] == ["overview", "now", "heatmap", "run-box", "classes"]
    assert order.index("classes") < order.index("law")
    y = page.evaluate(f"[...WM.plotOf('now').data.find(trace => trace.meta === {json.dumps(BROKEN)}).y]")
    assert y == pytest.approx([value for _, value in history.series(BROKEN, "lambda")], rel=1e-3)
    assert page.locator("#now-alerts .standing").count() >= 1
    assert BROKEN in page.text_content("#now-alerts")
    assert page.is_checked("#heat-quantity input[value=within]")
    assert page.is_checked("#kinds-quantity input[value=lambda]")


def test_without_an_alert_that_stands_the_page_opens_with_the_run(
    browser: Any, history: History, tmp_path: Path
) -> None:
    with page_of(browser) as (page, seen):
        open_report(page, [("x", dataclasses.replace(history, alerts=()))], tmp_path)
        assert page.is_hidden("#now")
        assert page.locator("#nav a", has_text="What is wrong").count() == 0
        order = page.evaluate("[...document.querySelectorAll('main > section')].filter(e => !e.hidden).map(e => e.id)")
        assert order[:3] == ["overview", "run-box", "heatmap"]
        assert page.is_checked("#heat-quantity input[value=k]")
        assert seen.errors == []


def test_a_caption_names_only_what_is_drawn(
    browser: Any, history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for least, green in ((0, True), (10**9, False)):
        monkeypatch.setattr("weibull_monitor.analysis.scope.MIN_PARAMETERS", least)
        with page_of(browser) as (page, _):
            open_report(page, [("x", history)], tmp_path)
            assert ("Green" in page.text_content("#classes-lead")) == green


def test_every_chart_is_drawn(shown: tuple[Any, Any], history: History) -> None:
    page, seen = shown
    charts = draw_all(page)
    for name in DRAWN:
        assert charts[name]["message"] is None, name
        assert charts[name]["marks"] > 0, name
        assert len(charts[name]["label"]) > 20, name
    assert charts["kinds"]["traces"] >= 9 * 3  # a median, and bands, of each kind
    assert page.text_content("#title") == "broken"
    assert page.locator(".tile").count() == 5
    assert "W_q and W_k have a median k of" in page.text_content("#headline")
    assert (seen.errors, seen.requests) == ([], [])


def test_the_charts_show_what_the_history_holds(shown: tuple[Any, Any], history: History) -> None:
    page, _ = shown
    draw_all(page)
    drawn = page.evaluate("WM.plotOf('class-selection').data.find(trace => trace.meta === 'broken')")
    y = [drawn["y"][str(i)] for i in range(len(drawn["steps"]))] if isinstance(drawn["y"], dict) else drawn["y"]
    selection = [c.name for c in history.components if c.kind in ("attn_q", "attn_k")]
    for place, snapshot in enumerate(history.snapshots):
        k = snapshot.values("k")
        assert y[place] == pytest.approx(np.median([k[name] for name in selection]), rel=1e-6)


def test_the_slider_changes_the_heatmap(shown: tuple[Any, Any], history: History) -> None:
    page, _ = shown

    def cell(kind: str, block: str) -> float:
        heat = page.evaluate("(({x, y, z}) => ({x, y, z}))(WM.plotOf('heat').data[0])")
        value: float = heat["z"][heat["y"].index(kind)][heat["x"].index(block)]
        return value

    def recorded(step: int) -> float:
        return dict(history.series(BROKEN, "k"))[step]

    page.locator("#heatmap").scroll_into_view_if_needed()
    usual = np.median([dict(history.series(c.name, "lambda"))[40] for c in history.components if c.kind == "attn_q"])
    assert 2 ** cell("attn_q", "1") == pytest.approx(dict(history.series(BROKEN, "lambda"))[40] / usual, rel=1e-3)
    page.locator("#heat-quantity input[value=k]").check(force=True)
    assert cell("attn_q", "1") == pytest.approx(recorded(40), abs=1e-4)
    page.focus("#step")
    page.keyboard.press("Home")
    assert cell("attn_q", "1") == pytest.approx(recorded(0), abs=1e-4)
    page.keyboard.press("ArrowRight")
    assert page.text_content("#step-label") == "step 1 of 40"
    page.keyboard.press("End")
    assert page.text_content('[data-chart="heat"] .chart-title') == "Shape k, step 40"
    page.get_by_label("growth of λ").check(force=True)
    growth = dict(history.series(BROKEN, "lambda"))
    assert 2 ** cell("attn_q", "1") == pytest.approx(growth[40] / growth[0], rel=1e-3)
    page.get_by_label("drift of k").check(force=True)
    assert cell("attn_q", "1") == pytest.approx(100 * (recorded(40) / recorded(0) - 1), abs=0.02)
    page.locator("#heat-quantity input[value=k]").check(force=True)


def test_playing_goes_through_the_steps(shown: tuple[Any, Any]) -> None:
    page, _ = shown
    page.click("#play")
    assert page.get_attribute("#play", "aria-pressed") == "true"
    until(page, "WM.frame() === 2")
    page.click("#play")
    assert page.get_attribute("#play", "aria-pressed") == "false"
    page.evaluate("WM.setFrame(WM.run().last)")


def test_a_cell_chooses_its_matrix_everywhere(shown: tuple[Any, Any], history: History) -> None:
    page, _ = shown
    page.locator("#heatmap").scroll_into_view_if_needed()
    before = page.evaluate("WM.state.component")
    assert before == BROKEN  # what the gravest alert is about
    kinds, blocks = page.evaluate("[WM.run().grid.kinds, WM.run().grid.blocks]")
    box = page.evaluate(
        "(({left, top}, size) => ({x: left + size._offset, y: top, w: size._length}))(WM.plotOf('heat')"
        ".getBoundingClientRect(), WM.plotOf('heat')._fullLayout.xaxis)"
    )
    rows = page.evaluate("(({_offset, _length}) => [_offset, _length])(WM.plotOf('heat')._fullLayout.yaxis)")
    x = box["x"] + box["w"] * (blocks.index("0") + 0.5) / len(blocks)
    y = box["y"] + rows[0] + rows[1] * (kinds.index("ffn_up") + 0.5) / len(kinds)
    page.mouse.move(x, y)
    page.mouse.click(x, y)
    until(page, f"WM.state.component !== {json.dumps(before)}")
    chosen = "model.layers.0.mlp.up_proj.weight"
    assert page.input_value("#matrix") == chosen
    assert chosen in page.text_content("#said")
    draw_all(page)
    assert page.text_content('[data-chart="probability"] .chart-title') == chosen
    points = page.evaluate("[...WM.plotOf('probability').data.find(trace => trace.name === 'step 40').x]")
    recorded = history.plots[-1].of(chosen)
    assert recorded is not None
    assert points == pytest.approx(np.exp(recorded).tolist(), rel=1e-3)
    line = page.evaluate(
        "(({x, y}) => [[...x], [...y]])(WM.plotOf('probability').data.find(t => t.name === 'fitted line'))"
    )
    k, scale = (dict(history.series(chosen, column))[40] for column in ("k", "lambda"))
    slope = (line[1][1] - line[1][0]) / np.log(line[0][1] / line[0][0])
    assert slope == pytest.approx(k, rel=1e-3)
    assert line[1][0] == pytest.approx(k * np.log(line[0][0] / scale), rel=1e-3)


def test_the_step_of_the_probability_plot_is_chosen(shown: tuple[Any, Any], history: History) -> None:
    page, _ = shown
    page.select_option("#plot-step", "8")
    draw_all(page)
    assert "step 8" in page.evaluate("WM.plotOf('probability').data.map(trace => trace.name)")
    k = dict(history.series(page.evaluate("WM.state.component"), "k"))[8]
    assert f"{k:.3f}" in page.text_content("#matrix-facts")
    page.select_option("#plot-step", "last")


def test_everything_is_done_from_the_keyboard(shown: tuple[Any, Any]) -> None:
    page, _ = shown
    page.reload()  # so that the keyboard begins at the top
    until(page, "WM.drawnAt")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#content"
    draw_all(page)
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("(e => e.id || e.name || e.textContent)(document.activeElement)"))
        if page.evaluate("document.activeElement === WM.plotOf('heat')"):
            assert (
                page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
            )  # a ring to be seen
            before = page.evaluate("WM.run().cellOf.get(WM.run().index.get(WM.state.component))")
            page.keyboard.press("ArrowDown")
            after = page.evaluate("WM.run().cellOf.get(WM.run().index.get(WM.state.component))")
            assert (after[0], after[1]) == (before[0], before[1] + 1)
            assert page.evaluate("document.activeElement === WM.plotOf('heat')")
    assert {"step", "play", "matrix", "plot-step", "quantity", "kinds-quantity", "law-kind", "lowest R²"} <= reached
    assert page.evaluate("[...document.querySelectorAll('input, select, button')].filter(e => e.offsetParent).every("
                         "e => e.labels?.length || e.textContent.trim() || e.getAttribute('aria-label'))")  # fmt: skip


def test_alerts_are_marked_and_listed_and_sorted(shown: tuple[Any, Any], history: History) -> None:
    page, _ = shown
    draw_all(page)
    told = "WM.plotOf('class-selection').data.filter(t => (t.meta || '').startsWith('alerts'))"
    marks = page.evaluate(f"{told}.flatMap(t => [...t.x])")
    grave = [a for a in history.alerts if a.phase == "begins" and a.finding.severity != "info"]
    begun = {a.step for a in grave if BROKEN in a.finding.components}
    assert begun
    assert begun <= set(marks)
    rows = page.locator("#alert-table tbody tr")
    assert rows.count() == len({(a.finding.rule, a.since) for a in history.alerts})
    head = page.get_by_role("button", name="Rule")
    head.click()
    rules = page.locator("#alert-table tbody code").all_text_contents()
    assert rules == sorted(rules)
    head.click()
    assert page.locator("#alert-table tbody code").all_text_contents() == sorted(rules, reverse=True)
    assert page.locator("#alert-table th[aria-sort=descending]").text_content() == "Rule"
    assert history.alerts[0].finding.meaning in page.text_content("#alert-table")


def test_what_a_chart_shows_is_saved_as_a_table(shown: tuple[Any, Any], history: History) -> None:
    page, _ = shown
    page.locator("#heat-quantity input[value=k]").check(force=True)
    draw_all(page)
    with page.expect_download() as saved:
        page.locator('[data-chart="heat"] button', has_text="CSV").click()
    rows = list(csv.reader(saved.value.path().read_text().splitlines()))
    assert rows[0] == ["series", "x", "y", "value"]
    found = {(x, y): value for _, x, y, value in rows[1:] if value}
    names = {c.name: (str(c.block), c.label) for c in history.components if c.block is not None}
    for name, place in names.items():
        assert float(found[place]) == pytest.approx(dict(history.series(name, "k"))[40], abs=1e-4)


def test_the_theme_follows_the_system_and_a_choice_is_kept(browser: Any, history: History, tmp_path: Path) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    with page_of(browser, scheme="dark") as (page, seen):
        open_report(page, [("x", history)], tmp_path)
        dark = page.evaluate(background)
        text = page.evaluate("WM.plotOf('now').layout.font.color")
        page.click("#theme")
        light = page.evaluate(background)
        assert max(map(int, dark[4:-1].split(","))) < 60 < 200 < min(map(int, light[4:-1].split(",")))
        assert page.evaluate("WM.plotOf('now').layout.font.color") != text
        page.reload()
        assert page.evaluate(background) == light
        assert seen.errors == []


def test_a_phone_shows_it_without_scrolling_sideways(
    browser: Any, three: list[tuple[str, History]], tmp_path: Path
) -> None:
    for histories in (three[:1], three):
        with page_of(browser, width=390, height=844) as (page, seen):
            open_report(page, histories, tmp_path)
            draw_all(page)
            page.click("#facts-box summary")
            assert page.evaluate("document.documentElement.scrollWidth") == 390
            plots = "[...document.querySelectorAll('.plot')].filter(p => p.offsetParent)"
            assert max(page.evaluate(f"{plots}.map(p => p.getBoundingClientRect().right)")) <= 390
            assert seen.errors == []


def test_names_of_a_run_are_only_names(browser: Any, tmp_path: Path) -> None:
    run(tmp_path, Hostile(), steps=4)
    history = read_history(tmp_path)
    name = history.components[0].name
    assert "</script>" in name
    text = "<img src=x onerror=window.hacked=1> & 'quotes'"
    finding = Finding(text, "error", 4, name, (name,), 1, text, 1.0, (None, 0.5), None, text)
    history = dataclasses.replace(
        history,
        alerts=(Alert("begins", 4, 4, finding),),
        runs=(dataclasses.replace(history.runs[0], skipped={text: text}),),
    )
    called = '</title></script><script>window.hacked=1</script>"><img src=x onerror=window.hacked=1>'
    with page_of(browser) as (page, seen):
        open_report(page, [(called, history), (called, history)], tmp_path)
        draw_all(page)
        for choice in page.evaluate(QUIET):
            page.evaluate(f"WM.choose({json.dumps(choice)})")
            draw_all(page)
            assert page.evaluate("WM.byId('matrix').value") == choice
        assert page.evaluate("window.hacked") is None
        assert page.locator("img[src=x], main script").count() == 0
        assert page.title().startswith(called[:20])
        assert text in page.text_content("#alert-table")
        assert page.locator("#run option").all_text_contents() == [called, f"{called} (2)"]
        assert (seen.errors, seen.requests) == ([], [])


def test_several_runs_are_laid_over_each_other(browser: Any, three: list[tuple[str, History]], tmp_path: Path) -> None:
    names = [name for name, _ in three]
    with page_of(browser) as (page, seen):
        open_report(page, three, tmp_path)
        charts = draw_all(page)
        for chart in ("class-selection", "law", "forecast"):
            drawn = page.evaluate(f"WM.plotOf('{chart}').data.map(trace => trace.name)")
            assert set(names) <= set(drawn), chart
            assert page.locator(f'[data-chart="{chart}"] .legendtext').count() >= len(names)
        assert page.evaluate("WM.plotOf('kinds').data.filter(t => t.showlegend).map(t => t.name)") == names
        assert charts["sweep"]["marks"] >= 3
        assert page.locator("#facts thead th").all_text_contents() == ["", *names]
        assert page.locator("#differences tbody tr").count() >= 9
        page.select_option("#run", "2")
        assert page.text_content("#headline").startswith(names[2])
        page.get_by_role("radio", name="√(η/λ_wd)").check(force=True)
        assert draw_all(page)["sweep"]["marks"] >= 3
        assert seen.errors == []


def test_what_is_not_there_is_said(browser: Any, history: History, tmp_path: Path) -> None:
    run(tmp_path / "bare", llama(), steps=4, optimized=False)
    bare = dataclasses.replace(read_history(tmp_path / "bare"), plots=(), alerts=())
    scan = dataclasses.replace(history, snapshots=history.snapshots[-1:], plots=history.plots[-1:], alerts=())
    empty = dataclasses.replace(history, snapshots=(), plots=(), alerts=())
    with page_of(browser) as (page, seen):
        open_report(page, [("empty", empty), ("bare", bare), ("scan", scan)], tmp_path)
        assert page.text_content("#headline").startswith("bare: ")  # the first of which there is something to see
        charts = draw_all(page)
        assert "holds no probability plots" in charts["probability"]["message"]
        assert "No alerts were raised" in page.text_content("#alert-table")
        assert "no optimizer has stepped it" in page.text_content("#law-why")
        page.select_option("#run", "2")
        charts = draw_all(page)
        assert charts["heat"]["marks"] == 1
        assert charts["probability"]["marks"] > 0
        assert page.is_hidden("#heat-slider")
        offered = page.locator("#heat-quantity input").evaluate_all("all => all.map(one => one.value)")
        assert offered == ["k", "within", "r2"]  # no choice that would show nothing
        assert page.is_hidden("#plot-step")
        page.select_option("#run", "0")
        charts = draw_all(page)
        assert charts["heat"]["message"] == "This run has no samples yet."
        assert seen.errors == []


def test_a_page_of_an_empty_history_alone(browser: Any, history: History, tmp_path: Path) -> None:
    with page_of(browser) as (page, seen):
        open_report(page, [("empty", dataclasses.replace(history, snapshots=(), plots=(), alerts=()))], tmp_path)
        draw_all(page)
        assert "no samples yet" in page.text_content("#headline")
        assert seen.errors == []


@pytest.mark.parametrize("make", [encoder_decoder, experts], ids=lambda make: make.__name__)
def test_other_architectures(make: Any, browser: Any, tmp_path: Path) -> None:
    run(tmp_path, make(), steps=8)
    with page_of(browser) as (page, seen):
        open_report(page, [("x", read_history(tmp_path))], tmp_path)
        charts = draw_all(page)
        assert charts["heat"]["marks"] == charts["probability"]["marks"] / charts["probability"]["marks"]
        if make is experts:
            lowest = "WM.plotOf('heat').data[0].z.flat().filter(value => value !== null)"
            median = page.evaluate(lowest)
            page.select_option("#heat-experts select", "low")
            draw_all(page)
            assert sum(page.evaluate(lowest)) < sum(median)
        else:
            assert page.is_hidden("#heat-experts")
            assert any(name.startswith("decoder.block") for name in page.evaluate("WM.run().grid.blocks"))
        assert seen.errors == []


def test_on_paper_it_is_light_and_as_wide_as_the_paper(browser: Any, history: History, tmp_path: Path) -> None:
    with page_of(browser, scheme="dark") as (page, seen):
        open_report(page, [("x", history)], tmp_path)
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        page.emulate_media(media="print")
        drawn = page.evaluate(
            "[...document.querySelectorAll('.plot svg.main-svg')].map(e => e.getBoundingClientRect().right)"
        )
        assert len(drawn) >= len(DRAWN)
        assert max(drawn) <= 700
        cut = page.evaluate(CUT)
        assert cut == []
        assert not page.evaluate("WM.dark()")
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert page.evaluate("WM.dark()")
        assert seen.errors == []
