"""The bounds against the optimizers themselves, fed with gradients that are as bad as can be."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from weibull_monitor.scaling.bounds import UpdateBound, adam_bound, adan_bound, nadam_bound
from weibull_monitor.scaling.optimizers import RULES, OptimizerRule, rule_of
from weibull_monitor.scaling.tracking import BudgetTracker


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
    size = float(w.detach().square().mean().sqrt())
    reached = largest_update(optimizer, w, gradients[:1], 1e-2)
    assert 0.9 * size < reached <= bound.rms(w.numel(), size)
    for gradient in gradients:
        size = float(w.detach().square().mean().sqrt())
        assert largest_update(optimizer, w, [gradient], 1e-2) <= bound.rms(w.numel(), size) * (1 + 1e-5)
    assert 8.0 < bound.rms(64) < 16.0  # of a part the elements of the whole may be


def driven(optimizer: torch.optim.Optimizer, w: torch.Tensor, gradients: list[torch.Tensor]) -> tuple[float, float]:
    """The largest step of a value in units of η, and the largest share of its bound, once that holds."""
    largest = share = 0.0
    for t, gradient in enumerate(gradients, start=1):
        bound = rule_of(optimizer).bound(optimizer.param_groups[0], w.shape)
        assert bound is not None
        bound = bound.young() if t <= bound.after else bound
        before = w.detach().clone()
        w.grad = gradient.clone()
        optimizer.step()
        u = float((w.detach() - before).abs().max()) / optimizer.param_groups[0]["lr"]
        if bound is not None:
            largest, share = max(largest, u), max(share, u / bound.each)
    return largest, share


def courses(growth: float, steps: int = 160) -> dict[str, list[torch.Tensor]]:
    """Gradients as bad as can be: that grow, from the start and late, spikes, zeros at first, turns, and random ones."""
    chance = torch.Generator().manual_seed(0)
    alike = {
        "grow": [1e-60 * growth**t for t in range(steps)],
        "grow late": [1e-60 * growth ** max(0, t - 60) for t in range(steps)],
        "grow quickly": [1e-60 * 1.5**t for t in range(steps)],
        "a spike": [1e6 if t == 100 else 1e-3 for t in range(steps)],
        "zeros": [0.0 if t < 40 else 1.0 for t in range(steps)],
        "shrink": [0.9**t for t in range(steps)],
        "turn": [(-growth) ** t * 1e-60 for t in range(steps)],
    }
    made = {name: [torch.full((4, 8), g, dtype=torch.float64) for g in sizes] for name, sizes in alike.items()}
    walk = torch.cumsum(torch.randn(steps, 4, 8, generator=chance, dtype=torch.float64), 0).exp()
    signs = torch.randn(steps, 4, 8, generator=chance, dtype=torch.float64).sign()
    made["wander"] = list(walk)
    made["wander and turn"] = list(walk * signs)
    return made


# What is driven, the growth that is worst for it, and how near it comes to its bound in 160 steps.
WORST: dict[str, tuple[Any, float, float]] = {
    "RMSprop": (lambda p: torch.optim.RMSprop(p, lr=1e-3, eps=0.0), 3.0, 0.99),
    "RMSprop, 0.9": (lambda p: torch.optim.RMSprop(p, lr=1e-3, alpha=0.9, eps=0.0), 3.0, 0.99),
    "RMSprop with momentum": (lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.9, eps=0.0), 3.0, 0.9),
    "NAdam": (lambda p: torch.optim.NAdam(p, lr=1e-3, eps=0.0), 1.4, 0.3),
    "NAdam, 0.9": (lambda p: torch.optim.NAdam(p, lr=1e-3, betas=(0.9, 0.9), eps=0.0), 2.0, 0.9),
    "RAdam, 0.9": (lambda p: torch.optim.RAdam(p, lr=1e-3, betas=(0.8, 0.9), eps=0.0), 0.9 / 0.8, 0.7),
    "RAdam": (lambda p: torch.optim.RAdam(p, lr=1e-3, eps=0.0), 1.11, 0.05),
    "AMSGrad": (lambda p: torch.optim.AdamW(p, lr=1e-3, betas=(0.9, 0.95), amsgrad=True, eps=0.0), 0.95 / 0.9, 0.9),
    "Adagrad": (lambda p: torch.optim.Adagrad(p, lr=1e-3, eps=0.0), 3.0, 0.99),
    "coupled decay": (lambda p: torch.optim.Adam(p, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, eps=0.0), 1.06, 0.9),
}


@pytest.mark.parametrize("name", WORST)
def test_no_optimizer_of_torch_passes_its_bound(name: str) -> None:
    make, growth, near = WORST[name]
    nearest = 0.0
    for course, gradients in courses(growth).items():
        w = torch.nn.Parameter(torch.full((4, 8), 1e-9, dtype=torch.float64))
        reached, share = driven(make([w]), w, gradients)
        assert share <= 1.0 + 1e-6, (course, reached)
        nearest = max(nearest, share)
    assert nearest > near


def test_radam_has_no_bound_in_its_first_steps() -> None:
    """Until ρ_t is above 5 it steps by the momentum itself: five steps for β₂ = 0.999."""
    w = torch.nn.Parameter(torch.zeros(4, 4))
    optimizer = torch.optim.RAdam([w], lr=1e-3)
    bound = rule_of(optimizer).bound(optimizer.param_groups[0], w.shape)
    assert bound is not None
    assert bound.after == 5
    assert bound.young() is None
    largest = [largest_update(optimizer, w, [torch.full((4, 4), 1e4)], 1e-3) for _ in range(6)]
    assert min(largest[:5]) > 1e3
    assert largest[5] < 1.0
    assert rule_of(optimizer).bound({"betas": (0.5, 0.6)}, (4, 4)) is None  # it is never rectified


def test_centered_rmsprop_has_no_bound() -> None:
    """Where gradients stay the same, v - ḡ² vanishes: one that is a little larger then moves a value by far more than 10·η."""
    w = torch.nn.Parameter(torch.zeros(4, 4, dtype=torch.float64))
    optimizer = torch.optim.RMSprop([w], lr=1e-3, alpha=0.5, centered=True, eps=0.0)
    assert rule_of(optimizer).bound(optimizer.param_groups[0], w.shape) is None
    assert largest_update(optimizer, w, [torch.ones(4, 4) for _ in range(40)], 1e-3) > 1e3


@pytest.mark.parametrize("betas", [(0.98, 0.92, 0.99), (0.9, 0.9, 0.95), (0.95, 0.5, 0.999)])
def test_adan(betas: tuple[float, float, float]) -> None:
    """The bound is that of its formula, solved step by step: the worst gradients reach it, and random ones do not pass it."""

    def course(h: torch.Tensor) -> torch.Tensor:
        """u at the last step, for the h = g + β₂·Δg of each step, (steps, courses)."""
        m = v = n = torch.zeros(h.shape[1], dtype=h.dtype)
        before = g = h[0]
        for t, now in enumerate(h, start=1):
            g = now if t == 1 else (now + betas[1] * before) / (1 + betas[1])
            difference = g - before if t > 1 else torch.zeros_like(g)
            m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * difference
            n = betas[2] * n + (1 - betas[2]) * (g + betas[1] * difference) ** 2
            before = g
        corrected = [1 - beta ** len(h) for beta in betas]
        u: torch.Tensor = (m / corrected[0] + betas[1] * v / corrected[1]) / (n / corrected[2]).sqrt()
        return u

    bound = adan_bound(*betas)
    best = 0.0
    for steps in (1, 2, 3, 5, 10, 40, 200, 800):
        # u·√n is linear in h: its weights are what each step gives alone. The worst h is in proportion to weight over ω.
        alone = torch.eye(steps, dtype=torch.float64)
        weights = torch.tensor([1 - betas[2]], dtype=torch.float64) * betas[2] ** torch.arange(steps - 1, -1, -1)
        share = weights / (1 - betas[2] ** steps)
        linear = course(alone) * share.sqrt()  # each alone has √n̂ = √share·1
        reached = float(course((linear / share)[:, None]).abs()[0])
        assert reached <= bound * (1 + 1e-9)
        best = max(best, reached)
    assert best > 0.98 * bound
    chance = torch.Generator().manual_seed(0)
    wild = torch.cumsum(torch.randn(100, 500, generator=chance, dtype=torch.float64), 0).exp()
    assert float(course(wild).abs().max()) <= bound


@pytest.mark.parametrize("momentum_decay", [0.0, 4e-3, 0.1])
def test_nadam_at_any_step(momentum_decay: float) -> None:
    """The sum of Cauchy and Schwarz, made step by step from the formula of torch's NAdam."""
    beta1, beta2 = 0.9, 0.99
    product, worst = 1.0, 0.0
    for t in range(1, 3000):
        mu, after = (beta1 * (1 - 0.5 * 0.96 ** (s * momentum_decay)) for s in (t, t + 1))
        product *= mu
        kappa = [after / (1 - product * after) * (1 - beta1) * beta1**j for j in range(min(t, 400))]
        kappa[0] += (1 - mu) / (1 - product)
        total = sum(k * k / ((1 - beta2) * beta2**j) for j, k in enumerate(kappa))
        worst = max(worst, math.sqrt(total * (1 - beta2**t)))
    assert worst <= nadam_bound(beta1, beta2, momentum_decay) * (1 + 1e-9)
    assert worst > 0.9 * nadam_bound(beta1, beta2, momentum_decay)


def test_ademamix() -> None:
    group = {"betas": (0.9, 0.999, 0.99), "alpha": 2.0}
    bound = RULES["AdEMAMix"].bound(group, (4, 4))
    assert bound is not None
    kappa = [0.1 * 0.9**j + 2.0 * 0.01 * 0.99**j for j in range(3000)]  # weights of the gradients of j steps ago
    worst = math.sqrt(sum(k * k / (0.001 * 0.999**j) for j, k in enumerate(kappa)))
    assert 0.7 * bound.each < worst <= bound.each
    assert math.isnan(bound.rms(16))
    assert RULES["AdEMAMix"].bound(group | {"betas": (0.9, 0.999, 0.9999)}, (4, 4)) is None  # as its authors have it


def test_lamb_moves_a_matrix_by_its_own_norm() -> None:
    bound = RULES["LAMB"].bound({"betas": (0.9, 0.999), "weight_decay": 0.01}, (16, 16))
    assert bound is not None
    assert bound.element is None
    assert bound.rms(256, weight=0.02) == pytest.approx(0.02)
    assert bound.rms(64, weight=0.02) > 0.04  # a part may move by all of it
    assert np.isnan(bound.rms_of(np.array([256.0]), np.array([0.02]), np.array([False]))).all()  # began at zero
    assert RULES["Lamb"].bound({"betas": (0.9, 0.999), "weight_decay": 0.01}, (16, 16)) is None  # not timm's
    plain = RULES["Lamb"].bound({"betas": (0.9, 0.999), "weight_decay": 0.0, "always_adapt": False}, (16, 16))
    assert plain is not None
    assert plain.rms(256, weight=0.02) == adam_bound(0.9, 0.999)


def test_galore_steps_in_a_projection() -> None:
    """Of rank × max(A, B) values, each with Adam's bound; orthonormal directions keep the norm."""
    group = {"betas": (0.9, 0.999), "rank": 4, "scale": 0.25}
    bound = RULES["AdamW"].bound(group, (16, 64))
    assert bound is not None
    torch.manual_seed(0)
    directions = torch.linalg.qr(torch.randn(16, 4))[0]
    worst = 0.25 * adam_bound(0.9, 0.999) * directions @ torch.randn(4, 64).sign()
    assert float(worst.norm()) <= bound.norm * (1 + 1e-6)
    assert float(worst.abs().max()) <= bound.each


def test_masked_updates_have_no_bound() -> None:
    """What is left of a masked update is raised by up to the number of all values over theirs."""
    for option in ({"caution": True}, {"cautious": True}, {"cautious_factor": 0.0}):
        assert RULES["AdamW"].bound({"betas": (0.9, 0.999), **option}, (4, 4)) is None


@pytest.mark.parametrize("name", ["SGD", "Adadelta", "Rprop", "RMSprop", "NAdam", "LARS", "Prodigy"])
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


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        (torch.optim.RAdam, [None, None, (7.27, 7.27), (7.27, 7.27), (7.27, 7.27), None, None, (7.27, 7.27)]),
        (torch.optim.RMSprop, [*[(None, 10.0)] * 4, (10.0, 10.0), *[(None, 10.0)] * 2, (10.0, 10.0)]),
    ],
)
def test_a_bound_holds_for_an_interval_without_first_steps(kind: Any, found: list[Any]) -> None:
    """Those of a parameter: 4, 8, 12, 200 and 204 steps, and 1, 201 and 205 after its state is emptied."""
    w = torch.nn.Parameter(torch.ones(16, 16))
    optimizer = kind([w], lr=1e-3)
    tracker = BudgetTracker(optimizer)
    seen = []
    for steps in (4, 4, 4, 188, 4, 1, 200, 4):
        if steps == 1:
            optimizer.state.clear()
        for _ in range(steps):
            w.grad = torch.randn(16, 16)
            optimizer.step()
            tracker.advance()
        bound = tracker.by_parameter({"w": w})["w"].bound
        values = bound and [
            None if x is None or math.isnan(x) else round(x, 2) for x in (bound.rms(256), bound.element)
        ]
        seen.append(values and tuple(values))
    assert seen == found
