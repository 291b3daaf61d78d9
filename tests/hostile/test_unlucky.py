"""Runs that have bad luck: disks, clocks, forks. The weights are those of a run without a monitor, and the log is short."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hostile.inputs import Model
from hostile.running import Tally, run_command
from weibull_monitor import WeibullMonitor, read_history
from weibull_monitor.history.record import FILE

STEPS = 8
ALL = os.environ.get("WEIBULL_UNLUCKY") == "all"
"""Whether to try everything, which takes minutes."""
CODES = (errno.ESTALE, errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.ENOLCK)[: 6 if ALL else 1]
Moment = Callable[[int], object]


def trained(folder: Path | None, before: Moment = lambda _: None, **options: Any) -> list[torch.Tensor]:
    """The weights after a few steps; ``before`` is called before each."""
    torch.manual_seed(3)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    given: dict[str, Any] = {"every_n_steps": 1, "output_dir": folder, "trackers": []} | options
    monitor = WeibullMonitor(model, optimizer, **given) if folder is not None else None
    for step in range(1, STEPS + 1):
        before(step)
        optimizer.zero_grad()
        model(torch.randint(0, 50, (2, 4))).square().mean().backward()
        optimizer.step()
        if monitor is not None:
            monitor.step()
    if monitor is not None:
        monitor.close()
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.fixture(scope="module")
def weights() -> list[torch.Tensor]:
    return trained(None)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    return [line for line in lines if "weibull: " not in line]  # alerts are about the weights


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("call", ["write", "write half", "fstat", "stat", "flock", "open"])
def test_a_disk_that_fails(
    call: str,
    code: int,
    tmp_path: Path,
    weights: list[torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """At each of the calls in turn: once, and then for the rest of the run."""
    for number in (1, 2, 3) if call in ("flock", "open") else (1, 2, 7, 12):
        for lasting in (False, True) if ALL else (number % 2 == 0,):
            _fails(call, code, number, lasting, tmp_path / f"{number} {lasting}", weights, monkeypatch, caplog)


def _fails(
    call: str,
    code: int,
    number: int,
    lasting: bool,
    folder: Path,
    weights: list[torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    where = fcntl if call == "flock" else os
    name = call.partition(" ")[0]
    real, calls, begun = getattr(where, name), [0], [False]

    def failing(*arguments: Any, **named: Any) -> Any:
        ours = begun[0] and "weibull_monitor/history/" in sys._getframe(1).f_code.co_filename
        calls[0] += ours
        if ours and (calls[0] >= number if lasting else calls[0] == number):
            if call == "write half":
                real(arguments[0], arguments[1][: len(arguments[1]) // 2])
            raise OSError(code, os.strerror(code))
        return real(*arguments, **named)

    caplog.clear()
    with monkeypatch.context() as patched:
        patched.setattr(where, name, failing)
        if call in ("flock", "open"):  # only called again for another file
            found = trained(folder, lambda step: (begun.__setitem__(0, True), step == 3 and (folder / FILE).unlink()))
        else:
            found = trained(folder, lambda _: begun.__setitem__(0, True))
    assert all(map(torch.equal, found, weights))
    lines = said(caplog)
    assert len(lines) <= 3, lines
    if calls[0] < number:
        return
    if not lasting and (folder / FILE).exists():
        history = read_history(folder)
        assert len(history.snapshots) >= (STEPS - 3 if call in ("flock", "open") else STEPS - 1), (number, lines)
        assert history.unreadable <= 1


def test_a_disk_that_is_full_for_a_while(tmp_path: Path, weights: list[torch.Tensor]) -> None:
    """Really: a file may not be larger than the limit, which is at another place of a line each time."""
    size = _size_of_a_run(tmp_path / "whole")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for number in range(1, 12, 1 if ALL else 4):
        folder = tmp_path / str(number)

        def before(step: int, most: int = size * number // 12 + 17) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft if step in (1, STEPS) else most, hard))

        try:
            found = trained(folder, before)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert all(map(torch.equal, found, weights))
        history = read_history(folder)
        assert history.snapshots[-1].step == STEPS
        assert history.unreadable <= 1


def _size_of_a_run(folder: Path) -> int:
    trained(folder)
    return (folder / FILE).stat().st_size


def _pipe(file: Path) -> None:
    os.mkfifo(file)


def _loop(file: Path) -> None:
    file.symlink_to(file)


def _full(file: Path) -> None:
    file.symlink_to("/dev/full")


def _nowhere(file: Path) -> None:
    file.symlink_to(file.parent / "nowhere" / "file")


@pytest.mark.parametrize("put", [_pipe, Path.mkdir, _loop, _full, _nowhere], ids=lambda f: f.__name__)
def test_something_else_in_its_place(
    put: Callable[[Path], object], tmp_path: Path, weights: list[torch.Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    """The run goes on in a file beside it."""
    file = tmp_path / FILE

    def before(step: int) -> None:
        if step == 4:
            file.unlink()
            put(file)

    assert all(map(torch.equal, trained(tmp_path, before), weights))
    assert len(said(caplog)) == 1
    history = read_history(file.parent / "2" / FILE.name)
    assert [sample.step for sample in history.snapshots] == [4, 5, 6, 7, 8]
    assert "was" in str(history.runs[0].continues)


@pytest.mark.parametrize("clock", [lambda n: 2e9 - 86400 * n, lambda n: 0.0, lambda n: -5.0 * n, lambda n: 1e300 * n])
def test_a_clock_that_goes_astray(
    clock: Callable[[int], float], tmp_path: Path, weights: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = [0]

    def now() -> float:
        calls[0] += 1
        return clock(calls[0])

    with monkeypatch.context() as patched:
        patched.setattr(time, "time", now)
        found = trained(tmp_path)
    assert all(map(torch.equal, found, weights))
    assert len(read_history(tmp_path).snapshots) == STEPS + 1
    tally = Tally()
    for words in (["report", str(tmp_path), "-o", str(tmp_path / "x.html")], ["watch", str(tmp_path), "--once"]):
        run_command(words, "clock", tally)
    assert tally.read == 2, tally.faults


def test_forks_in_the_middle(tmp_path: Path, weights: list[torch.Tensor], caplog: pytest.LogCaptureFixture) -> None:
    """One that trains on with the monitor of its parent, one that ends as programs do, one that becomes another program."""
    here = os.getpid()

    def before(step: int) -> None:
        if step not in (3, 5, 6) or os.getpid() != here:
            return
        child = os.fork()
        if child:
            assert os.waitpid(child, 0)[1] == 0
            return
        if step == 5:
            os.execv(sys.executable, [sys.executable, "-c", "pass"])
        if step == 6:
            os._exit(subprocess.call([sys.executable, "-c", "pass"]))

    try:
        found = trained(tmp_path, before)
    finally:
        if os.getpid() != here:  # the fork of step 3, after its training
            os._exit(0)
    assert all(map(torch.equal, found, weights))
    assert not said(caplog)  # the fork has a log of its own
    history = read_history(tmp_path)
    assert [sample.step for sample in history.snapshots] == [*range(STEPS + 1)]
    assert len((tmp_path / FILE).read_bytes().splitlines()) == len(_whole(tmp_path / "other"))
    beside = read_history(tmp_path / FILE.parent / "2" / FILE.name)
    assert [sample.step for sample in beside.snapshots] == [3, 4, 5, 6, 7, 8]


def _whole(folder: Path) -> list[bytes]:
    trained(folder)
    return (folder / FILE).read_bytes().splitlines()


WORLD = """
import os, sys
from pathlib import Path
import hostile.test_unlucky as unlucky
place = Path(sys.argv[1], os.fsdecode(b"\\xc3\\xbc\\xe6\\x97\\xa5"))
found = unlucky.trained(place)
expected = unlucky.trained(None)
import torch
assert all(map(torch.equal, found, expected))
from weibull_monitor.cli.main import main
assert main(["alerts", str(place)]) == 0
assert main(["compare", str(place)]) == 0
assert main(["report", str(place), "-o", str(place) + ".html"]) == 0
assert main(["watch", str(place), "--once"]) == 0
"""


WORLDS = ("locale C", "no input and output", "no home", "no place for temporary files", "umask")[: 5 if ALL else 1]


@pytest.mark.parametrize("world", WORLDS)
def test_an_odd_environment(world: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    program = [sys.executable, "-c", WORLD, str(tmp_path)]
    if world == "locale C":
        environment |= {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    elif world == "no home":
        environment |= {"HOME": "/nowhere", "XDG_CACHE_HOME": "/nowhere", "MPLCONFIGDIR": "/nowhere"}
    elif world == "no place for temporary files":
        environment |= dict.fromkeys(("TMPDIR", "TEMP", "TMP"), "/nowhere")
    elif world == "no input and output":
        program = ["/bin/sh", "-c", f'exec "$@" <&- >&- 2>{tmp_path}/errors', "sh", *program]
    else:
        program = ["/bin/sh", "-c", 'umask 0777; exec "$@"', "sh", *program]
    done = subprocess.run(program, env=environment, capture_output=True, timeout=300)
    errors = done.stderr + ((tmp_path / "errors").read_bytes() if (tmp_path / "errors").exists() else b"")
    assert done.returncode == 0, errors.decode(errors="replace")[-2000:]
    assert b"Traceback" not in errors
