"""Which optimizers the law is for, read from the real ones, and from classes named as in libraries that need a GPU."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from weibull_monitor.history.reasons import EXPLANATION
from weibull_monitor.scaling.bounds import UpdateBound, adam_bound
from weibull_monitor.scaling.counts import steps_taken
from weibull_monitor.scaling.optimizers import (
    RULES,
    chooses_rate,
    describe,
    rate_of,
    rule_of,
)


def named(name: str, attributes: Any = None, **group: Any) -> Any:
    """An optimizer of a library that is not installed here, as it looks from outside."""
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
    "Adagrad, coupled": (of_torch(torch.optim.Adagrad, **DECAY), "coupled_weight_decay"),
    "Adadelta, coupled": (of_torch(torch.optim.Adadelta, **DECAY), "coupled_weight_decay"),
    "RAdam, coupled": (of_torch(torch.optim.RAdam, **DECAY), "coupled_weight_decay"),
    "an unknown one that says it is coupled": (named("AdaBelief", weight_decouple=False), "coupled_weight_decay"),
    "an unknown one that says it is not": (named("AdaBelief", weight_decouple=True), "unknown_optimizer"),
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
    assert rule_of(optimizer).why_not(optimizer.param_groups[0]) == reason
    assert reason is None or reason in EXPLANATION
    (described,) = describe([optimizer])
    assert described["class"] == type(optimizer).__name__
    assert described["groups"][0]["law"] == (reason or "applies")


def test_adafactor_of_transformers_by_its_options() -> None:
    transformers = pytest.importorskip("transformers", reason="needs the transformers extra")

    def reason(**options: Any) -> str | None:
        optimizer = of_torch(transformers.Adafactor, **options)
        return rule_of(optimizer).why_not(optimizer.param_groups[0])

    assert reason() == "own_learning_rate"
    assert reason(lr=1e-3, relative_step=False) == "step_scaled_by_weight"
    assert reason(lr=1e-3, relative_step=False, scale_parameter=False) is None


@pytest.mark.parametrize(("name", "each"), [("AdamW8bit", None), ("AdamWFp8", None), ("PagedLion8bit", 1.0)])
def test_quantised_states_have_no_bound_but_that_of_a_sign(name: str, each: float | None) -> None:
    """Driven with gradients of many sizes, AdamW8bit of torchao steps by 1e15 η, that of bitsandbytes by 1.36 times the bound."""
    optimizer = named(name, betas=(0.9, 0.95))
    bound = rule_of(optimizer).bound(optimizer.param_groups[0], (4, 4))
    assert (bound and bound.element) == each


def test_rates_that_an_optimizer_chooses() -> None:
    """Prodigy and D-Adaptation step by d·lr; that a group can have a fixed decay hides nothing; Rprop says nothing."""
    assert rate_of({"lr": 0.5, "d": 1e-3, "d0": 1e-6}) == pytest.approx(5e-4)
    assert rate_of({"lr": 0.5, "d": torch.tensor(1e-3), "d0": 1e-6}) is None  # may be on an accelerator
    assert rate_of({"lr": 0.5, "fixed_decay": False}) == 0.5
    assert rate_of({"lr": 0.5, "fixed_decay": True, "weight_decay": 0.01}) is None
    assert rate_of({"lr": 0.5, "decouple_lr": True, "weight_decay": 0.01}) is None
    rprop = of_torch(torch.optim.Rprop)
    assert rate_of(rprop.param_groups[0]) is None
    assert rule_of(rprop).why_not(rprop.param_groups[0]) == "step_not_eta"


def test_a_subclass_follows_the_rule_of_its_base() -> None:
    class Mine(torch.optim.AdamW):
        pass

    assert rule_of(of_torch(Mine)) == RULES["AdamW"]


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
    assert taken == pytest.approx(rule_of(optimizer).scale(optimizer.param_groups[0], shape), rel=0.25)


def test_others_are_the_measure() -> None:
    assert RULES["AdamW"].scale({}, (256, 64)) == 1.0
    muon = RULES["Muon"]
    assert muon.scale({"adjust_lr_fn": "match_rms_adamw"}, (512, 128)) == 1.0
    assert muon.scale({"adjust_lr_fn": "original"}, (100,)) == 1.0
    assert muon.scale({"adjust_lr_fn": "original"}, (400, 100)) == pytest.approx(5 * math.sqrt(4 / 400))


ADAM_MODES: dict[str, tuple[Any, bool]] = {
    "FusedAdam of Apex or DeepSpeed": (named("FusedAdam", {"adam_w_mode": 1}, betas=(0.9, 0.95)), True),
    "FusedAdam, coupled": (named("FusedAdam", {"adam_w_mode": 0}, betas=(0.9, 0.95)), False),
    "DeepSpeedCPUAdam": (named("DeepSpeedCPUAdam", {"adam_w_mode": True}, betas=(0.9, 0.95)), True),
    "CPUAdam of ColossalAI": (named("CPUAdam", {"adamw_mode": True}, betas=(0.9, 0.95)), True),
    "CPUAdam of ColossalAI, coupled": (named("CPUAdam", {"adamw_mode": False}, betas=(0.9, 0.95)), False),
}


@pytest.mark.parametrize("name", ADAM_MODES)
def test_law_bound_and_forces_agree_on_the_adams_of_other_libraries(name: str) -> None:
    optimizer, decoupled = ADAM_MODES[name]
    rule, group = rule_of(optimizer), optimizer.param_groups[0]
    assert rule.why_not(group) == (None if decoupled else "coupled_weight_decay")
    assert rule.bound(group, (4, 4)) == UpdateBound(each=adam_bound(0.9, 0.95))
    assert rule.forces
    assert rule.decouples(group) is decoupled


@pytest.mark.parametrize(
    "kind",
    ["Adam", "AdamW", "NAdam", "RAdam", "Adamax", "RMSprop", "Adagrad", "Adadelta", "Rprop", "ASGD", "Adafactor"],
)
def test_the_steps_that_an_optimizer_has_taken_are_read_from_its_state(kind: str) -> None:
    taken, waiting = (nn.Parameter(torch.ones(4, 4)) for _ in range(2))
    optimizer = getattr(torch.optim, kind)([taken, waiting], lr=1e-3)
    for _ in range(3):
        taken.grad = torch.ones(4, 4)
        optimizer.step()
    group = optimizer.param_groups[0]
    assert steps_taken(optimizer, taken, group) == 3
    assert not steps_taken(optimizer, waiting, group)  # it had no gradient


@pytest.mark.parametrize("kind", ["SGD", "Muon", "LBFGS"])
def test_an_optimizer_that_does_not_count_has_no_steps_taken(kind: str) -> None:
    weight = nn.Parameter(torch.ones(4, 4))
    optimizer = getattr(torch.optim, kind)([weight], lr=1e-3)
    weight.grad = torch.ones(4, 4)
    optimizer.step(lambda: torch.zeros(()))
    assert steps_taken(optimizer, weight, optimizer.param_groups[0]) is None


def test_fused_adam_counts_in_the_group_or_in_the_state_of_the_last_parameter() -> None:
    first, last = (nn.Parameter(torch.ones(4, 4)) for _ in range(2))
    apex = type("FusedAdam", (torch.optim.Optimizer,), {})([first, last], {"lr": 1e-3})
    group = apex.param_groups[0]
    assert steps_taken(apex, first, group) is None
    apex.state[first], apex.state[last], group["step"] = {"exp_avg": first}, {"exp_avg": last}, 7
    assert steps_taken(apex, first, group) == 7
    group["step"] = torch.tensor([8], dtype=torch.int)  # capturable
    assert steps_taken(apex, last, group) == 8
    deepspeed = type("FusedAdam", (torch.optim.Optimizer,), {})([first, last], {"lr": 1e-3, "step": 0})
    deepspeed.state[first], deepspeed.state[last] = {"step": 0}, {"step": 9}
    assert steps_taken(deepspeed, first, deepspeed.param_groups[0]) == 9


def test_groups_that_are_alike_are_described_once() -> None:
    parameters = [nn.Parameter(torch.ones(2, 2)) for _ in range(5)]
    groups = [{"params": [p], "weight_decay": 0.1 if i < 4 else 0.0} for i, p in enumerate(parameters)]
    (described,) = describe([torch.optim.AdamW(groups)])
    assert [group["weight_decay"] for group in described["groups"]] == [0.1, 0.0]
    assert described["groups"][0]["betas"] == [0.9, 0.999]


@pytest.mark.parametrize("own", [{"d": 1e-6, "growth_rate": math.inf}, {"d": 1e-6, "fixed_decay": False}])
def test_d_adaptation_and_prodigy_choose_their_rate(own: dict[str, Any]) -> None:
    assert chooses_rate({"lr": 1.0} | own)
    assert not chooses_rate(torch.optim.Adafactor([torch.nn.Parameter(torch.ones(2, 2))]).param_groups[0])
    assert not chooses_rate({"lr": 1e-3, "fixed_decay": False})  # many optimizers of pytorch-optimizer have this choice
