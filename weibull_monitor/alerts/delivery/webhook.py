"""A webhook: one POST of JSON per alert, as Slack or Discord takes it, from its own thread, so that training never waits."""

from __future__ import annotations

import http.client
import json
import queue
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final
from urllib.parse import urlsplit

from weibull_monitor.alerts.delivery.message import payload
from weibull_monitor.errors import ConfigurationError, counted, visible
from weibull_monitor.history.alert import Alert

QUEUED: Final = 64
"""Alerts that can wait; further ones are dropped, which is reported once."""
ANSWER: Final = 4096
"""Bytes of an answer that are read."""


class Webhook:
    """Posts alerts to a URL. The URL is a secret: logs, errors and the representation show its host only.

    Redirects are not followed, since they would take the message elsewhere; at most `ANSWER` bytes of an answer are read.

    Args:
        url: Where to: an incoming webhook of Slack, Discord, Mattermost, Rocket.Chat, or anything that takes ``{"text": …}``.
        run: What to call the run in the message.
        report: Called with a message about each failure; may be called from another thread.
        timeout: Seconds for an attempt as a whole, from connecting to the end of the answer. Only looking up the name of the
            host may take longer.

    Raises:
        ConfigurationError: If the URL is not http or https.
    """

    def __init__(self, url: str, run: str, report: Callable[[str], None], timeout: float = 5.0) -> None:
        check_url(url)
        self._url, self._run, self._report, self._timeout = url, run, report, timeout
        self.host = visible(urlsplit(url).hostname or "")
        self._waiting: queue.Queue[Alert | None] = queue.Queue(QUEUED)
        self._thread: threading.Thread | None = None
        self._given = self._delivered = 0

    def __repr__(self) -> str:
        return f"Webhook({self.host})"

    def send(self, alert: Alert) -> None:
        """Queues an alert for the thread, and returns at once."""
        self._given += 1
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="weibull-webhook", daemon=True)
            self._thread.start()
        try:
            self._waiting.put_nowait(alert)
        except queue.Full:
            self._report(f"the webhook at {self.host} is too slow: alerts are dropped")

    def close(self, patience: float = 2.0) -> None:
        """Waits up to ``patience`` seconds for the thread to post what is queued, and reports how many were not delivered."""
        if self._thread is not None:
            end = time.monotonic() + patience
            with suppress(queue.Full):
                self._waiting.put(None, timeout=patience)
            self._thread.join(max(0.0, end - time.monotonic()))
            self._thread = None
        if (missing := self._given - self._delivered) > 0:
            self._report(f"{missing} of {counted(self._given, 'alert')} did not reach the webhook at {self.host}")
            self._given = self._delivered

    def _work(self) -> None:
        while (alert := self._waiting.get()) is not None:
            self._post(alert)

    def _post(self, alert: Alert) -> None:
        attempt = _Attempt(self._timeout)
        try:
            request = urllib.request.Request(
                self._url,
                data=json.dumps(payload(alert, self._run, self._url)).encode(),
                headers={"Content-Type": "application/json", "User-Agent": "weibull-monitor"},
            )
            with attempt.opener().open(request, timeout=self._timeout) as answer:
                answer.read(ANSWER)
            if attempt.over:  # it was cut, which looks like the end of an answer
                raise TimeoutError
            self._delivered += 1
        except Exception as error:  # a thread has no caller, and the error's text may hold the URL
            code = error.code if isinstance(error, urllib.error.HTTPError) else None
            what = f"{type(error).__name__}{f' {code}' if code else ''}"
            if code is not None and 300 <= code < 400:
                what = f"it redirects with {code}, which is not followed"
            elif attempt.over:
                what = f"no whole answer within {self._timeout:g} s"
            self._report(f"the webhook at {self.host} did not accept an alert ({what}); training continues")
        finally:
            attempt.end()


class _Attempt:
    """One attempt, whose connection is cut when its time is over, whatever it waits for.

    Args:
        seconds: Its time.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._cutter = threading.Timer(seconds, self._cut)
        self._cutter.daemon = True
        self._cutter.start()
        self._held: list[socket.socket] = []

    @property
    def over(self) -> bool:
        """Whether its time is over."""
        return time.monotonic() >= self._end

    def opener(self) -> urllib.request.OpenerDirector:
        """An opener that uses proxies as usual, follows no redirect, and makes connections that can be cut."""
        attempt = self

        class Plain(urllib.request.HTTPHandler):
            def http_open(self, request: Any) -> Any:
                return self.do_open(attempt.connection(http.client.HTTPConnection), request)

        class Secure(urllib.request.HTTPSHandler):
            def https_open(self, request: Any) -> Any:
                return self.do_open(attempt.connection(http.client.HTTPSConnection), request)

        return urllib.request.build_opener(Plain, Secure, _NoRedirect)

    def connection(self, kind: Any) -> Any:
        """Makes connections of a class of `http.client`."""

        def make(host: str, **options: Any) -> Any:
            made = kind(host, **options)
            made._create_connection = self._connected
            return made

        return make

    def end(self) -> None:
        """Ends it."""
        self._cutter.cancel()
        for held in self._held:
            held.close()

    def _connected(self, address: tuple[str, int], _: object = None, source: Any = None) -> socket.socket:
        problem: OSError = OSError("no address")
        for family, kind, protocol, _name, place in socket.getaddrinfo(*address, 0, socket.SOCK_STREAM):
            made = socket.socket(family, kind, protocol)
            try:
                made.settimeout(max(0.001, self._end - time.monotonic()))
                made.connect(place)
            except OSError as error:
                made.close()
                problem = error
                continue
            self._held.append(made.dup())  # another name for it: TLS takes the first away
            return made
        raise problem

    def _cut(self) -> None:
        for held in self._held:
            with suppress(OSError):
                held.shutdown(socket.SHUT_RDWR)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Follows none."""


def check_url(url: str) -> None:
    """Raises ConfigurationError for anything but an http or https URL, without repeating it."""
    try:
        parts = urlsplit(url)
        fit = parts.scheme in ("http", "https") and bool(parts.hostname)
    except (ValueError, AttributeError, TypeError):
        fit = False
    if not fit:
        raise ConfigurationError(
            "webhook is not an http or https URL (it is not shown here, because it may be a secret)"
        )
