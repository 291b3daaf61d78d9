"""A webhook: one POST of Slack-compatible JSON per alert, from its own thread, so that training never waits."""

from __future__ import annotations

import json
import queue
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from weibull_monitor.errors import ConfigurationError, visible
from weibull_monitor.history.alert import Alert

QUEUED: Final = 64
"""Alerts that can wait; further ones are dropped, which is reported once."""
ICONS: Final = {"info": "ℹ️", "warning": "⚠️", "error": "🛑"}


class Webhook:
    """Posts alerts to a URL. The URL is a secret: logs, errors and the representation show its host only.

    Args:
        url: Where to: an incoming webhook of Slack, Mattermost, Rocket.Chat, or anything that takes ``{"text": …}``.
        run: What to call the run in the message.
        report: Called with a message about each failure; may be called from another thread.
        timeout: Seconds after which an attempt is given up.

    Raises:
        ConfigurationError: If the URL is not http or https.
    """

    def __init__(self, url: str, run: str, report: Callable[[str], None], timeout: float = 5.0) -> None:
        check_url(url)
        self._url, self._run, self._report, self._timeout = url, run, report, timeout
        self.host = urlsplit(url).hostname or ""
        self._waiting: queue.Queue[Alert | None] = queue.Queue(QUEUED)
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"Webhook({self.host})"

    def send(self, alert: Alert) -> None:
        """Queues an alert for the thread, and returns at once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="weibull-webhook", daemon=True)
            self._thread.start()
        try:
            self._waiting.put_nowait(alert)
        except queue.Full:
            self._report(f"the webhook at {self.host} is too slow: alerts are dropped")

    def close(self, patience: float = 2.0) -> None:
        """Waits up to ``patience`` seconds for the thread to post what is queued."""
        if self._thread is not None:
            try:
                self._waiting.put_nowait(None)
            except queue.Full:
                return
            self._thread.join(patience)

    def _work(self) -> None:
        while (alert := self._waiting.get()) is not None:
            self._post(alert)

    def _post(self, alert: Alert) -> None:
        request = urllib.request.Request(
            self._url,
            data=json.dumps(message(alert, self._run)).encode(),
            headers={"Content-Type": "application/json", "User-Agent": "weibull-monitor"},
        )
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as answer:
                answer.read()
        except Exception as error:  # a thread has no caller, and the error's text may hold the URL
            code = f" {error.code}" if isinstance(error, urllib.error.HTTPError) else ""
            self._report(
                f"the webhook at {self.host} did not take an alert ({type(error).__name__}{code}); training goes on"
            )


def message(alert: Alert, run: str) -> dict[str, str]:
    """The JSON body, as Slack's incoming webhooks take it."""
    icon = "✅" if alert.phase == "ends" else ICONS[alert.finding.severity]
    return {"text": f"{icon} *{_escaped(alert.title)}* in {_escaped(run)}\n{_escaped(alert.text)}"}


def _escaped(text: str) -> str:
    """The text without what Slack takes for a mention or a link."""
    return visible(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def check_url(url: str) -> None:
    """Raises ConfigurationError for anything but an http or https URL, without repeating it."""
    try:
        parts = urlsplit(url)
        fit = parts.scheme in ("http", "https") and bool(parts.hostname)
    except (ValueError, AttributeError, TypeError):
        fit = False
    if not fit:
        raise ConfigurationError(
            "webhook is not an http or https URL (it is not repeated here, since it may be a secret)"
        )
