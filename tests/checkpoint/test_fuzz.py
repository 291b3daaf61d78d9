"""Corrupted checkpoints of every format: an error of ours, or a scan, and nothing else.

``WEIBULL_FUZZ=20000`` makes that many of each format instead of a few.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoint.files import save_dcp, small
from hostile.mutations import mutated_bytes
from safetensors.torch import save_file
from torch import nn

from weibull_monitor.checkpoint import scan
from weibull_monitor.errors import WeibullMonitorError

ROUNDS = int(os.environ.get("WEIBULL_FUZZ", "60"))
MEMORY = 400 << 20
"""Bytes that all of it may add to the process: a bomb would add more."""


def _model() -> dict[str, torch.Tensor]:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.self_attn = nn.ModuleDict({name: nn.Linear(12, 12) for name in ("q_proj", "k_proj")})
            self.mlp = nn.ModuleDict({"up_proj": nn.Linear(12, 24)})

    return {
        name: tensor.detach()
        for name, tensor in nn.ModuleDict({"layers": nn.ModuleList([Block()])}).state_dict().items()
    }


def _safetensors(folder: Path) -> list[str]:
    save_file(_model(), folder / "model.safetensors")
    return ["model.safetensors"]


def _index(folder: Path) -> list[str]:
    small().save_pretrained(folder, max_shard_size="20kB")
    (folder / "config.json").unlink()
    return ["model.safetensors.index.json"]


def _torch(folder: Path) -> list[str]:
    torch.save(_model(), folder / "pytorch_model.bin")
    return ["pytorch_model.bin"]


def _legacy(folder: Path) -> list[str]:
    state = {"state_dict": _model(), "settings": {Path("x"): {1, 2j}, "optimizer": torch.optim.SGD}}
    torch.save(state, folder / "last.pt", _use_new_zipfile_serialization=False)
    return ["last.pt"]


def _lightning(folder: Path) -> list[str]:
    state = {
        "state_dict": _model(),
        "global_step": 7,
        "optimizer_states": [{"state": {}, "param_groups": [{"lr": 1e-3}]}],
    }
    torch.save(state, folder / "step=7.ckpt")
    return ["step=7.ckpt"]


def _dcp(folder: Path) -> list[str]:
    save_dcp({"model": _model(), "step": 3}, folder)
    return [".metadata", "__0_0.distcp"]


FORMATS: dict[str, Callable[[Path], list[str]]] = {
    "safetensors": _safetensors,
    "index": _index,
    "torch.save": _torch,
    "legacy": _legacy,
    "lightning": _lightning,
    "dcp": _dcp,
}


def resident() -> int:
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) * 1024


@pytest.mark.parametrize("format_", FORMATS)
def test_corrupted_files_are_errors_or_scans(format_: str, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    names = FORMATS[format_](whole)
    scan(whole)
    shutil.copytree(whole, broken)
    before = resident()
    refused = read = 0
    for seed in range(ROUNDS):
        generator = random.Random(f"{format_} {seed}")
        name = names[seed % len(names)]
        (broken / name).write_bytes(mutated_bytes((whole / name).read_bytes(), generator))
        try:
            scan(broken)
            read += 1
        except WeibullMonitorError:
            refused += 1
        except BaseException as error:
            (tmp_path / "found").write_bytes((broken / name).read_bytes())
            raise AssertionError(f"seed {seed} of {format_}: {type(error).__name__}: {error}") from error
        finally:
            shutil.copy(whole / name, broken / name)
    assert refused  # most faults are in tables
    assert resident() - before < MEMORY
    print(f"{format_}: {refused} refused, {read} read")
