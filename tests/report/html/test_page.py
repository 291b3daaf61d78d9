"""The document: self-contained, escaped, and written whole or not at all."""

from __future__ import annotations

import base64
import builtins
import hashlib
import json
import re
import sys
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from weibull_monitor import ConfigurationError, MissingDependencyError
from weibull_monitor.cli.main import main
from weibull_monitor.history.record import History
from weibull_monitor.report.html import page, render, write


class Elements(HTMLParser):
    """The elements of a page, as a browser's parser sees them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._script: list[str] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag == "script":
            self._script = []

    def handle_data(self, data: str) -> None:
        if self._script is not None:
            self._script.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag == "script" and self._script is not None:
            self.scripts.append("".join(self._script))
            self._script = None


@pytest.fixture(scope="module")
def elements(history: History) -> Elements:
    return Elements(render([('</script><b onclick="x">', history)]))


def test_nothing_is_loaded_from_elsewhere(elements: Elements) -> None:
    for tag, attributes in elements.found:
        assert tag not in ("iframe", "object", "embed", "base", "img")
        source = attributes.get("src") or (attributes.get("href") if tag == "link" else None) or ""
        assert not source or source.startswith("data:"), (tag, source)


def test_only_the_two_scripts_of_the_page_may_run(elements: Elements) -> None:
    data, *scripts = elements.scripts
    (policy,) = [a["content"] for tag, a in elements.found if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    allowed = re.findall(r"'sha256-([^']+)'", policy)
    assert allowed == [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert len(scripts) == 2
    assert "default-src 'none'" in policy
    assert "connect-src 'none'" in policy
    assert "script-src 'sha256-" in policy
    assert json.loads(data)["runs"][0]["name"] == '</script><b onclick="x">'


def test_classes_have_the_colours_that_they_have_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[3] / "docs"), *sys.path])
    from pictures.palette import DARK, LIGHT  # the pictures of the documentation

    light, dark = (
        (files("weibull_monitor.report.html") / "static" / "style.css").read_text().split('[data-theme="dark"]')
    )
    for text, palette in ((light, LIGHT), (dark, DARK)):
        assert f"--c0: {palette.selection.lower()}; --c1: {palette.transmission.lower()};" in text


def test_every_own_script_is_in_the_page_and_is_packaged() -> None:
    folder = files("weibull_monitor.report.html") / "static"
    assert {file.name for file in folder.iterdir()} == {*page.SCRIPTS, "page.html", "style.css"}


def test_a_page_is_written_whole_or_not_at_all(
    tmp_path: Path, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "new" / "report.html"
    assert write([("x", history)], target) == target
    assert [file.name for file in target.parent.iterdir()] == ["report.html"]
    before = target.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(ConfigurationError, match="No space left on device; name another file"):
        write([("x", history)], target)
    assert [file.name for file in target.parent.iterdir()] == ["report.html"]
    assert target.read_bytes() == before


def test_without_plotly_the_extra_is_named(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **more: Any) -> Any:
        if name.startswith("plotly"):
            raise ImportError(name)
        return real(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependencyError, match=r"weibull-monitor\[report\]"):
        render([("x", history)])


def test_the_command_writes_a_page_and_says_where(
    broken_run: tuple[Path, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "page.html"
    assert main(["report", str(broken_run[0]), "-o", str(target)]) == 0
    assert capsys.readouterr().out.startswith(f"{target} (")
    assert f"<title>{broken_run[0].name} · weibull-monitor</title>" in target.read_text(encoding="utf-8")


@pytest.mark.parametrize(("more", "says"), [([], "no history at"), (["--serve"], "no history at")])
def test_the_command_says_what_is_wrong_in_one_line(
    more: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(tmp_path), *more]) == 1
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_a_file_that_cannot_be_written_is_reported_in_one_line(
    broken_run: tuple[Path, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["report", str(broken_run[0]), "-o", str(tmp_path / "file" / "report.html")]) == 1
    assert "cannot be written" in capsys.readouterr().err
