"""What happens in other people's trainings: each situation is a change to one small training, and what has to be seen then."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from weibull_monitor.history.record import History

STEPS, HALF, WIDTH = 6, 3, 64
ETA, WEIGHT_DECAY = 1e-3, 0.1
Q, K, IN, OUT = "self_attn.q_proj.weight", "self_attn.k_proj.weight", "mlp.fc1.weight", "mlp.fc2.weight"


class Network(nn.Module):
    """Two attention-like matrices and a feed-forward pair of 4,096 to 8,192 values, and their loss."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn = nn.ModuleDict({"q_proj": nn.Linear(WIDTH, WIDTH), "k_proj": nn.Linear(WIDTH, WIDTH)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(WIDTH, 2 * WIDTH), "fc2": nn.Linear(2 * WIDTH, WIDTH)})
        self.losses: list[float] = []
        self.uses_mlp = True
        generator = torch.Generator().manual_seed(1)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.05, generator=generator)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = x + torch.tanh(self.self_attn["q_proj"](x)) * self.self_attn["k_proj"](x)
        if self.uses_mlp:
            y = y + self.mlp["fc2"](torch.relu(self.mlp["fc1"](y)))
        loss = (y - x.roll(1, dims=-1)).square().mean()
        if hasattr(self, "logit_scale"):
            loss = loss * self.logit_scale.exp()
        if self.training:
            self.losses.append(loss.item())
        return {"loss": loss}


def batches(steps: int = STEPS) -> Tensor:
    """The batches of every training here, of shape (steps, 8, WIDTH)."""
    return torch.randn(steps, 8, WIDTH, generator=torch.Generator().manual_seed(2))


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    parameters = [p for p in model.parameters() if not p.is_sparse]
    return torch.optim.AdamW(parameters, lr=ETA, weight_decay=WEIGHT_DECAY)


def used(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the matrix that each linear layer multiplies with, whatever it is made of."""
    training = model.training
    model.eval()  # or spectral norm would iterate
    found = {}
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear):
                masked = hasattr(module, "weight_mask")  # by pruning, before each forward pass only
                weight = module.weight_orig * module.weight_mask if masked else module.weight
                found[f"{name}.weight"] = weight.detach().clone()
    model.train(training)
    return found


@dataclass
class Training:
    """A training as it is seen from outside: what a situation may act on, and what the test compares with.

    Attributes:
        model: The model, without wrappers.
        optimizer: The optimizer that steps.
        replace: Puts another optimizer in its place, as the users of this host do.
        weights: By step, what `used` gave after it; at 0 before the first.
    """

    model: Network
    optimizer: torch.optim.Optimizer
    replace: Callable[[torch.optim.Optimizer], None]
    weights: dict[int, dict[str, Tensor]] = field(default_factory=dict)


@dataclass
class Seen:
    """What a training with the monitor left."""

    history: History
    training: Training
    messages: list[str]

    def column(self, name: str, column: str) -> dict[int, float]:
        """By step, the values there are."""
        return dict(self.history.series(name, column))


def nothing(*args: Any) -> None:
    pass


@dataclass(frozen=True)
class Situation:
    """One kind of thing that happens.

    Attributes:
        name: What happens.
        before: Changes the new model, before its optimizer is made.
        at_step: What the user's code does before each step, counted from 1.
        expects: What has to be seen, beside what has to be seen in every situation.
        options: Options of the monitor.
        says: Parts of the warnings that are due; no other warning may be logged.
        alerts: The rules that have something to say of it, of the matrix that it happens to. No other alert may be raised.
        ranks: Whether it can happen under `DistributedDataParallel`.
    """

    name: str
    before: Callable[[Network], None] = nothing
    at_step: Callable[[int, Training], None] = nothing
    expects: Callable[[Seen], None] = nothing
    options: Mapping[str, Any] = field(default_factory=dict)
    says: tuple[str, ...] = ()
    alerts: tuple[str, ...] = ()
    ranks: bool = True


def with_a_scalar(model: Network) -> None:
    model.logit_scale = nn.Parameter(torch.tensor(0.1))  # as CLIP has it


def from_bf16(model: Network) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())


def on_the_grid(seen: Seen) -> None:
    for name in (Q, IN):
        assert torch.equal(seen.training.weights[0][name].bfloat16().float(), seen.training.weights[0][name])


def frozen_fc1(model: Network) -> None:
    model.mlp["fc1"].weight.requires_grad_(False)


def merge(step: int, training: Training) -> None:
    """As ReLoRA or an average of weights moves what needs no gradient."""
    training.model.mlp["fc1"].weight.data.mul_(0.99)


def moves(seen: Seen) -> None:
    curve = seen.column(IN, "lambda")
    assert curve[STEPS] / curve[0] == pytest.approx(0.99**STEPS, rel=1e-3)
    assert IN not in {name for s in seen.history.snapshots for name in s.values("update_max")}


def frozen_k(model: Network) -> None:
    model.self_attn["k_proj"].requires_grad_(False)


def unfreeze(step: int, training: Training) -> None:
    if step == HALF + 1:
        training.model.self_attn["k_proj"].requires_grad_(True)


def spent(name: str, steps: int) -> Callable[[Seen], None]:
    """The learning rates of so many steps, and of all steps by the other matrices."""

    def check(seen: Seen) -> None:
        assert seen.column(name, "eta_sum")[STEPS] == pytest.approx(steps * ETA, rel=1e-6)
        assert seen.column(Q, "eta_sum")[STEPS] == pytest.approx(STEPS * ETA, rel=1e-6)

    return check


def skip_the_mlp(step: int, training: Training) -> None:
    """As layer dropout or an expert without tokens: its parameters get no gradient."""
    training.model.uses_mlp = step not in (2, 5)


def second_phase(step: int, training: Training) -> None:
    if step == HALF + 1:
        training.replace(torch.optim.AdamW(training.model.parameters(), lr=3 * ETA, weight_decay=WEIGHT_DECAY))


def two_rates(seen: Seen) -> None:
    rates = seen.column(Q, "eta")
    assert {step: rate for step, rate in rates.items() if step} == pytest.approx(
        {step: ETA if step <= HALF else 3 * ETA for step in range(1, STEPS + 1)}
    )
    assert seen.column(Q, "eta_sum")[STEPS] == pytest.approx(HALF * ETA + (STEPS - HALF) * 3 * ETA, rel=1e-6)


def widen(step: int, training: Training) -> None:
    """A wider feed-forward layer, as when a model is grown, and the optimizer is given it."""
    if step != HALF + 1:
        return
    mlp = training.model.mlp
    old = [*mlp.parameters()]
    torch.manual_seed(3)
    for name, sizes in (("fc1", (WIDTH, 3 * WIDTH)), ("fc2", (3 * WIDTH, WIDTH))):
        mlp[name] = nn.Linear(*sizes)
        for parameter in mlp[name].parameters():
            nn.init.normal_(parameter, std=0.05)
    for group in training.optimizer.param_groups:
        group["params"] = [p for p in group["params"] if all(p is not q for q in old)]
    for parameter in old:
        training.optimizer.state.pop(parameter, None)
    training.optimizer.add_param_group({"params": [*mlp.parameters()]})


def grown(seen: Seen) -> None:
    for snapshot in seen.history.snapshots:
        shapes = {c.name: tuple(c.shape) for c in snapshot.components}
        assert shapes[IN] == ((2 if snapshot.step <= HALF else 3) * WIDTH, WIDTH), snapshot.step


def with_a_sparse_one(model: Network) -> None:
    model.graph = nn.Parameter(torch.eye(WIDTH).to_sparse(), requires_grad=False)


def named(seen: Seen) -> None:
    (reason,) = (why for name, why in seen.history.runs[-1].skipped.items() if "graph" in name)
    assert "sparse" in reason


def parametrised(model: Network) -> None:
    torch.manual_seed(4)
    parametrizations.weight_norm(model.mlp["fc1"])
    parametrizations.spectral_norm(model.self_attn["q_proj"])
    parametrizations.orthogonal(model.self_attn["k_proj"])


def pruned(step: int, training: Training) -> None:
    if step == HALF + 1:
        prune.l1_unstructured(training.model.mlp["fc1"], "weight", amount=0.5)


def half_zeros(seen: Seen) -> None:
    zeros = seen.column(IN, "zeros")
    size = 2 * WIDTH * WIDTH
    assert [count == size // 2 for step, count in zeros.items()] == [step > HALF for step in zeros]


def change_directory(step: int, training: Training) -> None:
    """As Hydra does, or a script that unpacks its data."""
    if step == HALF:
        os.makedirs("elsewhere", exist_ok=True)
        os.chdir("elsewhere")


SITUATIONS = (
    Situation("nothing special"),
    Situation("a scalar parameter", before=with_a_scalar),
    Situation("weights from bf16", before=from_bf16, expects=on_the_grid),
    Situation("frozen and moving", before=frozen_fc1, at_step=merge, expects=moves),
    Situation("unfrozen late", before=frozen_k, at_step=unfreeze, expects=spent(K, STEPS - HALF), ranks=False),
    Situation("a layer left out of some steps", at_step=skip_the_mlp, expects=spent(IN, STEPS - 2), ranks=False),
    Situation("another optimizer", at_step=second_phase, expects=two_rates),
    Situation("a layer replaced", at_step=widen, expects=grown, ranks=False),
    Situation("a matrix that cannot be read", before=with_a_sparse_one, expects=named, says=("graph",), ranks=False),
    Situation("parametrised weights", before=parametrised),
    Situation(
        "pruned in the middle",
        at_step=pruned,
        expects=half_zeros,
        says=(IN,),
        alerts=("dead", "impossible_change"),
    ),
    Situation("another directory", at_step=change_directory, options={"output_dir": "run"}),
    Situation("two models", options={"names": {"first": ["self_attn"], "second": ["mlp"]}}),
)
