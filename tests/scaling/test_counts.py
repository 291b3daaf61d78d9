"""Steps that were not taken spend nothing, and those that were taken are spent, whoever counts the calls."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from stepping import take
from torch import nn

from weibull_monitor import ConfigurationError
from weibull_monitor.scaling.budget import Budget
from weibull_monitor.scaling.optimizers import rule_of
from weibull_monitor.scaling.tracking import BudgetTracker, as_optimizers


def weights(count: int) -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(4, 4)) for _ in range(count)]


def spent(tracker: BudgetTracker, *parameters: nn.Parameter) -> list[float | None]:
    """Σ η of each parameter, in units of η = 0.1; None if it was never stepped."""
    found = tracker.by_parameter({str(n): p for n, p in enumerate(parameters)})
    out: list[float | None] = []
    for n in range(len(parameters)):
        info = found.get(str(n))
        out.append(None if info is None or info.budget is None else round(info.budget.path / 0.1, 6))
    return out


KINDS = [torch.optim.AdamW, torch.optim.SGD]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", [True, False])
def test_frozen_parameters_spend_nothing_until_they_are_unfrozen(kind: Any, first: bool) -> None:
    frozen, trained = weights(2)
    frozen.requires_grad_(False)
    optimizer = kind([frozen, trained] if first else [trained, frozen], lr=0.1)
    tracker = BudgetTracker(optimizer)
    for step in range(10):
        if step == 6:
            frozen.requires_grad_(True)
        take(optimizer)
        tracker.advance()
        if step in (2, 5):
            assert spent(tracker, frozen, trained) == [None, step + 1]
    assert spent(tracker, frozen, trained) == [4, 10]


@pytest.mark.parametrize("kind", KINDS)
def test_calls_without_a_step_spend_nothing(kind: Any) -> None:
    (weight,) = weights(1)
    optimizer = kind([weight], lr=0.1)
    tracker = BudgetTracker(optimizer)
    take(optimizer)
    for _ in range(3):  # the first of them is the step, then a loss scaler skips two
        tracker.advance()
    take(optimizer)
    tracker.advance()
    assert spent(tracker, weight) == [2]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("early", [True, False])
def test_a_loss_scaler_that_skips_the_first_steps(kind: Any, early: bool) -> None:
    (weight,) = weights(1)
    optimizer = kind([weight], lr=0.1)
    scaler = torch.amp.GradScaler("cpu")
    tracker = BudgetTracker(optimizer)
    for step in range(5):
        weight.grad = scaler.scale(torch.full_like(weight, torch.inf if step < 2 else 1.0))
        scaler.step(optimizer)
        scaler.update()
        if early:
            optimizer.zero_grad()
        tracker.advance()
        optimizer.zero_grad()
    assert spent(tracker, weight) == [3]


@pytest.mark.parametrize("kind", KINDS)
def test_steps_that_were_presumed_are_taken_back_when_an_optimizer_is_seen_to_step(kind: Any) -> None:
    first, second = weights(2)
    optimizers = [kind([first], lr=0.1), torch.optim.AdamW([second], lr=0.1)]
    tracker = BudgetTracker(optimizers)
    for _ in range(3):  # nothing shows whether these were steps
        tracker.advance()
    assert spent(tracker, first, second) == [3, 3]
    take(optimizers[0])
    tracker.advance()
    assert spent(tracker, first, second) == [1, None]
    take(optimizers[1])
    tracker.advance()
    assert spent(tracker, first, second) == [1, 1]


def test_a_gradient_that_waits_for_an_optimizer_shows_that_it_has_not_stepped() -> None:
    (weight,) = weights(1)
    tracker = BudgetTracker(torch.optim.AdamW([weight], lr=0.1))
    weight.grad = torch.ones_like(weight)
    tracker.advance()
    assert spent(tracker, weight) == [None]


def test_steps_between_two_calls_are_spent() -> None:
    (weight,) = weights(1)
    optimizer = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.5)
    tracker, expected = BudgetTracker(optimizer), Budget()
    for _ in range(3):
        take(optimizer, steps=10)
        tracker.advance()
    for _ in range(30):
        expected = expected.advanced(0.1, 0.5)
    info = tracker.by_parameter({"w": weight})["w"]
    assert info.budget == pytest.approx(expected)


def test_a_state_that_is_loaded_is_not_taken_for_steps() -> None:
    (weight,), (other,) = weights(1), weights(1)
    before = torch.optim.AdamW([other], lr=0.1)
    take(before, steps=50)
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    tracker = BudgetTracker(optimizer)
    optimizer.load_state_dict(copy.deepcopy(before.state_dict()))
    for _ in range(2):
        take(optimizer)
        tracker.advance()
    assert spent(tracker, weight) == [2]


def test_another_optimizer_goes_on_with_what_its_parameters_have_spent() -> None:
    for replaced in (False, True):
        both = weights(2)
        optimizer = torch.optim.AdamW(both, lr=0.1)
        tracker = BudgetTracker(optimizer)
        for _ in range(5):
            take(optimizer)
            tracker.advance()
        second = torch.optim.AdamW(both[:1], lr=0.2)
        if replaced:
            assert tracker.follow([second])
            assert not tracker.follow([second])
        else:
            tracker.add(second, known=True)
        for _ in range(5):
            take(second)
            tracker.advance()
        assert spent(tracker, *both) == [15, None if replaced else 5]
        info = tracker.by_parameter({"0": both[0]})["0"]
        assert info.used.eta == 0.2
        assert info.peak == 0.2


def test_accounts_survive_a_resumption() -> None:
    frozen, trained = weights(2)
    frozen.requires_grad_(False)
    optimizer = torch.optim.AdamW([frozen, trained], lr=0.1)
    tracker = BudgetTracker(optimizer)
    for step in range(6):
        frozen.requires_grad_(step > 3)
        take(optimizer)
        tracker.advance()
    assert spent(tracker, frozen, trained) == [2, 6]
    again = BudgetTracker(optimizer)
    again.restore(tracker.state(), tracker.watched())
    take(optimizer)
    again.advance()
    assert spent(again, frozen, trained) == [3, 7]


def test_containers_and_subclasses() -> None:
    (weight,) = weights(1)
    inner = torch.optim.AdamW([weight], lr=0.1)

    class Container:
        optimizers = (inner,)

    assert as_optimizers(Container()) == [inner]

    class Same(torch.optim.AdamW):
        pass

    class Other(torch.optim.AdamW):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            """Steps otherwise."""

    assert rule_of(Same([weight])).why_not(inner.param_groups[0]) is None
    assert rule_of(Other([weight])).why_not(inner.param_groups[0]) == "unknown_optimizer"


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ({"a": 1}, "optimizer is a dict; pass its optimizers in a list"),
        ("adamw", "optimizer is a str; pass an optimizer of torch.optim"),
        (nn.Linear(2, 2), "optimizer is a Linear, which is a model"),
        (iter([1]), "optimizer is a list_iterator; pass the optimizer that was made from the parameters"),
    ],
)
def test_what_is_not_an_optimizer_is_refused_with_advice(given: Any, advice: str) -> None:
    with pytest.raises(ConfigurationError, match=advice):
        as_optimizers(given)
