"""The documentation site: built strictly, complete by itself, and readable in a browser."""

from __future__ import annotations

import functools
import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from browser import chromium, page_of

pytest.importorskip("mkdocs", reason="the site needs mkdocs-material, which the extra docs installs")

ROOT = Path(__file__).parents[1]
LOADED = re.compile(
    r"<(?:script|img|iframe|source)[^>]*\bsrc=\"([^\"]*)\"|<link[^>]*rel=\"(?:stylesheet|preconnect|preload|icon)\"[^>]*>"
)


def build(*options: str) -> subprocess.CompletedProcess[str]:
    """Runs what `make site` runs. Not with ``--quiet``: it drops the warnings that ``--strict`` would make errors of."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", *options]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    done = build("--site-dir", str(target))
    assert done.returncode == 0, done.stderr[-3000:]
    return target


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


def test_the_build_is_that_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "\n\t$(BIN)/mkdocs build --strict\n" in makefile


@pytest.mark.parametrize(
    ("link", "warning"),
    [
        ("index.md#start", ""),
        ("../tests/ptx.py", "contains a link '../tests/ptx.py', but the target"),
        ("index.md#nowhere", "there is no such anchor"),
    ],
)
def test_a_link_into_nothing_stops_the_build(link: str, warning: str, tmp_path: Path) -> None:
    pages = tmp_path / "docs"
    pages.mkdir()
    (pages / "index.md").write_text(f"# Start\n\n[a link]({link})\n", encoding="utf-8")
    config = tmp_path / "mkdocs.yml"
    changes = {"INHERIT": f"{ROOT}/mkdocs.yml", "docs_dir": str(pages), "nav": ["index.md"], "plugins": [], "hooks": []}
    config.write_text("\n".join(f"{key}: {value}" for key, value in changes.items()), encoding="utf-8")
    done = build("--config-file", str(config), "--site-dir", str(tmp_path / "site"))
    assert (done.returncode != 0) == bool(warning), done.stderr
    assert warning in done.stderr


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        for found in LOADED.finditer(page.read_text(encoding="utf-8")):
            assert "//" not in found[0].replace("://www.w3.org", ""), f"{page.name} loads {found[0]}"
    for sheet in site.rglob("*.css"):
        assert not re.findall(r"url\([\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8"))


def test_what_stands_beside_the_documentation_is_on_the_site(site: Path) -> None:
    names = [
        "CHANGELOG",
        "CONTRIBUTING",
        "benchmarks/RESULTS",
        "examples/quickstart_transformers.py",
        "benchmarks/fit.py",
    ]
    for name in names:
        assert (site / f"{name}.html").is_file()
    assert not list(site.rglob("*.py"))


def test_examples_in_docstrings_are_code(site: Path) -> None:
    page = (site / "api" / "measuring.html").read_text(encoding="utf-8")
    assert page.count('class="gp">&gt;&gt;&gt; ') > 5
    assert "<blockquote>" not in page


PAGES = ["index.html", "concepts/k-and-lambda.html", "when.html", "api/core.html", "quickstart/trl-lora.html"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_show_their_pictures_in_the_colours_of_the_reader(scheme: Any, browser: Any, address: str) -> None:
    with page_of(browser, scheme=scheme, offline=False) as (view, seen):
        for page in PAGES:
            view.goto(f"{address}/{page}")
            pictures = view.evaluate(
                "[...document.querySelectorAll('article img')].map(i => [i.src, i.offsetWidth > 0, i.naturalWidth])"
            )
            source = (ROOT / "docs" / page).with_suffix(".md").read_text(encoding="utf-8")
            shown = [(address, width) for address, visible, width in pictures if visible]
            assert len(shown) == len(pictures) / 2 == len(re.findall(r"^!\[", source, flags=re.MULTILINE))
            assert all(width > 100 for _, width in shown)
            assert all(("-dark.svg" in picture) == (scheme == "dark") for picture, _ in shown)
        assert seen.errors == []
        assert all(request.startswith(address) for request in seen.requests)


def test_a_phone_scrolls_only_down(browser: Any, address: str) -> None:
    with page_of(browser, width=390, height=844, offline=False) as (view, _):
        for page in (*PAGES, "metrics.html", "cli.html"):
            view.goto(f"{address}/{page}")
            assert view.evaluate("document.documentElement.scrollWidth") <= 390, page


@pytest.mark.parametrize("disk", [False, True], ids=["served", "from disk"])
def test_the_search_finds(disk: bool, browser: Any, address: str, site: Path) -> None:
    from playwright import sync_api as playwright

    with page_of(browser, offline=disk) as (view, seen):
        view.goto((site / "index.html").as_uri() if disk else f"{address}/index.html")
        query, found = "[data-md-component=search-query]", ".md-search-result__item a"
        # The theme listens to keys, not to input, so the word is typed. What is typed before the index is there is lost.
        for _ in range(20):
            view.fill(query, "")
            view.locator(query).press_sequentially("webhook")
            with suppress(playwright.TimeoutError):
                view.wait_for_selector(found, state="attached", timeout=1_000)
                break
        assert view.query_selector(found) is not None
        assert "webhook" in view.inner_text(".md-search-result__list").lower()
        assert seen.errors == []


def test_what_a_reader_types_is_as_large_as_code_elsewhere(browser: Any, address: str) -> None:
    size = "e => getComputedStyle(e).fontSize"
    with page_of(browser, offline=False) as (view, _):
        view.goto(f"{address}/quickstart/transformers.html")
        typed = view.locator("pre code", has_text="pip install").first.evaluate(size)
        code = view.locator("pre code", has_text="WeibullCallback").first.evaluate(size)
        printed = view.locator("pre code", has_text="Weibull shape k and scale").first.evaluate(size)
        assert typed == code
        assert float(printed[:-2]) < float(typed[:-2])
