"""The command itself: frames of a pipe, and a real terminal while another process writes."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from report.terminal.test_frames import recorded

from weibull_monitor.cli.main import main
from weibull_monitor.history.record import FILE

pytest.importorskip("rich", reason="needs the report extra")


def test_once_into_a_pipe_is_plain_text(tmp_path: Path) -> None:
    recorded(tmp_path)
    command = [sys.executable, "-m", "weibull_monitor.cli.main", "watch", str(tmp_path), "--once"]
    done = subprocess.run(command, capture_output=True, env=os.environ | {"COLUMNS": "90"}, check=True)
    text = done.stdout.decode()
    assert "\x1b" not in text
    assert "step 230 of 460" in text
    assert max(map(len, text.splitlines())) <= 90


def test_once_says_in_one_line_that_there_is_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", str(tmp_path), "--once"]) == 1
    error = capsys.readouterr().err
    assert "no history at" in error
    assert error.count("\n") == 1


def test_a_pipe_cannot_be_refreshed_and_the_hint_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", str(tmp_path)]) == 1
    assert "add --once" in capsys.readouterr().err


def test_a_missing_library_is_named_with_the_command_that_installs_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    for more in ([], ["--once"]):
        assert main(["watch", str(tmp_path), *more]) == 1
        assert "pip install 'weibull-monitor[report]'" in capsys.readouterr().err


def test_times_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    for every in ("0", "-1", "nan", "often"):
        with pytest.raises(SystemExit) as raised:
            main(["watch", str(tmp_path), "--every", every])
        assert raised.value.code == 2


WRITER = """
import sys, time
from pathlib import Path
data, target = Path(sys.argv[1]).read_bytes().splitlines(keepends=True), Path(sys.argv[2])
pause = len(data) // 2
target.parent.mkdir(parents=True)
with target.open("ab", buffering=0) as file:
    for number, line in enumerate(data):
        if number == pause:
            sys.stdin.readline()
        for part in (line[: len(line) // 2], line[len(line) // 2 :]):
            file.write(part)
            time.sleep(0.01)
"""


class Terminal:
    """A process in a pseudo-terminal of 80 × 24."""

    def __init__(self, command: list[str]) -> None:
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # what a shell starts in the background ignores Ctrl-C
            os.environ.update(COLUMNS="80", LINES="24", TERM="xterm-256color")
            os.execv(command[0], command)
        self.seen = ""

    def read_until(self, pattern: str, patience: float = 60.0) -> None:
        deadline = time.monotonic() + patience
        while not re.search(pattern, self.seen):
            assert time.monotonic() < deadline, self.seen[-3000:]
            if select.select([self._fd], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self._fd, 65536).decode(errors="replace")
                except OSError:  # it ended
                    break
        assert re.search(pattern, self.seen), self.seen[-3000:]

    def press(self, key: str) -> None:
        os.write(self._fd, key.encode())

    def end(self) -> int:
        while True:
            try:
                assert select.select([self._fd], [], [], 60)[0], "it does not end"
                data = os.read(self._fd, 65536)
            except OSError:
                break
            if not data:
                break
            self.seen += data.decode(errors="replace")
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_a_terminal_follows_a_run_that_begins_later_and_ctrl_c_leaves_it_as_it_was(tmp_path: Path) -> None:
    source = recorded(tmp_path / "source") / FILE
    run = tmp_path / "run"
    command = [sys.executable, "-m", "weibull_monitor.cli.main", "watch", str(run), "--every", "0.1"]
    terminal = Terminal(command)
    try:
        terminal.read_until("waiting for the first sample")
        command = [sys.executable, "-c", WRITER, str(source), str(run / FILE)]
        writer = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)
        terminal.read_until(r"step \d+")
        writer.communicate("\n", timeout=60)
        terminal.read_until("step 230")
        assert writer.returncode == 0
        steps = {int(step) for step in re.findall(r"step (\d+)\x1b\[0m of", terminal.seen)}
        assert len(steps) > 1  # it was refreshed on the way
        terminal.read_until("error nonfinite")
        terminal.press("\x03")
        assert terminal.end() == 130
    except BaseException:
        os.kill(terminal.pid, signal.SIGKILL)
        raise
    assert "Traceback" not in terminal.seen
    assert terminal.seen.rindex("\x1b[?1049l") > terminal.seen.rindex("\x1b[?1049h")  # off the alternate screen
    assert terminal.seen.rindex("\x1b[?25h") > terminal.seen.rindex("\x1b[?25l")  # the cursor is back
