"""The monitor for loops on Accelerate, with its real trackers, reading back what they wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import stores
import torch
from torch import nn

from weibull_monitor import read_history

accelerate = pytest.importorskip("accelerate", reason="needs the transformers extra")

from accelerate.tracking import GeneralTracker  # noqa: E402

from weibull_monitor.integrations.accelerate import AccelerateMonitor, trackers_of  # noqa: E402

Q = "layers.0.self_attn.q_proj.weight"


class Listing(GeneralTracker):  # type: ignore[misc]
    """A tracker that somebody wrote for Accelerate."""

    name = "listing"
    requires_logging_directory = False

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int | None, dict[str, Any]]] = []

    @property
    def tracker(self) -> Any:
        return self.rows

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Not of interest."""

    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        self.rows.append((step, values))


def train(accelerator: Any, model: nn.Module, micro_batches: int) -> AccelerateMonitor:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step + 1)
    model, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)
    with AccelerateMonitor(accelerator, model, optimizer, every_n_steps=5) as monitor:
        for i in range(micro_batches):
            with accelerator.accumulate(model):
                accelerator.backward(model(torch.randn(4, 32)).square().mean())
                optimizer.step()
                monitor.step()
                scheduler.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                accelerator.log({"theirs": float(i)}, step=(i + 1) // accelerator.gradient_accumulation_steps)
    return monitor


@pytest.fixture(autouse=True)
def _one_accelerator_a_test() -> None:
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


def test_micro_batches_do_not_count_and_rates_are_those_of_the_step_taken(
    tmp_path: Path, tiny_model: nn.Module
) -> None:
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=3, project_dir=str(tmp_path))
    train(accelerator, tiny_model, micro_batches=21)
    history = read_history(tmp_path)
    assert [s.step for s in history.snapshots] == [0, 1, 2, 4, 5, 7]
    assert dict(history.series(Q, "eta")) == pytest.approx({step: step * 1e-3 for step in (1, 2, 4, 5, 7)})


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow", "trackio"])
def test_the_accelerators_trackers_get_every_sample_and_keep_their_own(
    name: str, tmp_path: Path, tiny_model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(name, reason=f"needs the {name} extra")
    monkeypatch.chdir(tmp_path)
    accelerator = accelerate.Accelerator(cpu=True, log_with=name, project_dir=str(tmp_path))
    options = {
        "wandb": {"dir": str(tmp_path)},
        "mlflow": {"run_name": "accelerated"},
        "trackio": {"name": "accelerated", "embed": False, "auto_log_gpu": False, "auto_log_cpu": False},
    }
    accelerator.init_trackers("accelerated", init_kwargs={name: options[name]} if name in options else {})
    train(accelerator, tiny_model, micro_batches=6)
    accelerator.log({"theirs": 99.0}, step=20)  # the tracker is theirs, and still open
    accelerator.end_training()
    curves = {
        "tensorboard": lambda: stores.tensorboard_curves(tmp_path),
        "wandb": lambda: stores.wandb_curves(tmp_path) | stores.wandb_curves(tmp_path, "_step"),
        "mlflow": lambda: stores.mlflow_curves("accelerated"),
        "trackio": lambda: stores.trackio_curves("accelerated", "accelerated"),
    }[name]()
    medians = {s.step: s.values("k") for s in read_history(tmp_path).snapshots}
    q = [f"layers.{block}.self_attn.q_proj.weight" for block in (0, 1)]
    wanted = [(step, pytest.approx(sum(k[n] for n in q) / 2, rel=1e-6)) for step, k in medians.items()]
    ours = stores.wandb_curves(tmp_path) if name == "wandb" else curves
    assert ours["weibull_k/attn_q"] == wanted
    assert [value for _, value in curves["theirs"]] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 99.0]


def test_a_tracker_that_somebody_wrote_for_accelerate(tmp_path: Path, tiny_model: nn.Module) -> None:
    listing = Listing()
    accelerator = accelerate.Accelerator(cpu=True, log_with=listing, project_dir=str(tmp_path))
    accelerator.init_trackers("x")
    train(accelerator, tiny_model, micro_batches=6)
    assert [step for step, values in listing.rows if "weibull_k/attn_q" in values] == [0, 1, 2, 4, 5, 6]


def test_trackers_are_looked_for_on_the_main_process_only(monkeypatch: pytest.MonkeyPatch) -> None:
    accelerator = accelerate.Accelerator(cpu=True, log_with=Listing())
    accelerator.init_trackers("x")
    assert len(trackers_of(accelerator)) == 1
    monkeypatch.setattr(type(accelerator), "is_main_process", property(lambda self: False))
    assert trackers_of(accelerator) == []  # elsewhere Accelerate's trackers have not started anything
