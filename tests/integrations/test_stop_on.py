"""`stop_on` in the real Trainers: training ends at the alert, with a checkpoint that can be resumed from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from broken_trainer import hf, scale
from torch import nn

from weibull_monitor import read_history


def test_the_hugging_face_trainer_saves_and_stops(tmp_path: Path) -> None:
    run, _ = hf(tmp_path, stop_on="error")
    run.train()
    assert run.state.global_step == 4
    assert [s.step for s in read_history(tmp_path).snapshots] == [0, 1, 2, 3, 4]
    assert (tmp_path / "checkpoint-4/model.safetensors").is_file()
    (alert, *_) = [a for a in read_history(tmp_path).alerts if a.finding.severity == "error"]
    assert (alert.step, alert.finding.rule) == (4, "impossible_change")


def test_without_it_the_trainer_goes_on(tmp_path: Path) -> None:
    run, _ = hf(tmp_path)
    run.train()
    assert run.state.global_step == 10
    assert [a for a in read_history(tmp_path).alerts if a.finding.severity == "error"]


def test_weights_of_nan_end_training_and_push_out_no_checkpoint(tmp_path: Path) -> None:
    run, _ = hf(tmp_path, factor=float("nan"), stop_on="error")
    run.train()
    assert run.state.global_step == 4
    assert list(tmp_path.glob("checkpoint-*")) == []


def test_a_stopped_run_can_be_resumed_and_knows_what_stands(tmp_path: Path) -> None:
    run, _ = hf(tmp_path, stop_on="error")
    run.train()
    told: list[Any] = []
    again, callback = hf(tmp_path, step=0, on_alert=told.append)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 10
    assert callback.monitor.stop_requested == 0
    history = read_history(tmp_path)
    begun = [a for a in history.alerts if a.finding.rule == "impossible_change" and a.phase == "begins"]
    assert [a.step for a in begun] == [4]  # raised once, before
    assert not [a for a in told if a.finding.rule == "impossible_change"]  # it stands: nothing was undone


def test_a_change_that_is_announced_stops_nothing(tmp_path: Path) -> None:
    run, _ = hf(tmp_path, announced=True, stop_on="error")
    run.train()
    assert run.state.global_step == 10
    found = {alert.finding.rule: alert.finding.severity for alert in read_history(tmp_path).alerts if alert.step == 4}
    assert found["impossible_change"] == "info"


def lightning_run(where: Path, logger: Any = False, announced: bool = False, **options: Any) -> Any:
    """A Lightning Trainer of twelve batches whose W_q is scaled before the fifth, announced or not."""
    lightning = pytest.importorskip("lightning", reason="needs the lightning extra")
    from weibull_monitor.integrations.lightning import WeibullCallback

    class Lit(lightning.LightningModule):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.self_attn = nn.ModuleDict({"q_proj": nn.Linear(16, 16), "o_proj": nn.Linear(16, 16)})

        def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
            y = self.self_attn["o_proj"](torch.tanh(self.self_attn["q_proj"](batch)))
            return nn.functional.mse_loss(y, batch)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=1e-3, weight_decay=0.1)

    class Fault(lightning.pytorch.Callback):  # type: ignore[name-defined,misc]
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 4:
                if announced:
                    callback.monitor.expect_change(module.self_attn["q_proj"])
                scale(module.self_attn["q_proj"].weight, 50.0)

    callback = WeibullCallback(every_n_steps=1, **options)
    run = lightning.Trainer(
        default_root_dir=where,
        accelerator="cpu",
        max_epochs=1,
        logger=logger,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback, Fault()],
    )
    run.fit(Lit(), torch.utils.data.DataLoader(torch.randn(48, 16), batch_size=4))
    return run


def test_lightning_saves_and_stops(tmp_path: Path) -> None:
    run = lightning_run(tmp_path, stop_on="error")
    assert run.global_step == 5
    assert [s.step for s in read_history(tmp_path).snapshots] == [0, 1, 2, 3, 4, 5]
    saved = torch.load(tmp_path / "weibull/stopped.ckpt", weights_only=False)
    assert saved["global_step"] == 5


def test_without_it_lightning_goes_on(tmp_path: Path) -> None:
    assert lightning_run(tmp_path).global_step == 12
    assert not (tmp_path / "weibull/stopped.ckpt").exists()


def test_lightning_goes_on_after_a_change_that_is_announced(tmp_path: Path) -> None:
    assert lightning_run(tmp_path, announced=True, stop_on="error").global_step == 12
    found = {alert.finding.rule: alert.finding.severity for alert in read_history(tmp_path).alerts if alert.step == 5}
    assert found["impossible_change"] == "info"


def test_lightnings_tensorboard_has_the_alert_where_its_sample_is(tmp_path: Path) -> None:
    pytest.importorskip("lightning", reason="needs the lightning extra")
    from lightning.pytorch.loggers import TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path)
    lightning_run(tmp_path, logger=logger)
    reader = EventAccumulator(logger.log_dir, size_guidance={"scalars": 0, "tensors": 0})
    reader.Reload()
    marked = [e.step for e in reader.Scalars("weibull_alerts/impossible_change")]
    active = [e.step for e in reader.Scalars("weibull_alerts/active") if e.value > 0]
    assert marked[0] == active[0]
    assert reader.Tensors("weibull_alerts/impossible_change/text_summary")[0].step == active[0]


def test_lightnings_wandb_has_the_alert(tmp_path: Path) -> None:
    pytest.importorskip("lightning", reason="needs the lightning extra")
    wandb = pytest.importorskip("wandb", reason="needs the wandb extra")
    from lightning.pytorch.loggers import WandbLogger
    from trackers.wandb_offline import finished

    lightning_run(tmp_path, logger=WandbLogger(save_dir=tmp_path, offline=True))
    wandb.finish()
    titles = [r.alert.title for r in finished(tmp_path) if r.WhichOneof("record_type") == "alert"]
    assert "weibull: impossible_change (error)" in titles


@pytest.mark.parametrize("host", ["transformers", "lightning"])
def test_options_are_checked_when_the_callback_is_made(host: str) -> None:
    pytest.importorskip(host)
    from importlib import import_module

    from weibull_monitor import ConfigurationError

    callback = import_module(f"weibull_monitor.integrations.{host}").WeibullCallback
    for options, says in (
        ({"stop_on": "always"}, "stop_on is 'always'"),
        ({"alerts": {"dead": {"jmup": 1}}}, r"alerts\.dead\.jmup is not known; did you mean jump"),
        ({"webhook": "ftp://x/secret"}, "webhook is not an http"),
    ):
        with pytest.raises(ConfigurationError, match=says):
            callback(**options)
