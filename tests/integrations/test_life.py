"""Callbacks over several trainings: trials of a search, interruptions, copies, weight averaging listed before."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from weibull_monitor import fit_weibull, read_history

transformers = pytest.importorskip("transformers", reason="needs the transformers extra")

from weibull_monitor.integrations.transformers import WeibullCallback  # noqa: E402

from .test_transformers import llama, steps, trainer  # noqa: E402


class Interrupt(transformers.TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_interrupted_trainings_leave_no_files_open(tmp_path: Path) -> None:
    callback, found = WeibullCallback(every_n_steps=1, trackers=["tensorboard"]), []
    for number in range(4):
        with pytest.raises(KeyboardInterrupt):
            trainer(tmp_path / str(number), callback, Interrupt()).train()
        gc.collect()
        found.append(len(os.listdir("/proc/self/fd")))
    assert found[-1] <= found[1]
    assert steps(tmp_path / "0") == [0, 1]


def test_a_callback_that_has_trained_has_its_options_and_not_the_model(tmp_path: Path) -> None:
    callback, model = WeibullCallback(every_n_steps=1, name="policy"), llama()
    fresh = len(pickle.dumps(callback))
    gone = weakref.ref(model)
    trainer(tmp_path / "a", callback, model=model, max_steps=2).train()
    del model
    gc.collect()
    assert gone() is None
    assert len(pickle.dumps(callback)) == fresh
    for number, again in enumerate((pickle.loads(pickle.dumps(callback)), copy.deepcopy(callback))):
        trainer(tmp_path / str(number), again, max_steps=2).train()
        assert steps(tmp_path / str(number) / "weibull" / "policy") == [0, 1, 2]


def test_copying_a_callback_in_training_disturbs_nothing(tmp_path: Path) -> None:
    callback = WeibullCallback(every_n_steps=1)

    class Copies(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            copy.deepcopy(callback)
            pickle.dumps(callback.monitor)
            gc.collect()

    trainer(tmp_path, callback, Copies(), max_steps=3).train()
    assert steps(tmp_path) == [0, 1, 2, 3]


def test_each_trial_of_a_search_has_its_own_history(tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="needs optuna")
    run = trainer(tmp_path, WeibullCallback(every_n_steps=1), max_steps=2, eval_strategy="steps", eval_steps=2)
    run.model_init = llama
    run.hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2)}, n_trials=2
    )
    assert [steps(tmp_path / f"run-{n}") for n in (0, 1)] == [[0, 1, 2]] * 2
    assert [record.trial for record in read_history(tmp_path).runs] == ["run-0", "run-1"]


def test_an_average_that_is_swapped_in_first_is_not_the_last_step(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch", reason="needs lightning")
    from weibull_monitor.integrations.lightning import WeibullCallback as Watch

    class Module(lightning.LightningModule):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.q_proj = torch.nn.Linear(32, 32)

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            return self.q_proj(batch).square().mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=1.0)

    class Keep(lightning.Callback):  # type: ignore[name-defined,misc]
        def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
            self.k = fit_weibull(module.q_proj.weight).lambda_

    keep, module = Keep(), Module()
    averaging = lightning.callbacks.StochasticWeightAveraging(swa_lrs=0.5, swa_epoch_start=1, annealing_epochs=1)
    data = torch.utils.data.DataLoader(torch.randn(12, 32), batch_size=4)
    fit = lightning.Trainer(
        max_epochs=4, accelerator="cpu", callbacks=[averaging, keep, watch := Watch(every_n_steps=50)], logger=False,
        default_root_dir=tmp_path, enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False,
    )  # fmt: skip
    fit.fit(module, data)
    history = read_history(tmp_path)
    assert history.snapshots[-1].step == 12
    assert history.series("q_proj.weight", "lambda")[-1][1] == pytest.approx(keep.k, rel=1e-8)
    assert fit_weibull(module.q_proj.weight).lambda_ != pytest.approx(keep.k, rel=1e-6)
    assert watch._trainer is None
    pickle.loads(pickle.dumps(watch))
