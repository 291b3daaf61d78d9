"""Calls that are noted quickly give the budgets of those that are looked at closely."""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from weibull_monitor.scaling import tracked as tracking
from weibull_monitor.scaling.tracking import BudgetTracker

OPTIMIZERS: dict[str, Callable[[list[dict[str, Any]]], torch.optim.Optimizer]] = {
    "AdamW": lambda groups: torch.optim.AdamW(groups, lr=1e-3),
    "AdamW, one by one": lambda groups: torch.optim.AdamW(groups, lr=1e-3, foreach=False),
    "AdamW, fused": lambda groups: torch.optim.AdamW(groups, lr=1e-3, fused=True),
    "Adam without decay": lambda groups: torch.optim.Adam(groups, lr=1e-3, weight_decay=0),
    "NAdam": lambda groups: torch.optim.NAdam(groups, lr=1e-3),
    "Adafactor": lambda groups: torch.optim.Adafactor(groups, lr=1e-3),
    "SGD": lambda groups: torch.optim.SGD(groups, lr=1e-3, momentum=0.9),
}


def weights(n: int = 3) -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(4, 4)) for _ in range(n)]


def train(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> None:
    for p in parameters:
        p.grad = torch.ones_like(p)
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_most_steps_are_noted_quickly(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "deepspeed", raising=False)  # where it is imported, each call is looked at closely
    parameters = weights()
    optimizer = OPTIMIZERS[name]([{"params": parameters[:1]}, {"params": parameters[1:]}])
    tracker = BudgetTracker(optimizer)
    quickly = []
    for step in range(6):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 / (1 + step)
        train(optimizer, parameters)
        tracker.advance()
        quick = tracker._tracked[0]._quick
        quickly.append(quick is not None and bool(quick.rates))
    assert quickly == ([False] * 6 if name == "SGD" else [False, *[True] * 5])
    found = tracker.by_parameter({str(n): p for n, p in enumerate(parameters)})
    assert {info.budget.path for info in found.values() if info.budget} == {sum(1e-3 / (1 + step) for step in range(6))}


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_the_budgets_are_the_same(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skipped steps, frozen parameters, schedules, loaded states, new groups, counts that are written to, samples between."""

    def run(quickly: bool) -> list[Any]:
        with monkeypatch.context() as patched:
            if not quickly:
                patched.setattr(tracking.QuickCalls, "of", classmethod(lambda cls, *args: None))
            dice = random.Random(seed)
            parameters = weights(6)
            names = {str(n): p for n, p in enumerate(parameters)}
            groups = [{"params": parameters[:2]}, {"params": parameters[2:4], "weight_decay": 0.1}]
            one = torch.optim.AdamW(groups, lr=1e-3)
            two = torch.optim.AdamW(parameters[4:5], lr=1e-2)
            tracker = BudgetTracker([one, two])
            out: list[Any] = []
            for _ in range(60):
                what = dice.random()
                if what < 0.06:
                    parameters[dice.randrange(4)].requires_grad_(dice.random() < 0.5)
                elif what < 0.10:
                    one.load_state_dict(copy.deepcopy(one.state_dict()))
                elif what < 0.13 and len(one.param_groups) == 2:
                    one.add_param_group({"params": parameters[5:], "lr": 1e-4})
                elif what < 0.16:
                    one.param_groups[0]["weight_decay"] = dice.choice([0, 0.01, 0.2])
                elif what < 0.18:
                    for state in one.state.values():
                        state["step"].zero_()
                elif what < 0.2:
                    one.state.clear()
                for group in one.param_groups:
                    group["lr"] *= 0.99
                stepped = dice.choice([one, one, one, one, two, None])
                if stepped is not None:
                    held = [p for group in stepped.param_groups for p in group["params"] if p.requires_grad]
                    train(stepped, held)
                tracker.advance()
                if dice.random() < 0.1:
                    out.append(tracker.by_parameter(names))
            out += [tracker.by_parameter(names), tracker.state()]
            return out

    quick, close = run(True), run(False)
    assert len(quick) == len(close)
    for mine, theirs in zip(quick[:-1], close[:-1], strict=True):
        assert mine.keys() == theirs.keys()
        for name in mine:
            assert mine[name] == theirs[name], name
    assert quick[-1] == close[-1]
