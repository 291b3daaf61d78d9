from __future__ import annotations

import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from torch import nn

from weibull_monitor import WeibullMonitor, read_history
from weibull_monitor.errors import Guard
from weibull_monitor.trackers import MemoryTracker

Train = Callable[..., list[float]]


class WithoutText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Failing:
    def log(self, metrics: object, step: int) -> None:
        raise WithoutText

    def close(self) -> None:
        raise WithoutText


class FailingHandler(logging.Handler):
    def handle(self, record: logging.LogRecord) -> bool:
        raise RuntimeError("the handler fails")


@contextmanager
def failing_handler() -> Iterator[None]:
    logger, handler = logging.getLogger("weibull_monitor"), FailingHandler()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


@pytest.mark.parametrize("level", [logging.WARNING, logging.DEBUG])
def test_an_exception_without_a_text_is_reported_by_its_type(level: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(level, "weibull_monitor")
    assert Guard()("closing", Failing().close) is None
    assert "closing failed" in caplog.messages[0]
    assert "WithoutText" in caplog.messages[0]


def test_a_log_handler_that_raises_costs_no_sample(tmp_path: Path, tiny_model: nn.Module, train: Train) -> None:
    optimizer, tracker = torch.optim.AdamW(tiny_model.parameters()), MemoryTracker()
    with failing_handler():
        options = {"every_n_steps": 1, "output_dir": tmp_path, "trackers": [Failing(), tracker]}
        with WeibullMonitor(tiny_model, optimizer, **options) as monitor:
            with torch.no_grad():
                tiny_model.layers[0].self_attn["q_proj"].weight[0, 0] = float("nan")  # an alert, which is logged
            train(tiny_model, optimizer, 3, monitor.step)
    assert [step for step, _ in tracker.records] == [0, 1, 2, 3]
    assert [snapshot.step for snapshot in read_history(tmp_path).snapshots] == [0, 1, 2, 3]
    assert read_history(tmp_path).alerts


def test_a_warning_that_python_shows_once_is_shown_once(
    tmp_path: Path, tiny_model: nn.Module, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python forgets what it has shown when its filters change, as `warnings.catch_warnings` does."""
    optimizer = torch.optim.AdamW(tiny_model.parameters())
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 - step / 20)
    options = {"every_n_steps": 1, "output_dir": tmp_path, "scheduler": scheduler, "total_steps": 20}
    monitor = WeibullMonitor(tiny_model, optimizer, **options)
    train(tiny_model, optimizer, 1, monitor.step)  # modules that are imported now may add filters
    changed: list[str] = []
    monkeypatch.setattr(warnings, "_filters_mutated", lambda: changed.append("changed"))
    train(tiny_model, optimizer, 12, monitor.step)
    monitor.close()
    assert changed == []


def test_the_environment_stays_as_it_was() -> None:
    """`threadpoolctl` sets a variable for the process and its children when it is imported."""
    script = (
        "import os, torch; before = dict(os.environ); from weibull_monitor import fit_weibull; "
        "fit_weibull(torch.randn(2_000_000)); assert dict(os.environ) == before, set(os.environ) ^ set(before)"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith("KMP_")}
    subprocess.run([sys.executable, "-c", script], env=clean, check=True)


def test_a_script_that_changes_its_directory_keeps_one_history(
    tmp_path: Path, tiny_model: nn.Module, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    optimizer = torch.optim.AdamW(tiny_model.parameters())
    monitor = WeibullMonitor(tiny_model, optimizer, every_n_steps=1, output_dir="run")
    train(tiny_model, optimizer, 1, monitor.step)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    monitor.load_state_dict(monitor.state_dict())
    train(tiny_model, optimizer, 1, monitor.step)
    monitor.close()
    assert monitor.output_dir == tmp_path / "run"
    assert [s.step for s in read_history(monitor.output_dir).snapshots] == [0, 1, 2]
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_message_has_a_line_of_its_own_beside_a_progress_bar() -> None:
    import fcntl
    import pty
    import struct
    import termios

    program = (
        "import logging, tqdm; from weibull_monitor.errors import say\n"
        "bar = tqdm.tqdm(total=10, ncols=60); bar.update(3); bar.refresh(); "
        "say(logging.WARNING, 'a matrix is wrong'); bar.close()"
    )
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen([sys.executable, "-c", program], stdout=theirs, stderr=theirs)
    process.wait(120)
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # the end of a pseudo-terminal
        while chunk := os.read(ours, 4096):
            shown += chunk
    os.close(ours)
    (line,) = [line for line in shown.decode().split("\n") if "a matrix is wrong" in line]
    assert line.rstrip("\r").rpartition("\r")[2] == "a matrix is wrong"
    assert "30%" in shown.decode()
