"""A cadence that follows: dense samples after events, alike in every run, bounded in number."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small_trainer
import torch
from conftest import TinyModel
from tiny_models import llama

from weibull_monitor import ConfigurationError, WeibullMonitor, read_history
from weibull_monitor.integrations.transformers import WeibullCallback

Train = Callable[..., list[float]]
REGULAR = [0, 1, 2, 4, 8, 16, 20, 32, 40, 60, 64]


class Run:
    """A training that is sampled every 20 steps, and something happens to it after step 90."""

    def __init__(self, place: Path, event: Callable[[Run], object] = lambda run: None, **options: Any) -> None:
        torch.manual_seed(3)
        self.model, self.event, self.steps = TinyModel(width=32), event, 0
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, weight_decay=0.1)
        given = {"every_n_steps": 20, "adaptive": True, "output_dir": place}
        self.make = lambda **more: WeibullMonitor(self.model, self.optimizer, **given | options | more)
        self.monitor = self.make()

    def after(self) -> None:
        self.steps += 1
        self.monitor.step()
        if self.steps == 90:
            self.event(self)


def jump(run: Run) -> None:
    for group in run.optimizer.param_groups:
        group["lr"] *= 5.0


def scale(run: Run) -> None:
    with torch.no_grad():
        run.model.get_parameter("layers.1.self_attn.q_proj.weight").mul_(8.0)


def unfreeze(run: Run) -> None:
    run.model.layers[0].requires_grad_(True)


def steps_of(place: Path) -> list[int]:
    return [sample.step for sample in read_history(place).snapshots]


def test_without_an_event_the_schedule_is_the_regular_one(tmp_path: Path, train: Train) -> None:
    run = Run(tmp_path, alerts=False)
    train(run.model, run.optimizer, 160, run.after)
    run.monitor.close()
    assert steps_of(tmp_path) == [*REGULAR, 80, 100, 120, 140, 160]


@pytest.mark.parametrize("adaptive", [True, None])
def test_samples_follow_a_jump_of_the_rate_at_once(tmp_path: Path, train: Train, adaptive: bool | None) -> None:
    run = Run(tmp_path, jump, alerts=False, adaptive=adaptive)
    train(run.model, run.optimizer, 160, run.after)
    run.monitor.close()
    assert steps_of(tmp_path) == [*REGULAR, 80, 92, 93, 94, 96, 100, 108, 120, 140, 160]


@pytest.mark.parametrize(
    ("event", "first"),
    [(unfreeze, 92), (scale, 102)],  # a fault shows at the regular sample of step 100
    ids=["unfreezing", "alert"],
)
def test_eight_dense_samples_follow_an_event(
    tmp_path: Path, train: Train, event: Callable[[Run], object], first: int
) -> None:
    run = Run(tmp_path, event, alerts=event is scale)
    if event is unfreeze:
        run.model.layers[0].requires_grad_(False)
    train(run.model, run.optimizer, 160, run.after)
    run.monitor.close()
    extra = [step for step in steps_of(tmp_path) if step % 20 and step > 64]
    assert extra[:8] == [s for s in range(first, first + 20, 2) if s % 20][:8]
    if event is not scale:  # alerts of dense samples make more of them
        assert len(extra) == 8


def test_a_warm_up_is_no_jump(tmp_path: Path, train: Train) -> None:
    run = Run(tmp_path, alerts=False)

    def warm_up() -> None:
        run.after()
        for group in run.optimizer.param_groups:
            group["lr"] = 1e-5 * (run.steps + 1)

    train(run.model, run.optimizer, 120, warm_up)
    run.monitor.close()
    assert steps_of(tmp_path) == [*REGULAR, 80, 100, 120]


def test_dense_samples_are_bounded(tmp_path: Path, train: Train) -> None:
    run = Run(tmp_path, alerts=False)

    def always() -> None:
        run.after()
        for group in run.optimizer.param_groups:
            group["lr"] = 1e-4 if run.steps % 8 < 4 else 1e-3

    train(run.model, run.optimizer, 600, always)
    run.monitor.close()
    steps = [step for step in steps_of(tmp_path) if step > 64]
    regular = sum(step % 20 == 0 for step in steps)
    assert 16 < len(steps) - regular <= 16 + regular


def test_a_run_is_reproduced_and_a_resumption_is_an_event(tmp_path: Path, train: Train) -> None:
    for name in ("a", "b"):
        run = Run(tmp_path / name, scale)
        train(run.model, run.optimizer, 130, run.after)
        run.monitor.close()
    assert steps_of(tmp_path / "a") == steps_of(tmp_path / "b")

    run = Run(tmp_path / "c", alerts=False)
    train(run.model, run.optimizer, 100, run.after)
    state = json.loads(json.dumps(run.monitor.state_dict()))
    assert (state["adaptive"]["credit"], state["adaptive"]["left"]) == (27, 0)  # all 11 regular samples but step 1
    assert len(json.dumps(state["adaptive"])) < 300
    run.monitor.close(sample_last=False)
    run.monitor = run.make(resume=copy.deepcopy(state))
    train(run.model, run.optimizer, 40, run.after)
    run.monitor.close()
    assert [s for s in steps_of(tmp_path / "c") if s > 100] == [102, 104, 106, 108, 110, 112, 114, 116, 120, 140]


def test_by_default_alerts_and_resumptions_are_not_followed_and_samples_not_waited_for(
    tmp_path: Path, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        WeibullMonitor, "_receive_all", lambda self: pytest.fail("waited") if self._step < 160 else None
    )
    run = Run(tmp_path, lambda run: (scale(run), jump(run)), adaptive=None)
    train(run.model, run.optimizer, 160, run.after)
    assert run.monitor._adaptive is not None
    run.monitor.close(sample_last=False)  # the sample of step 160 may not have been judged yet
    assert steps_of(tmp_path)[: len(REGULAR) + 9] == [*REGULAR, 80, 92, 93, 94, 96, 100, 108, 120, 140]


@pytest.mark.parametrize("every", [1, 9, lambda step: step % 20 == 0])
def test_by_default_only_sparse_samples_are_followed(tmp_path: Path, every: Any) -> None:
    run = Run(tmp_path, adaptive=None, every_n_steps=every)
    assert run.monitor._adaptive is None
    assert "adaptive" not in run.monitor.state_dict()
    run.monitor.close()


@pytest.mark.parametrize("interrupted", [80, 94, 100])
def test_a_resumed_run_takes_the_samples_of_an_uninterrupted_one(
    tmp_path: Path, train: Train, interrupted: int
) -> None:
    for name in ("whole", "parts"):
        run = Run(tmp_path / name, jump, adaptive=None, alerts=False)
        train(run.model, run.optimizer, interrupted, run.after)
        if name == "parts":
            state = json.loads(json.dumps(run.monitor.state_dict()))
            run.monitor.close(sample_last=False)
            run.monitor = run.make(resume=state)
        train(run.model, run.optimizer, 140 - interrupted, run.after)
        run.monitor.close()
    assert steps_of(tmp_path / "parts") == steps_of(tmp_path / "whole")
    assert 93 in steps_of(tmp_path / "whole")


def test_a_rate_that_was_raised_between_two_runs_is_followed(tmp_path: Path, train: Train) -> None:
    run = Run(tmp_path, adaptive=None, alerts=False)
    train(run.model, run.optimizer, 100, run.after)
    state = run.monitor.state_dict()
    run.monitor.close(sample_last=False)
    jump(run)
    run.monitor = run.make(resume=state)
    train(run.model, run.optimizer, 10, run.after)
    run.monitor.close()
    assert [s for s in steps_of(tmp_path) if s > 100] == [102, 103, 104, 106, 110]


def test_parameters_that_come_and_go_are_unfrozen_once(tmp_path: Path, train: Train) -> None:
    run = Run(tmp_path, adaptive=None, alerts=False)

    def in_turns() -> None:  # as the discriminator of a GAN
        run.after()
        run.model.layers[0].requires_grad_(run.steps % 4 < 2)

    train(run.model, run.optimizer, 200, in_turns)
    run.monitor.close()
    assert len(steps_of(tmp_path)) <= len([*REGULAR, 80, 100, 120, 140, 160, 180, 200]) + 8


def test_collapsing_attention_is_told_before_its_entropy_is_gone(tmp_path: Path) -> None:
    """η of W_q and W_k is 30 times as high from step 111 on; samples are taken every 100 steps, and all options are defaults."""
    text = torch.frombuffer(bytearray(Path(__file__).read_bytes()), dtype=torch.uint8).long()
    model = llama(hidden_size=48, intermediate_size=96)
    model.set_attn_implementation("eager")
    chosen = [p for name, p in model.named_parameters() if "q_proj" in name or "k_proj" in name]
    others = [p for name, p in model.named_parameters() if not ("q_proj" in name or "k_proj" in name)]
    optimizer = torch.optim.AdamW([{"params": chosen}, {"params": others}], lr=2e-3, weight_decay=0.1)
    fixed = torch.stack([text[40 * i : 40 * i + 32] for i in range(8)])
    generator = torch.Generator().manual_seed(0)

    def entropy() -> float:
        with torch.no_grad():
            attentions = model(input_ids=fixed, output_attentions=True).attentions
        return min(float(torch.special.entr(a).sum(-1).mean()) for a in attentions)

    start, gone = entropy(), None
    with WeibullMonitor(model, optimizer, output_dir=tmp_path) as monitor:
        for step in range(1, 181):
            optimizer.param_groups[0]["lr"] = 2e-3 * (30.0 if step > 110 else 1.0)
            at = torch.randint(len(text) - 32, (8,), generator=generator)
            batch = torch.stack([text[i : i + 32] for i in at.tolist()])
            model(input_ids=batch, labels=batch).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            monitor.step()
            if gone is None and step > 110 and step % 5 == 0 and entropy() < 0.1 * start:
                gone = step
    told = next(a.step for a in read_history(tmp_path).alerts if a.finding.rule == "attention_scale")
    assert gone is not None
    assert 110 < told < gone


def test_a_scheduler_of_the_trainer_that_jumps_is_followed(tmp_path: Path) -> None:
    trainer = small_trainer.trainer(
        tmp_path, callback := WeibullCallback(every_n_steps=40, alerts=False), max_steps=72, logging_steps=100
    )
    trainer.create_optimizer()
    rates = [lambda n: 5.0 if n >= 50 else 1.0] + [lambda n: 1.0] * (len(trainer.optimizer.param_groups) - 1)
    trainer.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(trainer.optimizer, rates)
    trainer.train()
    assert callback is not None
    assert small_trainer.steps(tmp_path) == [0, 1, 2, 4, 8, 16, 32, 40, 52, 53, 54, 56, 60, 64, 68, 72]


def test_a_function_as_schedule_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="every_n_steps is a function"):
        Run(tmp_path, every_n_steps=lambda step: True)


def test_a_run_that_goes_on_without_resume_is_noticed_in_one_line(
    tmp_path: Path, train: Train, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(tmp_path / "first")
    train(run.model, run.optimizer, 12, run.after)
    state = run.monitor.state_dict()
    run.monitor.close()
    assert "already" not in caplog.text
    caplog.set_level(logging.WARNING, logger="weibull_monitor")
    WeibullMonitor(run.model, run.optimizer, output_dir=tmp_path / "second").close()
    lines = [r.getMessage() for r in caplog.records if "has taken 12 steps already" in r.getMessage()]
    assert len(lines) == 1
    assert "resume=" in lines[0]
    caplog.clear()
    WeibullMonitor(run.model, run.optimizer, output_dir=tmp_path / "first", resume=state).close()
    assert "already" not in caplog.text
