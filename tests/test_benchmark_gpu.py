"""The benchmark for GPUs where there is none: a rehearsal goes through every part, and nothing is written."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not on this platform: it comes with torch on Linux")

from weibull_monitor.measure.kernels.launch import Shape

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
RESULTS = BENCHMARKS / "RESULTS.md"
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here: it would be measured")


def run(*options: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)


@pytest.fixture(scope="module")
def page() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_parts_page", BENCHMARKS / "gpu_parts" / "page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@without_gpu
def test_without_a_gpu_it_says_so_in_a_sentence() -> None:
    done = run()
    assert done.returncode == 2
    assert done.stdout == ""
    assert "no CUDA GPU" in done.stderr
    assert "--rehearse" in done.stderr
    assert done.stderr.count("\n") == 1


@without_gpu
def test_a_rehearsal_goes_through_every_part_and_writes_nothing() -> None:
    before = RESULTS.read_bytes()
    done = run("--rehearse")
    assert done.returncode == 0, done.stdout + done.stderr
    assert RESULTS.read_bytes() == before
    out = done.stdout
    assert out.lstrip().startswith("**A rehearsal")
    assert "FAILED" not in out
    assert "\n0 failed.\n" in out
    shape = Shape()
    rows = {
        "ceiling": r"\| copy \|",
        "correct": r"\| float32 \| \d+ \| [\d,]+ \| 0 \| 0 \|",
        "samples": r"\| a sample, ms \|",
        "training": r"\| without, once more \|",
        "rivals": r"\| npm-weibull-py on the CPU, one matrix \|",
        "variants": rf"\| {shape.window} \| {shape.tile} \| {shape.warps} \| {shape.programs} \|",
    }
    for part, row in rows.items():
        assert re.search(f"^{row}", out, flags=re.MULTILINE), row
        assert re.search(rf"^\({part}: \d+ s\)$", out, flags=re.MULTILINE), part
    assert out.count("| other counts than on the CPU, of ") == 5  # models
    assert "**OTHER**" not in out
    targets = out.split("### Targets")[1]
    assert "reached" not in targets
    assert "missed" not in targets
    assert targets.count("a rehearsal") >= 8


def test_what_is_written_replaces_what_stood_between_the_markers(page: ModuleType) -> None:
    text = RESULTS.read_text(encoding="utf-8")
    once = page.replaced(text, "figures")
    assert f"{page.BEGIN}\nfigures\n{page.END}\n" in once
    assert once.split(page.BEGIN)[0] == text.split(page.BEGIN)[0]
    assert page.replaced(page.replaced(text, "others"), "figures") == once
    with pytest.raises(ValueError, match="each once"):
        page.replaced("no markers", "figures")


def test_a_target_says_by_how_much_it_is_missed(page: ModuleType) -> None:
    assert page.TARGETS["device"].judged(7.9) == "reached"
    assert page.TARGETS["device"].judged(10.0) == "missed by 2 ms (25 %)"
    assert page.TARGETS["share"].judged(50.0) == "reached"
    assert page.TARGETS["share"].judged(40.0) == "missed by 10 % (20 %)"
    assert page.TARGETS["waits"].judged(3) == "missed by 3"


def test_a_page_goes_on_in_another_process(
    page: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = page.Page(rehearsal=False), page.Page(rehearsal=False)
    one.table("method", "ms")
    one.row("sort of |w|", "3")
    one.failed("a part", RuntimeError("an illegal access\nand where"))
    one.meets("device", 7.0)
    one.save(tmp_path / "page.json")
    other.restore(tmp_path / "page.json")
    assert other.markdown() == one.markdown()
    assert other.failures == 1
    assert "**FAILED** a part: RuntimeError: an illegal access" in other.markdown()
    assert r"| sort of \|w\| | 3 |" in other.markdown()
    capsys.readouterr()
    other.targets()
    assert "| 8 B bf16, a sample on the device | ≤ 8 ms | 7 ms | reached |" in capsys.readouterr().out
