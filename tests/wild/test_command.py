"""`benchmarks/wild.py` notices a monitor that disturbs a training, and its table says so."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOREIGN = """
import torch
from torch import nn
torch.manual_seed(1)
model = nn.Sequential(nn.Linear(32, 32), nn.Dropout(0.1))
optimizer = torch.optim.AdamW(model.parameters())
for step in range(4):
    optimizer.zero_grad()
    model(torch.randn(4, 32)).square().mean().backward()
    optimizer.step()
"""


@pytest.fixture(scope="module")
def wild() -> ModuleType:
    before = [*sys.path]
    spec = importlib.util.spec_from_file_location("wild_command", Path(__file__).parents[2] / "benchmarks" / "wild.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


def test_a_disturbed_training_is_noticed(wild: ModuleType, tmp_path: Path) -> None:
    from wild_parts.page import BEGIN, END, write
    from wild_parts.script import Add, Changed, Script

    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "train.py").write_text(FOREIGN)
    (folder / ".commit").write_text("abc 2026-01-01")
    made = "monitor = WeibullMonitor(model, optimizer, every_n_steps=1, output_dir='out')"
    monitor = (
        Add("train.py", "from torch import nn", "from weibull_monitor import WeibullMonitor"),
        Add("train.py", "optimizer = torch", made),
        Add("train.py", "optimizer.step()", "monitor.step(); torch.rand(1)"),  # a monitor that draws a number
    )
    script = Script("train.py", "theirs", "me/theirs", ("train.py",), "", lambda root: None, monitor, "own loop")
    found = wild.Found(script, wild.commit(folder))
    options = argparse.Namespace(repeat=1, python=sys.executable)
    wild.compared(script, folder, tmp_path / "work", options, found)
    assert (found.losses, found.weights, found.random, found.steps) == (False, False, False, 4)
    assert (dict(found.kinds), found.alerts, found.samples) == ({"other": 1}, [], 5)
    assert (found.script.lines, found.resumed) == (3, "the script cannot")
    assert (folder / "train.py").read_text() == FOREIGN

    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}{END}after\n")
    write(page, found)
    found.said = ["WARNING: 1 matrices have no fit: a.b and others, because |w| is 0"]
    write(page, found)
    (row,) = [line for line in page.read_text().splitlines() if line.startswith("| [theirs]")]
    assert "| 3 | 1, 1 `other` | **different** | no alert; 1 matrices have no fit because \\|w\\| is 0 |" in row
    with pytest.raises(Changed, match="2 lines contain"):
        Add("train.py", "optimizer.", "monitor.step()").apply(folder)
