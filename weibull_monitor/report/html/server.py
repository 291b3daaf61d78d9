"""The report of runs in progress: a server for this machine only, whose page asks for newer data by itself."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from weibull_monitor.errors import ConfigurationError
from weibull_monitor.history.reader import read_history
from weibull_monitor.report.html.data import page_data
from weibull_monitor.report.html.page import document

HOST: Final = "127.0.0.1"
IDLE_RATIO: Final = 4.0
"""Time between two reads, in units of what a read takes: a large history is read less often."""
HEADERS: Final = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Runs:
    """The data of some runs, read again when their histories have grown.

    Args:
        runs: Names and paths of their histories.
    """

    def __init__(self, runs: Sequence[tuple[str, Path]]) -> None:
        self._runs = list(runs)
        self._lock = threading.Lock()
        self._data: dict[str, Any] = {}
        self._read_at, self._took = 0.0, 0.0

    def data(self) -> dict[str, Any]:
        """The result of `page_data`, and ``revision``, which changes with every history."""
        with self._lock:
            revision = self._revision()
            rested = time.monotonic() - self._read_at > IDLE_RATIO * self._took
            if not self._data or (revision != self._data["revision"] and rested):
                began = time.monotonic()
                histories = [(name, read_history(path)) for name, path in self._runs]
                self._data = {**page_data(histories), "revision": revision}
                self._read_at = time.monotonic()
                self._took = self._read_at - began
            return self._data

    def _revision(self) -> str:
        """Taken before the files are read, so that what is appended meanwhile is seen next time."""
        states = [(str(path), status.st_size, status.st_mtime_ns) for _, path in self._runs for status in [path.stat()]]
        return hashlib.sha256(repr(states).encode()).hexdigest()[:16]


class ReportServer(ThreadingHTTPServer):
    """Serves the report of some runs on 127.0.0.1, only to requests for that name or for localhost.

    The ``Host`` of every request is checked, which protects the data from DNS rebinding by other pages.

    Args:
        runs: Names and paths of their histories.
        port: The port; 0 for any free one.

    Raises:
        ConfigurationError: If the port cannot be opened.
    """

    daemon_threads = True

    def __init__(self, runs: Sequence[tuple[str, Path]], port: int = 0) -> None:
        self.runs = Runs(runs)
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            raise ConfigurationError(
                f"port {port} of {HOST} cannot be opened: {error}; leave the port out to use any free one"
            ) from error
        self.hosts = {f"{name}:{self.server_port}" for name in (HOST, "localhost")}

    @property
    def address(self) -> str:
        """URL of the page."""
        return f"http://{HOST}:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    """``/`` is the page; ``/data?revision=…`` is the data if it is newer than that revision, else 204."""

    server: ReportServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answers."""
        if self.headers.get("Host") not in self.server.hosts:
            self._send(HTTPStatus.FORBIDDEN, "text/plain", f"This page is at {self.server.address} only.\n".encode())
            return
        asked = urlsplit(self.path)
        if asked.path not in ("/", "/data"):
            self._send(HTTPStatus.NOT_FOUND, "text/plain", b"Not found.\n")
            return
        try:
            data = self.server.runs.data()
        except (OSError, ConfigurationError) as error:
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", f"{error}\n".encode())
            return
        if asked.path == "/":
            self._send(HTTPStatus.OK, "text/html", document(data, live=True).encode())
        elif parse_qs(asked.query).get("revision") == [data["revision"]]:
            self._send(HTTPStatus.NO_CONTENT, "application/json", b"")
        else:
            self._send(HTTPStatus.OK, "application/json", json.dumps(data, allow_nan=False).encode())

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        if status != HTTPStatus.NO_CONTENT:
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
        try:
            self.end_headers()
            self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):  # the page was closed
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Prints nothing: the page asks every few seconds."""
