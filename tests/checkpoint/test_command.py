"""``weibull-monitor scan``: what it prints and writes, and that it leaves nothing behind when it is interrupted."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from checkpoint.files import small
from published_like import give_shapes, llama, small_models_are_compared  # noqa: F401
from safetensors.torch import save_file

from weibull_monitor import read_history
from weibull_monitor.analysis import published
from weibull_monitor.checkpoint.scan import scan_all
from weibull_monitor.cli.main import main
from weibull_monitor.report.text.checkpoint import render, styled
from weibull_monitor.report.text.table import plain


@pytest.fixture(scope="module")
def mistral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a small model with the shapes of Mistral-7B; in the last block W_q has another one."""
    path = tmp_path_factory.mktemp("mistral")
    model = give_shapes(llama(), published("mistral-7b").k)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():  # other values in every block, of nearly the same shape
            parameter.mul_(1 + 1e-3 * torch.rand(parameter.shape, generator=generator))
        weight = model.get_parameter("model.layers.2.self_attn.q_proj.weight")
        weight.copy_(weight.sign() * weight.abs() ** 1.5)
    model.save_pretrained(path)
    return path


@pytest.mark.usefixtures("small_models_are_compared")
def test_the_text(mistral: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scan", str(mistral)]) == 0
    text = capsys.readouterr().out
    blocks = {line.split()[0]: line.split() for line in text.splitlines() if line[:7].strip().isdigit()}
    assert float(blocks["0"][2]) == pytest.approx(1.1485, abs=2e-3)  # W_q
    assert float(blocks["2"][2].removesuffix("⇊")) == pytest.approx(1.1485 / 1.5, abs=2e-3)  # k of |w|^p is k/p
    table = {line.split()[0]: line for line in text.splitlines() if line and line[0].isalpha()}
    assert float(table["ffn_up"].split()[1]) == pytest.approx(1.1964, abs=2e-3)
    assert " 3 of 3 " in table["ffn_up"]
    assert "as published" in table["feed-forward"]
    assert table["mistral-7b"]
    assert "step " not in text  # nobody knows it
    assert "LlamaForCausalLM: 23 matrices measured, 99.8 %" in text
    assert "findings" not in text
    assert "\x1b" not in text


def test_findings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = small("qwen3_moe")
    with torch.no_grad():
        first, second = model.model.layers
        second.self_attn.load_state_dict(first.self_attn.state_dict())
        first.mlp.experts.down_proj[1] *= 1e-4
        model.lm_head.weight[3, 4] = torch.nan
        first.mlp.gate.weight.zero_()
    model.save_pretrained(tmp_path)
    assert main(["scan", str(tmp_path)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "error 1 value is Inf or NaN, in lm_head.weight: the model's outputs will be NaN" in text
    assert "model.layers.0.mlp.gate.weight is all zero" in text
    assert "blocks 0, 1 of model.layers have the same values in attn_q, attn_o: one was copied" in text
    assert "model.layers.0.mlp.experts.down_proj[expert 1] is below 1 % of the RMS" in text


def test_a_trajectory_kept_as_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = small("llama")
    for step in (0, 10, 20):
        model.save_pretrained(tmp_path / f"checkpoint-{step}")
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "q_proj" in name:
                    parameter.copy_(parameter.sign() * parameter.abs() ** 1.25)  # k falls to 4/5
    arguments = [
        "scan",
        str(tmp_path),
        "--output",
        str(tmp_path / "kept"),
        "--csv",
        str(tmp_path / "t.csv"),
        "--json",
        str(tmp_path / "t.json"),
    ]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    drift = next(line for line in text.splitlines() if line.startswith("attn_q  "))
    assert float(drift.split()[-4]) == pytest.approx(-36.0, abs=0.3)  # (4/5)²
    still = next(line for line in text.splitlines() if line.startswith("attn_k  "))
    assert still.split()[-4:] == ["+0.0", "%", "×", "1.000"]
    history = read_history(tmp_path / "kept")
    assert [s.step for s in history.snapshots] == [0, 10, 20]
    assert history.baseline is not None
    assert len(history.plots) == 3
    rows = list(csv.DictReader((tmp_path / "t.csv").open()))
    assert len(rows) == 3 * len(history.components)
    name = "model.layers.1.self_attn.q_proj.weight"
    (row,) = [r for r in rows if r["name"] == name and r["step"] == "20"]
    assert float(row["k"]) == pytest.approx(history.snapshots[-1].values("k")[name], rel=1e-8)
    assert (row["kind"], row["class"], row["block"], row["shape"]) == ("attn_q", "selection", "1", "32x32")
    table = json.loads((tmp_path / "t.json").read_text())
    assert [c["step"] for c in table["checkpoints"]] == [0, 10, 20]
    assert table["kinds"][0]["kind"] == "attn_q"
    for command in (["compare", str(tmp_path / "kept")], ["alerts", str(tmp_path / "kept")]):
        assert main(command) == 0
    assert main([*arguments]) == 0  # a scan takes the place of a scan
    assert sorted(p.name for p in (tmp_path / "kept" / "weibull").iterdir()) == ["history.jsonl"]


def test_json_and_csv_on_standard_output(mistral: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scan", str(mistral), "--json", "-", "--include", "q_proj"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {c["kind"] for c in found["checkpoints"][0]["components"]} == {"attn_q"}
    assert found["model"]["class"] == "LlamaForCausalLM"
    assert main(["scan", str(mistral), "--csv", "-", "--exclude", "mlp|attn"]) == 0
    assert len(list(csv.reader(io.StringIO(capsys.readouterr().out)))) == 3
    assert main(["scan", str(mistral), "--csv", "-", "--json", "-"]) == 1
    assert "not both" in capsys.readouterr().err


def test_what_cannot_be_done_is_one_line(mistral: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "weibull").mkdir()
    (tmp_path / "weibull" / "history.jsonl").write_text('{"type": "snapshot"}\n')
    (tmp_path / "file").write_text("")
    for arguments, says in (
        ([str(tmp_path / "nowhere")], "nowhere cannot be opened: No such file"),
        ([str(mistral), "--output", str(tmp_path)], "is the history of a run, which a scan does not replace"),
        ([str(mistral), "--output", str(tmp_path / "file")], "cannot be written"),
        ([str(mistral), "--csv", str(tmp_path / "file" / "x")], "cannot be written"),
        ([str(mistral), "--include", "("], "is not a regular expression"),
        ([str(mistral), "--kind", "x"], "not of the form PATTERN=KIND"),
        ([str(mistral), "--config", "no-such-type"], "neither a path nor a model type"),
    ):
        assert main(["scan", *arguments]) == 1, arguments
        out = capsys.readouterr()
        assert says in out.err
        assert out.err.count("\n") == 1
    assert (tmp_path / "weibull" / "history.jsonl").read_text() == '{"type": "snapshot"}\n'
    with pytest.raises(SystemExit) as raised:
        main(["scan"])
    assert raised.value.code == 2


def test_a_configuration_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = small("gpt_neox")
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    model.config.save_pretrained(tmp_path / "config")
    assert (
        main(["scan", str(tmp_path / "weights.safetensors"), "--config", str(tmp_path / "config"), "--csv", "-"]) == 0
    )
    assert "query_key_value.weight[q]" in capsys.readouterr().out


@pytest.mark.usefixtures("small_models_are_compared")
def test_colours_only_on_a_terminal(mistral: Path) -> None:
    from rich.console import Console

    lines = render(scan_all(mistral))
    console = Console(file=io.StringIO(), force_terminal=True, width=200, color_system="standard", highlight=False)
    console.print(styled(lines))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b[32m" in shown
    assert "\x1b[1;31m" in shown
    without = "".join(part.partition("m")[2] if n else part for n, part in enumerate(shown.split("\x1b[")))
    assert [line.rstrip() for line in without.splitlines()] == plain(lines).splitlines()


def test_many_blocks_share_rows(tmp_path: Path) -> None:
    tensors = {}
    for block in range(96):
        for name in ("q_proj", "k_proj"):
            scale = 2.0 if (block, name) == (70, "q_proj") else 1.0
            w = torch.randn(64, 64)
            tensors[f"layers.{block}.self_attn.{name}.weight"] = w.sign() * w.abs() ** scale
    save_file(tensors, tmp_path / "m.safetensors")
    text = plain(render(scan_all(tmp_path)))
    rows = [line for line in text.splitlines() if re.match(r" *\d+–\d+ ", line)]
    assert len(rows) == 32
    (odd,) = [row for row in rows if row.split()[0] == "69–71"]
    assert float(odd.split()[1].rstrip("⇊↓")) == pytest.approx(1.2054 / 2, abs=0.03)


def zeros_without_end(path: Path, size: int) -> None:
    """A valid file of many gigabytes that takes none of the disk."""
    header = json.dumps(
        {"embed.weight": {"dtype": "BF16", "shape": [size // 2048, 1024], "data_offsets": [0, size]}}
    ).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + size)


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "big.safetensors"
    zeros_without_end(path, 1 << 37)
    outputs = ["--output", str(tmp_path / "out"), "--json", str(tmp_path / "x.json"), "--csv", str(tmp_path / "x.csv")]
    command = [sys.executable, "-m", "weibull_monitor.cli.main", "scan", str(path), *outputs]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=_as_in_the_foreground
    )
    try:
        until = time.monotonic() + 60
        while time.monotonic() < until and not _reads(process.pid, path):
            time.sleep(0.02)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130, error
    assert not out
    assert "Traceback" not in error
    assert [p.name for p in tmp_path.iterdir()] == ["big.safetensors"]


def _as_in_the_foreground() -> None:
    """A shell has what it starts in the background ignore Ctrl-C, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _reads(pid: int, path: Path) -> bool:
    """Whether a process has read tens of megabytes, with the file open."""
    try:
        links = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return False
    return str(path) in links and int(Path(f"/proc/{pid}/io").read_text().split()[1]) > 100 << 20


def test_the_page(mistral: Path, tmp_path: Path) -> None:
    pytest.importorskip("weibull_monitor.report")
    assert main(["scan", str(mistral), "--html", str(tmp_path / "page.html")]) == 0
    assert "</html>" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


def test_a_page_that_cannot_be_made_is_said_before_anything_is_read(
    mistral: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    assert main(["scan", str(mistral), "--html", str(tmp_path / "page.html")]) == 1
    assert "pip install 'weibull-monitor[report]'" in capsys.readouterr().err
