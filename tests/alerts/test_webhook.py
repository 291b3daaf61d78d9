"""The webhook against real local servers: one that takes alerts, one that hangs, one that refuses, one that is not there."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from weibull_monitor import ConfigurationError
from weibull_monitor.alerts.delivery.message import LONGEST, payload, text_of
from weibull_monitor.alerts.delivery.webhook import QUEUED, Webhook
from weibull_monitor.history.alert import Alert, Finding

SECRET = "T000-B000-very-secret"
FINDING = Finding("scale_shift", "warning", 40, "a.weight", ("a.weight",), 1, "λ", 0.1, (0.01, 0.03), 9.0, "Look.")
ALERT = Alert("begins", 40, 40, FINDING)


class Server:
    """Collects what is posted; answers with a status, or not before it is released."""

    def __init__(self, status: int = 200, hang: bool = False) -> None:
        self.bodies: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.arrived, self.released = threading.Semaphore(0), threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                outer.bodies.append(json.loads(self.rfile.read(length)))
                outer.paths.append(self.path)
                outer.arrived.release()
                if hang:
                    outer.released.wait(30)
                self.send_response(status)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                """Silent."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/services/{SECRET}"


@contextmanager
def serving(**options: object) -> Iterator[Server]:
    server = Server(**options)  # type: ignore[arg-type]
    thread = threading.Thread(target=server.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.server.shutdown()
        server.server.server_close()


def test_alerts_arrive_in_order_as_slack_takes_them() -> None:
    reports: list[str] = []
    with serving() as server:
        webhook = Webhook(server.url, "runs/x", reports.append)
        webhook.send(ALERT)
        webhook.send(Alert("ends", 40, 90, FINDING))
        webhook.close(patience=20)
    begun, ended = (body["text"].splitlines() for body in server.bodies)
    assert begun == [
        "⚠️ *a: scale shift* · step 40 of runs/x",
        "λ 0.1, expected 0.01 to 0.03, z 9.0",
        "Look.",
        "warning · since step 40 · `weibull-monitor report runs/x`",
    ]
    assert ended[:2] == ["✅ *a: scale shift is over* · step 90 of runs/x", "It is no longer found."]
    assert server.paths[0].endswith(SECRET)
    assert reports == []


@pytest.mark.parametrize("host", ["discord.com", "canary.discord.com", "discordapp.com"])
def test_discord_gets_what_discord_takes(host: str) -> None:
    body = payload(ALERT, "runs/x", f"https://{host}/api/webhooks/1/{SECRET}")
    assert body["content"].startswith("⚠️ **a: scale shift** · step 40")
    assert body["allowed_mentions"] == {"parse": []}  # nobody is woken by a name that looks like @everyone
    assert "text" not in body
    assert set(payload(ALERT, "runs/x", f"https://{host}/api/webhooks/1/{SECRET}/slack")) == {"text"}
    assert set(payload(ALERT, "runs/x", "https://not-discord.com/api/webhooks/1")) == {"text"}


def test_a_message_names_several_and_stays_short_enough() -> None:
    names = tuple(f"model.layers.{i}.mlp.experts.{i}.up_proj.weight" for i in range(20))
    many = Finding("dead", "error", 40, names[0], names, 700, "share of zeros", 0.9, (None, 0.1), None, "x" * 3_000)
    text = text_of(Alert("worsens", 20, 40, many, name="student"), "runs/x")
    first, _, others, *_ = text.splitlines()
    assert first == "🛑 *layers.0.mlp.experts.0.up_proj and 699 more: dead has got worse* · step 40 of runs/x (student)"
    assert others.endswith("layers.4.mlp.experts.4.up_proj and 695 more")
    assert len(text) <= LONGEST + 1
    assert text.endswith("error · since step 20 · `weibull-monitor report runs/x`")


def test_one_that_hangs_holds_nobody_up() -> None:
    reports: list[str] = []
    with serving(hang=True) as server:
        webhook = Webhook(server.url, "x", reports.append, timeout=0.2)
        for _ in range(3):
            webhook.send(ALERT)  # the test would hang here, and not only in the thread
        for _ in range(3):
            assert server.arrived.acquire(timeout=20)
        deadline = time.monotonic() + 20
        while len(reports) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        webhook.close()
    assert len(server.bodies) == 3  # each is given up in its turn, and the next is tried
    assert len(reports) == 4
    assert reports[-1].startswith("3 of 3 alerts did not reach")
    assert all("127.0.0.1" in report and SECRET not in report for report in reports)


def test_while_one_hangs_what_is_too_much_is_dropped_and_close_does_not_wait() -> None:
    reports: list[str] = []
    with serving(hang=True) as server:
        webhook = Webhook(server.url, "x", reports.append, timeout=60)
        webhook.send(ALERT)
        assert server.arrived.acquire(timeout=20)
        for _ in range(QUEUED + 5):
            webhook.send(ALERT)
        webhook.close(patience=0.05)
        assert len(server.bodies) == 1
    assert [report for report in reports if "alerts are dropped" in report]


def test_one_that_refuses_is_reported_without_its_address() -> None:
    reports: list[str] = []
    with serving(status=403) as server:
        webhook = Webhook(server.url, "x", reports.append)
        webhook.send(ALERT)
        webhook.close(patience=20)
    report, count = reports
    assert "HTTPError 403" in report
    assert count.startswith("1 of 1 alert did not reach")
    assert SECRET not in report


def test_one_that_is_not_there_is_reported_without_its_address() -> None:
    with serving() as server:
        url = server.url
    reports: list[str] = []
    webhook = Webhook(url, "x", reports.append)
    webhook.send(ALERT)
    webhook.close(patience=20)
    assert reports
    assert SECRET not in reports[0]


def test_the_address_stands_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    from weibull_monitor.alerts.dispatch import AlertOptions
    from weibull_monitor.errors import Guard

    url = f"https://hooks.example.com:8/services/{SECRET}"
    webhook = Webhook(url, "x", Guard().once)
    assert SECRET not in repr(webhook)
    assert SECRET not in repr(AlertOptions.of(True, webhook=url))
    caplog.set_level(logging.DEBUG)
    webhook._url = f"http://hooks.example.com/{SECRET} with a blank"  # urllib's own error would repeat it
    webhook.send(ALERT)
    webhook.close(patience=20)
    assert "did not accept an alert" in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize("url", ["hooks.slack.com/x", "file:///etc/passwd", "http://", "", "https://[x/secret", 3])
def test_what_is_no_address_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ConfigurationError, match="webhook is not an http or https URL") as raised:
        Webhook(url, "x", print)
    assert "secret" not in str(raised.value).replace("may be a secret", "")
