"""A monitor that goes on from a saved state."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from weibull_monitor import WeibullMonitor, read_history

Train = Callable[..., list[float]]


def adamw(model: nn.Module, **options: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), **{"lr": 1e-3, "weight_decay": 0.1, **options})


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, train: Train) -> None:
    from conftest import TinyModel

    def begin(
        place: str, state: dict[str, object] | None = None
    ) -> tuple[nn.Module, torch.optim.Optimizer, WeibullMonitor]:
        torch.manual_seed(1)
        model = TinyModel()
        optimizer = adamw(model, weight_decay=0.5)
        if state:
            model.load_state_dict(state["model"])  # type: ignore[arg-type]
            optimizer.load_state_dict(state["optimizer"])  # type: ignore[arg-type]
        resume = json.loads(json.dumps(state["monitor"])) if state else None
        return (
            model,
            optimizer,
            WeibullMonitor(model, optimizer, every_n_steps=5, output_dir=tmp_path / place, resume=resume),
        )

    model, optimizer, monitor = begin("whole")
    torch.manual_seed(2)
    train(model, optimizer, 20, monitor.step)
    monitor.close()

    model, optimizer, monitor = begin("parts")
    torch.manual_seed(2)
    train(model, optimizer, 10, monitor.step)
    saved = {
        "model": {k: v.clone() for k, v in model.state_dict().items()},
        "optimizer": copy.deepcopy(optimizer.state_dict()),
        "monitor": monitor.state_dict(),
        "random": torch.get_rng_state(),
    }
    train(model, optimizer, 5, monitor.step)  # these steps are lost, and their samples repeated
    model, optimizer, monitor = begin("parts", saved)
    torch.set_rng_state(saved["random"])
    train(model, optimizer, 10, monitor.step)
    monitor.close()

    whole, parts = read_history(tmp_path / "whole"), read_history(tmp_path / "parts")
    assert [s.step for s in parts.snapshots] == [s.step for s in whole.snapshots]
    for a, b in zip(whole.snapshots, parts.snapshots, strict=True):
        assert a.columns == b.columns
    assert [run.resumed_from for run in parts.runs] == [None, 10]
    assert monitor.last is not None
    last = monitor.last.metrics()
    assert last["weibull_class/selection_drift_pct"] != 0.0
    assert last["weibull_scaling/t_over_tau"] == pytest.approx(20 * 1e-3 * 0.5)


def test_a_resumption_without_its_past_gives_no_wrong_number(
    tmp_path: Path, tiny_model: nn.Module, train: Train, caplog: pytest.LogCaptureFixture
) -> None:
    optimizer = adamw(tiny_model)
    monitor = WeibullMonitor(tiny_model, optimizer, every_n_steps=5, output_dir=tmp_path, resume={"step": 10})
    assert "no sample of step 0" in caplog.text
    train(tiny_model, optimizer, 5, monitor.step)
    monitor.close()
    assert monitor.last is not None
    metrics = monitor.last.metrics()
    assert monitor.last.step == 15
    assert metrics["weibull_scaling/sqrt_eta_over_wd"] == pytest.approx(0.1)
    for key in metrics:
        assert not key.startswith(
            ("weibull_scaling/budget_ratio", "weibull_scaling/effective", "weibull_scaling/t_over")
        )
        assert "drift" not in key


def test_a_resumption_that_takes_no_step_samples_nothing(tmp_path: Path, tiny_model: nn.Module) -> None:
    optimizer = torch.optim.AdamW(tiny_model.parameters())
    with WeibullMonitor(tiny_model, optimizer, output_dir=tmp_path) as first:
        first.step()
    WeibullMonitor(tiny_model, optimizer, output_dir=tmp_path, resume=first.state_dict()).close()
    last = read_history(tmp_path).snapshots[-1]
    assert last.step == 1
    assert set(last.values("eta").values()) == {1e-3}
