"""A reset of the optimizer is seen, and nothing else is taken for one."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from weibull_monitor.scaling.resets import StateWatch


def take(optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.ones_like(parameter)
        optimizer.step()


def make(kind: Callable[..., Any] = torch.optim.AdamW, **options: Any) -> torch.optim.Optimizer:
    return kind([nn.Parameter(torch.ones(4, 4)) for _ in range(2)], **options)


def empty(optimizer: Any) -> None:
    optimizer.state.clear()


def replace(optimizer: Any) -> None:
    optimizer.state = defaultdict(dict)


def zero(optimizer: Any) -> None:
    for state in optimizer.state.values():
        state["step"].zero_()


@pytest.mark.parametrize("reset", [empty, replace, zero])
@pytest.mark.parametrize("options", [{}, {"fused": True}, {"foreach": True}, {"amsgrad": True}], ids=str)
@pytest.mark.parametrize("after", [1, 10, 100])
def test_a_reset_is_seen_at_the_next_sample(reset: Callable[[Any], None], options: dict[str, Any], after: int) -> None:
    optimizer = make(**options)
    watch = StateWatch(optimizer)
    assert not watch.reset(0)
    take(optimizer, 50)
    assert not watch.reset(50)
    reset(optimizer)
    take(optimizer, after)
    if reset is zero and after > 50:
        pytest.skip("a count that was set back and has come past the last one cannot be seen")
    assert watch.reset(50 + after)
    take(optimizer, 1)
    assert watch.reset(51 + after)  # and stays


def test_a_reset_right_after_a_sample_is_seen_at_the_next_though_the_count_is_the_same() -> None:
    optimizer = make()
    watch = StateWatch(optimizer)
    take(optimizer, 100)
    watch.reset(100)
    empty(optimizer)
    take(optimizer, 100)
    assert watch.reset(200)


def test_loading_the_own_state_in_mid_run_is_no_reset() -> None:
    optimizer = make()
    watch = StateWatch(optimizer)
    take(optimizer, 20)
    watch.reset(20)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    take(optimizer, 5)
    assert not watch.reset(25)


def test_steps_that_a_loss_scaler_skips_are_no_reset() -> None:
    optimizer = make()
    watch = StateWatch(optimizer)
    take(optimizer, 20)
    watch.reset(20)
    take(optimizer, 5)
    assert not watch.reset(40)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Muon])
def test_an_optimizer_without_a_count_tells_nothing(kind: Any) -> None:
    optimizer = make(kind, lr=1e-3, momentum=0.9)
    watch = StateWatch(optimizer)
    take(optimizer, 3)
    assert not watch.reset(3)
    empty(optimizer)
    take(optimizer, 3)
    assert not watch.reset(6)


def test_a_count_that_is_a_number() -> None:
    optimizer = make()
    weight = optimizer.param_groups[0]["params"][0]
    watch = StateWatch(optimizer)
    for count, expected in ((10, False), (20, False), (5, True)):
        optimizer.state[weight] = {"step": count}
        assert watch.reset(count) is expected


def test_a_count_in_the_group() -> None:
    made: Any = type("FusedAdam", (torch.optim.Optimizer,), {})([nn.Parameter(torch.ones(4, 4))], {"lr": 1e-3})
    weight = made.param_groups[0]["params"][0]
    watch = StateWatch(made)
    for count, expected in ((10, False), (20, False), (5, True)):
        made.state[weight], made.param_groups[0]["step"] = {"exp_avg": weight}, count
        assert watch.reset(count) is expected


def test_a_resumption_without_the_optimizers_state_is_a_reset_and_one_with_it_is_none() -> None:
    optimizer = make()
    watch = StateWatch(optimizer)
    take(optimizer, 30)
    watch.reset(30)
    saved, state = copy.deepcopy(optimizer.state_dict()), watch.state()
    for load in (True, False):
        resumed = make()
        if load:
            resumed.load_state_dict(saved)
        watch = StateWatch(resumed)
        watch.restore(state)
        take(resumed, 4)
        assert watch.reset(4) is not load


def test_the_watch_keeps_no_state_alive() -> None:
    import gc
    import weakref

    optimizer = make()
    watch = StateWatch(optimizer)
    take(optimizer, 1)
    watch.reset(1)
    moment = weakref.ref(next(iter(optimizer.state.values()))["exp_avg"])
    optimizer.state.clear()
    gc.collect()
    assert moment() is None
