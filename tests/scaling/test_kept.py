"""States of 8 bits, laid out as bitsandbytes and torchao lay them out, against the same numbers as floats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from weibull_monitor import WeibullMonitor, fit_weibull
from weibull_monitor.scaling.forces import adam_state
from weibull_monitor.scaling.kept import BlockCodes, kept_tensor
from weibull_monitor.scaling.updates import update_state

BLOCK = 256
SIGNED = torch.linspace(-1.0, 1.0, 256).pow(3)
UNSIGNED = torch.linspace(0.01, 1.0, 256).pow(3)


def quantised(values: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """Codes of the nearest entry of the table, and the largest magnitude of each block; the last block may be short."""
    flat = values.flatten()
    blocks = nn.functional.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    scales = blocks.abs().amax(1).clamp_min(1e-30)
    nearest = torch.searchsorted((table[1:] + table[:-1]) / 2, blocks / scales[:, None])
    return nearest.view(-1)[: len(flat)].to(torch.uint8).view(values.shape), scales


def floats(codes: Tensor, scales: Tensor, table: Tensor) -> Tensor:
    """Independent of the code that is tested: block by block."""
    parts = [table[part.long()] * scale for part, scale in zip(codes.flatten().split(BLOCK), scales, strict=True)]
    return torch.cat(parts).view(codes.shape)


class OptimState8bit(Tensor):
    """As torchao's: a tensor without values of its own."""

    codes: Tensor
    scale: Tensor
    qmap: Tensor

    @staticmethod
    def __new__(cls, codes: Tensor, scale: Tensor, qmap: Tensor) -> OptimState8bit:
        made = Tensor._make_wrapper_subclass(cls, codes.shape, dtype=torch.float32)  # type: ignore[attr-defined]
        made.codes, made.scale, made.qmap = codes, scale, qmap
        return made  # type: ignore[no-any-return]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.detach.default:
            return args[0]
        raise NotImplementedError(str(func))


class AdamW8bit(torch.optim.Optimizer):
    """Steps as AdamW, and keeps m and v in 8 bits between steps."""

    def __init__(self, params: Any, library: str) -> None:
        super().__init__(params, {"lr": 1e-2, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.0})
        self.library = library
        self.u: dict[Tensor, Tensor] = {}

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for p in (p for group in self.param_groups for p in group["params"] if p.grad is not None):
            m, v, step = self.moments(p)
            m, v, step = m.lerp(p.grad, 0.1), v.lerp(p.grad.square(), 0.01), step + 1
            p.sub_(1e-2 * (m / (1 - 0.9**step)) / ((v / (1 - 0.99**step)).sqrt() + 1e-8))
            for number, values, table in ((1, m, SIGNED), (2, v, UNSIGNED)):
                codes, scales = quantised(values, table)
                if self.library == "torchao":
                    self.state[p][("exp_avg", "exp_avg_sq")[number - 1]] = OptimState8bit(codes, scales, table)
                else:
                    self.state[p] |= {f"state{number}": codes, f"qmap{number}": table, f"absmax{number}": scales}
            self.state[p]["step"] = step if self.library == "bitsandbytes" else torch.tensor(float(step))
            m, v, _ = self.moments(p)
            self.u[p] = (m.double() / (1 - 0.9**step)) / ((v.double() / (1 - 0.99**step)).sqrt() + 1e-8)

    def moments(self, p: Tensor) -> tuple[Tensor, Tensor, int]:
        state = self.state[p]
        if not state:
            return torch.zeros_like(p), torch.zeros_like(p), 0
        if self.library == "torchao":
            m, v = ((kept.codes, kept.scale, kept.qmap) for kept in (state["exp_avg"], state["exp_avg_sq"]))
        else:
            m, v = ((state[f"state{n}"], state[f"absmax{n}"], state[f"qmap{n}"]) for n in (1, 2))
        return floats(*m), floats(*v), int(state["step"])


@pytest.mark.parametrize("library", ["bitsandbytes", "torchao"])
def test_the_update_is_made_of_the_numbers_that_the_codes_stand_for(library: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.ModuleList(
        [nn.MultiheadAttention(36, 4, bias=False), nn.Linear(70, 61, bias=False)]
    )  # short last blocks
    optimizer = AdamW8bit(model.parameters(), library)
    with WeibullMonitor(
        model, optimizer, output_dir=tmp_path, every_n_steps=1, updates=True, resolution="head"
    ) as monitor:
        for _ in range(5):
            for p in model.parameters():
                p.grad = torch.randn_like(p) + 0.3
            optimizer.step()
            monitor.step()
        last = monitor.last
    assert last is not None
    u = optimizer.u[model[0].in_proj_weight]
    expected = {"1.weight": optimizer.u[model[1].weight], "0.in_proj_weight": u, "0.in_proj_weight[k]": u[36:72]}
    expected["0.in_proj_weight[v, head 2]"] = u[72 + 18 : 72 + 27]
    for name, values in expected.items():
        truth, found = fit_weibull(values), last.updates[name]
        assert found.k == pytest.approx(truth.k, rel=1e-3), name
        assert (found.lambda_, found.rms) == pytest.approx((truth.lambda_, truth.rms), rel=1e-3), name


def test_the_momentum_of_lion_in_8_bits() -> None:
    weight = nn.Parameter(torch.zeros(40, 50))
    momentum = torch.randn(40, 50)
    codes, scales = quantised(momentum, SIGNED)
    lion = type("Lion8bit", (torch.optim.Optimizer,), {})([weight], {"lr": 1e-3})
    lion.state[weight] = {"state1": codes, "qmap1": SIGNED, "absmax1": scales, "step": 1}
    found = update_state(weight, lion.param_groups[0], lion)
    assert not isinstance(found, str)
    (chunk,) = found.chunks([found.kept[0]])
    assert torch.equal(chunk, floats(codes, scales, SIGNED).flatten())


def test_strided_pieces_of_codes_find_their_blocks() -> None:
    codes, scales = quantised(torch.randn(12, 100), SIGNED)
    whole, kept = floats(codes, scales, SIGNED), BlockCodes(codes, SIGNED, scales, BLOCK)
    view = codes.as_strided((3, 2, 7), (400, 100, 3), 205)
    assert torch.equal(kept.values(view), whole.as_strided((3, 2, 7), (400, 100, 3), 205))


@pytest.mark.parametrize("library", ["bitsandbytes", "torchao"])
def test_rounded_states_have_no_forces(library: str) -> None:
    weight = nn.Parameter(torch.randn(40, 50))
    weight.grad = torch.randn(40, 50)
    optimizer = AdamW8bit([weight], library)
    optimizer.step()
    assert "rounds its state" in str(adam_state(weight, optimizer.param_groups[0], optimizer))


def test_what_cannot_be_read_says_why() -> None:
    weight = nn.Parameter(torch.zeros(40, 50))
    adamw = torch.optim.AdamW([weight])

    def why(kept: Any) -> str:
        adamw.state[weight] = {"exp_avg": kept}
        return str(kept_tensor(adamw, weight, "exp_avg"))

    assert "too coarse" in why(torch.zeros(40, 50).to(torch.float8_e4m3fn))
    assert "too coarse" in why(torch.zeros(40, 50, dtype=torch.uint8))  # codes without their table
    assert "another shape" in why(torch.zeros(20, 50))
    four_bits = OptimState8bit(torch.zeros(1000, dtype=torch.uint8), torch.ones(8), torch.linspace(-1, 1, 16))
    assert "another shape" in why(four_bits)
    adamw._scales = {weight: {"exp_avg": torch.ones(1)}}  # type: ignore[attr-defined]
    assert "scaled" in why(torch.zeros(40, 50, dtype=torch.float16))
    assert kept_tensor(adamw, weight, "momentum_buffer") is None


@pytest.mark.parametrize("library", ["torch", "bitsandbytes"])
def test_no_number_of_a_state_is_waited_for(library: str) -> None:
    """On the meta device there are none: whatever asks for one raises."""
    weight = nn.Parameter(torch.randn(40, 50))
    weight.grad = torch.randn(40, 50)
    made: Any = torch.optim.AdamW([weight]) if library == "torch" else AdamW8bit([weight], library)
    made.step()
    state = {name: kept.to("meta") if isinstance(kept, Tensor) else kept for name, kept in made.state[weight].items()}
    group = made.param_groups[0] | {"betas": tuple(torch.tensor(beta, device="meta") for beta in (0.9, 0.99))}
    made.state[weight] = state
    found = update_state(weight, group, made)
    assert not isinstance(found, str)
    assert [chunk.shape for chunk in found.chunks(*([kept] for kept in found.kept), size=1000)] == [(1000,), (1000,)]
