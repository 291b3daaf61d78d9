"""Every mistake of a user is reported in one line that says what to do, with the documented exit code."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from weibull_monitor.cli.main import main
from weibull_monitor.history import HistoryWriter, RunRecord

HINTS = (
    "; name ",
    "; pass ",
    "; try ",
    "; see ",
    "; wait ",
    "; the nearest is ",
    "run: pip install",
    "there are ",
    "there is ",
    "upgrade weibull-monitor",
    "not an integer of at least",
)
BAD_CONTENT = {
    "empty": b"",
    "text": b"step,loss\n1,2\n",
    "binary": bytes(range(256)) * 8,
    "another": b'{"type": "run"}\n{"type": "snapshot"}\n',
    "numbers": b"1\n2\n[]\nnull\n",
    "schema": b'{"type": "run", "schema": 99, "resumed_from": null}\n',
    "strings": b'{"type": "run", "schema": "one", "resumed_from": null, "components": 3}\n',
}
SAYS = {"schema": "upgrade weibull-monitor"}
COMMANDS = (["compare"], ["alerts"], ["sweep"], ["report"], ["watch", "--once"])


@pytest.fixture
def without_samples(tmp_path: Path) -> Path:
    writer = HistoryWriter(tmp_path)
    writer.write_run(RunRecord(0.0, None, {}, 1, {}, (), {}, "0"))
    writer.close()
    return tmp_path


def told(arguments: list[str], capsys: pytest.CaptureFixture[str], code: int = 1) -> str:
    """Runs a command that has to fail, and returns the line that it says."""
    try:
        found = main(arguments)
    except SystemExit as end:
        found = int(end.code or 0)
    out = capsys.readouterr()
    assert found == code, out
    assert out.out == ""
    assert out.err.startswith("weibull-monitor")
    assert out.err.count("\n") == 1, out.err
    assert "Traceback" not in out.err
    assert any(hint in out.err.partition(": ")[2] for hint in HINTS), f"no hint: {out.err}"
    return out.err


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
class TestRuns:
    def test_a_path_that_is_not_there(
        self, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert "no history at" in told([*command, str(tmp_path / "nothing")], capsys)

    def test_a_directory_without_a_run(
        self, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert "name a directory that a monitored run" in told([*command, str(tmp_path)], capsys)

    @pytest.mark.parametrize("content", BAD_CONTENT)
    def test_a_file_that_is_no_history(
        self, command: list[str], content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "history.jsonl").write_bytes(BAD_CONTENT[content])
        message = told([*command, str(tmp_path)], capsys)
        assert str(tmp_path) in message
        assert SAYS.get(content, "that a monitored run") in message

    def test_a_run_without_samples(
        self, command: list[str], without_samples: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert "holds no samples yet" in told([*command, str(without_samples)], capsys)

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read everything")
    def test_a_file_that_may_not_be_read(
        self, command: list[str], without_samples: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (without_samples / "weibull" / "history.jsonl").chmod(0)
        assert "Permission denied" in told([*command, str(without_samples)], capsys)

    def test_a_file_that_cannot_be_read(
        self,
        command: list[str],
        without_samples: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def refuse(self: Path, *args: object, **kwargs: object) -> None:
            raise PermissionError(13, "Permission denied", str(self))

        monkeypatch.setattr(Path, "open", refuse)
        assert "cannot be read: Permission denied" in told([*command, str(without_samples)], capsys)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (["weigh"], "invalid choice: 'weigh'"),
        (["compare"], "the following arguments are required: RUN; see weibull-monitor compare --help"),
        (["compare", "x", "--step", "ten"], "'ten' is not an integer of at least 0"),
        (["compare", "x", "--neighbours", "-1"], "'-1' is not an integer of at least 0"),
        (["alerts", "x", "--severity", "fatal"], "invalid choice: 'fatal'"),
        (["components"], "the following arguments are required: source"),
        (["components", "llama", "--resolution", "row"], "invalid choice: 'row'"),
        (["sweep"], "the following arguments are required: RUN"),
        (["sweep", "x", "--plot"], "--plot: expected one argument"),
        (["watch", "x", "--every", "often"], "often is not a number of seconds of at least 0.1"),
        (["report", "x", "--serve", "here"], "invalid int value: 'here'"),
        (["scan"], "the following arguments are required: PATH"),
        (["wandb-workspace", "mine"], "mine is not of the form ENTITY/PROJECT"),
        (["demo", "--steps", "0"], "'0' is not an integer of at least 1"),
        (["completion", "cmd.exe"], "invalid choice: 'cmd.exe'"),
        (["compare", "x", "--nonesuch"], "unrecognized arguments: --nonesuch"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_command_line_is_reported_in_one_line(
    line: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert says in told(line, capsys, code=2)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two samples."""
    from alerts.simulated import ATTENTION, components, healthy, samples_of

    writer = HistoryWriter(tmp_path)
    writer.write_run(RunRecord(0.0, None, {}, 1, {}, components(), {}, "0", attention=[ATTENTION]))
    writer.close()
    with writer.path.open("a") as file:
        for s in samples_of(healthy()[:2]):
            file.write(json.dumps({"type": "snapshot", "step": s.step, "time": 0.0, **s.columns}) + "\n")
    return tmp_path


def test_a_step_without_a_sample(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told(["compare", str(run), "--step", "12345"], capsys)


def test_settings_that_are_not_there(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "alert settings" in told(["alerts", str(run), "--config", str(run / "none.toml")], capsys)


def test_a_kind_that_no_run_has(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no run has the kind attn_x; there are" in told(["sweep", str(run), "--kind", "attn_x"], capsys)


def test_a_place_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be written" in told(["demo", "--steps", "1", "--output", str(tmp_path / "file")], capsys)


@pytest.mark.parametrize("name", ["picture.doc", "no/such/folder/picture.png", "picture"])
def test_a_picture_that_cannot_be_drawn(name: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="draws")
    assert name in told(["sweep", str(run), "--plot", str(run / name)], capsys)


@pytest.mark.parametrize(
    ("line", "library", "extra"),
    [
        (["components", "llama"], "transformers", "transformers"),
        (["completion", "bash"], "shtab", "completion"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_missing_library_is_named_with_its_install_command(
    line: list[str], library: str, extra: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    assert f"{library} is not installed; run: pip install 'weibull-monitor[{extra}]'" in told(line, capsys)


def test_a_picture_without_matplotlib(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "run: pip install 'weibull-monitor[report]'" in told(
        ["sweep", str(run), "--plot", str(run / "x.png")], capsys
    )


def test_interrupted(monkeypatch: pytest.MonkeyPatch, run: Path) -> None:
    def stop(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("weibull_monitor.analysis.diagnosis.diagnose", stop)
    assert main(["compare", str(run)]) == 130
