"""A history whose file is lost, cut off, replaced or no file at all: training goes on, and so does the history."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hostile.inputs import Model
from weibull_monitor import WeibullMonitor, read_history
from weibull_monitor.errors import ConfigurationError
from weibull_monitor.history.record import FILE
from weibull_monitor.history.writer import HistoryWriter


def monitored(folder: Path) -> tuple[WeibullMonitor, Callable[[int], None]]:
    model = Model()
    monitor = WeibullMonitor(model, every_n_steps=1, output_dir=folder, trackers=[], alerts=False)

    def steps(count: int) -> None:
        for _ in range(count):
            with torch.no_grad():
                model.layers[0].mlp["up_proj"].weight.mul_(1.01)
            monitor.step()

    steps(3)
    return monitor, steps


def deleted(folder: Path) -> None:
    (folder / FILE).unlink()


def without_its_directory(folder: Path) -> None:
    shutil.rmtree(folder)


def renamed(folder: Path) -> None:
    (folder / FILE).rename(folder / FILE.parent / "old.jsonl")


def moved(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


def emptied(folder: Path) -> None:
    os.truncate(folder / FILE, 0)


def cut(folder: Path) -> None:
    os.truncate(folder / FILE, (folder / FILE).stat().st_size // 2)


def copied_over(folder: Path) -> None:
    shutil.copy(folder / FILE, folder / "copy")
    os.replace(folder / "copy", folder / FILE)


@pytest.mark.parametrize(
    "lose", [deleted, without_its_directory, renamed, moved, emptied, cut, copied_over], ids=lambda f: f.__name__
)
def test_the_history_goes_on_after_its_file_was(
    lose: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    monitor, steps = monitored(folder)
    lose(folder)
    steps(4)
    monitor.close()
    said = [r.getMessage() for r in caplog.records if "the run goes on in" in r.getMessage()]
    assert len(said) == 1
    history = read_history(folder)
    assert {4, 5, 6, 7} <= {snapshot.step for snapshot in history.snapshots}
    assert history.runs[-1].resumed_from == 3
    assert str(folder / FILE) in str(history.runs[-1].continues)
    assert history.unreadable == (lose is cut)


def test_a_directory_that_is_back_later_gets_the_rest(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    monitor, steps = monitored(folder)
    shutil.rmtree(folder)
    folder.write_text("a file in its place")
    steps(2)
    folder.unlink()
    steps(2)
    monitor.close()
    assert [snapshot.step for snapshot in read_history(folder).snapshots] == [6, 7]


@pytest.mark.parametrize("kind", ["pipe", "device", "directory"])
def test_what_is_no_file_is_refused_before_training(kind: str, tmp_path: Path) -> None:
    (tmp_path / FILE).parent.mkdir()
    if kind == "pipe":
        os.mkfifo(tmp_path / FILE)
    elif kind == "device":
        (tmp_path / FILE).symlink_to("/dev/null")
    else:
        (tmp_path / FILE).mkdir()
    with pytest.raises(ConfigurationError, match="cannot be written"):
        HistoryWriter(tmp_path)


def test_a_line_that_is_too_long_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monitor, steps = monitored(tmp_path)
    steps(1)
    monitor.close()
    longest = max(map(len, (tmp_path / FILE).read_bytes().splitlines(keepends=True)))
    for module in ("follower", "lines"):  # the first takes its value from the second when it is imported
        monkeypatch.setattr(f"weibull_monitor.history.{module}.MAX_LINE", longest + 1)
    before = read_history(tmp_path)
    with (tmp_path / FILE).open("ab") as file:
        file.write(b'{"type":"alert","text":"' + b"x" * 3 * longest + b'"}\n[1,2]\n')
    after = read_history(tmp_path)
    assert len(after.snapshots) == len(before.snapshots) == 5
    assert after.unreadable == 2


def test_what_can_be_read_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A ``run`` line in the middle that cannot be read hides its own samples, and no others."""
    monitor, _ = monitored(tmp_path)
    monitor.close()
    whole = (tmp_path / FILE).read_bytes()
    run = json.loads(whole.splitlines()[0])
    bad = json.dumps(run | {"components": 5, "resumed_from": 3}).encode() + b"\n"
    later = [json.loads(line) for line in whole.splitlines()[1:] if b'"snapshot"' in line]
    lost = b"".join(json.dumps(line | {"step": line["step"] + 10}).encode() + b"\n" for line in later)
    (tmp_path / FILE).write_bytes(whole + bad + lost + whole[:50])
    history = read_history(tmp_path)
    assert [snapshot.step for snapshot in history.snapshots] == [0, 1, 2, 3]
    assert history.unreadable == 1 + len(later)
    assert f"{1 + len(later)} lines of {tmp_path / FILE} cannot be read" in caplog.text
