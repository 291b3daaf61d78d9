from __future__ import annotations

import math
from statistics import fmean, stdev

import numpy as np
import pytest
import torch
from late import Device
from stepping import count_a_step

from weibull_monitor.history.snapshot import Scaling
from weibull_monitor.scaling.budget import Budget, StepInfo, scalings_of
from weibull_monitor.scaling.optimizers import Hyperparameters, rule_of
from weibull_monitor.scaling.tracked import MAX_LATE
from weibull_monitor.scaling.tracking import BudgetTracker


def scaling_of(how: StepInfo | None, lambda_: float, lambda_0: float | None, numel: int = 1) -> Scaling:
    """That of a single matrix."""
    first = math.nan if lambda_0 is None else lambda_0
    numbers = (np.array([value], dtype=np.float64) for value in (lambda_, first, numel, 1.0))
    return scalings_of([how], np.zeros(1, dtype=np.int64), ("w",), *numbers)[0]["w"]


def cosine(step: int, peak: float, total: int = 20_000, warmup: int = 200, floor: float = 0.1) -> float:
    """η of a step (from 1) of the published runs: linear warm-up, cosine to a tenth."""
    if step <= warmup:
        return peak * step / warmup
    phase = (step - warmup) / (total - warmup)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * phase)))


# λ at steps 1 and 20,000 of eight published runs (T. Ding, arXiv:2606.19367, 2026, CC BY 4.0) and their budget ratio c.
TRAJECTORIES = {
    "pythia-arch eta=3e-4 wd=0.01": (3e-4, 0.01, 0.700),
    "pythia-arch eta=1e-3 wd=0.01": (1e-3, 0.01, 0.627),
    "pythia-arch eta=1e-3 wd=0.01 seed 3": (1e-3, 0.01, 0.626),
    "pythia-arch eta=3e-3 wd=0.01": (3e-3, 0.01, 0.589),
    "pythia-arch eta=1e-3 wd=0.05": (1e-3, 0.05, 0.651),
    "pythia-arch eta=1e-3 wd=0.1": (1e-3, 0.1, 0.680),
    "pythia-arch eta=1e-3 wd=0.2": (1e-3, 0.2, 0.717),
    "llama-arch eta=1e-3 wd=0.01": (1e-3, 0.01, 0.640),
}
ENDS = {
    "pythia-arch eta=3e-4 wd=0.01": (0.01776, 0.03129),
    "pythia-arch eta=1e-3 wd=0.01": (0.017762, 0.076286),
    "pythia-arch eta=1e-3 wd=0.01 seed 3": (0.017753, 0.076245),
    "pythia-arch eta=3e-3 wd=0.01": (0.01776, 0.186056),
    "pythia-arch eta=1e-3 wd=0.05": (0.017762, 0.061675),
    "pythia-arch eta=1e-3 wd=0.1": (0.017762, 0.049107),
    "pythia-arch eta=1e-3 wd=0.2": (0.017762, 0.03386),
    "llama-arch eta=1e-3 wd=0.01": (0.01775, 0.077798),
}


@pytest.mark.parametrize("run", TRAJECTORIES)
def test_budget_ratio_of_the_published_runs(run: str) -> None:
    peak, weight_decay, expected = TRAJECTORIES[run]
    lambda_0, lambda_ = ENDS[run]
    budget = Budget()
    for step in range(1, 20_001):
        budget = budget.advanced(cosine(step, peak), weight_decay)
    used = Hyperparameters(cosine(20_000, peak), weight_decay)
    c = scaling_of(StepInfo(used, budget), lambda_, lambda_0).budget_ratio
    assert c == pytest.approx(expected, abs=1.5e-3)


def test_over_the_published_runs_the_budget_ratio_varies_far_less_than_the_plain_one() -> None:
    plain = [ENDS[run][1] / math.sqrt(peak / decay) for run, (peak, decay, _) in TRAJECTORIES.items()]
    ratios = [c for _, _, c in TRAJECTORIES.values()]
    assert (min(plain), max(plain)) == pytest.approx((0.181, 0.491), abs=5e-4)
    assert stdev(plain) / fmean(plain) == pytest.approx(0.37, abs=0.005)
    assert stdev(ratios) / fmean(ratios) == pytest.approx(0.065, abs=0.0005)


def test_effective_value_tends_to_the_plain_one_for_a_constant_rate() -> None:
    eta, weight_decay, steps = 1e-3, 0.5, 10_000
    budget = Budget()
    for _ in range(steps):
        budget = budget.advanced(eta, weight_decay)
    scaling = scaling_of(StepInfo(Hyperparameters(eta, weight_decay), budget), 0.02, 0.018)
    assert scaling.sqrt_eta_over_wd == pytest.approx(math.sqrt(eta / weight_decay))
    assert scaling.effective == pytest.approx(scaling.sqrt_eta_over_wd, rel=1e-3)
    assert scaling.t_over_tau == pytest.approx(steps * eta * weight_decay)


def test_the_recursion_is_the_geometric_sum() -> None:
    eta, weight_decay, steps = 3e-3, 0.2, 37
    budget = Budget()
    for _ in range(steps):
        budget = budget.advanced(eta, weight_decay)
    q = math.exp(-2 * eta * weight_decay)
    assert budget.integral == pytest.approx(2 * eta**2 * (1 - q**steps) / (1 - q), rel=1e-12)


def test_without_weight_decay_there_is_no_plain_value_but_an_effective_one() -> None:
    budget = Budget().advanced(1e-3, 0.0).advanced(1e-3, 0.0)
    scaling = scaling_of(StepInfo(Hyperparameters(1e-3, 0.0), budget), 0.02, 0.0199)
    assert scaling.sqrt_eta_over_wd is None
    assert scaling.lambda_ratio is None
    assert scaling.t_over_tau is None
    assert scaling.effective == pytest.approx(2e-3)
    assert scaling.budget_ratio == pytest.approx(math.sqrt(0.02**2 - 0.0199**2) / 2e-3)


@pytest.mark.parametrize(
    ("used", "budget", "lambda_", "lambda_0"),
    [
        (Hyperparameters(1e-3, 0.1), Budget(), 0.02, 0.018),  # no step yet
        (Hyperparameters(1e-3, 0.1), None, 0.02, 0.018),  # a run that was not followed from its start
        (Hyperparameters(1e-3, 0.1), Budget(1e-6, 0.1), 0.02, None),  # no baseline
        (Hyperparameters(1e-3, 0.1), Budget(1e-6, 0.0), 0.017, 0.018),  # shrunk below its start
        (Hyperparameters(1e-3, 0.1), Budget(1e-6, 0.1), math.nan, 0.018),  # no fit
        (Hyperparameters(1e-3, 0.1, "step_not_eta"), Budget(1e-6, 0.1), 0.02, 0.018),  # the law does not apply
    ],
)
def test_where_there_is_no_budget_ratio_there_is_none(
    used: Hyperparameters, budget: Budget | None, lambda_: float, lambda_0: float | None
) -> None:
    assert scaling_of(StepInfo(used, budget), lambda_, lambda_0).budget_ratio is None
    assert scaling_of(None, lambda_, lambda_0) == Scaling(reason="no_optimizer")


@pytest.mark.parametrize(
    ("optimizer", "law"),
    [
        (lambda p: torch.optim.AdamW(p, weight_decay=0.1), True),
        (lambda p: torch.optim.Adam(p), True),
        (lambda p: torch.optim.Adam(p, weight_decay=0.1), False),
        (lambda p: torch.optim.NAdam(p, weight_decay=0.1, decoupled_weight_decay=True), True),
        (lambda p: torch.optim.SGD(p, lr=0.1), False),
        (lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.1), False),
    ],
)
def test_the_law_is_for_steps_of_size_eta_and_decoupled_decay(optimizer: object, law: bool) -> None:
    assert callable(optimizer)
    made = optimizer([torch.nn.Parameter(torch.zeros(2, 2))])
    assert (rule_of(made).hyperparameters(made.param_groups[0]).reason is None) is law


def test_groups_are_followed_apart_and_survive_their_own_state(tiny_model: torch.nn.Module) -> None:
    q, rest = [], []
    for name, parameter in tiny_model.named_parameters():
        (q if "q_proj" in name else rest).append(parameter)
    optimizer = torch.optim.AdamW([{"params": q, "lr": 1e-2, "weight_decay": 0.5}, {"params": rest, "lr": 1e-3}])
    keeper = BudgetTracker(optimizer)
    assert keeper.by_parameter(dict(tiny_model.named_parameters())) == {}
    for _ in range(3):
        count_a_step(optimizer)
        keeper.advance()
    stepped = keeper.by_parameter(dict(tiny_model.named_parameters()))
    used, budget, *_ = stepped["layers.0.self_attn.q_proj.weight"]
    assert used == Hyperparameters(1e-2, 0.5)
    assert budget == Budget().advanced(1e-2, 0.5).advanced(1e-2, 0.5).advanced(1e-2, 0.5)
    assert stepped["layers.0.mlp.fc1.weight"].used.eta == 1e-3

    again = BudgetTracker(optimizer)
    again.restore(keeper.state())
    count_a_step(optimizer)
    keeper.advance()
    again.advance()
    assert again.by_parameter(dict(tiny_model.named_parameters())) == keeper.by_parameter(
        dict(tiny_model.named_parameters())
    )


def test_an_unknown_past_gives_no_budget(tiny_model: torch.nn.Module) -> None:
    keeper = BudgetTracker(torch.optim.AdamW(tiny_model.parameters()))
    keeper.restore(None)
    keeper.advance()
    assert keeper.state() is None
    parameters = dict(tiny_model.named_parameters())
    assert all(stepped.budget is None for stepped in keeper.by_parameter(parameters).values())


def test_the_path_and_the_bound_of_each_parameter_are_known(tiny_model: torch.nn.Module) -> None:
    q, rest = [], []
    for name, parameter in tiny_model.named_parameters():
        (q if "q_proj" in name else rest).append(parameter)
    followed = [torch.optim.AdamW(q, lr=1e-2, betas=(0.9, 0.95)), torch.optim.SGD(rest, lr=0.1)]
    keeper = BudgetTracker(followed)
    for step in range(3):
        followed[0].param_groups[0]["lr"] = 1e-2 * (step + 1)
        count_a_step(followed[0])
        keeper.advance()
    all_stepped = keeper.by_parameter(dict(tiny_model.named_parameters()))
    stepped = all_stepped["layers.0.self_attn.q_proj.weight"]
    assert stepped.budget is not None
    assert stepped.budget.path == pytest.approx(0.06)
    assert stepped.bound is not None
    assert stepped.bound.rms(1024) == pytest.approx(1.1646, abs=1e-3)
    assert all_stepped["layers.0.mlp.fc1.weight"].bound is None  # SGD has none
    scaling = scaling_of(stepped, 0.02, 0.018, 1024)
    assert (scaling.eta_sum, scaling.update_max) == (stepped.budget.path, stepped.bound.rms(1024))
    again = BudgetTracker(followed)
    again.restore([[[1e-6, 0.1]], None])  # a state from before the path was kept
    assert again.state() == [[[1e-6, 0.1, None, False, 0.0, 0.0]], None]


class Elsewhere(torch.Tensor):
    """A tensor of the CPU that says it is on an accelerator, and cannot be read there and then."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("cuda", 0)

    def __float__(self) -> float:
        raise AssertionError("this would wait for the device")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    """What is sent from it arrives three ticks later."""
    made = Device(lag=3)
    monkeypatch.setattr("weibull_monitor.measure.transfer.to_host", made.to_host)
    return made


def test_a_learning_rate_on_an_accelerator_is_sent_for_and_not_waited_for(device: Device) -> None:
    rate = torch.tensor(0.5, dtype=torch.float64).as_subclass(Elsewhere)
    weights = [torch.nn.Parameter(torch.ones(2, 2)) for _ in range(3)]
    groups = [{"params": [weight], "weight_decay": 0.1} for weight in weights[:2]]
    late, plain = (torch.optim.AdamW([dict(group) for group in groups], lr=0.5) for _ in range(2))
    late.param_groups[0]["lr"] = rate  # the other stays a float
    keeper, expected = BudgetTracker(late), BudgetTracker(plain)
    for step in range(10):
        device.tick()
        count_a_step(late, plain)
        keeper.advance()
        expected.advance()
        if step % 2:  # as a scheduler does, at once
            rate.mul_(0.9)
            plain.param_groups[0]["lr"] *= 0.9
        if step == 4:
            for optimizer in (late, plain):
                optimizer.add_param_group({"params": [weights[2]], "lr": 0.25, "weight_decay": 0.0})
            device.now += 100  # which group is which has to be known before
    assert (device.waits, device.sent) == (0, 5)
    names = {str(n): weight for n, weight in enumerate(weights)}
    assert keeper.by_parameter(names) == expected.by_parameter(names)
    assert device.waits == 1
    assert keeper.state() == expected.state()
    for _ in range(MAX_LATE + 10):
        rate.mul_(0.999)
        count_a_step(late)
        keeper.advance()
    assert device.waits > 1  # no more than so many are under way
    keeper.restore([[[1e-6, 0.1]]])  # what was under way belongs to what is given up
    added = [0.0, 0.0, None, False, 0.0, 0.0]
    assert keeper.state() == [[[1e-6, 0.1, None, False, 0.0, 0.0], added, added]]


@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_a_constant_learning_rate_on_an_accelerator_is_read_once(device: Device, kind: str) -> None:
    reads = []

    class There(Elsewhere):
        @property
        def device(self) -> torch.device:  # type: ignore[override]
            return torch.device(kind, 0)

        def __float__(self) -> float:
            reads.append(1)
            return float(self.as_subclass(torch.Tensor))

    weight = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    optimizer.param_groups[0]["lr"] = rate = torch.tensor(0.5).as_subclass(There)
    keeper = BudgetTracker(optimizer)
    for _ in range(5):
        keeper.advance()
        device.tick()
    assert (device.waits, device.sent, len(reads)) == (0, kind == "cuda", kind == "xpu")
    rate.fill_(0.25)  # as a scheduler does
    keeper.advance()
    keeper.advance()
    assert (device.sent, len(reads)) == (2 * (kind == "cuda"), 2 * (kind == "xpu"))
    assert keeper.by_parameter({"w": weight})["w"].used.eta == 0.25
