"""Names are data: whatever a tensor, a directory or a text is called, it reaches the eye and other programs as text."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hostile.inputs import write_history
from hostile.mutations import NASTY_TEXT
from hostile.running import Tally, run_command
from weibull_monitor import WeibullMonitor, discover_components, read_history
from weibull_monitor.alerts.delivery.message import payload
from weibull_monitor.cli.main import main
from weibull_monitor.errors import say, visible
from weibull_monitor.history import Alert, Finding
from weibull_monitor.history.record import FILE

NAMES = [name for name in NASTY_TEXT if name and "." not in name and "/" not in name and "\0" not in name]


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_history(tmp_path_factory.mktemp("run"), 4).read_bytes()


def test_a_model_with_such_names_is_trained_and_read_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = nn.ModuleDict()
    for name in NAMES:
        model._modules[name] = nn.Linear(12, 12)
    with WeibullMonitor(model, output_dir=tmp_path, detail="component", trackers=["tensorboard"]) as monitor:
        monitor.step()
    assert not any("failed" in record.getMessage() for record in caplog.records)
    found = {component.name for component in read_history(tmp_path).components}
    assert found == {f"{visible(name)}.weight" for name in NAMES}
    assert all(name.isprintable() for name in found)
    assert {component.parameter for component in discover_components(model)} == {f"{name}.weight" for name in NAMES}


def test_pictures_show_names_as_they_are(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neither as formulas, which cannot be set, nor as wide as the longest of them."""
    model = nn.ModuleDict()
    for name in ["$\\frac{$", "x" * 5000, *NAMES[:4]]:
        model._modules[name] = nn.ModuleList(nn.ModuleDict({"q_proj": nn.Linear(12, 12)}) for _ in range(2))
    with WeibullMonitor(model, output_dir=tmp_path, trackers=["tensorboard"]) as monitor:
        monitor.step()
    assert not any("failed" in record.getMessage() for record in caplog.records)
    (events,) = tmp_path.glob("events*")
    assert events.stat().st_size < 2_000_000


def test_tensors_of_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [name for name in NAMES if "\ud800" not in name and len(name) < 1000]
    save_file({f"{name}.weight": torch.randn(16, 16) for name in names}, tmp_path / "m.safetensors")
    assert main(["scan", str(tmp_path), "--csv", str(tmp_path / "x.csv"), "--json", str(tmp_path / "x.json")]) == 0
    assert capsys.readouterr().out.replace("\n", "").isprintable()
    rows = list(csv.DictReader(io.StringIO((tmp_path / "x.csv").read_text())))
    assert len(rows) == len(names)
    assert not any(row["name"].startswith(("=", "+", "-", "@")) for row in rows)
    assert any(row["name"].startswith("'=1+1") for row in rows)
    (checkpoint,) = json.loads((tmp_path / "x.json").read_text())["checkpoints"]
    assert {c["name"] for c in checkpoint["components"]} == {f"{visible(name)}.weight" for name in names}


@pytest.mark.parametrize(
    "name",
    [os.fsdecode(b"no-utf8-\xff\xfe"), "\x1b]0;owned\x07", "=cmd", "line\nbreak", "[bold]x[/]", "<script>", "-x"],
)
def test_a_directory_of_a_run(name: str, tmp_path: Path, history: bytes) -> None:
    place = tmp_path / name
    (place / FILE).parent.mkdir(parents=True)
    (place / FILE).write_bytes(history)
    tally, run = Tally(), str(place)
    page = str(place / "page.html")
    for words in (["report", run, "-o", page], ["alerts", run], ["compare", run], ["watch", run, "--once"]):
        run_command(words, name, tally)
    run_command(["sweep", run, run, "--json"], name, tally)
    run_command(["report", str(place / "missing")], name, tally)
    assert not tally.faults
    assert tally.refused == 1  # the one that is not there
    assert "<script>" not in (place / "page.html").read_text().partition("</title>")[0]


def test_a_log_and_a_message_hold_no_escapes(caplog: pytest.LogCaptureFixture) -> None:
    say(logging.WARNING, "a\x1b[2J\nb\ud800")
    assert caplog.messages == ["a\\u001b[2J\nb\\ud800"]
    finding = Finding("dead", "error", 1, "<!channel>", ("a",), 1, "k", 1.0, (None, None), None, "<http://x|y>\x07")
    body = payload(Alert("begins", 1, 1, finding), "runs/\x1b<x>", "https://hooks.slack.com/x")["text"]
    assert "<" not in body
    assert body.replace("\n", "").replace("🛑", "").isprintable()
