"""The learning rates to come are those that the scheduler then sets, and reading them off changes nothing."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as lr

from weibull_monitor import ConfigurationError, WeibullMonitor
from weibull_monitor.scaling.learning_rates import Rule, as_rules, plan_ahead, rates_ahead

TOTAL = 40


def optimizer_of() -> torch.optim.Optimizer:
    groups = [{"params": [nn.Parameter(torch.ones(4, 4))], "lr": rate} for rate in (1e-2, 3e-3)]
    return torch.optim.AdamW(groups)


SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "constant": lambda o: lr.ConstantLR(o, factor=1.0),
    "lambda": lambda o: lr.LambdaLR(o, [lambda n: 1 / (n + 1), lambda n: 0.9**n]),
    "cosine": lambda o: lr.CosineAnnealingLR(o, T_max=TOTAL, eta_min=1e-4),
    "restarts": lambda o: lr.CosineAnnealingWarmRestarts(o, T_0=5, T_mult=2),
    "one cycle": lambda o: lr.OneCycleLR(o, max_lr=[0.1, 0.2], total_steps=TOTAL),
    "cyclic": lambda o: lr.CyclicLR(o, base_lr=1e-4, max_lr=1e-2, step_size_up=7, cycle_momentum=False),
    "multiplicative": lambda o: lr.MultiplicativeLR(o, lambda n: 0.97),
    "steps": lambda o: lr.MultiStepLR(o, [3, 17], gamma=0.3),
    "warm-up, stable, decay": lambda o: lr.SequentialLR(
        o,
        [lr.LinearLR(o, 0.1, total_iters=5), lr.ConstantLR(o, 1.0), lr.LinearLR(o, 1.0, 0.0, total_iters=10)],
        milestones=[5, 30],
    ),
    "chained": lambda o: lr.ChainedScheduler([lr.ExponentialLR(o, 0.95), lr.LinearLR(o, 0.2, total_iters=6)], o),
}


@pytest.mark.parametrize("start", [0, 1, 9])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_rates_read_off_are_those_that_follow(name: str, start: int) -> None:
    optimizer = optimizer_of()
    scheduler = SCHEDULERS[name](optimizer)
    used = []
    for step in range(1, TOTAL + 1):
        if step - 1 == start:  # the step was taken, the scheduler has not moved on
            before = copy.deepcopy(state_of(scheduler)), copy.deepcopy([g["lr"] for g in optimizer.param_groups])
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                ahead = rates_ahead(Rule(scheduler), start, TOTAL, [g["lr"] for g in optimizer.param_groups])
            assert (state_of(scheduler), [g["lr"] for g in optimizer.param_groups]) == before
        if step > 1:
            scheduler.step()
        used.append([float(group["lr"]) for group in optimizer.param_groups])
        optimizer.step()
    assert ahead is not None
    assert ahead.shape == (2, TOTAL - start)
    np.testing.assert_allclose(ahead.T, used[start:], rtol=1e-12)


def state_of(scheduler: Any) -> Any:
    plain = {k: v for k, v in vars(scheduler).items() if isinstance(v, (int, float, list, tuple, str, bool))}
    plain.pop("_schedulers", None)
    return plain, [state_of(part) for part in getattr(scheduler, "_schedulers", [])]


HF = ["linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt"]


@pytest.mark.parametrize("name", [*HF, "warmup_stable_decay", "cosine_with_min_lr"])
def test_every_schedule_of_transformers(name: str) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the transformers extra")
    options = {
        "warmup_stable_decay": {"num_decay_steps": 10},
        "cosine_with_min_lr": {"min_lr_rate": 0.1},
    }.get(name, {})
    optimizer = optimizer_of()
    scheduler = transformers.get_scheduler(name, optimizer, 5, TOTAL, scheduler_specific_kwargs=options)
    ahead = rates_ahead(Rule(scheduler), 0, TOTAL, [0.0, 0.0])
    used = []
    for _ in range(TOTAL):
        used.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    assert ahead is not None
    np.testing.assert_allclose(ahead.T, used, rtol=1e-12)


def test_a_scheduler_that_steps_once_an_epoch() -> None:
    optimizer = optimizer_of()
    rule = Rule(lr.StepLR(optimizer, step_size=1, gamma=0.5), ticks=lambda step: int(step % 10 == 0))
    ahead = rates_ahead(rule, 5, 30, [1e-2, 3e-3])
    assert ahead is not None
    assert ahead[0].tolist() == pytest.approx([1e-2] * 5 + [5e-3] * 10 + [2.5e-3] * 10)


def test_a_function_is_in_proportion() -> None:
    ahead = rates_ahead(Rule(lambda step: 7.0 / step), 2, 5, [0.3, 0.6])
    assert ahead is not None
    np.testing.assert_allclose(ahead, [[0.2, 0.15, 0.12], [0.4, 0.3, 0.24]])
    assert rates_ahead(Rule(lambda step: max(0.0, step - 5.0)), 2, 9, [0.0]) is None  # 0 to what?


class Adamant(lr.LRScheduler):
    """Refuses to go on without a loss."""

    def get_lr(self) -> list[float]:
        return [group["lr"] for group in self.optimizer.param_groups]

    def step(self, loss: float | None = None) -> None:  # type: ignore[override]
        if self.last_epoch >= 0 and loss is None:
            raise TypeError("a loss, please")
        super().step()


@pytest.mark.parametrize("make", [lambda o: lr.ReduceLROnPlateau(o), Adamant], ids=["plateau", "raises"])
def test_what_cannot_be_known_is_not_known(make: Callable[[Any], Any]) -> None:
    optimizer = optimizer_of()
    assert rates_ahead(Rule(make(optimizer)), 1, TOTAL, [1e-2, 3e-3]) is None


def test_the_model_that_a_scheduler_holds_is_not_copied() -> None:
    class Held(nn.Module):
        def __deepcopy__(self, memo: Any) -> Any:
            raise AssertionError("copied")

    class WithModel(lr.ExponentialLR):
        model = None

    optimizer = optimizer_of()
    scheduler = WithModel(optimizer, 0.9)
    scheduler.model = Held()  # type: ignore[assignment]
    ahead = rates_ahead(Rule(scheduler), 0, 3, [1e-2, 3e-3])
    assert ahead is not None
    assert ahead[0].tolist() == pytest.approx([1e-2, 9e-3, 8.1e-3])


def test_what_is_no_scheduler_is_refused_with_advice(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"scheduler is a float; pass a scheduler of torch\.optim"):
        as_rules(1e-3)
    with pytest.raises(ConfigurationError, match="total_steps is 0; it must be an integer of at least 1"):
        WeibullMonitor(nn.Sequential(nn.Linear(32, 32)), total_steps=0, output_dir=tmp_path)
    assert as_rules(None) == []
    assert len(as_rules([math.sqrt, Rule(math.sqrt)])) == 2


@pytest.mark.parametrize("name", SCHEDULERS)
def test_long_schedules_are_planned_from_a_few_hundred_rates(name: str) -> None:
    optimizer = optimizer_of()
    scheduler = SCHEDULERS[name](optimizer)
    if name != "one cycle":  # it ends
        plan = plan_ahead(Rule(scheduler), 0, 3_000, [1e-2, 3e-3])
        assert plan is not None
        for step in range(1, 1_000):
            if step > 1:
                scheduler.step()
            if step % 37 == 0:
                assert plan[0].rate(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=plan[0].tolerance)
            optimizer.step()


def test_a_rate_that_was_changed_goes_on_from_there() -> None:
    optimizer = optimizer_of()
    scheduler = lr.CosineAnnealingLR(optimizer, T_max=TOTAL, eta_min=1e-4)
    for step in range(2 * TOTAL):
        if step == 10:
            for group in optimizer.param_groups:
                group["lr"] *= 0.5
            ahead = rates_ahead(Rule(scheduler), step, 2 * TOTAL, [1.0, 1.0])
            assert ahead is not None
        optimizer.step()
        scheduler.step()
        if 10 <= step < 2 * TOTAL - 1:
            assert ahead[:, step - 10] == pytest.approx([group["lr"] for group in optimizer.param_groups], rel=1e-9)
