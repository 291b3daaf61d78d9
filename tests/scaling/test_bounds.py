"""The bounds against the optimizers themselves, fed with gradients that are as bad as can be."""

from __future__ import annotations

import math

import pytest
import torch

from weibull_monitor.scaling.optimizers import RULES, OptimizerRule, UpdateBound, adam_bound, rule_of


def largest_update(
    optimizer: torch.optim.Optimizer, w: torch.Tensor, gradients: list[torch.Tensor], eta: float
) -> float:
    """The largest RMS of a step in units of η."""
    largest = 0.0
    for gradient in gradients:
        before = w.detach().clone()
        w.grad = gradient.to(w)
        optimizer.step()
        largest = max(largest, float((w.detach() - before).square().mean().sqrt()) / eta)
    return largest


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.9, 0.95), (0.9, 0.99), (0.8, 0.9), (0.0, 0.999)])
def test_adam_comes_close_to_its_bound_and_not_beyond(betas: tuple[float, float]) -> None:
    """Gradients that grow by β₂/β₁ a step are the worst there are; a thousand random courses are no worse."""
    bound, eta = adam_bound(*betas), 1e-3
    growth = betas[1] / betas[0] if betas[0] else 1e3
    steps = min(300, int(250 / math.log10(growth)))
    worst = [torch.full((8, 8), 1e-140 * growth**t, dtype=torch.float64) for t in range(steps)]
    w = torch.zeros(8, 8, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([w], lr=eta, betas=betas, eps=0.0)
    largest_update(optimizer, w, [torch.full((8, 8), 1e-145, dtype=torch.float64)], eta)
    optimizer.state[w]["step"] += 1_000_000  # late in a run, where the bias corrections are 1
    reached = largest_update(optimizer, w, worst, eta)
    assert reached <= bound * (1 + 1e-9)
    assert reached > 0.99 * bound
    chance = torch.Generator().manual_seed(0)
    w = torch.zeros(64, 64, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([w], lr=eta, betas=betas, eps=0.0)
    wild = [
        torch.randn(64, 64, generator=chance).double() * 10 ** float(3 * torch.randn(1, generator=chance))
        for _ in range(60)
    ]
    assert largest_update(optimizer, w, wild, eta) <= bound


def test_the_figure_of_kingma_and_ba_is_passed() -> None:
    """(1 - β₁)/√(1 - β₂) = 3.16 holds for a gradient that is zero but once, not for one that grows."""
    assert adam_bound(0.9, 0.999) > 2 * (1 - 0.9) / math.sqrt(1 - 0.999)


def test_bias_corrections_only_lower_the_bound() -> None:
    for beta1, beta2 in ((0.9, 0.999), (0.9, 0.95), (0.95, 0.98)):
        ratio = beta1**2 / beta2
        at = [
            (1 - beta1)
            / (1 - beta1**t)
            * math.sqrt((1 - beta2**t) / (1 - beta2))
            * math.sqrt((1 - ratio**t) / (1 - ratio))
            for t in range(1, 5000)
        ]
        assert max(at) <= adam_bound(beta1, beta2) * (1 + 1e-12)


def test_adamax() -> None:
    w = torch.zeros(32, 32, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adamax([w], lr=1e-3, betas=(0.9, 0.95), eps=1e-300)
    bound = rule_of(optimizer).bound(optimizer.param_groups[0], (32, 32))
    assert bound is not None
    shrinking = [torch.full((32, 32), 0.95**t, dtype=torch.float64) for t in range(200)]
    reached = largest_update(optimizer, w, shrinking, 1e-3)
    assert 0.9 * bound.each < reached <= bound.each * (1 + 1e-6)


@pytest.mark.parametrize("shape", [(64, 64), (128, 32), (32, 128)])
@pytest.mark.parametrize("adjust", [None, "match_rms_adamw"])
def test_muon(shape: tuple[int, int], adjust: str | None) -> None:
    muon = getattr(torch.optim, "Muon", None)
    if muon is None:
        pytest.skip("needs torch.optim.Muon")
    torch.manual_seed(0)
    w = torch.zeros(shape, requires_grad=True)
    optimizer = muon([w], lr=1.0, weight_decay=0.0, adjust_lr_fn=adjust)
    bound = rule_of(optimizer).bound(optimizer.param_groups[0], shape)
    assert bound is not None
    gradients = [torch.randn(shape) * 10.0 ** (t % 5) for t in range(10)] + [torch.ones(shape)]
    reached = largest_update(optimizer, w, gradients, 1.0)
    assert 0.6 * bound.rms(w.numel()) < reached <= bound.rms(w.numel())


def test_adafactor() -> None:
    torch.manual_seed(0)
    w = (0.02 * torch.randn(64, 64)).requires_grad_()
    optimizer = torch.optim.Adafactor([w], lr=1e-2, d=1.0, weight_decay=0.0)
    bound = rule_of(optimizer).bound(optimizer.param_groups[0], (64, 64))
    assert bound is not None
    gradients = [torch.randn(64, 64) * 10.0 ** (t % 7) for t in range(30)]
    assert largest_update(optimizer, w, gradients, 1e-2) <= bound.rms(w.numel())
    assert bound.rms(64) == 8.0  # of a part the elements of the whole may be


@pytest.mark.parametrize("name", ["SGD", "Adagrad", "RMSprop", "Prodigy", "RAdam"])
def test_where_there_is_no_bound_there_is_none(name: str) -> None:
    rule = RULES.get(name, OptimizerRule(name))
    assert rule.bound({"lr": 0.1, "betas": (0.9, 0.999)}, (8, 8)) is None


def test_impossible_betas_give_none() -> None:
    assert RULES["Adam"].bound({"betas": (0.99, 0.9)}, (8, 8)) is None


def test_a_part_is_bounded_by_each_element_and_by_the_whole() -> None:
    assert UpdateBound(each=1.0, norm=8.0).rms(16) == 1.0
    assert UpdateBound(each=1.0, norm=8.0).rms(256) == 0.5


def test_others_of_the_name_muon_have_no_bound() -> None:
    """Moonlight's scales its steps by 0.2·√max(A, B) and steps embeddings by AdamW; its groups say neither."""

    class Muon(torch.optim.Optimizer):
        def __init__(self, params: list[torch.Tensor]) -> None:
            super().__init__(params, {"lr": 1e-3, "weight_decay": 0.1, "momentum": 0.95, "ns_steps": 5})

    optimizer = Muon([torch.zeros(8, 8)])
    assert rule_of(optimizer).bound(optimizer.param_groups[0], (8, 8)) is None
