"""The benchmark whose trainings and faults are drawn at random: what is drawn can be built, trained and broken."""

from __future__ import annotations

import copy
import importlib
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture
def unseen(monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config) -> Any:
    monkeypatch.syspath_prepend(str(pytestconfig.rootpath / "benchmarks"))
    for name, value in (("TRANSFORMERS_VERBOSITY", "error"), ("TQDM_DISABLE", "1")):
        monkeypatch.setenv(name, value)  # the benchmark would set it for all tests after this one
    return importlib.import_module("corpus_unseen")


@pytest.fixture
def small(unseen: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A small case with faults, whose branches are ten steps long."""
    monkeypatch.setattr(importlib.import_module("corpus"), "AFTER", 10)
    return next(c for c in unseen.drawn(5, 0, 40) if c.arch.elements < 1e5 and c.batch <= 8)


def test_a_seed_draws_the_same_again_and_another_draws_others(unseen: Any) -> None:
    one = unseen.drawn(1, 100, 40)
    assert one == unseen.drawn(1, 100, 40)
    assert not {case.folder for case in one} & {case.folder for case in unseen.drawn(2, 100, 40)}
    healthy = [case for case in one if not case.strikes]
    assert len(healthy) == 100
    assert 20 <= sum(case.event != "" for case in healthy) <= 45
    assert 40 <= sum(len(case.faults) for case in one) <= 60


def test_drawn_models_are_built_and_all_their_parameters_learn(unseen: Any) -> None:
    for case in unseen.drawn(3, 80, 0):
        if case.arch.elements > 2e5:
            continue
        torch.manual_seed(case.seed)
        task = unseen.build(case.arch)
        loss = task.loss(task.model, task.batch(torch.Generator().manual_seed(1), 8))
        loss.backward()
        assert torch.isfinite(loss), case
        assert all(p.grad is not None for p in task.model.parameters()), case


@pytest.mark.parametrize("event", ["masters", "reloaded", "new phase", "longer context"])
def test_an_event_leaves_a_training_that_goes_on(event: str, unseen: Any, tmp_path: Path) -> None:
    case = next(c for c in unseen.drawn(4, 60, 0) if c.arch.task == "next" and c.arch.blocks <= 3 and not c.arch.wrap)
    dtype = "bfloat16" if event == "masters" else "float32"
    unseen.train(
        replace(case, event=event, dtype=dtype, optimizer="adamw", steps=24, warmup=3, batch=8, eta=2e-3), tmp_path
    )
    losses = json.loads((tmp_path / case.folder / "case.json").read_text())["losses"]
    assert len(losses) == 24
    assert losses[-1] < losses[0]


def test_a_broken_run_leaves_its_twin_at_one_step(unseen: Any, small: Any, tmp_path: Path) -> None:
    faults = ("a matrix too large", "gradients noisy", "η of a block too large")
    case = replace(small, strikes=60, steps=75, faults=faults, optimizer="adamw")
    assert len(unseen.train(case, tmp_path)) == 4
    found = [json.loads(path.read_text()) for path in tmp_path.glob("*/case.json")]
    twin = next(entry for entry in found if not entry["fault"])
    broken = [entry for entry in found if entry["fault"]]
    assert {entry["fault"] for entry in broken} == set(faults)
    for entry in broken:
        assert entry["losses"][:60] == twin["losses"][:60]
        assert entry["losses"][60:] != twin["losses"][60:70]
        assert (entry["struck"], entry["twin"]) == (60, case.folder)
        assert entry["victims"]
        assert entry["drawn"]["when"] in ("once", "some", "on")


def test_a_fault_that_does_nothing_leaves_the_run_as_it_is(
    unseen: Any, small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = replace(small, strikes=51, steps=61, faults=("a head zeroed",), arch=replace(small.arch, dropout=0.3))
    monkeypatch.setitem(unseen.UNSEEN_FAULTS, "a head zeroed", lambda world: None)
    twin, broken = unseen.train(case, tmp_path)
    one, other = (json.loads((tmp_path / e["folder"] / "case.json").read_text())["losses"] for e in (twin, broken))
    assert one == other


def test_each_kind_of_fault_strikes_some_drawn_model(unseen: Any) -> None:
    corpus_world = importlib.import_module("corpus_world")
    left = dict(unseen.UNSEEN_FAULTS)
    assert len(left) >= 40
    arch = unseen.Arch("llama", "next", 32, 2, 16, heads=4, keys=2, ratio=1.0)
    for a in (
        replace(arch, wrap="weight norm"),
        arch,
        replace(arch, style="gpt2", fused=True, keys=4),
        replace(arch, experts=2),
    ):
        torch.manual_seed(1)
        task = unseen.build(a)
        first = {name: p.detach().clone() for name, p in task.model.named_parameters()}
        optimizer = torch.optim.AdamW(task.model.parameters(), weight_decay=0.1)
        task.loss(task.model, task.batch(torch.Generator().manual_seed(1), 8)).backward()
        optimizer.step()
        for name, fault in [*left.items()]:
            model, opt = copy.deepcopy((task.model, optimizer))
            for p, given in zip(model.parameters(), task.model.parameters(), strict=True):
                p.grad = given.grad.clone()
            world = corpus_world.World(model, [opt], random.Random(1), first, first=first)
            try:
                with torch.no_grad():
                    fault(world)
                    for call in [*world.before_step, *world.after_step]:
                        call()
            except corpus_world.NotHere:
                continue
            assert world.victims, name
            del left[name]
    assert not left
