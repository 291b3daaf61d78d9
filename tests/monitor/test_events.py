"""Which courses of η are events and which are not, and how many dense samples follow; no training is needed for it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

from weibull_monitor.monitor.adaptive import rate_of
from weibull_monitor.monitor.events import BURST, MOST, START, Change, Denser, RateWatch

CADENCES = (20, 50, 100, 1000)
Course = Callable[[int], Sequence[float | None]]


def events(course: Course, every: int, steps: int = 3000, returns: bool = False) -> list[int]:
    """Steps at which an event is noticed of rates that are a function of the step."""
    return list(changes(course, every, steps, returns))


def changes(course: Course, every: int, steps: int = 3000, returns: bool = False) -> dict[int, Change]:
    """By step, what is noticed."""
    denser, watch, limits, found = Denser(every), RateWatch(returns), list[float](), dict[int, Change]()
    for step in range(1, steps + 1):
        rates = course(step)
        at_once = any(r is not None and r > most for r, most in zip(rates, limits, strict=False))
        if denser.asks(step) or at_once:
            if change := watch.change(step, rates):
                found[step] = change
            limits = watch.limits(denser.every)
    return found


def scheduled(make: Callable[[torch.optim.Optimizer], Any], *rates: float, steps: int = 3000) -> Course:
    """The rates that a scheduler of torch gives groups, each with a highest rate."""
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates or (1e-3,)]
    optimizer = torch.optim.AdamW(groups)
    scheduler, out = make(optimizer), []
    for _ in range(steps):
        optimizer.step()
        out.append([rate_of(group) for group in optimizer.param_groups])
        scheduler.step()
    return lambda step: out[step - 1]


def linear(warm_up: int, start: float = 0.0) -> Callable[[int], float]:
    """A warm-up, and then a cosine to zero."""
    return lambda n: (
        start + (1.0 - start) * n / warm_up
        if n < warm_up
        else 0.5 + 0.5 * math.cos(math.pi * (n - warm_up) / max(1, 3000 - warm_up))
    )


def one_cycle(optimizer: torch.optim.Optimizer, **more: Any) -> OneCycleLR:
    return OneCycleLR(optimizer, [group["lr"] for group in optimizer.param_groups], total_steps=3001, **more)


def tri_stage(n: int) -> float:
    return 0.01 + 0.99 * n / 300 if n < 300 else 1.0 if n < 1500 else 0.05 ** ((n - 1500) / 1500)


ORDINARY: dict[str, Callable[[], Course]] = {
    "constant": lambda: lambda step: [1e-3],
    "linear warm-up from 0, cosine": lambda: scheduled(lambda o: LambdaLR(o, linear(200))),
    "very long warm-up": lambda: lambda step: [1e-9 * step],
    "short warm-up": lambda: scheduled(lambda o: LambdaLR(o, linear(5))),
    "warm-up from a share": lambda: scheduled(lambda o: LambdaLR(o, linear(500, 0.1))),
    "warm-up of torch, then a cosine": lambda: scheduled(
        lambda o: lr_scheduler.SequentialLR(
            o, [lr_scheduler.LinearLR(o, 0.001, 1.0, 400), lr_scheduler.CosineAnnealingLR(o, 2600)], [400]
        )
    ),
    "cosine warm-up": lambda: lambda step: [5e-4 * (1.0 - math.cos(math.pi * min(1.0, step / 900)))],
    "one-cycle": lambda: scheduled(one_cycle),
    "one-cycle from next to nothing": lambda: scheduled(lambda o: one_cycle(o, div_factor=1e6), 1e-3, 1e-2),
    "one-cycle with lines": lambda: scheduled(lambda o: one_cycle(o, anneal_strategy="linear", three_phase=True)),
    "tri-stage": lambda: scheduled(lambda o: LambdaLR(o, tri_stage)),
    "inverse square root": lambda: scheduled(lambda o: LambdaLR(o, lambda n: min((n + 1) / 400, (400 / (n + 1)) ** 0.5))),
    "polynomial": lambda: scheduled(lambda o: lr_scheduler.PolynomialLR(o, 3000, 2.0)),
    "exponential": lambda: scheduled(lambda o: lr_scheduler.ExponentialLR(o, 0.997)),
    "steps down": lambda: scheduled(lambda o: lr_scheduler.StepLR(o, 500, 0.3)),
    "lower on a plateau": lambda: lambda step: [1e-3 * 0.1 ** (step // 700), 1e-4 * 0.5 ** (step // 900)],
    "layer-wise rates": lambda: scheduled(lambda o: LambdaLR(o, linear(300)), *(1e-3 * 0.8**i for i in range(13))),
    "LoRA+": lambda: scheduled(lambda o: LambdaLR(o, linear(60)), 2e-4, 3.2e-3),
    "its own rates": lambda: lambda step: [None, 1e-4],
    "two optimizers, one warmed up": lambda: lambda step: [1e-3, 1e-4 * min(1.0, step / 800)],
    "one group decays": lambda: lambda step: [1e-3, 1e-3 * 0.99**step],
    "a group that is off": lambda: lambda step: [0.0, 1e-6 * step],
    "all begin at 0": lambda: scheduled(lambda o: LambdaLR(o, linear(200)), 1e-3, 1e-4),
    "a group is taken away": lambda: lambda step: [1e-3, 1e-4][: 1 + (step < 900)],
}  # fmt: skip


@pytest.mark.parametrize("name", ORDINARY)
def test_an_ordinary_course_of_the_rate_is_no_event(name: str) -> None:
    course = ORDINARY[name]()
    assert {every: events(course, every) for every in CADENCES} == {every: [] for every in CADENCES}


def late(factor: float, at: int = 1234) -> Course:
    return lambda step: [1e-3, 1e-3 * (factor if step > at else 1.0)]


UNUSUAL: dict[str, tuple[Callable[[], Course], int]] = {
    "one group, ten times": (lambda: late(10.0), 1234),
    "one group, twice": (lambda: late(2.0), 1234),
    "one of many groups": (lambda: lambda step: [1e-3] * 9 + [1e-3 * (10.0 if step > 777 else 1.0)], 777),
    "all groups": (lambda: lambda step: [1e-3 * (5.0 if step > 500 else 1.0)] * 2, 500),
    "the only group": (lambda: lambda step: [1e-3 * (5.0 if step > 500 else 1.0)], 500),
    "during a warm-up": (lambda: lambda step: [1e-6 * step, 1e-6 * step * (10.0 if step > 40 else 1.0)], 40),
    "during a decay": (lambda: lambda step: [0.998**step, 0.998**step * (10.0 if step > 900 else 1.0)], 900),
    "a group that was off": (lambda: lambda step: [1e-3, 1e-5 if step > 600 else 0.0], 600),
    "a group that is added": (lambda: lambda step: [1e-3, 1e-4][: 1 + (step > 900)], 900),
    "one of two optimizers": (lambda: lambda step: [2e-4, 2e-4 * (4.0 if step > 1111 else 1.0)], 1111),
}


@pytest.mark.parametrize("every", CADENCES)
@pytest.mark.parametrize("name", UNUSUAL)
def test_a_jump_of_the_rate_is_noticed_at_its_step(name: str, every: int) -> None:
    course, at = UNUSUAL[name][0](), UNUSUAL[name][1]
    found = changes(course, every)
    if name.startswith("a group that"):  # unfreezing, in a way, which happens slowly
        assert [change for step, change in found.items() if at < step <= at + 10] == [Change.SLOW]
    else:
        assert found == {at + 1: Change.JUMP}


@pytest.mark.parametrize("every", CADENCES)
def test_a_return_to_an_earlier_rate_is_followed_only_where_alerts_are(every: int) -> None:
    again = lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 1000)  # noqa: E731
    warmed: Course = lambda step: [1e-3 if step < 1500 else min(1e-3, 1e-5 * (step - 1499))]  # noqa: E731
    higher: Course = lambda step: [1e-3 * (0.01 if 900 < step < 1500 else 1.6 if step >= 1500 else 1.0)]  # noqa: E731
    for course in (scheduled(again, 1e-3, 1e-4), warmed):
        assert events(course, every) == []
    assert events(higher, every) == [1500]
    restarts = events(scheduled(again), every, returns=True)
    assert [step // 1000 for step in restarts] == [1, 2]
    assert events(warmed, every, returns=True)[0] <= 1510


@pytest.mark.parametrize(
    ("more", "at", "highest"),  # early in a run, a slower one is what the warm-up of a single group may do
    [(1.02, 100, 2.3), (1.05, 100, 2.7), (1.01, 160, 2.7), (1.02, 1505, 2.0), (1.005, 1505, 2.0)],
)
def test_a_group_that_grows_step_by_step_is_noticed_before_it_is_far(more: float, at: int, highest: float) -> None:
    course: Course = lambda step: [1e-3, 1e-3 * more ** max(0, step - at)]  # noqa: E731
    found = events(course, 100, at + 400)
    assert (course(found[0])[1] or 0.0) < highest * 1e-3
    assert len(found) >= 3  # and again and again


@pytest.mark.parametrize(("at", "highest"), [(200, 3.3), (1500, 2.0)])
def test_all_rates_that_grow_by_two_percent_a_step_are_noticed(at: int, highest: float) -> None:
    course: Course = lambda step: [1e-3 * 1.02 ** max(0, step - at)]  # noqa: E731
    first = events(course, 100, at + 300)[0]
    assert (course(first)[0] or 0.0) < highest * 1e-3


def test_rates_that_are_tensors_or_unknown() -> None:
    groups = [{"lr": torch.tensor(0.5)}, {"lr": torch.zeros((), device="meta")}, {"lr": None}, {"lr": 1}, {}]
    assert [rate_of(group) for group in groups] == [0.5, None, None, 1.0, None]


def test_numbers_that_are_not_finite_or_negative_raise_nothing() -> None:
    watch = RateWatch()
    odd: list[list[float | None]] = [
        [math.nan, 1.0],
        [1.0, math.nan],
        [-1.0, math.inf],
        [1.0, -1.0],
        [0.0, 0.0],
        [],
        [1.0],
    ]
    for step, rates in enumerate(odd):
        watch.change(10 * step, rates)
        watch.limits(10)
    assert not watch.change(500, [1.0])


def test_what_a_resumed_run_knows() -> None:
    watch, denser = RateWatch(), Denser(100)
    for step in range(10, 160, 10):
        denser.takes(step, watch.change(step, [1e-3, 1e-3 * (5.0 if step > 130 else 1.0)]))
    state = json.loads(json.dumps(denser.state() | watch.state()))
    again, same = Denser(100), RateWatch()
    again.resume(state)
    same.resume(state)
    assert again.state() == denser.state() == {"credit": START + 1 - 2, "left": 0, "wanted": [156, 172, 204]}
    assert same.state() == watch.state()
    assert same.change(160, [1e-3, 5e-2]) is Change.JUMP
    for broken in (
        None,
        5,
        [5],
        [[1, 2]],
        [["x", [1.0]]],
        [[1, ["x"]]],
        [[1, [True]]],
        [[-1, [1.0]]],
        [[10**30, [1.0]]],
    ):
        for highest in ([1.0], None, [None], "x"):
            same.resume({"rates": broken, "highest": highest})
            assert same.state() == {"rates": [], "highest": []}
    for odd in (None, "x", [None], [True], [[]], {}):
        again.resume({"credit": odd, "left": odd, "wanted": odd})
        assert again.state() == {"credit": START, "left": 0, "wanted": []}


@pytest.mark.parametrize("every", [1, 7, 20, 100, 1000])
@pytest.mark.parametrize("change", [Change.SLOW, Change.JUMP])
def test_dense_samples_are_bounded_whatever_happens(every: int, change: Change) -> None:
    denser, regular, extra = Denser(every), 0, 0
    for step in range(1, 20 * every + 500):
        if denser.asks(step) or change is Change.JUMP:
            expected = denser.expects(step)
            took = denser.takes(step, change)
            assert took or not expected
            extra += took
        regular += step % every == 0 or step in (1, 2, 4, 8, 16, 32, 64)
        assert extra <= START + regular
    quiet = Denser(every)
    assert not any(quiet.takes(s, Change.NONE) for s in range(1, 5000) if quiet.asks(s))
    assert quiet.state()["credit"] <= MOST


@pytest.mark.parametrize(("every", "dense"), [(20, 2), (50, 5), (100, 10), (500, 10), (5000, 10)])
def test_dense_samples_are_at_most_ten_steps_apart(every: int, dense: int) -> None:
    def taken(change: Change, at: int) -> list[int]:
        denser = Denser(every)
        asked = (s for s in range(1, 20000) if denser.asks(s) or s == at)
        return [s for s in asked if denser.takes(s, change if s == at else Change.NONE)]

    assert taken(Change.SLOW, 10010) == [s for s in range(10010, 20000, dense) if s % every][:BURST]
    expected = [10001 + after for after in (0, 1, 2, 4, 8, 16, 32, 64) if after < every]
    assert taken(Change.JUMP, 10001) == [s for s in expected if s % every]


def test_steps_that_the_caller_leaves_out_are_made_up_for() -> None:
    denser = Denser(100)
    assert denser.takes(203, Change.JUMP)
    taken = [s for s in (209, 217, 218, 300, 301) if denser.asks(s) and denser.takes(s, Change.NONE)]
    assert taken == [209, 217, 301][:2]
