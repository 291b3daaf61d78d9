"""The report of runs in progress: a server for this user of this machine, whose page asks for newer data by itself."""

from __future__ import annotations

import hashlib
import http.cookies
import json
import secrets
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
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
CONNECTIONS: Final = 8
PATIENCE: Final = 10.0
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
    """Serves the report of some runs on 127.0.0.1, only to requests for that name or for localhost that know its token.

    The token is in the address, as that of Jupyter is: other users of the machine do not know it. The ``Host`` of every request
    is checked, which protects the data from DNS rebinding by other pages. At most `CONNECTIONS` requests are answered at a time,
    and one that waits for longer than `PATIENCE` seconds is dropped.

    Args:
        runs: Names and paths of their histories.
        port: The port; 0 for any free one.

    Raises:
        ConfigurationError: If the port cannot be opened.
    """

    daemon_threads = True
    request_queue_size = 16

    def __init__(self, runs: Sequence[tuple[str, Path]], port: int = 0) -> None:
        self.runs = Runs(runs)
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            raise ConfigurationError(
                f"port {port} of {HOST} cannot be opened: {error}; leave the port out to use any free one"
            ) from error
        self.token = secrets.token_urlsafe(24)
        self._free = threading.BoundedSemaphore(CONNECTIONS)
        self.hosts = {f"{name}:{self.server_port}" for name in (HOST, "localhost")}

    @property
    def address(self) -> str:
        """URL of the page, with the token."""
        return f"http://{HOST}:{self.server_port}/?token={self.token}"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answers in a thread of its own, or drops the request if too many are being answered."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answers, and lets the next one in."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Prints nothing: a client has gone away, or was too slow."""


class _Handler(BaseHTTPRequestHandler):
    """``/?token=…`` is the page; ``/data?revision=…`` is the data if it is newer than that revision, else 204.

    The page gets the token as a cookie too, which it sends when it asks for data.
    """

    server: ReportServer
    timeout = PATIENCE

    def do_GET(self) -> None:
        """Answers."""
        if self.headers.get("Host") not in self.server.hosts:
            self._send(HTTPStatus.FORBIDDEN, "text/plain", f"This page is on {HOST} only.\n".encode())
            return
        asked = urlsplit(self.path)
        if not self._knows_the_token(asked.query):
            text = b"Open the address that the command has printed, with its token.\n"
            self._send(HTTPStatus.FORBIDDEN, "text/plain", text)
            return
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

    def _knows_the_token(self, query: str) -> bool:
        cookies: http.cookies.SimpleCookie = http.cookies.SimpleCookie()
        with suppress(http.cookies.CookieError):
            cookies.load(self.headers.get("Cookie") or "")
        kept = cookies.get(f"weibull-{self.server.server_port}")
        given = [*parse_qs(query).get("token", []), *([kept.value] if kept else [])]
        return any(secrets.compare_digest(one.encode(), self.server.token.encode()) for one in given)

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        if status == HTTPStatus.OK and kind == "text/html":
            cookie = f"weibull-{self.server.server_port}={self.server.token}; HttpOnly; SameSite=Strict; Path=/"
            self.send_header("Set-Cookie", cookie)
        if status != HTTPStatus.NO_CONTENT:
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
        try:
            self.end_headers()
            self.wfile.write(body)
        except OSError:  # the page was closed, or reads too slowly
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Prints nothing: the page asks every few seconds."""
