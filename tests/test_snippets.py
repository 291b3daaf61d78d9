"""The snippets of README and the quickstarts run as written, after installing what the page says to install."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
TRAINER = """
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 4, "vocab_size": 64}
model = LlamaForCausalLM(LlamaConfig(**sizes))
data = [{"input_ids": torch.arange(16), "labels": torch.arange(16)}] * 8
args = TrainingArguments("runs/demo", max_steps=2, use_cpu=True, report_to=["tensorboard"], disable_tqdm=True)
"""
LOOP = """
import torch
model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8))
optimizer = torch.optim.AdamW(model.parameters())
scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
loader = range(3)
"""
LIT = """
import torch, lightning
from lightning.pytorch.loggers import TensorBoardLogger
class Lit(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(8, 8)
    def training_step(self, batch):
        return self.net(batch).square().mean()
    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters())
model, data = Lit(), torch.utils.data.DataLoader(torch.randn(4, 8))
whole, lightning.Trainer = lightning.Trainer, lambda **options: whole(max_epochs=1, accelerator="cpu", **options)
"""
PAGES = {
    "README.md": [f"{TRAINER}trainer = Trainer(model, args, train_dataset=data)", "trainer.train()"],
    "docs/quickstart/transformers.md": [TRAINER],
    "docs/quickstart/own-loop.md": [LOOP],
    "docs/quickstart/lightning.md": [LIT],
}
"""What a page takes for granted, before its first snippet, before its second, …; a later one without an entry is not run."""
WRITTEN = "from pathlib import Path; assert list(Path().rglob('history.jsonl')) and list(Path().rglob('events.out*'))"


def snippets(page: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        code for code in re.findall(r"^```python\n(.*?)^```", text, flags=re.M | re.S) if not code.startswith(">>>")
    ]


def installed(page: str) -> list[Requirement]:
    """What the first ``pip install`` of a page names; ``.`` is this project."""
    (line, *_) = re.findall(r"^pip install (.+?)(?:  #.*)?$", (ROOT / page).read_text(encoding="utf-8"), flags=re.M)
    words = [word.strip("'\"") for word in line.split()]
    return [Requirement(f"weibull-monitor{word[1:]}" if word.startswith(".") else word) for word in words]


def distribution(name: str) -> metadata.Distribution:
    """What is installed; a build leaves another description of this project in its folder, which has no record of files."""
    found = list(metadata.distributions(name=name))
    return next((one for one in found if one.read_text("RECORD")), None) or metadata.distribution(name)


def closure(wanted: list[Requirement]) -> set[str]:
    """The distributions that pip would install, of those that this environment has."""
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    waiting = [(one.name, extra) for one in wanted for extra in ("", *one.extras)]
    while waiting:
        name, extra = waiting.pop()
        name = re.sub(r"[-_.]+", "-", name).lower()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            requires = distribution(name).requires or []
        except metadata.PackageNotFoundError:
            continue
        found.add(name)
        for text in requires:
            one = Requirement(text)
            if one.marker is None or one.marker.evaluate({"extra": extra}):
                waiting += [(one.name, more) for more in ("", *one.extras)]
    return found


def environment(where: Path, names: set[str]) -> Path:
    """An environment with these distributions, linked from this one; its Python."""
    venv.create(where, symlinks=True, with_pip=False)
    (target,) = where.glob("lib/python*/site-packages")
    for name in names:
        one = distribution(name)
        for top in {file.parts[0] for file in one.files or () if file.parts[0] not in ("..", "__pycache__")}:
            source, link = Path(str(one.locate_file(top))), target / top
            if source.exists() and not link.exists():
                link.symlink_to(source)
    return where / "bin" / "python"


@pytest.mark.parametrize("page", PAGES)
def test_snippets_run_as_they_stand(page: str, tmp_path: Path) -> None:
    python = environment(tmp_path / "venv", closure(installed(page)))
    found = snippets(page)
    program = [part for before, code in zip(PAGES[page], found, strict=False) for part in (before, code)]
    quiet = {"PYTHONWARNINGS": "ignore", "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    done = subprocess.run(
        [python, "-c", "\n".join([*program, WRITTEN])],
        cwd=tmp_path,
        env=os.environ | quiet,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_an_environment_has_only_what_the_page_names(tmp_path: Path) -> None:
    names = closure([Requirement("weibull-monitor[tensorboard]")])
    assert {"weibull-monitor", "torch", "tensorboard", "numpy"} <= names
    assert not names & {"pandas", "transformers", "pytest"}
    python = environment(tmp_path, names)
    done = subprocess.run(
        [python, "-c", "import pandas"], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": ""}
    )
    assert "No module named 'pandas'" in done.stderr


def test_the_first_screen_of_the_readme_and_its_length() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 120
    top = "\n".join(lines[:30])
    assert top.count("![") == 1
    assert len(re.findall(r"^- ", top, flags=re.M)) == 3
    (code,) = re.findall(r"```python\n(.*?)```", top, flags=re.S)
    assert len([line for line in code.splitlines() if line]) == 2
    assert sys.version_info >= (3, 10)
