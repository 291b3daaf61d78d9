"""Checkpoints that real trainers wrote, as a trajectory; and shards that several processes wrote."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from checkpoint.files import SMALL, small
from checkpoint.test_scan import assert_same, monitored
from conftest import TinyModel
from lightning.pytorch.callbacks import ModelCheckpoint
from ranks.launch import launch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from weibull_monitor import read_history
from weibull_monitor.checkpoint import scan
from weibull_monitor.checkpoint.formats.locate import all_sources, sources_at
from weibull_monitor.checkpoint.scan import scan_all
from weibull_monitor.errors import CheckpointError
from weibull_monitor.history.record import History
from weibull_monitor.integrations.lightning import WeibullCallback as LightningCallback
from weibull_monitor.integrations.transformers import WeibullCallback


def assert_same_samples(scanned: History, recorded: History) -> None:
    """Every value of every matrix at the steps of the checkpoints is that of the monitor that watched."""
    by_step = {snapshot.step: snapshot for snapshot in recorded.snapshots}
    for snapshot in scanned.snapshots:
        for column in ("k", "lambda", "r2", "k_se", "rms", "zeros", "nonfinite"):
            assert snapshot.values(column) == by_step[snapshot.step].values(column), (snapshot.step, column)


def test_the_checkpoints_of_the_trainer(tmp_path: Path) -> None:
    tokens = [{"input_ids": (row := torch.randint(0, 48, (16,))), "labels": row} for _ in range(64)]
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "out"),
        max_steps=9,
        save_steps=3,
        per_device_train_batch_size=4,
        report_to=[],
        use_cpu=True,
    )
    model = LlamaForCausalLM(LlamaConfig(**SMALL))
    callback = WeibullCallback(every_n_steps=3, output_dir=tmp_path / "out")
    Trainer(model, arguments, train_dataset=tokens, callbacks=[callback]).train()
    history = scan(tmp_path / "out")
    assert [snapshot.step for snapshot in history.snapshots] == [3, 6, 9]
    assert history.runs[-1].model["steps_known"]
    assert len(history.runs) == 1
    assert_same_samples(history, read_history(tmp_path / "out"))
    several = [str(path) for path in (tmp_path / "out").glob("checkpoint-*")]
    assert [s.step for s in scan(reversed(several)).snapshots] == [3, 6, 9]
    (tmp_path / "out" / "checkpoint-6").rename(tmp_path / "out" / "renamed")  # its trainer_state.json says its step
    assert scan(tmp_path / "out" / "renamed").snapshots[0].step == 6


class Lit(lightning.LightningModule):  # type: ignore[name-defined,misc]
    def __init__(self) -> None:
        super().__init__()
        self.save_hyperparameters({"width": 32})
        self.net = TinyModel()

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> Any:
        return (self.net(batch) - batch.roll(1, dims=1)).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def test_the_checkpoints_of_lightning(tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path / "kept", every_n_train_steps=2, save_top_k=-1)
    watch = LightningCallback(every_n_steps=2, output_dir=tmp_path / "run")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            max_steps=6,
            callbacks=[keep, watch],
            logger=False,
            accelerator="cpu",
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(Lit(), torch.utils.data.DataLoader(torch.randn(64, 32), batch_size=8))
    assert sorted(path.name for path in (tmp_path / "kept").iterdir())[0] == "epoch=0-step=2.ckpt"
    history = scan(tmp_path / "kept")
    assert [snapshot.step for snapshot in history.snapshots] == [2, 4, 6]
    assert_same_samples(history, read_history(tmp_path / "run"))
    (tmp_path / "kept" / "epoch=0-step=4.ckpt").rename(tmp_path / "last.ckpt")  # the step is inside too
    assert scan(tmp_path / "last.ckpt").snapshots[0].step == 4


def test_shards_of_two_processes(tmp_path: Path) -> None:
    launch("saved:save", 2, tmp_path)
    model = small("qwen3_moe")
    expected = monitored(model, tmp_path / "run", "head")
    for folder in ("fsdp", "columns"):
        model.config.save_pretrained(tmp_path / folder)
        assert_same(tmp_path / folder, expected, "head")
    assert {file.name for file in (tmp_path / "columns").glob("*.distcp")} == {"__0_0.distcp", "__1_0.distcp"}


def test_places(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    weights = {"layers.0.mlp.up_proj.weight": torch.randn(40, 40)}
    for name in ("checkpoint-30", "checkpoint-4", "checkpoint-200"):
        (tmp_path / name).mkdir()
        save_file(weights, tmp_path / name / "model.safetensors")
        torch.save({}, tmp_path / name / "optimizer.pt")
    assert [source.step for source in sources_at(tmp_path)] == [4, 30, 200]
    save_file(weights, tmp_path / "model.safetensors")  # a model was saved at the end
    (one,) = sources_at(tmp_path)
    assert "it also holds 3 checkpoints" in one.notes[0]
    save_file(weights, tmp_path / "checkpoint-4" / "a.safetensors")
    (tmp_path / "checkpoint-4" / "model.safetensors").rename(tmp_path / "checkpoint-4" / "b.safetensors")
    with pytest.raises(CheckpointError, match="holds 2 files of weights"):
        sources_at(tmp_path / "checkpoint-4")
    found = scan_all([tmp_path / "checkpoint-4" / name for name in ("b.safetensors", "a.safetensors")])
    assert not found.steps_known
    assert [(s.step, c.source.name) for s, c in zip(found.history.snapshots, found.checkpoints, strict=True)] == [
        (1, "b.safetensors"),
        (2, "a.safetensors"),
    ]
    assert len(all_sources([tmp_path, tmp_path / "checkpoint-30"])) == 2


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["mp_rank_00_model_states.pt"], r"DeepSpeed's own format; run the zero_to_fp32\.py"),
        (["model_index.json"], "pipeline of several models; name one of its folders"),
        (["model-00001-of-00002.safetensors"], "has 1 shards of 2"),
        (["optimizer.pt", "scheduler.pt"], "holds no checkpoint"),
    ],
)
def test_folders_that_cannot_be_read(names: list[str], says: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    for name in names:
        save_file({"a.weight": torch.randn(8, 8)}, tmp_path / name)
    with pytest.raises(CheckpointError, match=says):
        scan(tmp_path)


def test_shards_without_an_index(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    for number in (1, 2):
        block = {f"layers.{number}.mlp.{name}.weight": torch.randn(40, 40) for name in ("up_proj", "down_proj")}
        save_file(block, tmp_path / f"model-0000{number}-of-00002.safetensors")
    found = scan_all(tmp_path).checkpoints[0]
    assert sorted((c.block, c.kind) for c in found.components)[::3] == [(1, "ffn_in"), (2, "ffn_out")]
    assert "no index" in found.notes[0]


def test_checkpoints_of_different_models_are_no_trajectory(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"layers.0.mlp.up_proj.weight": torch.randn(40, 40)}, tmp_path / "a.safetensors")
    save_file({"blocks.0.mlp.up_proj.weight": torch.randn(40, 40)}, tmp_path / "b.safetensors")
    with pytest.raises(CheckpointError, match="not of one run; scan them one by one"):
        scan([tmp_path / "a.safetensors", tmp_path / "b.safetensors"])


def test_a_checkpoint_with_other_matrices_goes_on_in_the_same_history(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    first = {"layers.0.mlp.up_proj.weight": torch.randn(40, 40)}
    save_file(first, tmp_path / "step1.safetensors")
    save_file(first | {"layers.1.mlp.up_proj.weight": torch.randn(40, 40)}, tmp_path / "step2.safetensors")
    history = scan([tmp_path / "step1.safetensors", tmp_path / "step2.safetensors"])
    assert [len(snapshot.components) for snapshot in history.snapshots] == [1, 2]
    assert len(history.series("layers.0.mlp.up_proj.weight")) == 2


MEMORY = """
import sys, torch
torch.zeros(9).sum()
used = lambda: int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) // 1024
before = used()
from weibull_monitor.checkpoint import scan
history = scan(sys.argv[1])
print(used() - before, int(history.snapshots[0].values("zeros")["embed.weight"]))
"""


def test_memory_does_not_depend_on_the_size(tmp_path: Path) -> None:
    """One tensor of 0.9 GB, of which the file holds nothing but the end: pages that are mapped or kept would count."""
    import json
    import struct

    rows, columns = 1 << 18, 1792
    header = json.dumps(
        {"embed.weight": {"dtype": "BF16", "shape": [rows, columns], "data_offsets": [0, 2 * rows * columns]}}
    )
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header.encode())
        file.truncate(8 + len(header) + 2 * rows * columns)
        file.seek(-200_000, os.SEEK_END)
        file.write(torch.full((100_000,), 1.5, dtype=torch.bfloat16).view(torch.uint8).numpy().tobytes())
    done = subprocess.run([sys.executable, "-c", MEMORY, str(path)], capture_output=True, text=True, check=True)
    above, zeros = map(int, done.stdout.split())
    assert zeros == rows * columns - 100_000
    assert above < 512
