"""The page as one HTML file: data, styles, scripts and plotly.js are inside, and nothing is loaded from a network."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from weibull_monitor.errors import MissingDependencyError
from weibull_monitor.history.files import write_text
from weibull_monitor.history.record import History
from weibull_monitor.report.html.data import page_data

SCRIPTS: Final = (
    "text.js",
    "decode.js",
    "theme.js",
    "chart.js",
    "steps.js",
    "classes.js",
    "heat_colours.js",
    "heatmap.js",
    "probability.js",
    "kinds.js",
    "law.js",
    "overview.js",
    "now.js",
    "alerts.js",
    "published.js",
    "runs.js",
    "main.js",
)
"""The page's own scripts, in the order in which they run."""


def write(histories: Sequence[tuple[str, History]], path: str | Path) -> Path:
    """Writes the report of one run, of several side by side, or of a scan. Nothing is left half written.

    Args:
        histories: Names and histories, from `read_history` or a scan.
        path: The HTML file; its directory is created if needed, and an existing file is replaced.

    Returns:
        The path.

    Raises:
        ConfigurationError: If it cannot be written there, or there is no history.
        MissingDependencyError: If plotly is not installed.
    """
    target = Path(path)
    write_text(target, render(histories))
    return target


def render(histories: Sequence[tuple[str, History]]) -> str:
    """The report as one HTML document.

    Args:
        histories: Names and histories, from `read_history` or a scan.

    Raises:
        ConfigurationError: If there is no history.
        MissingDependencyError: If plotly is not installed.
    """
    return document(page_data(histories))


def document(data: Mapping[str, Any], live: bool = False) -> str:
    """The HTML document that shows some data.

    Args:
        data: The result of `page_data`.
        live: Whether the page asks its server for newer data.

    Raises:
        MissingDependencyError: If plotly is not installed.
    """
    scripts = [plotly_js(), _static(*SCRIPTS)]
    names = [str(run["name"]) for run in data["runs"]]
    values = {
        "policy": escape(policy(scripts, live)),
        "title": escape(f"{', '.join(names[:3])}{' …' if len(names) > 3 else ''} · weibull-monitor"),
        "style": _static("style.css"),
        "live": "true" if live else "false",
        "plotly": scripts[0],
        "script": scripts[1],
        "data": as_script(data),
    }
    pieces = _static("page.html").split("@@")  # text, name, text, name, …: values are never searched for names
    return "".join(values[piece] if i % 2 else piece for i, piece in enumerate(pieces))


def as_script(data: Mapping[str, Any]) -> str:
    """Data as JSON that is safe within a ``script`` element, whatever its strings hold.

    >>> as_script({"name": "</script>"})
    '{"name":"\\\\u003c/script>"}'
    """
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def policy(scripts: Iterable[str], live: bool = False) -> str:
    """The content security policy of a page: only these scripts, and no network except the page's own server if it is live.

    plotly.js sets styles in attributes, so inline styles are allowed.
    """
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    return "; ".join(
        [
            "default-src 'none'",
            "script-src " + " ".join(f"'sha256-{value}'" for value in hashes),
            "style-src 'unsafe-inline'",
            "img-src data: blob:",
            "connect-src 'self'" if live else "connect-src 'none'",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _static(*names: str) -> str:
    folder = files("weibull_monitor.report.html") / "static"
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in names)


def plotly_js() -> str:
    """The source of plotly.js, to be put into the page.

    Raises:
        MissingDependencyError: If plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise MissingDependencyError("plotly", "report") from error
    return str(get_plotlyjs())
