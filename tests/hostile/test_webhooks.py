"""Servers that answer a webhook slowly, endlessly, elsewhere or not at all."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from weibull_monitor.alerts.delivery.webhook import Webhook
from weibull_monitor.history import Alert, Finding

FINDING = Finding("dead", "error", 1, "a.weight", ("a.weight",), 1, "k", 1.0, (None, None), None, "Look.")
ALERT = Alert("begins", 1, 1, FINDING)
Behaviour = Callable[[socket.socket], None]


def silent(client: socket.socket) -> None:
    """Until the other side hangs up."""
    while client.recv(1 << 16):
        pass


def dripping_headers(client: socket.socket) -> None:
    client.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:  # until the other side hangs up
        client.sendall(b"x: y\r\n")
        time.sleep(0.05)


def dripping_body(client: socket.socket) -> None:
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n")
    while True:
        client.sendall(b"x")
        time.sleep(0.05)


def elsewhere(client: socket.socket) -> None:
    client.recv(1 << 16)
    client.sendall(b"HTTP/1.1 307 There\r\nLocation: http://127.0.0.1:1/secret\r\nContent-Length: 0\r\n\r\n")


def garbage(client: socket.socket) -> None:
    client.recv(1 << 16)
    client.sendall(b"\x00\xff" * 100 + b"\r\n\r\n")


def hangs_up(client: socket.socket) -> None:
    client.close()


@pytest.fixture
def server() -> Iterator[Callable[[Behaviour], int]]:
    opened: list[socket.socket] = []

    def start(behaviour: Behaviour) -> int:
        listening = socket.create_server(("127.0.0.1", 0))
        opened.append(listening)

        def work() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listening.accept()
                    with suppress(OSError), client:
                        behaviour(client)

        threading.Thread(target=work, daemon=True).start()
        return int(listening.getsockname()[1])

    yield start
    for one in opened:
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)  # ends the thread that waits in `accept`
        one.close()


@pytest.mark.parametrize(
    ("behaviour", "timeout", "says"),
    [
        (silent, 0.4, "no whole answer within 0.4 s"),
        (dripping_headers, 0.4, "no whole answer within 0.4 s"),
        (dripping_body, 0.4, "no whole answer within 0.4 s"),
        (elsewhere, 60, "it redirects with 307, which is not followed"),
        (garbage, 60, "BadStatusLine"),
        (hangs_up, 60, "127.0.0.1"),
    ],
)
def test_an_alert_that_cannot_be_delivered_is_counted(
    behaviour: Behaviour, timeout: float, says: str, server: Callable[[Behaviour], int]
) -> None:
    said: list[str] = []
    webhook = Webhook(f"http://127.0.0.1:{server(behaviour)}/secret?token=hidden", "run", said.append, timeout)
    webhook.send(ALERT)
    webhook.close(patience=60)
    assert says in said[0]
    assert said[-1] == "1 of 1 alert did not reach the webhook at 127.0.0.1"
    assert not any(word in text for text in said for word in ("secret", "hidden", "token"))


def test_of_an_endless_answer_little_is_read(server: Callable[[Behaviour], int]) -> None:
    taken = [0]

    def endless(client: socket.socket) -> None:
        client.recv(1 << 16)
        client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            taken[0] += client.send(b"x" * 65536)

    said: list[str] = []
    webhook = Webhook(f"http://127.0.0.1:{server(endless)}/", "run", said.append)
    webhook.send(ALERT)
    webhook.close(patience=20)
    assert not said
    assert taken[0] < 20 << 20  # what the buffers of the system hold


def test_what_waits_at_the_end_is_counted(server: Callable[[Behaviour], int]) -> None:
    said: list[str] = []
    webhook = Webhook(f"http://127.0.0.1:{server(silent)}/", "run", said.append)
    for _ in range(100):
        webhook.send(ALERT)
    webhook.close(patience=0.1)
    assert said[0].endswith("is too slow: alerts are dropped")
    assert said[-1] == "100 of 100 alerts did not reach the webhook at 127.0.0.1"
