"""A real headless Chromium for tests of pages: what it printed to its console and what it asked the network for is kept.

The browser is the system's own (Debian's package ``chromium``), driven by playwright; nothing is downloaded.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")


@dataclass
class Seen:
    """What a page did that a user would not see.

    Attributes:
        errors: Errors and warnings of the console, and exceptions that nothing caught.
        requests: Addresses that it asked for over a network.
    """

    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@contextmanager
def chromium() -> Iterator[Any]:
    """A running browser (playwright's ``Browser``); skips the test where there is none, but fails where CI demands one."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        if os.environ.get("WEIBULL_TEST_BROWSER") == "required":
            pytest.fail(f"no browser is installed: none of {', '.join(NAMES)} is on the PATH")
        pytest.skip("no browser is installed: Debian's package 'chromium' has one")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def page_of(
    browser: Any, width: int = 1280, height: int = 900, scheme: Literal["light", "dark"] = "light", offline: bool = True
) -> Iterator[tuple[Any, Seen]]:
    """A fresh page (playwright's ``Page``) and what it does.

    Args:
        browser: What `chromium` gave.
        width: Of the window, in CSS pixels.
        height: Of the window.
        scheme: The colour scheme that the user prefers.
        offline: Whether to refuse every network.
    """
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, offline=offline, has_touch=width < 600
    )
    context.set_default_timeout(120_000)  # on a busy machine; nothing waits longer than it has to
    page, seen = context.new_page(), Seen()
    page.on("console", lambda m: seen.errors.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.on("request", lambda r: seen.requests.append(r.url) if r.url.startswith("http") else None)
    try:
        yield page, seen
    finally:
        context.close()
