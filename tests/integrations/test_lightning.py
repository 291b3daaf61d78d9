"""The callback in the real Lightning Trainer, with its real loggers, reading back what they wrote."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import stores
import torch
from torch import nn

from weibull_monitor import ConfigurationError, read_history

lightning = pytest.importorskip("lightning", reason="needs the lightning extra")

from lightning.pytorch import Trainer  # noqa: E402
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint  # noqa: E402
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger  # noqa: E402

from weibull_monitor.integrations.lightning import WeibullCallback  # noqa: E402

ROOT = Path(__file__).parents[2]
Q = "self_attn.q_proj.weight"


class Lit(lightning.LightningModule):  # type: ignore[name-defined,misc]
    """Two matrices, one AdamW with a rate that rises by 1e-3 a step."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn = nn.ModuleDict({"q_proj": nn.Linear(16, 16), "o_proj": nn.Linear(16, 16)})

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("train_loss", loss)
        return loss

    def loss(self, batch: torch.Tensor) -> torch.Tensor:
        y = self.self_attn["o_proj"](torch.tanh(self.self_attn["q_proj"](batch)))
        return torch.nn.functional.mse_loss(y, batch)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3, weight_decay=0.1)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step + 1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Validated(Lit):
    """The same for trainings that have data to validate with."""

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))


class Adversaries(Lit):
    """Two optimizers by hand: one steps on every batch, the other on every second."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        often, seldom = self.optimizers()
        for optimizer, takes_part in ((often, True), (seldom, batch_idx % 2 == 1)):
            if takes_part:
                optimizer.zero_grad()
                self.manual_backward(self.loss(batch))
                optimizer.step()
        often.optimizer.param_groups[0]["lr"] = 0.5  # what a scheduler would do: the step just taken had another rate

    def on_train_batch_start(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.optimizers()[0].optimizer.param_groups[0]["lr"] = 1e-3

    def configure_optimizers(self) -> Any:
        return [
            torch.optim.AdamW(self.self_attn["q_proj"].parameters(), lr=1e-3, weight_decay=0.1),
            torch.optim.AdamW(self.self_attn["o_proj"].parameters(), lr=2e-3, weight_decay=0.2),
        ]


class Accumulating(Validated):
    """One optimizer by hand, which steps on every third batch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.manual_backward(self.loss(batch))
        if batch_idx % 3 == 2:
            self.optimizers().step()
            self.optimizers().zero_grad()


def data(batches: int = 12) -> Any:
    return torch.utils.data.DataLoader(torch.randn(4 * batches, 16), batch_size=4)


def trainer(where: Path, *callbacks: Any, **options: Any) -> Any:
    given: dict[str, Any] = {
        "default_root_dir": where,
        "accelerator": "cpu",
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
    }
    return Trainer(callbacks=list(callbacks), **given | options)


def steps(where: Path) -> list[int]:
    return [snapshot.step for snapshot in read_history(where).snapshots]


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "level", logging.ERROR)


@pytest.mark.filterwarnings("ignore")
def test_every_logger_of_the_trainer_at_its_own_step(tmp_path: Path, documented_key: Any) -> None:
    loggers = [
        TensorBoardLogger(tmp_path, name="tb"),
        CSVLogger(tmp_path, name="csv"),
        WandbLogger(save_dir=tmp_path / "wandb", offline=True),
        MLFlowLogger(run_name="lightning", tracking_uri=os.environ["MLFLOW_TRACKING_URI"]),
    ]
    callback = WeibullCallback(every_n_steps=5)
    trainer(tmp_path, callback, LearningRateMonitor(), logger=loggers, limit_val_batches=2).fit(
        Validated(), data(), data(2)
    )
    import wandb

    wandb.finish()
    place = Path(loggers[0].log_dir)
    assert steps(place) == [0, 1, 2, 4, 5, 8, 10, 12]
    k = dict(read_history(place).series(Q))
    found = {
        "tensorboard": stores.tensorboard_curves(place),
        "csv": stores.csv_curves(tmp_path / "csv"),
        "wandb": stores.wandb_curves(tmp_path / "wandb", "trainer/global_step"),
        "mlflow": stores.mlflow_curves("lightning"),
    }
    for name, curves in found.items():
        assert curves["weibull_k/attn_q"] == [(step, pytest.approx(k[step], rel=1e-6)) for step in k], name
        ours = {key for key in curves if key.startswith("weibull_")}
        assert len(ours) > 20
        assert all(documented_key(key) for key in ours)
        assert len(curves["train_loss"]) == 12, name  # nothing of the host's was dropped
        # Where the rate of the next step is logged, there are the weights that it moves.
        rate = dict(curves["lr-AdamW"])
        eta = dict(read_history(place).series(Q, "eta"))
        assert rate[4] == pytest.approx(eta[5], rel=1e-6), name
    assert len(list(place.glob("events.*"))) == 1


@pytest.mark.parametrize(
    ("model", "options", "sampled", "rates"),
    [
        pytest.param(Validated, {}, [0, 1, 2, 4, 5, 8, 10, 12], {5: 5e-3, 12: 12e-3}, id="automatic"),
        pytest.param(
            Validated, {"accumulate_grad_batches": 2}, [0, 1, 2, 4, 5, 6], {5: 5e-3, 6: 6e-3}, id="accumulation"
        ),
        pytest.param(
            Validated, {"val_check_interval": 3}, [0, 1, 2, 4, 5, 8, 10, 12], {12: 12e-3}, id="validation between"
        ),
        pytest.param(Accumulating, {}, [0, 1, 2, 4], {1: 1e-3, 4: 1e-3}, id="manual accumulation"),
    ],
)
def test_steps_are_those_of_the_optimizer_and_rates_those_of_the_step_taken(
    tmp_path: Path, model: type[Lit], options: dict[str, Any], sampled: list[int], rates: dict[int, float]
) -> None:
    trainer(tmp_path, WeibullCallback(every_n_steps=5), **options).fit(model(), data(), data(2))
    assert steps(tmp_path) == sampled
    used = dict(read_history(tmp_path).series(Q, "eta"))
    assert {step: used[step] for step in rates} == pytest.approx(rates)


def test_several_optimizers_are_followed_apart(tmp_path: Path) -> None:
    callback = WeibullCallback(every_n_steps=5)
    run = trainer(tmp_path, callback)
    run.fit(Adversaries(), data())
    assert run.global_step == 18  # Lightning counts every optimizer; we count rounds
    assert steps(tmp_path) == [0, 1, 2, 4, 5, 8, 10, 12]
    history = read_history(tmp_path)
    assert set(dict(history.series(Q, "eta")).values()) == {1e-3}
    other = dict(history.series("self_attn.o_proj.weight", "eta"))
    assert min(other) == 2  # it has not stepped before
    often, seldom = callback.state_dict()["budgets"]
    assert often[0][1] == pytest.approx(12 * 1e-3 * 0.1)
    assert seldom[0][1] == pytest.approx(6 * 2e-3 * 0.2)


def test_fit_twice_goes_on(tmp_path: Path) -> None:
    callback = WeibullCallback(every_n_steps=5)
    run = trainer(tmp_path, callback)
    model = Lit()
    run.fit(model, data())
    spent = callback.state_dict()["budgets"]
    run.fit_loop.max_epochs = 2
    run.fit(model, data())
    assert steps(tmp_path) == [0, 1, 2, 4, 5, 8, 10, 12, 15, 16, 20, 24]
    history = read_history(tmp_path)
    assert [r.resumed_from for r in history.runs] == [None, 12]
    assert callback.state_dict()["budgets"][0][0][1] > spent[0][0][1]
    trainer(tmp_path, callback).fit(Lit(), data())  # another Trainer begins anew
    assert steps(tmp_path) == [0, 1, 2, 4, 5, 8, 10, 12]


def test_a_resumed_run_goes_on_in_the_directory_of_the_first(tmp_path: Path) -> None:
    def run(logger: CSVLogger, epochs: int, **resume: Any) -> WeibullCallback:
        callback = WeibullCallback(every_n_steps=4)
        checkpoint = ModelCheckpoint(tmp_path, "last", save_top_k=-1, enable_version_counter=False)
        fit = trainer(tmp_path, callback, checkpoint, logger=logger, max_epochs=epochs, enable_checkpointing=True)
        fit.fit(Lit(), data(8), **resume)
        return callback

    first, second = CSVLogger(tmp_path, name="csv", version=0), CSVLogger(tmp_path, name="csv", version=1)
    run(first, epochs=1)
    run(second, epochs=2, ckpt_path=tmp_path / "last.ckpt")
    assert steps(Path(first.log_dir)) == [0, 1, 2, 4, 8, 12, 16]
    assert not (Path(second.log_dir) / "weibull").exists()
    curves = stores.csv_curves(Path(second.log_dir))
    assert [step for step, _ in curves["weibull_class/selection_drift_pct"]] == [12, 16]
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)  # plain values only
    assert saved["callbacks"]["weibull_monitor"]["step"] == 16


def test_without_a_logger_there_is_the_history_and_one_notice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer(tmp_path, WeibullCallback(every_n_steps=5)).fit(Lit(), data())
    assert steps(tmp_path)[-1] == 12
    assert caplog.text.count("the Trainer has no logger") == 1


def test_a_trial_run_and_sanity_checking_are_not_sampled(tmp_path: Path) -> None:
    trainer(tmp_path / "trial", WeibullCallback(every_n_steps=1), fast_dev_run=True).fit(Validated(), data(), data(2))
    assert not list((tmp_path / "trial").rglob("history.jsonl"))
    callback = WeibullCallback(every_n_steps=5)

    class Watching(Validated):
        def on_validation_start(self) -> None:
            assert not self.trainer.sanity_checking or callback.monitor is None

    trainer(tmp_path / "real", callback, num_sanity_val_steps=2).fit(Watching(), data(), data(2))
    assert steps(tmp_path / "real")[0] == 0
    trainer(tmp_path / "real", callback).validate(Validated(), data(2), verbose=False)
    assert steps(tmp_path / "real")[-1] == 12


def test_a_second_callback_is_refused_and_wrong_options_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="more than one stateful callback of type `WeibullCallback`"):
        trainer(tmp_path, WeibullCallback(), WeibullCallback())
    with pytest.raises(ConfigurationError, match="every_n_steps is 0"):
        WeibullCallback(every_n_steps=0)
    with pytest.raises(ConfigurationError, match="tensorbord"):
        WeibullCallback(trackers=["tensorbord"])


def test_a_monitor_that_cannot_be_set_up_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = trainer(tmp_path, WeibullCallback(include="nothing_has_this_name"))
    run.fit(Lit(), data())
    assert run.global_step == 12
    assert caplog.text.count("setting up weibull_monitor failed") == 1


def test_users_of_pytorch_lightning_need_no_lightning(tmp_path: Path) -> None:
    program = f"""
import sys, torch, pytorch_lightning as pl
from weibull_monitor.integrations.lightning import WeibullCallback
class Lit(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.fc1 = torch.nn.Linear(16, 16)
    def training_step(self, batch, index):
        return self.fc1(batch).square().mean()
    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters())
assert issubclass(WeibullCallback, pl.Callback) and "lightning.pytorch" not in sys.modules
pl.Trainer(max_steps=3, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
           default_root_dir={str(tmp_path)!r}, callbacks=[WeibullCallback()]).fit(
    Lit(), torch.utils.data.DataLoader(torch.randn(16, 16), batch_size=4))
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, capture_output=True, text=True)
    assert steps(tmp_path) == [0, 1, 2, 3]


class Scheduled(Lit):
    """Wide enough for λ to be smooth, on gradients of random sign, for which the law holds exactly."""

    def __init__(self, schedule: str) -> None:
        super().__init__()
        self.schedule = schedule
        self.self_attn = nn.ModuleDict({name: nn.Linear(96, 96, bias=False) for name in ("q_proj", "o_proj")})
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.02)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(self.trainer.global_step)
        signs = [torch.randn(p.shape, generator=generator).sign() for p in self.parameters()]
        return sum((p * sign).sum() for p, sign in zip(self.parameters(), signs, strict=True))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2, weight_decay=1.0, betas=(0.0, 0.0))
        schedulers = torch.optim.lr_scheduler
        if self.schedule == "none":
            return optimizer
        config = {
            "step": {"scheduler": schedulers.CosineAnnealingLR(optimizer, T_max=120), "interval": "step"},
            "epoch": {"scheduler": schedulers.ExponentialLR(optimizer, 0.8)},
            "every third": {
                "scheduler": schedulers.ExponentialLR(optimizer, 0.97),
                "interval": "step",
                "frequency": 3,
            },
            "plateau": {"scheduler": schedulers.ReduceLROnPlateau(optimizer), "monitor": "none", "strict": False},
        }[self.schedule]
        return {"optimizer": optimizer, "lr_scheduler": config}


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("schedule", ["none", "step", "epoch", "every third"])
def test_the_schedule_is_read_for_a_forecast(tmp_path: Path, schedule: str, accumulate: int) -> None:
    callback = WeibullCallback(every_n_steps=10)
    run = trainer(tmp_path, callback, max_epochs=6, accumulate_grad_batches=accumulate)
    run.fit(Scheduled(schedule), data(20 * accumulate))
    history = read_history(tmp_path)
    assert history.runs[0].total_steps == run.global_step == 120
    end = history.snapshots[-1].values("lambda")
    foretold = dict(history.series(Q, "lambda_forecast"))
    assert list(foretold) == [30, 32, 40, 50, 60, 64, 70, 80, 90, 100, 110, 120]
    for step in (60, 90, 120):
        assert foretold[step] == pytest.approx(end[Q], rel=0.04), step


@pytest.mark.parametrize("model", [lambda: Scheduled("plateau"), Accumulating], ids=["plateau", "manual optimization"])
def test_where_the_schedule_cannot_be_known_there_is_no_forecast(tmp_path: Path, model: Any) -> None:
    trainer(tmp_path, WeibullCallback(every_n_steps=5), max_epochs=4).fit(model(), data(20))
    last = read_history(tmp_path).snapshots[-1]
    assert not last.values("lambda_forecast")
    assert set(last.withheld) <= {"no_schedule", "shrunk"}


def test_a_resumed_fit_forecasts_as_an_uninterrupted_one(tmp_path: Path) -> None:
    def fit(where: Path, **resume: Any) -> Any:
        checkpoint = ModelCheckpoint(
            where, "{step}", every_n_train_steps=60, save_top_k=-1, enable_version_counter=False
        )
        callback = WeibullCallback(every_n_steps=10, output_dir=where)
        torch.manual_seed(0)
        trainer(where, callback, checkpoint, max_epochs=6, enable_checkpointing=True).fit(
            Scheduled("step"), data(20), **resume
        )
        return {s.step: (s.columns, s.withheld) for s in read_history(where).snapshots}

    whole = fit(tmp_path)
    again = fit(tmp_path, ckpt_path=tmp_path / "step=60.ckpt")
    assert read_history(tmp_path).runs[-1].resumed_from == 60
    assert again == whole
    assert any(value is not None for value in whole[100][0]["lambda_forecast"])
