"""The law through the monitor, on weights for which it holds exactly, and outside of its domain.

Under AdamW without memory (β₁ = β₂ = 0) and gradients of random sign, each weight is a random walk with decay: its variance
is I/2 plus what is left of the start, and it stays normal. So c = 0.887487/√2, from the anchor of the normal distribution.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from stepping import take
from torch import nn
from torch.optim import lr_scheduler as lr

from weibull_monitor import MemoryTracker, WeibullMonitor, read_history
from weibull_monitor.history.columns import WRITES
from weibull_monitor.history.reasons import EXPLANATION
from weibull_monitor.measure.weibull import anchors

C = 0.887487 / math.sqrt(2)
STEPS = 400
Q = "self_attn.q_proj.weight"


def model_of(width: int = 192, **names: nn.Module) -> nn.Module:
    parts = {"q_proj": nn.Linear(width, width, bias=False), "o_proj": nn.Linear(width, width, bias=False)}
    model = nn.ModuleDict({"self_attn": nn.ModuleDict(parts), **names})
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.02)
    return model


def adamw(model: nn.Module, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), **{"lr": 1e-2, "weight_decay": 1.0, "betas": (0.0, 0.0), **options})


def walk(
    model: nn.Module,
    optimizer: Any,
    where: Path,
    scheduler: Any = None,
    steps: int = STEPS,
    between: Callable[[int], None] = lambda step: None,
    **options: Any,
) -> MemoryTracker:
    """Trains on gradients of random sign."""
    torch.manual_seed(1234)  # not the seed that the weights were drawn with: they must be independent
    tracker = MemoryTracker()
    given = {"scheduler": scheduler, "total_steps": steps, "every_n_steps": 20, "output_dir": where} | options
    with WeibullMonitor(model, optimizer, trackers=[tracker], **given) as monitor:
        for step in range(1, steps + 1):
            for parameter in model.parameters():
                parameter.grad = torch.randn_like(parameter).sign()
            optimizer.step()
            monitor.step()
            if hasattr(scheduler, "step"):
                scheduler.step()
            between(step)
    return tracker


def test_the_anchor_is_the_one_in_use() -> None:
    assert anchors()["normal"].lambda_ == pytest.approx(0.887487, abs=1e-6)


SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "constant, as a function": lambda o: lambda step: 1.0,
    "cosine": lambda o: lr.CosineAnnealingLR(o, T_max=STEPS, eta_min=1e-3),
    "warm-up, stable, decay": lambda o: lr.LambdaLR(o, lambda n: min(1.0, (n + 1) / 40, (STEPS - n) / 80)),
    "restarts": lambda o: lr.CosineAnnealingWarmRestarts(o, T_0=100),
    "in a row": lambda o: lr.SequentialLR(o, [lr.LinearLR(o, 0.1, total_iters=50), lr.ExponentialLR(o, 0.99)], [50]),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_on_a_random_walk_c_is_the_theoretical_one_and_the_forecast_comes_true(name: str, tmp_path: Path) -> None:
    model = model_of()
    optimizer = adamw(model)
    tracker = walk(model, optimizer, tmp_path, SCHEDULES[name](optimizer))
    end = tracker.records[-1][1]
    foretold = {step: m["weibull_scaling/lambda_forecast/attn_q"] for step, m in tracker.records if step >= STEPS / 4}
    assert len(foretold) == 16
    assert "weibull_scaling/lambda_forecast/attn_q" not in tracker.records[3][1]  # too early
    for step, value in foretold.items():
        assert value == pytest.approx(end["weibull_lambda/attn_q"], rel=0.03), step
    for kind in ("attn_q", "attn_o"):
        assert end[f"weibull_scaling/budget_ratio/{kind}"] == pytest.approx(C, rel=0.02)
        assert end[f"weibull_scaling/lambda_forecast/{kind}"] == pytest.approx(end[f"weibull_lambda/{kind}"], rel=1e-8)
    history = read_history(tmp_path)
    for sample in history.snapshots:
        low, high = sample.values("lambda_forecast_low"), sample.values("lambda_forecast_high")
        for component, value in sample.values("lambda_forecast").items():
            assert low[component] < value < high[component]
            final = history.snapshots[-1].values("lambda")[component]  # itself uncertain: a walk of 36,864 weights
            assert 0.995 * low[component] < final < 1.005 * high[component]


def test_the_equilibrium_of_a_constant_rate_is_where_it_ends(tmp_path: Path) -> None:
    model = model_of()
    optimizer = adamw(model)
    walk(model, optimizer, tmp_path, lambda step: 1.0)  # S = 4
    early, late = (read_history(tmp_path).snapshots[i] for i in (-16, -1))
    assert early.step == 100
    expected = C * math.sqrt(1e-2 / 1.0)
    assert late.values("lambda")[Q] == pytest.approx(expected, rel=0.02)
    assert early.values("lambda_equilibrium")[Q] == pytest.approx(expected, rel=0.03)
    assert read_history(tmp_path).runs[0].total_steps == STEPS


def test_groups_go_each_their_own_way(tmp_path: Path) -> None:
    model = model_of()
    q, o = model.parameters()
    optimizer = torch.optim.AdamW(
        [{"params": [q], "lr": 2e-2, "weight_decay": 0.5}, {"params": [o], "lr": 5e-3, "weight_decay": 2.0}],
        betas=(0.0, 0.0),
    )
    tracker = walk(model, optimizer, tmp_path, lr.LinearLR(optimizer, 1.0, 0.1, total_iters=STEPS))
    half = dict(tracker.records)[STEPS // 2]
    for kind in ("attn_q", "attn_o"):
        end = tracker.records[-1][1][f"weibull_lambda/{kind}"]
        assert half[f"weibull_scaling/lambda_forecast/{kind}"] == pytest.approx(end, rel=0.03)


def withheld(where: Path, step: int = -1) -> dict[str, int]:
    samples = read_history(where).snapshots
    return dict((samples[-1] if step < 0 else next(s for s in samples if s.step == step)).withheld)


def no_forecast(tracker: MemoryTracker, after: int = 0) -> bool:
    return not any("lambda_forecast" in key for step, metrics in tracker.records if step > after for key in metrics)


class Steps:
    """Changes something between two steps."""

    def __init__(self, at: int, change: Callable[[], None]) -> None:
        self.at, self.change = at, change

    def __call__(self, step: int) -> None:
        if step == self.at:
            self.change()


def set_rate(optimizer: Any, rate: float) -> None:
    optimizer.param_groups[0]["lr"] = rate


@pytest.mark.parametrize(
    ("reason", "options", "change", "c_stays"),
    [
        ("weight_decay_changed", {}, lambda o: o.param_groups[0].update(weight_decay=0.3), True),
        ("optimizer_reset", {}, lambda o: o.state.clear(), False),
        ("zero_learning_rate", {}, lambda o: set_rate(o, 0.0), True),
        ("no_weight_decay", {"weight_decay": 0.0}, lambda o: None, True),
    ],
)
def test_outside_of_its_domain_there_is_no_forecast_and_a_reason(
    reason: str,
    options: dict[str, Any],
    change: Callable[[Any], None],
    c_stays: bool,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "weibull_monitor")
    model = model_of(64)
    optimizer = adamw(model, **options)
    tracker = walk(model, optimizer, tmp_path, lambda step: 1.0, between=Steps(250, lambda: change(optimizer)))
    assert withheld(tmp_path) == {reason: 2}
    assert no_forecast(tracker, after=251)
    assert not read_history(tmp_path).snapshots[-1].values("lambda_equilibrium")
    assert ("weibull_scaling/budget_ratio/attn_q" in tracker.records[-1][1]) is c_stays
    changed = reason in ("weight_decay_changed", "optimizer_reset")
    assert no_forecast(tracker) is (reason == "no_weight_decay")  # before the change there was one
    warned = [r for r in caplog.records if EXPLANATION[reason] in r.getMessage()]  # type: ignore[index]
    assert [r.levelno for r in warned] == ([logging.WARNING] if changed else [logging.INFO] * len(warned))
    assert len(warned) <= 1


@pytest.mark.parametrize(
    ("reason", "make"),
    [
        ("step_not_eta", lambda m: torch.optim.SGD(m.parameters(), lr=1e-3, weight_decay=0.1)),
        ("coupled_weight_decay", lambda m: torch.optim.Adam(m.parameters(), lr=1e-3, weight_decay=0.1)),
        ("step_scaled_by_weight", lambda m: torch.optim.Adafactor(m.parameters(), lr=1e-2)),
    ],
)
def test_where_the_law_does_not_apply_nothing_of_it_is_logged_but_the_reason(
    reason: str, make: Callable[[nn.Module], Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "weibull_monitor")
    model = model_of(32)
    tracker = walk(model, make(model), tmp_path, lambda step: 1.0, steps=40)
    assert not any(key.startswith("weibull_scaling/") for _, metrics in tracker.records for key in metrics)
    assert withheld(tmp_path) == {reason: 2}
    assert caplog.text.count(EXPLANATION[reason]) == 1  # type: ignore[index]
    (optimizer,) = read_history(tmp_path).runs[0].optimizers
    assert optimizer["groups"][0]["law"] == reason


def test_muon_beside_adamw_each_with_its_own_scale(tmp_path: Path) -> None:
    model = model_of(64)
    q, o = model.parameters()
    muon = torch.optim.Muon([q], lr=1e-2, weight_decay=1.0, adjust_lr_fn="original")
    other = torch.optim.AdamW([o], lr=1e-2, weight_decay=1.0, betas=(0.0, 0.0))
    torch.manual_seed(0)
    with WeibullMonitor(model, [muon, other], scheduler=lambda s: 1.0, total_steps=200, output_dir=tmp_path) as monitor:
        for _ in range(200):
            for parameter, optimizer in ((q, muon), (o, other)):
                parameter.grad = torch.randn_like(parameter).sign()
                optimizer.step()
            monitor.step()
        scaling = monitor.sample().scaling
    muons, adams = scaling[Q], scaling["self_attn.o_proj.weight"]
    assert muons.effective == pytest.approx(adams.effective * 5 / math.sqrt(64))
    assert muons.sqrt_eta_over_wd == pytest.approx(adams.sqrt_eta_over_wd * 5 / math.sqrt(64))
    assert muons.forecast is not None
    assert muons.forecast.value == pytest.approx(read_history(tmp_path).snapshots[-1].values("lambda")[Q], rel=1e-6)


def test_before_a_quarter_of_the_run_there_is_no_forecast(tmp_path: Path) -> None:
    model = model_of(64)
    tracker = walk(model, adamw(model), tmp_path, lambda step: 1.0, steps=120, total_steps=400)
    assert withheld(tmp_path, 80) == {"too_early": 2}
    assert not withheld(tmp_path)
    assert no_forecast(tracker) is False


@pytest.mark.parametrize("weight_decay", [1e-4, 1.0])
def test_the_forecast_of_a_walk_is_right_at_any_weight_decay(weight_decay: float, tmp_path: Path) -> None:
    """With so small a weight decay S ends at 4e-4."""
    model = model_of(64)
    tracker = walk(model, adamw(model, weight_decay=weight_decay), tmp_path, lambda step: 1.0)
    history = read_history(tmp_path)
    end = history.snapshots[-1].values("lambda")[Q]
    half = next(s for s in history.snapshots if s.step == STEPS // 2)
    low, value, high = (half.values(f"lambda_forecast{part}")[Q] for part in ("_low", "", "_high"))
    assert value == pytest.approx(end, rel=0.05)
    assert low <= end <= high
    assert no_forecast(tracker) is False


def test_kinds_that_the_law_was_seen_to_fail_for_have_a_c_and_no_forecast(tmp_path: Path) -> None:
    model = model_of(64, embed_tokens=nn.Embedding(50, 64), lm_head=nn.Linear(64, 50, bias=False))
    tracker = walk(model, adamw(model), tmp_path, lambda step: 1.0, steps=100)
    last = tracker.records[-1][1]
    assert {key for key in last if "lambda_forecast/" in key} == {
        "weibull_scaling/lambda_forecast/attn_q",
        "weibull_scaling/lambda_forecast/attn_o",
    }
    assert "weibull_scaling/budget_ratio/lm_head" in last
    assert withheld(tmp_path) == {"kind_not_covered": 2}


def test_without_a_schedule_there_is_an_equilibrium_when_it_is_near_and_no_forecast(tmp_path: Path) -> None:
    model = model_of(64)
    tracker = walk(model, adamw(model), tmp_path, None)
    assert no_forecast(tracker)
    assert withheld(tmp_path) == {"no_schedule": 2}
    known = [s.step for s in read_history(tmp_path).snapshots if s.values("lambda_equilibrium")]
    assert min(known) == 100  # S = 1


def test_a_scheduler_for_plateaus_is_no_schedule(tmp_path: Path) -> None:
    model = model_of(64)
    optimizer = adamw(model)
    scheduler = lr.ReduceLROnPlateau(optimizer)
    tracker = walk(model, optimizer, tmp_path, [scheduler], 100, between=lambda step: scheduler.step(1.0 / step))
    assert no_forecast(tracker)
    assert withheld(tmp_path) == {"no_schedule": 2}


def test_a_schedule_that_raises_costs_the_forecast_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = model_of(64)
    tracker = walk(model, adamw(model), tmp_path, lambda step: 1.0 / (step - 50), steps=100)
    assert [step for step, _ in tracker.records] == [0, 1, 2, 4, 8, 16, 20, 32, 40, 60, 64, 80, 100]
    assert withheld(tmp_path, 40) == {"no_schedule": 2}
    assert caplog.text.count("reading the schedule failed and is skipped (ZeroDivisionError") == 1


def test_a_rate_that_leaves_the_plan_is_noticed_and_planned_anew(tmp_path: Path) -> None:
    model = model_of(64)
    optimizer = adamw(model)
    scheduler = lr.LambdaLR(optimizer, lambda n: 1.0)

    def change() -> None:
        scheduler.base_lrs = [3e-3]

    tracker = walk(model, optimizer, tmp_path, scheduler, between=Steps(205, change))
    assert withheld(tmp_path, 220) == {"off_schedule": 2}
    assert withheld(tmp_path, 240) == {}
    end = tracker.records[-1][1]["weibull_lambda/attn_q"]
    assert dict(tracker.records)[240]["weibull_scaling/lambda_forecast/attn_q"] == pytest.approx(end, rel=0.05)


def test_a_scheduler_that_steps_at_other_times_gives_no_wrong_number(tmp_path: Path) -> None:
    """It steps once in fifty steps; the monitor does not know."""
    model = model_of(32)
    optimizer = adamw(model)
    scheduler = lr.ExponentialLR(optimizer, 0.9)
    tracker = MemoryTracker()
    options: dict[str, Any] = {"scheduler": scheduler, "total_steps": STEPS, "trackers": [tracker]}
    with WeibullMonitor(model, optimizer, every_n_steps=20, output_dir=tmp_path, **options) as monitor:
        for step in range(1, STEPS + 1):
            for parameter in model.parameters():
                parameter.grad = torch.randn_like(parameter).sign()
            optimizer.step()
            monitor.step()
            if step % 50 == 0:
                scheduler.step()
    assert no_forecast(tracker)
    assert withheld(tmp_path) == {"off_schedule": 2}


def test_steps_that_nobody_told_of_make_the_past_unknown(tmp_path: Path) -> None:
    class Lion(torch.optim.SGD):  # counts no steps
        step = torch.optim.SGD.step

    for kind, expected in ((torch.optim.AdamW, None), (Lion, "unknown_past")):
        model = model_of(32)
        optimizer = kind(model.parameters(), lr=1e-2, weight_decay=0.1)
        monitor = WeibullMonitor(model, optimizer, every_n_steps=10, output_dir=tmp_path / kind.__name__, alerts=False)
        for step in range(10, 201, 10):  # counts in tens
            take(optimizer, steps=10)
            monitor.step(step)
        assert monitor.last is not None
        monitor.close()
        for scaling in monitor.last.scaling.values():
            assert (scaling.reason == "unknown_past") is (expected is not None)
            assert scaling.eta_sum == (pytest.approx(2.0) if expected is None else None)


def test_a_resumed_run_forecasts_as_an_uninterrupted_one(tmp_path: Path) -> None:
    def run(where: Path, steps: range, resume: Any = None) -> tuple[Any, ...]:
        if resume is None:
            torch.manual_seed(3)
            model = model_of(64)
            optimizer = adamw(model)
            scheduler = lr.CosineAnnealingLR(optimizer, T_max=STEPS)
        else:
            model, optimizer, scheduler = resume[:3]
        monitor = WeibullMonitor(
            model,
            optimizer,
            scheduler=scheduler,
            total_steps=STEPS,
            every_n_steps=20,
            output_dir=where,
            resume=resume[3] if resume else None,
        )
        for step in steps:
            generator = torch.Generator().manual_seed(step)
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator).sign()
            optimizer.step()
            monitor.step()
            scheduler.step()
        state = monitor.state_dict()
        monitor.close(sample_last=steps[-1] == STEPS)
        return model, optimizer, scheduler, state

    run(tmp_path / "whole", range(1, STEPS + 1))
    first = run(tmp_path / "parts", range(1, 251))
    run(tmp_path / "parts", range(251, STEPS + 1), first)
    whole, parts = read_history(tmp_path / "whole"), read_history(tmp_path / "parts")
    assert [s.step for s in parts.snapshots] == [s.step for s in whole.snapshots]
    for a, b in zip(whole.snapshots, parts.snapshots, strict=True):
        assert {n: v for n, v in a.columns.items() if n not in WRITES} == {
            n: v for n, v in b.columns.items() if n not in WRITES
        }
        assert a.withheld == b.withheld
    assert parts.snapshots[-3].values("lambda_forecast")
