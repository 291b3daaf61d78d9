"""Several runs and several models: each has a history of its own, in one process and in several."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from trackers.test_tensorboard import scalars

from weibull_monitor import ConfigurationError, MemoryTracker, WeibullMonitor, read_history
from weibull_monitor.cli.main import main
from weibull_monitor.history.follower import HistoryTail
from weibull_monitor.history.places import new_directory

HOLDS = """
import sys, torch
from weibull_monitor import WeibullMonitor
monitor = WeibullMonitor(torch.nn.Linear(16, 16), output_dir=sys.argv[1], every_n_steps=1)
monitor.step()
print("ready", flush=True)
sys.stdin.readline()
monitor.step()
monitor.close()
"""


def steps(path: Path) -> list[int]:
    return [snapshot.step for snapshot in read_history(path).snapshots]


def other_process(directory: Path) -> subprocess.Popen[str]:
    """A process that has a monitor in this directory, and waits for a line before its second step."""
    command = [sys.executable, "-c", HOLDS, str(directory)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_monitors_without_a_directory_get_one_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: nn.Module
) -> None:
    monkeypatch.chdir(tmp_path)
    monitors = [WeibullMonitor(tiny_model, every_n_steps=1) for _ in range(4)]
    for monitor in monitors:
        monitor.step()
    for monitor in monitors:
        monitor.close()
    assert len({monitor.output_dir for monitor in monitors}) == 4
    assert all(steps(monitor.output_dir) == [0, 1] for monitor in monitors)


def test_a_new_directory_was_not_there_before(tmp_path: Path) -> None:
    made = [new_directory(tmp_path / "runs" / "x") for _ in range(3)]
    assert [path.name for path in made] == ["x", "x-2", "x-3"]
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"cannot be created: .*; pass an output_dir"):
        new_directory(tmp_path / "file" / "x")


def test_a_history_that_another_process_writes_is_left_alone(
    tmp_path: Path, tiny_model: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    other = other_process(tmp_path)
    with WeibullMonitor(tiny_model, output_dir=tmp_path, every_n_steps=1, trackers=["tensorboard"]) as monitor:
        for _ in range(3):
            monitor.step()
    other.communicate("\n", timeout=60)
    assert steps(tmp_path) == [0, 1, 2]
    assert steps(tmp_path / "weibull" / "2") == [0, 1, 2, 3]
    assert scalars(tmp_path / "weibull" / "2")
    messages = [m for m in caplog.messages if "another process writes to" in m]
    assert messages == [
        f"another process writes to {tmp_path}/weibull/history.jsonl; "
        f"the history of this one is {tmp_path}/weibull/2/history.jsonl"
    ]


def test_a_killed_process_leaves_no_lock(tmp_path: Path, tiny_model: nn.Module) -> None:
    other = other_process(tmp_path)
    other.kill()
    other.wait()
    with WeibullMonitor(tiny_model, output_dir=tmp_path, every_n_steps=1) as monitor:
        monitor.step()
    assert steps(tmp_path) == [0, 1]
    assert not (tmp_path / "weibull" / "2").exists()


def test_a_resumed_run_beside_another_process_has_the_samples_before(tmp_path: Path, tiny_model: nn.Module) -> None:
    with WeibullMonitor(nn.Linear(16, 16), output_dir=tmp_path, every_n_steps=1) as first:
        first.step()
    other = other_process(tmp_path)  # a new run: its baseline is of the same names
    options: dict[str, Any] = {"output_dir": tmp_path, "every_n_steps": 1, "resume": {"step": 1}}
    with WeibullMonitor(nn.Linear(16, 16), **options) as resumed:
        resumed.step()
    other.communicate("\n", timeout=60)
    assert steps(tmp_path / "weibull" / "2") == [0, 1, 2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_worker_does_not_keep_the_lock(tmp_path: Path, tiny_model: nn.Module) -> None:
    code = HOLDS.replace(
        'print("ready"', 'import os; child = os.fork()\nif child == 0:\n    import time; time.sleep(60)\nprint("ready"'
    )
    code = code.replace("monitor.step()\nmonitor.close()", "print(child); os.kill(os.getpid(), 9)")
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("\n")
    process.stdin.flush()
    child = int(process.stdout.readline())
    process.wait()
    try:
        WeibullMonitor(tiny_model, output_dir=tmp_path).close()
        assert not (tmp_path / "weibull" / "2").exists()
    finally:
        os.kill(child, 9)


def test_a_second_monitor_of_this_process_takes_over_and_keeps_the_lock(tmp_path: Path, tiny_model: nn.Module) -> None:
    first = WeibullMonitor(tiny_model, output_dir=tmp_path, every_n_steps=1)
    first.step()
    second = WeibullMonitor(tiny_model, output_dir=tmp_path, every_n_steps=1)
    assert first.over
    other = other_process(tmp_path)
    second.step()
    second.close()
    other.communicate("\n", timeout=60)
    assert steps(tmp_path) == [0, 1]
    assert steps(tmp_path / "weibull" / "2") == [0, 1, 2]


def test_two_models_of_one_run(tmp_path: Path) -> None:
    torch.manual_seed(0)
    models = {"student": nn.Linear(32, 32), "teacher": nn.Linear(48, 48)}
    shared = MemoryTracker()
    options: dict[str, Any] = {"every_n_steps": 1, "trackers": ["tensorboard", shared], "pictures_every": 1}
    monitors = [WeibullMonitor(m, output_dir=tmp_path, name=name, **options) for name, m in models.items()]
    for _ in range(2):
        for monitor in monitors:
            monitor.step()
    for monitor in monitors:
        monitor.close()
    for name, model in models.items():
        history = read_history(tmp_path / "weibull" / name)
        assert steps(history.path) == [0, 1, 2]
        assert history.components[0].shape == tuple(model.weight.shape)
        assert history.runs[0].name == name
        logged = {step for step, metrics in shared.records if any(key.startswith(f"{name}/") for key in metrics)}
        assert logged == {0, 1, 2}
        curves = scalars(tmp_path / "weibull" / name)
        assert curves
        assert all(key.startswith(f"{name}/weibull_") for key in curves)
        assert f"{name}/weibull_k/other" in curves
    assert all(key.partition("/")[2].startswith("weibull_") for _, metrics in shared.records for key in metrics)
    with pytest.raises(
        FileNotFoundError, match=r"there are several histories in .*: name one of .*weibull/student, .*weibull/teacher"
    ):
        read_history(tmp_path)


def test_alerts_say_whose_they_are(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, seen = nn.Linear(32, 32), []
    with WeibullMonitor(model, output_dir=tmp_path, name="critic", every_n_steps=1, on_alert=seen.append) as monitor:
        with torch.no_grad():
            model.weight[0, 0] = torch.nan
        monitor.step()
    assert [alert.title for alert in seen] == ["weibull of critic: nonfinite (error)"]
    assert "weibull of critic: nonfinite (error)" in caplog.text
    assert [alert.finding.rule for alert in read_history(tmp_path / "weibull/critic").alerts] == ["nonfinite"]


@pytest.mark.parametrize("option", [{"name": "a/b"}, {"name": ""}, {"name": "2"}, {"name": 3}, {"name": "x" * 25}])
def test_names_are_checked(option: dict[str, Any], tmp_path: Path, tiny_model: nn.Module) -> None:
    with pytest.raises(ConfigurationError, match=r"name is .*; it must be a letter and up to 23 letters"):
        WeibullMonitor(tiny_model, output_dir=tmp_path, **option)
    assert not list(tmp_path.iterdir())


def search(directory: Path, trials: int) -> None:
    for number in range(trials):
        options: dict[str, Any] = {"output_dir": directory, "trial": f"run-{number}", "every_n_steps": 1}
        with WeibullMonitor(nn.Linear(16, 16), **options) as monitor:
            for _ in range(number + 1):
                monitor.step()


def test_each_trial_of_a_search_has_a_history(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    search(tmp_path, 3)
    assert [steps(tmp_path / f"run-{n}") for n in range(3)] == [[0, 1], [0, 1, 2], [0, 1, 2, 3]]
    lines = [json.loads(line) for line in (tmp_path / "weibull/history.jsonl").read_text().splitlines()]
    assert [(line["type"], line["trial"], line["history"]) for line in lines] == [
        ("run", f"run-{n}", f"run-{n}/weibull/history.jsonl") for n in range(3)
    ]
    caplog.clear()
    history = read_history(tmp_path)
    assert [run.trial for run in history.runs] == ["run-0", "run-1", "run-2"]
    assert [s.step for s in history.snapshots] == [0, 1, 2, 3]
    assert history.components
    assert (
        f"lists 3 trials of a search; this is the last, run-2. To read another, name one of {tmp_path}/run-0"
        in caplog.text
    )


def test_the_last_trial_is_followed_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search(tmp_path, 1)
    tail = HistoryTail(tmp_path)
    tail.poll()
    assert [point.step for point in tail.points] == [0, 1]
    search(tmp_path, 2)
    tail.poll()
    assert [point.step for point in tail.points] == [0, 1, 2]
    assert main(["report", str(tmp_path), "--output", str(tmp_path / "report.html")]) == 0
    assert (tmp_path / "report.html").stat().st_size > 0


def test_a_run_after_a_search_replaces_the_list(tmp_path: Path) -> None:
    search(tmp_path, 2)
    with WeibullMonitor(nn.Linear(16, 16), output_dir=tmp_path, every_n_steps=1) as monitor:
        monitor.step()
    history = read_history(tmp_path)
    assert [(run.trial, run.resumed_from) for run in history.runs] == [(None, None)]
    assert [s.step for s in history.snapshots] == [0, 1]
