"""Hosts on a real GPU: training stays the same to the last bit, and the history is whole. Skipped where there is none."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_trainer import Q0, trainer
from torch import nn

from weibull_monitor import WeibullMonitor, fit_weibull, read_history
from weibull_monitor.integrations.transformers import WeibullCallback

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")

WAYS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"bf16": True, "optim": "adamw_torch_fused"},
    "fp16": {"fp16": True},
    "accumulated": {"bf16": True, "gradient_accumulation_steps": 3, "gradient_checkpointing": True},
    "compiled": {"bf16": True, "torch_compile": True},
}


@pytest.fixture
def deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def losses(run: Any) -> list[float]:
    return [row["loss"] for row in run.state.log_history if "loss" in row]


# First: later on transformers may have chosen a precision in a way that Lightning refuses.
@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed", "bf16-true"])
def test_lightning(tmp_path: Path, caplog: pytest.LogCaptureFixture, precision: str) -> None:
    lightning = pytest.importorskip("lightning", reason="needs the lightning extra")
    from weibull_monitor.integrations.lightning import WeibullCallback as LightningCallback

    class Module(lightning.LightningModule):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.q_proj, self.k_proj, self.out = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64)
            self.losses: list[float] = []

        def training_step(self, batch: Any, _: int) -> Any:
            (x,) = batch
            loss = (self.out(torch.tanh(self.q_proj(x)) * self.k_proj(x)) - x).square().mean()
            self.losses.append(loss.item())
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-3)

    dtype = torch.bfloat16 if precision == "bf16-true" else torch.float32
    data = torch.utils.data.TensorDataset(torch.randn(96, 64, generator=torch.Generator().manual_seed(1)).to(dtype))
    found = []
    for callbacks in ([], [LightningCallback(every_n_steps=1, output_dir=tmp_path / "history", trackers=())]):
        module = Module()
        host = lightning.Trainer(
            accelerator="gpu", devices=1, max_steps=10, precision=precision, callbacks=callbacks, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            default_root_dir=tmp_path,
        )  # fmt: skip
        with caplog.at_level(logging.WARNING, "weibull_monitor"):
            host.fit(module, torch.utils.data.DataLoader(data, batch_size=8))
        found.append((module.losses, module.q_proj.weight.detach().cpu()))
    assert not [record for record in caplog.records if record.name.startswith("weibull_monitor")]
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])
    assert [s.step for s in read_history(tmp_path / "history").snapshots] == list(range(11))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.usefixtures("deterministic")
def test_a_trainer(tmp_path: Path, caplog: pytest.LogCaptureFixture, way: str) -> None:
    options = {"use_cpu": False, "max_steps": 12, **WAYS[way]}
    plain = trainer(tmp_path / "plain", **options)
    plain.train()
    with caplog.at_level(logging.WARNING, "weibull_monitor"):
        watched = trainer(tmp_path / "watched", WeibullCallback(every_n_steps=1, trackers=()), **options)
        watched.train()
    assert not [record for record in caplog.records if record.name.startswith("weibull_monitor")]
    assert losses(watched) == losses(plain)
    weights = [dict(run.model.named_parameters()) for run in (plain, watched)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    history = read_history(tmp_path / "watched")
    assert [snapshot.step for snapshot in history.snapshots] == list(range(13))
    name = next(name for name in weights[1] if name.endswith(Q0))
    fit = fit_weibull(weights[1][name].detach().cpu())
    assert history.snapshots[-1].values("k")[Q0] == pytest.approx(fit.k, rel=1e-6)
    assert history.snapshots[-1].values("lambda")[Q0] == pytest.approx(fit.lambda_, rel=1e-6)


def test_a_loss_scaler_that_skips_steps(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64)).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1, fused=True)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**40, growth_interval=1000)  # the first steps overflow
    monitor = WeibullMonitor(model, optimizer, every_n_steps=1, output_dir=tmp_path)
    taken = 0
    for _ in range(40):
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.float16):
            loss = model(torch.ones(8, 64, device="cuda")).square().mean()
        scaler.scale(loss).backward()
        before = model[0].weight.detach().clone()
        scaler.step(optimizer)
        scaler.update()
        taken += int(not torch.equal(before, model[0].weight))
        monitor.step()
    monitor.close()
    assert 0 < taken < 40
    last = read_history(tmp_path).snapshots[-1]
    assert last.values("k")["0.weight"] == pytest.approx(fit_weibull(model[0].weight.detach().cpu()).k, rel=1e-6)


@pytest.mark.parametrize("layout", ["fsdp2", "fsdp1", "ddp"])
def test_one_rank_over_nccl(tmp_path: Path, layout: str) -> None:
    import torch.distributed as dist

    if not dist.is_nccl_available():
        pytest.skip("this build of PyTorch has no NCCL")
    dist.init_process_group(
        "nccl",
        store=dist.FileStore(str(tmp_path / "store"), 1),
        rank=0,
        world_size=1,
        device_id=torch.device("cuda", 0),
    )
    try:
        torch.manual_seed(0)
        model: nn.Module = nn.Sequential(nn.Linear(64, 96), nn.GELU(), nn.Linear(96, 64)).cuda()
        if layout == "fsdp2":
            from torch.distributed.fsdp import fully_shard

            fully_shard(model)
        elif layout == "fsdp1":
            from torch.distributed.fsdp import FullyShardedDataParallel

            model = FullyShardedDataParallel(model, use_orig_params=True)
        else:
            model = nn.parallel.DistributedDataParallel(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
        monitor = WeibullMonitor(model, optimizer, every_n_steps=1, output_dir=tmp_path / "history")
        for _ in range(5):
            optimizer.zero_grad()
            model(torch.ones(4, 64, device="cuda")).square().mean().backward()
            optimizer.step()
            monitor.step()
        monitor.close()
        snapshots = read_history(tmp_path / "history").snapshots
        assert [snapshot.step for snapshot in snapshots] == list(range(6))
        assert sorted(snapshots[-1].values("k")) == ["0.weight", "2.weight"]
        # AdamW's η of all steps, as a number of the last sample
        assert snapshots[-1].values("eta_sum")["0.weight"] == pytest.approx(5e-3)
    finally:
        dist.destroy_process_group()
