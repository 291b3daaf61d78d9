"""The forces of a step against the definition, computed in float64 from the weights before and after."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from weibull_monitor import MemoryTracker, WeibullMonitor, read_history
from weibull_monitor.scaling.forces import AdamState, adam_state, forces_of, squared_norm, sums_after


def stepped(
    optimizer_class: Any, steps: int = 5, dtype: torch.dtype = torch.float32, **options: Any
) -> tuple[Any, Any, Any]:
    """A parameter before and after the last of a few steps, and its optimizer."""
    torch.manual_seed(0)
    parameter = nn.Parameter((torch.randn(60, 50) * 0.02).to(dtype))
    optimizer = optimizer_class([parameter], lr=1e-3, **options)
    before = parameter.detach().clone()
    for _ in range(steps):
        before = parameter.detach().clone()
        parameter.grad = (torch.randn(60, 50) * 0.1 + 3.0 * parameter.detach().float()).to(dtype)
        optimizer.step()
    return before, parameter, optimizer


def sums(parameter: Tensor, state: AdamState, before: Tensor) -> list[float]:
    return [*sums_after([parameter], [state.mean], [state.square], state).tolist(), float(squared_norm([before]))]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"foreach": True},
        {"fused": True},
        {"amsgrad": True},
        {"maximize": True},
        {"betas": (0.8, 0.95), "eps": 1e-3},
    ],
    ids=str,
)
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_the_terms_make_up_the_measured_change(options: dict[str, Any], weight_decay: float) -> None:
    before, parameter, optimizer = stepped(torch.optim.AdamW, weight_decay=weight_decay, **options)
    state = adam_state(parameter, optimizer.param_groups[0], optimizer)
    assert isinstance(state, AdamState)
    forces = forces_of(sums(parameter, state, before), 1e-3, weight_decay)
    assert forces is not None
    w, after = before.double(), parameter.detach().double()
    u = (w * (1 - 1e-3 * weight_decay) - after) / 1e-3  # the update that was really made
    norm = float((w * w).sum())
    assert forces.alignment == pytest.approx(float(-2e-3 * (w * u).sum()) / norm, rel=1e-3)
    assert forces.injection == pytest.approx(float(1e-6 * (u * u).sum()) / norm, rel=1e-3)
    assert forces.decay == pytest.approx(-2e-3 * weight_decay, rel=1e-6)
    assert forces.net == pytest.approx(float((after * after).sum() - norm) / norm, rel=1e-3)
    assert forces.closure == pytest.approx(0.0, abs=2e-3)
    assert sum(abs(share) for share in forces.shares) == pytest.approx(1.0)


def test_a_change_that_no_force_made_does_not_close() -> None:
    before, parameter, optimizer = stepped(torch.optim.AdamW, weight_decay=0.1)
    state = adam_state(parameter, optimizer.param_groups[0], optimizer)
    assert isinstance(state, AdamState)
    forces = forces_of(sums(parameter, state, 0.9 * before), 1e-3, 0.1)
    assert forces is not None
    assert forces.closure is not None
    assert forces.closure > 0.5
    unknown = forces_of([*sums(parameter, state, before)[:3], math.nan], 1e-3, 0.1)
    assert unknown is not None
    assert unknown.closure is None


def test_bfloat16_steps_that_rounding_swallows_do_not_close() -> None:
    before, parameter, optimizer = stepped(torch.optim.AdamW, dtype=torch.bfloat16, weight_decay=0.1)
    with torch.no_grad():
        parameter.copy_(before)  # as if the update had been too small for bf16
    state = adam_state(parameter, optimizer.param_groups[0], optimizer)
    assert isinstance(state, AdamState)
    forces = forces_of(sums(parameter, state, before), 1e-3, 0.1)
    assert forces is not None
    assert forces.closure is not None
    assert abs(forces.closure) > 0.1


def test_pieces_and_strides_do_not_matter() -> None:
    _, parameter, optimizer = stepped(torch.optim.AdamW)
    state = adam_state(parameter, optimizer.param_groups[0], optimizer)
    assert isinstance(state, AdamState)
    whole = sums_after([parameter], [state.mean], [state.square], state)

    def cut(tensor: Tensor) -> list[Tensor]:
        flipped = tensor.detach().t().contiguous().t()
        return [flipped[:7], flipped[7:, ::2], flipped[7:, 1::2]]

    pieces = sums_after(cut(parameter), cut(state.mean), cut(state.square), state)
    torch.testing.assert_close(pieces, whole, rtol=1e-6, atol=0.0)
    torch.testing.assert_close(squared_norm(cut(parameter)), whole[1], rtol=1e-6, atol=0.0)
    capturable = state._replace(step=torch.as_tensor(state.step))
    torch.testing.assert_close(sums_after([parameter], [state.mean], [state.square], capturable), whole)


def test_what_has_no_forces_says_why() -> None:
    for optimizer_class in (torch.optim.SGD, torch.optim.Adam):
        _, parameter, optimizer = stepped(optimizer_class)
        reason = adam_state(parameter, optimizer.param_groups[0], optimizer)
        assert reason == f"the forces are those of AdamW, and the optimizer is {optimizer_class.__name__}"
    _, parameter, optimizer = stepped(torch.optim.AdamW)
    fresh = torch.optim.AdamW([parameter])
    assert adam_state(parameter, fresh.param_groups[0], fresh) == "the optimizer has no state for it yet"
    flat = copy.copy(optimizer)
    flat.state = {parameter: {**optimizer.state[parameter], "exp_avg": torch.zeros(3000)}}
    assert "another shape" in str(adam_state(parameter, optimizer.param_groups[0], flat))
    assert forces_of([0.0, 0.0, 0.0, 0.0], 1e-3, 0.1) is None
    assert forces_of([0.1, 1.0, 1.0, 1.0], 0.0, 0.1) is None
    assert forces_of([math.nan, 1.0, 1.0, 1.0], 1e-3, 0.1) is None
    decoupled = torch.optim.Adam([parameter], decoupled_weight_decay=True)
    assert "no state for it yet" in str(adam_state(parameter, decoupled.param_groups[0], decoupled))


def fused_adam(adamw: Any, parameter: Tensor, name: str = "FusedAdam", mode: str = "adam_w_mode", **group: Any) -> Any:
    """An optimizer of a library that is not installed here, after the steps that AdamW has taken."""
    kept = {key: adamw.param_groups[0][key] for key in ("lr", "betas", "eps", "weight_decay")}
    made = type(name, (torch.optim.Optimizer,), {mode: 1})([parameter], kept | group)
    made.state[parameter] = {k: v for k, v in adamw.state[parameter].items() if k != "step"}
    return made


def test_other_libraries_adamw_has_the_forces_of_adamw() -> None:
    _, parameter, adamw = stepped(torch.optim.AdamW, steps=5, weight_decay=0.1)
    expected = adam_state(parameter, adamw.param_groups[0], adamw)
    assert isinstance(expected, AdamState)
    for name, mode, in_state, in_group in [
        ("FusedAdam", "adam_w_mode", {}, {"step": 5}),  # Apex
        ("FusedAdam", "adam_w_mode", {"step": 5}, {"step": 0}),  # DeepSpeed
        ("DeepSpeedCPUAdam", "adam_w_mode", {"step": 5}, {}),
        ("CPUAdam", "adamw_mode", {"step": 5}, {}),  # ColossalAI
    ]:
        made = fused_adam(adamw, parameter, name, mode, bias_correction=True)
        made.state[parameter] |= in_state
        made.param_groups[0] |= in_group
        found = adam_state(parameter, made.param_groups[0], made)
        assert isinstance(found, AdamState), found
        assert found.step == 5
        torch.testing.assert_close(
            sums_after([parameter], [found.mean], [found.square], found),
            sums_after([parameter], [expected.mean], [expected.square], expected),
            rtol=1e-4,  # torch's step count, and so the bias correction, is a float32
            atol=0.0,
        )
    coupled = fused_adam(adamw, parameter, step=5)
    coupled.adam_w_mode = 0
    assert "the optimizer is FusedAdam" in str(adam_state(parameter, coupled.param_groups[0], coupled))
    uncounted = fused_adam(adamw, parameter)
    assert "a step count" in str(adam_state(parameter, uncounted.param_groups[0], uncounted))


def test_without_bias_correction_the_update_is_m_over_the_root_of_v() -> None:
    _, parameter, adamw = stepped(torch.optim.AdamW, steps=5)
    made = fused_adam(adamw, parameter, step=5, bias_correction=False)
    state = adam_state(parameter, made.param_groups[0], made)
    assert isinstance(state, AdamState)
    u = state.mean.double() / (state.square.double().sqrt() + state.eps)
    _, _, update = sums_after([parameter], [state.mean], [state.square], state).tolist()
    assert update == pytest.approx(float((u * u).sum()), rel=1e-5)


@pytest.mark.parametrize("optimizer_class", [torch.optim.NAdam, torch.optim.RAdam])
def test_updates_of_another_form_have_no_forces_though_their_decay_is_decoupled(optimizer_class: Any) -> None:
    _, parameter, optimizer = stepped(optimizer_class, weight_decay=0.1, decoupled_weight_decay=True)
    assert "the forces are those of AdamW" in str(adam_state(parameter, optimizer.param_groups[0], optimizer))


def test_quantised_states_have_no_forces() -> None:
    _, parameter, adamw = stepped(torch.optim.AdamW)
    made = type("AdamW4bit", (torch.optim.Optimizer,), {})([parameter], adamw.param_groups[0])
    made.state[parameter] = adamw.state[parameter]  # of torchao, under the same names
    assert "the optimizer is AdamW4bit" in str(adam_state(parameter, made.param_groups[0], made))


def run(model: nn.Module, directory: Path, steps: int = 6, optimizer: Any = None, **options: Any) -> WeibullMonitor:
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    monitor = WeibullMonitor(
        model, optimizer, output_dir=directory, every_n_steps=lambda step: step % 3 == 0, forces=True, **options
    )
    for step in range(steps):
        torch.manual_seed(step)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter) + parameter.detach()
        optimizer.step()
        monitor.step()
    return monitor


def test_the_monitor_logs_the_forces_when_asked(tiny_model: nn.Module, tmp_path: Path) -> None:
    tracker = MemoryTracker()
    with run(tiny_model, tmp_path, trackers=[tracker]) as monitor:
        snapshot = monitor.last
    assert snapshot is not None
    trained = {c.name for c in snapshot.components}
    assert snapshot.forces.keys() == trained
    for forces in snapshot.forces.values():
        assert forces.closure == pytest.approx(0.0, abs=5e-3)
        assert forces.injection > 0 > forces.decay
    assert [step for step, metrics in tracker.records if "weibull_force/net/attn_q" in metrics] == [3, 6]
    _, last = tracker.records[-1]
    assert sum(abs(last[f"weibull_force/{f}/attn_q"]) for f in ("alignment", "injection", "decay")) == pytest.approx(1)
    recorded = read_history(tmp_path).snapshots
    assert recorded[0].values("force_net") == {}
    for name, value in recorded[-1].values("force_alignment").items():
        assert value == pytest.approx(snapshot.forces[name].alignment, rel=1e-6)


def test_parts_of_a_matrix_make_up_the_whole(tmp_path: Path) -> None:
    torch.manual_seed(0)
    with run(nn.MultiheadAttention(32, 4), tmp_path) as monitor:
        assert monitor.last is not None
        forces = monitor.last.forces
    assert {"in_proj_weight", "in_proj_weight[q]", "in_proj_weight[v]", "out_proj.weight"} <= forces.keys()
    assert forces["in_proj_weight"].closure == pytest.approx(0.0, abs=5e-3)


def test_another_optimizer_has_none_and_says_so_once(
    tiny_model: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sgd = torch.optim.SGD(tiny_model.parameters(), lr=1e-3)
    with run(tiny_model, tmp_path, optimizer=sgd) as monitor:
        assert monitor.last is not None
        assert monitor.last.forces == {}
    assert caplog.text.count("the forces are those of AdamW, and the optimizer is SGD") == 1
