"""Which optimizers the law is for, read from the real ones, and from classes named as in libraries that need a GPU."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from weibull_monitor.history.reasons import EXPLANATION
from weibull_monitor.scaling.optimizers import describe, rule_of, update_scale, why_not


def named(name: str, attributes: Any = None, **group: Any) -> Any:
    """An optimizer of a library that is not installed here, as far as it can be told from outside."""
    made = type(name, (torch.optim.Optimizer,), attributes or {})
    return made([nn.Parameter(torch.ones(4, 4))], {"lr": 1e-3, "weight_decay": 0.1, **group})


def of_torch(make: Callable[..., Any], **options: Any) -> Any:
    return make([nn.Parameter(torch.ones(4, 4))], **options)


DECAY = {"weight_decay": 0.1}
CASES: dict[str, tuple[Any, str | None]] = {
    "AdamW": (of_torch(torch.optim.AdamW, **DECAY), None),
    "AdamW fused": (of_torch(torch.optim.AdamW, fused=True, **DECAY), None),
    "Adam": (of_torch(torch.optim.Adam), None),
    "Adam, coupled": (of_torch(torch.optim.Adam, **DECAY), "coupled_weight_decay"),
    "Adam, decoupled": (of_torch(torch.optim.Adam, decoupled_weight_decay=True, **DECAY), None),
    "NAdam, decoupled": (of_torch(torch.optim.NAdam, decoupled_weight_decay=True, **DECAY), None),
    "RMSprop": (of_torch(torch.optim.RMSprop), None),
    "RMSprop, coupled": (of_torch(torch.optim.RMSprop, **DECAY), "coupled_weight_decay"),
    "SGD": (of_torch(torch.optim.SGD, lr=0.1), "step_not_eta"),
    "SGD with decay": (of_torch(torch.optim.SGD, lr=0.1, **DECAY), "step_not_eta"),
    "Adagrad": (of_torch(torch.optim.Adagrad), "step_not_eta"),
    "Muon": (of_torch(torch.optim.Muon), None),
    "Adafactor of torch": (of_torch(torch.optim.Adafactor), "step_scaled_by_weight"),
    "AdamW8bit": (named("AdamW8bit"), None),
    "PagedAdamW32bit": (named("PagedAdamW32bit"), None),
    "AdamWFp8": (named("AdamWFp8"), None),
    "Adam8bit": (named("Adam8bit"), "coupled_weight_decay"),
    "PagedLion8bit": (named("PagedLion8bit"), None),
    "Lion": (named("Lion"), None),
    "FusedAdam of Apex": (named("FusedAdam", {"adam_w_mode": 1}), None),
    "DeepSpeedCPUAdam, coupled": (named("DeepSpeedCPUAdam", {"adam_w_mode": False}), "coupled_weight_decay"),
    "SGD8bit": (named("SGD8bit"), "step_not_eta"),
    "LAMB8bit": (named("LAMB8bit"), "step_scaled_by_weight"),
    "another Muon": (named("Muon"), "unknown_optimizer"),
    "AdamWScheduleFree": (named("AdamWScheduleFree"), "unknown_optimizer"),
    "Prodigy": (named("Prodigy"), "unknown_optimizer"),
}


@pytest.mark.parametrize("name", CASES)
def test_whether_the_law_applies_and_why_not(name: str) -> None:
    optimizer, reason = CASES[name]
    assert why_not(optimizer.param_groups[0], rule_of(optimizer)) == reason
    assert reason is None or reason in EXPLANATION
    (described,) = describe([optimizer])
    assert described["class"] == type(optimizer).__name__
    assert described["groups"][0]["law"] == (reason or "applies")


def test_adafactor_of_transformers_by_its_options() -> None:
    transformers = pytest.importorskip("transformers", reason="needs the transformers extra")

    def reason(**options: Any) -> str | None:
        optimizer = of_torch(transformers.Adafactor, **options)
        return why_not(optimizer.param_groups[0], rule_of(optimizer))

    assert reason() == "own_learning_rate"
    assert reason(lr=1e-3, relative_step=False) == "step_scaled_by_weight"
    assert reason(lr=1e-3, relative_step=False, scale_parameter=False) is None


def test_a_subclass_follows_the_rule_of_its_base() -> None:
    class Mine(torch.optim.AdamW):
        pass

    assert rule_of(of_torch(Mine)) == "AdamW"


@pytest.mark.parametrize("shape", [(64, 64), (256, 64), (64, 256)])
@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw", None])
def test_the_scale_of_muon_is_that_of_the_step_it_takes(shape: tuple[int, int], adjust: str | None) -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.zeros(shape))
    optimizer = torch.optim.Muon([weight], lr=1e-2, weight_decay=0.0, adjust_lr_fn=adjust)
    weight.grad = torch.randn(shape)
    optimizer.step()
    taken = weight.detach().square().mean().sqrt().item() / 1e-2 / 0.2
    # Newton-Schulz brings the singular values near 1, not to it.
    assert taken == pytest.approx(update_scale(optimizer.param_groups[0], "Muon", shape), rel=0.25)


def test_others_are_the_measure() -> None:
    assert update_scale({}, "AdamW", (256, 64)) == 1.0
    assert update_scale({"adjust_lr_fn": "original"}, "Muon", (100,)) == 1.0
    assert update_scale({"adjust_lr_fn": "original"}, "Muon", (400, 100)) == pytest.approx(5 * math.sqrt(4 / 400))


def test_groups_that_are_alike_are_described_once() -> None:
    parameters = [nn.Parameter(torch.ones(2, 2)) for _ in range(5)]
    groups = [{"params": [p], "weight_decay": 0.1 if i < 4 else 0.0} for i, p in enumerate(parameters)]
    (described,) = describe([torch.optim.AdamW(groups)])
    assert [group["weight_decay"] for group in described["groups"]] == [0.1, 0.0]
    assert described["groups"][0]["betas"] == [0.9, 0.999]
