"""A ``config.json`` is untrusted: nothing is fetched, nothing of it runs, and what is too large is left to the names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hostile.configurations import CASES, GOOD
from hostile.running import Tally, run_command
from weibull_monitor.checkpoint import child, scan
from weibull_monitor.checkpoint.config import read_config
from weibull_monitor.errors import CheckpointError

pytest.importorskip("transformers")

OLD = os.environ.get("WEIBULL_OLD_TRANSFORMERS", "")
"""Another Python, whose transformers is the oldest that is supported."""
HARNESS = """
import json, sys
seen = []
watched = ("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "urllib.")
from weibull_monitor.checkpoint.child import Described, _answered, _Request
from weibull_monitor.model.components.finder import Finder
import transformers
sys.addaudithook(lambda event, arguments: seen.append(f"{event} {arguments}") if event.startswith(watched) else None)
for name, config in json.load(sys.stdin).items():
    found = _answered(_Request(config, None, Finder(None, None, None, "auto")))
    print(json.dumps([name, isinstance(found, Described), seen[:3]]))
    seen.clear()
"""
"""Builds what asks for the hub in a process without limits, and says which connections it tries."""


def checkpoint(folder: Path, settings: dict[str, object]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(GOOD | settings))
    names = [f"model.layers.{i}.self_attn.{kind}_proj.weight" for i in range(2) for kind in "qo"]
    save_file({name: torch.randn(64, 64) for name in names}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("name", CASES)
def test_a_checkpoint_beside_it_is_scanned(name: str, tmp_path: Path) -> None:
    folder, tally = checkpoint(tmp_path / "model", CASES[name]), Tally()
    if name in ("languages", "layers and experts", "positions"):
        pytest.skip("takes seconds: benchmarks/hostile.py has it")
    run_command(["scan", str(folder)], name, tally)
    assert tally.read == 1, tally.faults


@pytest.mark.parametrize("python", [sys.executable, OLD], ids=["this transformers", "an old transformers"])
def test_nothing_is_even_asked_for(python: str) -> None:
    if not python:
        pytest.skip("WEIBULL_OLD_TRANSFORMERS does not name a Python that has transformers 4.50")
    asking = {name: GOOD | settings for name, settings in CASES.items() if "someone" in str(settings) or "timm" in name}
    assert len(asking) > 7
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    done = subprocess.run(
        [python, "-c", HARNESS],
        input=json.dumps(asking),
        capture_output=True,
        text=True,
        env=environment,
        check=True,
        timeout=300,
    )
    answers = {name: (built, seen) for name, built, seen in map(json.loads, done.stdout.splitlines())}
    assert answers.keys() == asking.keys()
    assert [seen for _, seen in answers.values() if seen] == []
    assert answers["attention of the hub"][0]  # the model is built all the same, with attention of transformers


def test_what_a_process_may_take_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "PATIENCE", 0.01)
    folder = checkpoint(tmp_path / "model", {})
    (note,) = [n for n in scan(folder).runs[-1].model["notes"] if "config.json" in n]
    assert "takes too much time or memory" in note
    monkeypatch.undo()
    assert scan(folder).runs[-1].model["model_type"] == "llama"  # another process is started


@pytest.mark.parametrize("settings", [{"num_labels": 10**9}, {"a_list": [0] * 5000}, {"num_hidden_layers": 1e30}])
def test_more_than_the_tensors_can_make_up_is_refused(settings: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(GOOD | settings))
    with pytest.raises(CheckpointError, match=f"{next(iter(settings))} (?:is|has) "):
        read_config(path, {})
