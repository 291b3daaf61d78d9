"""The rules about updates: on simulated histories, and on a real training that is broken in the way that they are for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from alerts.simulated import Columns, begun_in, components, healthy, index
from weibull_monitor import WeibullMonitor, read_history
from weibull_monitor.alerts import replay
from weibull_monitor.history.alert import Alert

UP = index(2, "ffn_up")


def told(columns: list[Columns]) -> list[Alert]:
    return [a for a in begun_in(columns) if a.finding.rule in ("update_growth", "update_excess")]


def with_rates(of: Callable[[int], float], samples: int = 40, noise: float = 0.0) -> list[Columns]:
    """A run whose η follows a course; RMS(u) is 0.25, give or take."""
    chance, columns = np.random.default_rng(0), healthy(samples)
    for n, now in enumerate(columns[1:], 1):
        now["eta"][:] = 1e-3 * of(n)
        u = 0.25 * np.exp(noise * chance.standard_normal(len(now["rms"])))
        now["update_ratio"] = u * now["eta"] / now["rms"]
    return columns


@pytest.mark.parametrize(
    "of",
    [
        lambda n: 1.0,
        lambda n: min(1.0, n / 10) * 0.5 * (1 + np.cos(np.pi * n / 40)),  # warm-up and cosine
        lambda n: min(1.0, n / 10) * (1.0 if n % 14 else 0.02),  # restarts
        lambda n: min(1.0, n / 10) * 0.5 * (1.01 + np.cos(np.pi * (max(0, n - 10) % 13) / 13)),
    ],
)
def test_schedules_are_no_growth(of: Callable[[int], float]) -> None:
    assert told(with_rates(of, noise=0.1)) == []


def test_a_rate_that_grows_is_told_with_its_cause() -> None:
    grown = with_rates(lambda n: 1.0 if n < 20 else 1.2 ** (n - 19))
    first = told(grown)[0].finding
    assert first.rule == "update_growth"
    assert first.step <= 250
    assert "times what it was after the warm-up" in first.meaning


def test_an_update_that_grows_at_the_same_rate_is_told_with_another_cause() -> None:
    columns = with_rates(lambda n: 1.0)
    for now in columns[25:]:
        now["update_ratio"][UP] *= 3.0
    (alert,) = told(columns)
    assert alert.finding.component == components()[UP].name
    assert (alert.finding.rule, alert.finding.step) == ("update_growth", 260)
    assert "η is no higher" in alert.finding.meaning


def test_one_batch_is_not_enough_and_unbounded_optimizers_are_not_judged() -> None:
    spike = with_rates(lambda n: 1.0)
    spike[25]["update_ratio"][:] *= 6.0
    assert told(spike) == []
    sgd = with_rates(lambda n: 1.2**n)
    for now in sgd:
        now["update_max"][:] = np.nan
    assert told(sgd) == []


def test_gradients_grow_with_what_began_at_nothing_in_their_block() -> None:
    """A gradient that is proportional to n, as that of the A of LoRA is to B, has m̂/√v̂ = √3."""
    columns, output = with_rates(lambda n: 1.0), index(2, "attn_o")
    for n, now in enumerate(columns):
        for name in ("lambda", "rms", "largest"):
            now[name][output] = 2e-3 * n
        if 12 <= n <= 17:
            for block in (1, 2):
                up = index(block, "ffn_up")
                now["update_ratio"][up] = 1.5 * now["eta"][up] / now["rms"][up]
    excess = [a.finding for a in told(columns) if a.finding.rule == "update_excess"]
    assert [(found.component, found.count) for found in excess] == [(components()[index(1, "ffn_up")].name, 1)]


@pytest.mark.parametrize("fault", [False, True])
def test_a_gradient_that_grows_faster_than_v_follows(fault: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64, bias=False), nn.GELU(), nn.Linear(64, 64, bias=False))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.9999))
    truth = torch.randn(64, 64)
    with WeibullMonitor(model, optimizer, output_dir=tmp_path, every_n_steps=10, updates=True) as monitor:
        for step in range(1, 201):
            inputs = torch.randn(8, 64)
            loss = (model(inputs) - inputs @ truth + 8 * torch.randn(8, 64)).square().mean()
            (loss * (1.2 ** max(0, step - 100) if fault else 1.0)).backward()
            optimizer.step()
            optimizer.zero_grad()
            monitor.step()
    history = read_history(tmp_path)
    found = [a for a in history.alerts if a.finding.rule.startswith("update_") and a.phase == "begins"]
    assert bool(found) == fault
    if fault:
        assert min(a.step for a in found) <= 170
    again = replay(history.snapshots, None, history.runs[-1].attention)
    assert [a for a in again if a.finding.rule.startswith("update_")] == [
        a for a in history.alerts if a.finding.rule.startswith("update_")
    ]
