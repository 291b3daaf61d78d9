"""Updates against what really happened to the weights, and against u computed in float64 from the optimizer's state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from weibull_monitor import MemoryTracker, WeibullMonitor, fit_weibull, read_history
from weibull_monitor.history.columns import UPDATES
from weibull_monitor.history.snapshot import Update
from weibull_monitor.scaling import update_reader
from weibull_monitor.scaling.updates import UpdateState, update_state

ETA = 1e-2


class Lion(torch.optim.Optimizer):
    """X. Chen et al., "Symbolic discovery of optimization algorithms" (2023), algorithm 2."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                m = self.state[p].setdefault("exp_avg", torch.zeros_like(p))
                p.sub_(group["lr"] * (0.9 * m + 0.1 * p.grad).sign())
                m.lerp_(p.grad, 0.01)


def trained(
    optimizer_class: Any,
    directory: Path,
    dtype: torch.dtype = torch.float32,
    steps: int = 6,
    **options: Any,
) -> tuple[Any, Any, Tensor, Update | None]:
    """A model, its optimizer, the change of its weights in the last step, and the update that the monitor found."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(160, 120, bias=False)).to(dtype)
    optimizer = optimizer_class(model.parameters(), lr=ETA, **options)
    weight = model[0].weight
    before = weight.detach().clone()
    with WeibullMonitor(model, optimizer, output_dir=directory, every_n_steps=1, updates=True) as monitor:
        for _ in range(steps):
            before = weight.detach().clone()
            weight.grad = (0.3 * torch.randn(120, 160) + weight.detach().float()).to(dtype)
            optimizer.step()
            monitor.step()
        last = monitor.last
    assert last is not None
    return model, optimizer, (weight.detach().double() - before.double()), last.updates.get("0.weight")


@pytest.mark.parametrize(
    ("optimizer_class", "options"),
    [
        (torch.optim.AdamW, {"weight_decay": 0.0}),
        (torch.optim.AdamW, {"weight_decay": 0.0, "betas": (0.8, 0.9), "eps": 1e-2, "fused": True}),
        (torch.optim.Adam, {"amsgrad": True}),
        (torch.optim.SGD, {"momentum": 0.9}),
    ],
    ids=str,
)
def test_the_update_is_what_the_weights_have_moved_by(
    optimizer_class: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    model, _, change, found = trained(optimizer_class, tmp_path, **options)
    truth = fit_weibull(change / ETA)  # float64
    assert found is not None
    assert found.k == pytest.approx(truth.k, rel=1e-3)
    assert found.lambda_ == pytest.approx(truth.lambda_, rel=1e-3)
    assert found.rms == pytest.approx(truth.rms, rel=1e-3)
    weight = model[0].weight.detach().double()
    assert found.ratio == pytest.approx(float(change.norm() / weight.norm()), rel=1e-3)


def test_the_update_of_adam_is_its_formula_in_float64(tmp_path: Path) -> None:
    betas, eps, steps = (0.7, 0.95), 1e-6, 6
    model, optimizer, _, found = trained(
        torch.optim.AdamW, tmp_path, weight_decay=0.3, betas=betas, eps=eps, steps=steps
    )
    kept = optimizer.state[model[0].weight]
    mean, square = kept["exp_avg"].double(), kept["exp_avg_sq"].double()
    u = (mean / (1 - betas[0] ** steps)) / ((square / (1 - betas[1] ** steps)).sqrt() + eps)
    truth = fit_weibull(u)
    assert found is not None
    assert (found.k, found.lambda_, found.rms) == pytest.approx((truth.k, truth.lambda_, truth.rms), rel=2e-4)


@pytest.mark.parametrize("optimizer_class", [Lion, torch.optim.Muon])
def test_of_sign_and_orthogonal_steps_the_momentum_is_fitted(optimizer_class: Any, tmp_path: Path) -> None:
    model, optimizer, change, found = trained(optimizer_class, tmp_path)
    state = optimizer.state[model[0].weight]
    momentum = fit_weibull((state.get("exp_avg") if "exp_avg" in state else state["momentum_buffer"]).double())
    assert found is not None
    assert (found.k, found.lambda_, found.rms) == pytest.approx((momentum.k, momentum.lambda_, momentum.rms), rel=2e-4)
    moved = float(change.norm() / model[0].weight.detach().double().norm())
    # Lion's step is ±η; Muon's singular values are only near 1.
    assert found.ratio == pytest.approx(moved, rel=0.01 if optimizer_class is Lion else 0.25)


def test_a_momentum_in_bfloat16_is_fitted_within_its_rounding(tmp_path: Path) -> None:
    model, optimizer, _, found = trained(torch.optim.SGD, tmp_path, dtype=torch.bfloat16, momentum=0.9)
    momentum = fit_weibull(optimizer.state[model[0].weight]["momentum_buffer"].double())
    assert found is not None
    assert (found.k, found.lambda_) == pytest.approx((momentum.k, momentum.lambda_), rel=4e-3)


def test_nesterovs_step_is_not_in_the_state(tmp_path: Path) -> None:
    _, _, _, found = trained(torch.optim.SGD, tmp_path, momentum=0.9, nesterov=True)
    assert found is not None
    assert found.rms > 0
    assert found.ratio is None


@pytest.mark.parametrize(
    ("optimizer_class", "reason"),
    [(torch.optim.Rprop, "the update of Rprop is not known"), (torch.optim.SGD, "SGD keeps no momentum for it")],
)
def test_what_cannot_be_read_is_said_once(
    optimizer_class: Any, reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    *_, found = trained(optimizer_class, tmp_path)
    assert found is None
    assert caplog.text.count(reason) == 1
    assert "update_k" not in (tmp_path / "weibull" / "history.jsonl").read_text().splitlines()[-2]


def test_states_of_few_bits_are_not_read() -> None:
    weight = nn.Parameter(torch.zeros(2, 2))
    adamw = torch.optim.AdamW([weight])
    made = type("AdamW4bit", (torch.optim.Optimizer,), {})([weight], adamw.param_groups[0])
    assert update_state(weight, made.param_groups[0], made) == "the update of AdamW4bit is not known"
    lion = Lion([weight], 1e-3)
    lion.state[weight]["exp_avg"] = torch.zeros(2, 2, dtype=torch.uint8)
    assert "too coarse" in str(update_state(weight, lion.param_groups[0], lion))


def test_what_has_no_state_yet_is_not_said_to_keep_no_momentum() -> None:
    weight = nn.Parameter(torch.zeros(2, 2))
    sgd = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    assert update_state(weight, sgd.param_groups[0], sgd) == "the optimizer has no state for it yet"


def test_a_rate_that_the_optimizer_chooses_gives_no_ratio(tmp_path: Path) -> None:
    """But where it says it, as Prodigy and D-Adaptation say d, the rate is d·lr."""

    def adam(**own: Any) -> Any:
        class Adam(torch.optim.Adam):
            def __init__(self, params: Any, lr: float) -> None:
                super().__init__(params, lr=lr)
                self.param_groups[0] |= own

        return Adam

    *_, found = trained(adam(relative_step=True), tmp_path / "hidden")
    assert found is not None
    assert found.ratio is None
    *_, known = trained(adam(d=0.5, growth_rate=2.0), tmp_path / "known")
    *_, whole = trained(adam(), tmp_path / "whole")
    assert known is not None
    assert whole is not None
    assert known.ratio == pytest.approx(0.5 * whole.ratio)


def test_chunks_are_small_and_hold_every_element_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, _, whole = trained(torch.optim.AdamW, tmp_path / "a")
    made: list[int] = []
    chunks = UpdateState.chunks

    def watched(self: UpdateState, *pieces: Any, size: int) -> Any:
        for chunk in chunks(self, *pieces, size=1000):
            made.append(chunk.numel())
            yield chunk

    monkeypatch.setattr(UpdateState, "chunks", watched)
    monkeypatch.setattr(update_reader, "AT_ONCE", 3000)
    _, _, _, cut = trained(torch.optim.AdamW, tmp_path / "b")
    assert cut == whole
    assert max(made) <= 1000
    assert sum(made) == 6 * 120 * 160


def test_history_metrics_and_parts(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, tracker = nn.MultiheadAttention(32, 4), MemoryTracker()
    optimizer = torch.optim.AdamW(model.parameters(), lr=ETA)
    with WeibullMonitor(
        model, optimizer, output_dir=tmp_path, every_n_steps=2, updates=True, resolution="head", trackers=[tracker]
    ) as monitor:
        for _ in range(4):
            for p in model.parameters():
                p.grad = torch.randn_like(p)
            optimizer.step()
            monitor.step()
        last = monitor.last
    assert last is not None
    q, k, v = (last.updates[f"in_proj_weight[{part}]"] for part in "qkv")
    assert last.updates["in_proj_weight"].rms ** 2 == pytest.approx((q.rms**2 + k.rms**2 + v.rms**2) / 3, rel=1e-3)
    assert "in_proj_weight[q, head 3]" in last.updates
    recorded = read_history(tmp_path).snapshots
    assert all(recorded[0].values(column) == {} for column in UPDATES)
    assert recorded[-1].values("update_rms") == pytest.approx({n: u.rms for n, u in last.updates.items()}, rel=1e-6)
    keys = {key for key in tracker.records[-1][1] if key.startswith("weibull_update/")}
    assert {"weibull_update/selection_k", "weibull_update/selection_ratio", "weibull_update/transmission_rms"} <= keys
    assert len(keys) == 8


def test_the_loss_is_bit_identical_and_a_failure_costs_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, _, _, _ = trained(torch.optim.AdamW, tmp_path / "a")

    def broken(*_: Any) -> Any:
        raise RuntimeError("no memory, say")

    monkeypatch.setattr(update_reader, "update_state", broken)
    other, _, _, found = trained(torch.optim.AdamW, tmp_path / "b")
    assert found is None
    assert torch.equal(model[0].weight, other[0].weight)
    assert caplog.text.count("no memory, say") == 1
    assert read_history(tmp_path / "b").snapshots[-1].values("k")
