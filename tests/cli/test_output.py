from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from weibull_monitor import WeibullMonitor
from weibull_monitor.cli.main import main
from weibull_monitor.cli.output import SafeStream, safe_output, visible

HOSTILE = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202ex.weight"


@pytest.fixture
def run(tmp_path: Path, tiny_model: nn.Module) -> Path:
    optimizer = torch.optim.AdamW(tiny_model.parameters())
    with WeibullMonitor(tiny_model, optimizer, every_n_steps=1, output_dir=tmp_path / "run") as monitor:
        for p in tiny_model.parameters():
            p.grad = torch.randn_like(p)
        for _ in range(3):
            optimizer.step()
            monitor.step()
    return tmp_path / "run"


def test_control_characters_are_shown_as_escapes() -> None:
    assert visible(HOSTILE) == r"\u001b[2J\u001b]0;owned\u0007\u009b31m\u202ex.weight"
    assert visible("λ\tk\n") == "λ\tk\n"


def test_a_terminal_gets_colours_and_cursor_movements_of_rich_only() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    SafeStream(terminal).write(f"\x1b[1;31mred\x1b[0m\x1b[1A\x1b[2K\r{HOSTILE}")
    assert terminal.getvalue() == f"\x1b[1;31mred\x1b[0m\x1b[1A\x1b[2K\r{visible(HOSTILE)}"


@pytest.mark.parametrize("options", [(), ("--json", "-"), ("--csv", "-")])
def test_a_name_with_escapes_in_a_checkpoint(
    options: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file = pytest.importorskip("safetensors.torch", reason="needs safetensors").save_file
    odd = torch.randn(64, 64)
    odd[0, 0] = float("nan")
    save_file({"layers.0.self_attn.q_proj.weight": torch.randn(64, 64), HOSTILE: odd}, tmp_path / "m.safetensors")
    main(["scan", str(tmp_path / "m.safetensors"), *options])
    seen = capsys.readouterr()
    for character in "\x1b\x07\x9b\u202e":
        assert character not in seen.out + seen.err
    assert "owned" in seen.out


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "cp437"])
@pytest.mark.parametrize("command", [["compare"], ["sweep"], ["watch", "--once"], ["alerts"], ["compare", "--help"]])
def test_every_encoding_can_take_the_output(command: list[str], encoding: str, run: Path) -> None:
    arguments = [sys.executable, "-m", "weibull_monitor", *command, *([] if "--help" in command else [str(run)])]
    done = subprocess.run(arguments, capture_output=True, env=os.environ | {"PYTHONIOENCODING": encoding})
    assert done.returncode == 0, done.stderr.decode()
    done.stdout.decode(encoding)


def test_the_streams_are_afterwards_what_they_were() -> None:
    before = (sys.stdout, sys.stderr, sys.stdout.errors)
    with safe_output():
        assert isinstance(sys.stdout, SafeStream)
    assert (sys.stdout, sys.stderr, sys.stdout.errors) == before
