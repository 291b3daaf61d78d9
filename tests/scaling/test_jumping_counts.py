"""Whatever becomes of an optimizer's own counts, Σ η of each parameter is that of the steps that were taken, or not known."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from weibull_monitor import WeibullMonitor, read_history
from weibull_monitor.scaling.tracking import BudgetTracker


class Training:
    """Five parameters in two groups, stepped with an η that may fall."""

    def __init__(self, kind: Any, per_call: int = 1) -> None:
        self.weights = [nn.Parameter(torch.ones(4, 4)) for _ in range(5)]
        self.kind, self.per_call, self.eta, self.falls = kind, per_call, 0.1, 0.97
        self.optimizer = self.make()
        self.tracker = BudgetTracker(self.optimizer)
        self.true = [0.0] * 5
        self.saved: Any = None

    def make(self) -> Any:
        return self.kind([{"params": self.weights[:2]}, {"params": self.weights[2:]}], lr=self.eta)

    def run(self, calls: int) -> None:
        for _ in range(calls):
            self.eta *= self.falls
            for factor, group in enumerate(self.optimizer.param_groups, 1):
                group["lr"] = self.eta * factor
            rates = {id(p): group["lr"] for group in self.optimizer.param_groups for p in group["params"]}
            for _ in range(self.per_call):
                for n, p in enumerate(self.weights):
                    trained = p.requires_grad and id(p) in rates
                    p.grad = torch.ones_like(p) if trained else None
                    self.true[n] += rates[id(p)] if trained else 0.0
                self.optimizer.step()
            self.tracker.advance()

    def check(self) -> None:
        held = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        found = self.tracker.by_parameter({str(n): p for n, p in enumerate(self.weights)})
        for n, p in enumerate(self.weights):
            if id(p) in held:
                budget = found[str(n)].budget
                assert budget is not None
                assert budget.path == pytest.approx(self.true[n])


def clear(t: Training) -> None:
    t.optimizer.state.clear()


def clear_one(t: Training) -> None:
    del t.optimizer.state[t.weights[3]]


def set_back(t: Training) -> None:
    for state in t.optimizer.state.values():
        state["step"].zero_()


def load(t: Training) -> None:
    t.optimizer.load_state_dict(copy.deepcopy(t.saved))


def replace(t: Training) -> None:
    t.optimizer = t.make()
    t.tracker.follow([t.optimizer])


def replace_with_its_state(t: Training) -> None:
    before = t.optimizer.state_dict()
    t.optimizer = t.make()
    t.optimizer.load_state_dict(before)
    t.tracker.follow([t.optimizer])


def freeze(t: Training) -> None:
    t.weights[4].requires_grad_(not t.weights[4].requires_grad)


def leave_or_return(t: Training) -> None:
    params = t.optimizer.param_groups[1]["params"]
    if len(params) == 3:
        params.pop()
    else:
        params.append(t.weights[4])


def move(t: Training) -> None:
    """A parameter that comes to another group, or goes back."""
    one, two = (group["params"] for group in t.optimizer.param_groups[:2])
    here, there = (one, two) if len(one) > 1 else (two, one)
    there.insert(0, here.pop())


def split(t: Training) -> None:
    """A group for each half of the largest one."""
    largest = max(t.optimizer.param_groups, key=lambda group: len(group["params"]))
    half = len(largest["params"]) // 2
    moved, largest["params"] = largest["params"][half:], largest["params"][:half]
    if half:
        t.optimizer.param_groups.append({**largest, "params": moved})
    else:
        largest["params"] = moved


EVENTS = [move, split, clear, clear_one, set_back, load, replace, replace_with_its_state, freeze, leave_or_return]


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.NAdam, torch.optim.Adagrad], ids=lambda k: k.__name__)
@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("per_call", [1, 3])
def test_no_step_is_lost(kind: Any, event: Callable[[Training], None], per_call: int) -> None:
    if kind is torch.optim.Adagrad and event in (clear, clear_one):
        pytest.skip("it makes its state when it is made")
    t = Training(kind, per_call)
    if event in (freeze, leave_or_return):
        t.falls = 1.0  # which of the calls of an interval were steps is not known
    t.run(4)
    t.saved = copy.deepcopy(t.optimizer.state_dict())
    t.run(5)
    t.check()
    for calls in (7, 8, 3):  # twice, and before and after other numbers of steps
        t.run(calls)
        event(t)
        t.run(calls - 2)
        t.check()


def test_a_reset_before_the_first_sample() -> None:
    t = Training(torch.optim.AdamW)
    t.run(6)
    clear(t)
    t.run(3)
    t.check()


def test_a_state_that_is_emptied_twice_between_samples_is_not_taken_for_fewer_steps() -> None:
    t = Training(torch.optim.AdamW)
    t.run(5)
    t.check()
    for empty in (clear_one, clear):
        t.run(4)
        empty(t)
    t.run(3)
    found = t.tracker.by_parameter({str(n): p for n, p in enumerate(t.weights)})
    known = {n: info.budget.path for n, info in found.items() if info.budget is not None}
    assert known == pytest.approx({n: t.true[int(n)] for n in "0124"})


def test_fused_steps_that_a_loss_scaler_skips() -> None:
    weight = nn.Parameter(torch.ones(4, 4))
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)
    tracker, scaler = BudgetTracker(optimizer), torch.amp.GradScaler("cpu")
    for step in range(8):
        weight.grad = scaler.scale(torch.full_like(weight, torch.inf if step in (3, 6) else 1.0))
        scaler.step(optimizer)
        scaler.update()
        tracker.advance()
    budget = tracker.by_parameter({"w": weight})["w"].budget
    assert budget is not None
    assert budget.path == pytest.approx(0.6)


def test_a_number_that_went_back_further_than_one_call_says_nothing() -> None:
    t = Training(torch.optim.AdamW)
    t.run(1)
    for count in (20, 21, 7):
        for state in t.optimizer.state.values():
            state["step"] = count
        t.tracker.advance()
    info = t.tracker.by_parameter({"0": t.weights[0]})["0"]
    assert info.budget is None


def test_calls_without_a_step_between_others_hide_no_sum() -> None:
    t = Training(torch.optim.AdamW)
    for _ in range(5):
        t.run(3)
        t.tracker.advance()
    t.check()


def test_a_count_that_is_a_new_tensor_at_each_step() -> None:
    made: Any = type("Other", (torch.optim.Optimizer,), {})(
        [nn.Parameter(torch.ones(4, 4)) for _ in range(2)], {"lr": 0.1}
    )
    weights = made.param_groups[0]["params"]
    tracker = BudgetTracker(made)
    for count in (1, 2, 3, 4, 1, 2):
        for p in weights:
            made.state[p] = {"step": torch.tensor(float(count))}
        tracker.advance()
    found = tracker.by_parameter(dict(zip("ab", weights, strict=True)))
    assert [round(info.budget.path, 6) for info in found.values() if info.budget] == [0.6, 0.6]


def test_what_was_seen_before_a_restored_state_is_not_counted_after_it() -> None:
    t = Training(torch.optim.AdamW)
    t.falls = 1.0
    t.run(4)
    t.check()
    for calls in (2, 3):  # it leaves, and returns, which is not noticed before the restoration
        leave_or_return(t)
        t.run(calls)
        if calls == 2:
            t.check()
    t.tracker.restore(t.tracker.state(), t.tracker.watched())
    t.run(2)
    found = t.tracker.by_parameter({"3": t.weights[3], "4": t.weights[4]})
    assert [info.budget and info.budget.path for info in found.values()] == pytest.approx(t.true[3:])


class Lion(torch.optim.Optimizer):
    """Without a step count, as all of its kind; two writes a step."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                self.state[p].setdefault("exp_avg", torch.zeros_like(p)).lerp_(p.grad, 0.1)
                p.mul_(1.0 - 0.1 * group["lr"])
                p.sub_(group["lr"] * self.state[p]["exp_avg"].sign())


@pytest.mark.parametrize("event", [None, freeze, leave_or_return, clear])
@pytest.mark.parametrize(("per_call", "known"), [(1, True), (4, False)])
def test_several_steps_of_an_optimizer_without_a_count_make_the_sum_unknown(
    per_call: int, known: bool, event: Callable[[Training], None] | None
) -> None:
    """Nothing says how many they were; with too small a sum, what they do would be taken for impossible."""
    t = Training(Lion, per_call)
    t.falls = 1.0
    for calls in (1, 6, 4):
        t.run(calls)
        if event is not None:
            event(t)
            t.run(2)
        found = t.tracker.by_parameter({str(n): p for n, p in enumerate(t.weights[:4])})
        for n, info in found.items():
            assert (info.budget is not None) is known
            assert info.budget is None or info.budget.path == pytest.approx(t.true[int(n)])


def live(tmp_path: Path, event: Callable[[nn.Module, Any], Any]) -> Any:
    """A training with an event between two samples, and its history."""
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(48, 48) for _ in range(4)])
    optimizer: Any = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95))
    monitor = WeibullMonitor(model, optimizer, every_n_steps=10, output_dir=tmp_path)
    for step in range(1, 61):
        if step == 38:
            optimizer = event(model, optimizer) or optimizer
        inputs = torch.randn(16, 48)
        optimizer.zero_grad()
        (model(inputs) - inputs.roll(1, -1)).square().mean().backward()
        optimizer.step()
        monitor.step(step)
    monitor.close()
    return read_history(tmp_path)


def test_an_optimizer_that_begins_anew_is_no_impossible_change(tmp_path: Path) -> None:
    history = live(tmp_path, lambda model, optimizer: optimizer.state.clear())
    assert "impossible_change" not in {a.finding.rule for a in history.alerts}
    sums = history.snapshots[-1].values("eta_sum")
    assert sums == pytest.approx(dict.fromkeys(sums, 60 * 3e-3))
    assert len(sums) == 4


def test_where_an_optimizer_steps_that_is_not_followed_the_sum_is_not_known(tmp_path: Path) -> None:
    history = live(tmp_path, lambda model, optimizer: torch.optim.AdamW(model.parameters(), lr=3e-3))
    assert "impossible_change" not in {a.finding.rule for a in history.alerts}
    assert history.snapshots[3].values("eta_sum")
    assert not history.snapshots[-1].values("eta_sum")
    assert history.snapshots[-1].withheld["unknown_past"] == 4
