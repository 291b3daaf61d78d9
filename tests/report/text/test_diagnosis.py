from __future__ import annotations

from pathlib import Path

import pytest
import torch
from published_like import give_shapes, llama, small_models_are_compared  # noqa: F401

from weibull_monitor import WeibullMonitor
from weibull_monitor.analysis import published
from weibull_monitor.cli.main import main

pytestmark = pytest.mark.usefixtures("small_models_are_compared")


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    model = give_shapes(llama(), published("mistral-7b").k)
    with WeibullMonitor(model, output_dir=tmp_path) as monitor:
        monitor.step()
    return tmp_path


def test_a_run_is_compared(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(recorded)]) == 0
    text = capsys.readouterr().out
    table = {line.split()[0]: line for line in text.splitlines() if line and line[0].isalpha()}
    assert table["attn_q"].split()[1:9] == ["1.1485", "1.095–1.164", "(13)", "as", "published", "0", "of", "3"]
    assert table["mistral-7b"].split()[1] == "0.0"
    assert "grouped-query attention (GQA), q, k and v stored apart, no QK-norm" in text
    assert text.count("1.095–1.164") == 2  # W_q, and both of the class


def test_options(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(recorded / "weibull/history.jsonl"), "--step", "0", "--neighbours", "2", "--list"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("step 0:")
    assert sum(line.startswith(("mistral-7b", "llama-3", "qwen")) for line in text.splitlines()) == 2
    (row,) = [line for line in text.splitlines() if line.startswith("model.layers.1.self_attn.q_proj.weight")]
    assert row.split()[1:3] == ["attn_q", "1.1485"]
    assert row.endswith("inside")


def test_what_is_wrong_is_one_line(recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(recorded), "--step", "7"]) == 1
    assert "holds no sample of step 7; the nearest is of step 1" in capsys.readouterr().err
    assert main(["compare", str(tmp_path / "nowhere")]) == 1
    out = capsys.readouterr()
    assert "nowhere" in out.err
    assert out.err.count("\n") == 1
    assert not out.out


def test_unread_matrices_do_not_stop_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = give_shapes(llama(), published("mistral-7b").k)
    with torch.no_grad():
        model.get_parameter("model.layers.1.mlp.up_proj.weight").zero_()
    with WeibullMonitor(model, output_dir=tmp_path) as monitor:
        monitor.step()
    assert main(["compare", str(tmp_path)]) == 0
    table = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line and line[0].isalpha()}
    assert " of 2 " in table["ffn_up"]
