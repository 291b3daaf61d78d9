"""Parameters that are looked at again and again: every change is seen, and where there is none, nothing is made anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from weibull_monitor.model.sharding import LocalParameter, ParameterWatch, local_parameters


def model_of() -> nn.Module:
    return nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2, bias=False))})


def cast(model: nn.Module) -> None:
    model.get_submodule("a").weight.data = model.get_submodule("a").weight.data.bfloat16()


CHANGES: dict[str, Callable[[nn.Module], object]] = {
    "replaced": lambda m: setattr(m.get_submodule("a"), "weight", nn.Parameter(torch.zeros(4, 4))),
    "frozen": lambda m: m.get_submodule("a").weight.requires_grad_(False),
    "cast in place": cast,
    "cast": lambda m: m.half(),
    "another module": lambda m: m.add_module("c", nn.Linear(2, 2)),
    "a module that is gone": lambda m: m.get_submodule("b").pop(1),  # type: ignore[operator]
    "tied": lambda m: setattr(m.get_submodule("b.0"), "weight", m.get_submodule("a").weight),
    "pruned": lambda m: prune.random_unstructured(m.get_submodule("a"), "weight", 0.5),  # type: ignore[no-untyped-call]
    "parametrized": lambda m: parametrizations.weight_norm(m.get_submodule("a")),
    "another shape": lambda m: setattr(m.get_submodule("a").weight, "data", torch.zeros(2, 4)),
}


def described(held: Mapping[str, LocalParameter]) -> list[Any]:
    facts = ("name", "shape", "dtype", "requires_grad", "sources", "problem")
    return [(id(local.optimized), *(getattr(local, fact) for fact in facts)) for local in held.values()]


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_seen(change: str) -> None:
    model = model_of()
    watch = ParameterWatch(model)
    before = described(watch())
    CHANGES[change](model)
    for _ in range(2):
        assert described(watch()) == described(local_parameters(model)) != before


def test_where_nothing_has_changed_nothing_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of()
    watch = ParameterWatch(model)
    held = watch()
    monkeypatch.setattr("weibull_monitor.model.sharding.local._of_modules", lambda *_: pytest.fail("gone through"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert watch() is held
