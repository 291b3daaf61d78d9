"""The server: on this machine alone, and newer data when a run has gone on."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from browser import chromium, page_of
from report.html.pages import until
from report.html.trained import llama

from weibull_monitor import ConfigurationError, WeibullMonitor
from weibull_monitor.report.html.server import ReportServer


@contextmanager
def served(run: Path) -> Iterator[ReportServer]:
    with ReportServer([("live", run / "weibull" / "history.jsonl")]) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ask(
    server: ReportServer, path: str, host: str | None = None, method: str = "GET", token: str | None = None
) -> tuple[int, bytes, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host or f"127.0.0.1:{server.server_port}")
    connection.putheader("Cookie", f"a=b; weibull-{server.server_port}={server.token if token is None else token}")
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body, answer.headers


def answering() -> int:
    """How many requests are being answered."""
    return sum("process_request_thread" in thread.name for thread in threading.enumerate())


def test_the_page_and_its_data_are_served_to_this_machine(broken_run: tuple[Path, Any]) -> None:
    with served(broken_run[0]) as server:
        assert server.server_address[0] == "127.0.0.1"
        status, body, headers = ask(server, "/")
        assert status == 200
        assert b'data-live="true"' in body
        assert b"connect-src &#x27;self&#x27;" in body
        assert (headers["Cache-Control"], headers["X-Frame-Options"]) == ("no-store", "DENY")
        assert headers["Access-Control-Allow-Origin"] is None
        status, body, _ = ask(server, "/data?revision=0")
        data = json.loads(body)
        assert (status, data["runs"][0]["name"]) == (200, "live")
        assert ask(server, f"/data?revision={data['revision']}")[:2] == (204, b"")
        assert ask(server, "/data", host=f"localhost:{server.server_port}")[0] == 200
        assert ask(server, "/../etc/passwd")[0] == 404


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "[::1]:{port}"])
def test_other_hosts_are_refused(host: str, broken_run: tuple[Path, Any]) -> None:
    with served(broken_run[0]) as server:
        status, body, _ = ask(server, "/data", host=host.format(port=server.server_port))
        assert status == 403
        assert b"runs" not in body
        assert ask(server, "/", method="POST")[0] == 501


@pytest.mark.parametrize("token", ["", "x", "é", '"; weibull'])
def test_without_the_token_nothing_is_shown(token: str, broken_run: tuple[Path, Any]) -> None:
    with served(broken_run[0]) as server:
        for path in ("/", "/data", "/data?revision=0", f"/?token={'a' * 32}"):
            status, body, headers = ask(server, path, token=token)
            assert status == 403
            assert b"runs" not in body
            assert headers["Set-Cookie"] is None
        status, _, headers = ask(server, f"/?token={server.token}", token=token)
        assert status == 200
        assert "HttpOnly; SameSite=Strict" in headers["Set-Cookie"]


def test_clients_that_do_not_read_or_send_are_few_and_dropped(
    broken_run: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weibull_monitor.report.html.server._Handler.timeout", 1.0)
    with served(broken_run[0]) as server:
        idle = [socket.create_connection(("127.0.0.1", server.server_port)) for _ in range(60)]
        for one in idle[::2]:
            with suppress(OSError):
                one.sendall(f"GET /?token={server.token} HTTP/1.1\r\nHost: {server.address[7:22]}\r\n\r\n".encode())
        assert answering() < 20
        for one in idle:
            one.settimeout(20)
            with suppress(ConnectionResetError):
                while one.recv(1 << 16):
                    pass
            one.close()
        deadline = time.monotonic() + 60
        while answering() and time.monotonic() < deadline:  # a client sees its end before the next one is let in
            time.sleep(0.01)
        assert ask(server, "/data")[0] == 200


def test_a_missing_history_is_reported_and_may_come_back(tmp_path: Path) -> None:
    WeibullMonitor(llama(), output_dir=tmp_path).close()
    file = tmp_path / "weibull" / "history.jsonl"
    with served(tmp_path) as server:
        file.rename(tmp_path / "moved")
        assert ask(server, "/data")[0] == 503
        (tmp_path / "moved").rename(file)
        assert ask(server, "/data")[0] == 200


def test_a_port_in_use_is_reported() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigurationError, match="leave the port out"):
            ReportServer([], taken.getsockname()[1])
    with pytest.raises(ConfigurationError, match="leave the port out"):
        ReportServer([], 70_000)


def test_the_page_follows_a_run_and_keeps_what_was_chosen(tmp_path: Path) -> None:
    model = llama()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)

    def train(monitor: WeibullMonitor, steps: int) -> None:
        for _ in range(steps):
            for parameter in model.parameters():
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()
            monitor.step()

    with (
        WeibullMonitor(model, optimizer, every_n_steps=4, output_dir=tmp_path) as monitor,
        served(tmp_path) as server,
        chromium() as browser,
        page_of(browser, offline=False) as (page, seen),
    ):
        train(monitor, 16)
        page.goto(server.address)
        until(page, "WM.drawnAt")
        page.select_option("#axis", "log")
        chosen = "model.layers.0.mlp.up_proj.weight"
        page.fill("#matrix", chosen)
        page.press("#matrix", "Enter")
        page.evaluate("WM.setFrame(2)")
        page.locator("#probability").scroll_into_view_if_needed()
        until(page, "WM.plotOf('probability').data")
        scrolled = page.evaluate("scrollY")
        assert scrolled > 0
        train(monitor, 16)
        until(page, "WM.run().steps.at(-1) === 32")
        assert page.evaluate("scrollY") == scrolled
        assert page.evaluate("[WM.state.component, WM.state.axis, WM.run().frameSteps[WM.frame()]]") == [
            chosen,
            "log",
            2,
        ]
        assert page.input_value("#matrix") == chosen
        assert page.input_value("#step") == "2"
        assert page.text_content("#step-label") == "step 2 of 32"
        page.evaluate("WM.drawAll()")
        assert (
            page.evaluate("WM.plotOf('class-selection').data.find(trace => trace.meta === 'live').steps.at(-1)") == 32
        )
        assert not seen.errors
        place = f"http://127.0.0.1:{server.server_port}/"
        assert {re.sub(r"\?.*", "", url) for url in seen.requests} == {place, f"{place}data"}


def test_control_c_ends_it_with_code_0(broken_run: tuple[Path, Any]) -> None:
    command = [sys.executable, "-m", "weibull_monitor.cli.main", "report", str(broken_run[0]), "--serve"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore Ctrl-C
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert re.search(r"http://127\.0\.0\.1:\d+/\?token=\S{32} .*Ctrl-C ends it", line)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=120)
    assert (process.returncode, error) == (0, "")
