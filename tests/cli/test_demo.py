"""The demo trains, prints its progress and leaves a run that the other commands can read."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from weibull_monitor import read_history
from weibull_monitor.cli.main import main


def test_the_demo_trains_and_what_it_names_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--steps", "12", "--output", str(tmp_path / "demo")]) == 0
    text = capsys.readouterr().out
    losses = [float(loss) for loss in re.findall(r"loss (\d+\.\d+)", text)]
    assert losses[-1] < losses[0]  # it learns
    assert "attn_q     selection" in text
    assert "ffn_down   transmission" in text
    history = read_history(tmp_path / "demo")
    assert history.snapshots[0].step == 0
    assert history.snapshots[-1].step == 12
    assert len(history.components) == 4 * 7 + 3
    named = re.findall(r"^  weibull-monitor (.+?)\s{3,}", text, flags=re.MULTILINE)
    assert len(named) > 2
    for line in named:
        assert main(shlex.split(line)) == 0
