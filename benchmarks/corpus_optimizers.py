"""Optimizers and courses of η of the trainings that alerts are tried on."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, nn


class Lion(torch.optim.Optimizer):
    """X. Chen et al., "Symbolic discovery of optimization algorithms" (2023), algorithm 2."""

    def __init__(self, params: Any, lr: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "betas": (0.9, 0.99)})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                if p.grad is not None:
                    m = self.state[p].setdefault("m", torch.zeros_like(p))
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.sub_(group["lr"] * (beta1 * m + (1 - beta1) * p.grad).sign())
                    m.lerp_(p.grad, 1 - beta2)


def orthogonal(g: Tensor, steps: int) -> Tensor:
    """Newton-Schulz of order five (K. Jordan et al., 2024)."""
    x = g / (g.norm() + 1e-7)
    x = x.T if g.shape[0] > g.shape[1] else x
    for _ in range(steps):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T if g.shape[0] > g.shape[1] else x


class Muon(torch.optim.Optimizer):
    """Muon as J. Liu et al. use it (arXiv:2502.16982): steps of 0.2·√max(A, B), and AdamW for what is not a matrix of a block."""

    def __init__(self, params: Any, lr: float, weight_decay: float, momentum: float = 0.95, ns_steps: int = 5) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "weight_decay": weight_decay,
                "momentum": momentum,
                "ns_steps": ns_steps,
                "nesterov": True,
                "use_muon": True,
            },
        )

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                p.mul_(1 - group["lr"] * group["weight_decay"])
                if group["use_muon"]:
                    m = state.setdefault("momentum_buffer", torch.zeros_like(p))
                    m.mul_(group["momentum"]).add_(p.grad)
                    u = orthogonal(p.grad + group["momentum"] * m, group["ns_steps"])
                    p.sub_(group["lr"] * 0.2 * math.sqrt(max(p.shape)) * u)
                else:
                    m, v = (state.setdefault(name, torch.zeros_like(p)) for name in ("moment1", "moment2"))
                    state["count"] = state.get("count", 0) + 1
                    m.lerp_(p.grad, 0.1)
                    v.lerp_(p.grad**2, 0.05)
                    scale = math.sqrt(1 - 0.95 ** state["count"]) / (1 - 0.9 ** state["count"])
                    p.sub_(group["lr"] * scale * m / (v.sqrt() + 1e-8))


class AdamWScheduleFree(torch.optim.Optimizer):
    """A. Defazio et al., "The Road Less Scheduled" (2024), in training mode: the weights are y."""

    def __init__(self, params: Any, lr: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "betas": (0.9, 0.999), "k": 0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            group["k"] += 1
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                z, v = state.setdefault("z", p.clone()), state.setdefault("exp_avg_sq", torch.zeros_like(p))
                v.lerp_(p.grad**2, 1 - beta2)
                u = p.grad / ((v / (1 - beta2 ** group["k"])).sqrt() + 1e-8) + group["weight_decay"] * p
                share = 1.0 / group["k"]
                p.lerp_(z, share).add_(u, alpha=group["lr"] * (beta1 * (1 - share) - 1))
                z.sub_(u, alpha=group["lr"])


class AdEMAMix(torch.optim.Optimizer):
    """M. Pagliardini et al. (2024), without warm-up of α: a fast and a slow momentum."""

    def __init__(self, params: Any, lr: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "betas": (0.9, 0.999, 0.99), "alpha": 2.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                fast, slow, v = (state.setdefault(name, torch.zeros_like(p)) for name in ("m1", "m2", "nu"))
                state["step"] = state.get("step", 0) + 1
                fast.lerp_(p.grad, 0.1)
                slow.lerp_(p.grad, 0.01)
                v.lerp_(p.grad**2, 0.001)
                u = (fast / (1 - 0.9 ** state["step"]) + 2.0 * slow) / (
                    (v / (1 - 0.999 ** state["step"])).sqrt() + 1e-8
                )
                p.sub_(group["lr"] * (u + group["weight_decay"] * p))


class LAMB(torch.optim.Optimizer):
    """Y. You et al., "Large batch optimization for deep learning" (2019): steps of Adam, as long as each weight's norm."""

    def __init__(self, params: Any, lr: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "betas": (0.9, 0.999), "eps": 1e-6})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                m, v = (state.setdefault(name, torch.zeros_like(p)) for name in ("exp_avg", "exp_avg_sq"))
                state["step"] = state.get("step", 0) + 1
                m.lerp_(p.grad, 1 - beta1)
                v.lerp_(p.grad**2, 1 - beta2)
                u = (m / (1 - beta1 ** state["step"])) / ((v / (1 - beta2 ** state["step"])).sqrt() + group["eps"])
                u = u + group["weight_decay"] * p
                norms = float(p.norm()), float(u.norm())
                p.sub_(group["lr"] * (norms[0] / norms[1] if min(norms) > 0 else 1.0) * u)


class Adan(torch.optim.Optimizer):
    """X. Xie et al., "Adan: adaptive Nesterov momentum" (2022), with the decay that it divides by."""

    def __init__(self, params: Any, lr: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "betas": (0.98, 0.92, 0.99), "eps": 1e-8})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            rates = [1 - beta for beta in group["betas"]]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state, g = self.state[p], p.grad
                before = state.get("before", g)
                m, v, n = (
                    state.setdefault(name, torch.zeros_like(p)) for name in ("exp_avg", "exp_avg_diff", "exp_avg_sq")
                )
                m.lerp_(g, rates[0])
                v.lerp_(g - before, rates[1])
                n.lerp_((g + (1 - rates[1]) * (g - before)) ** 2, rates[2])
                state["before"], state["step"] = g.clone(), state.get("step", 0) + 1
                first, second, third = (1 - (1 - r) ** state["step"] for r in rates)
                u = (m / first + (1 - rates[1]) * v / second) / ((n / third).sqrt() + group["eps"])
                p.sub_(group["lr"] * u).div_(1 + group["lr"] * group["weight_decay"])


def is_hidden(name: str, p: Tensor) -> bool:
    """Whether Muon steps a parameter: a matrix of a block."""
    return p.dim() == 2 and not re.search(r"embed|head|wte|wpe|shared|vocab|lora_", name)


def _groups(model: nn.Module, eta: float, weight_decay: float, layout: str) -> list[dict[str, Any]]:
    """Parameter groups: matrices and vectors; q and k apart; each block with a rate of its own; or one group for all."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if layout == "one":
        return [{"params": [p for _, p in trained], "lr": eta, "weight_decay": weight_decay}]
    sorted_into: dict[tuple[float, float], list[Tensor]] = {}
    for name, p in trained:
        block = re.search(r"\.(\d+)\.", name)
        rate = eta
        if layout == "by layer":  # rates that fall from the last block to the first, as fine-tuning has them
            rate *= 0.6 ** (3 - int(block[1])) if block else 0.6**4 if "emb" in name else 1.0
        if layout == "by name":  # half, one or two, by the last name of the matrix
            rate *= (0.5, 1.0, 2.0)[zlib.crc32(name.removesuffix(".weight").rpartition(".")[2].encode()) % 3]
        if layout == "embeddings apart" and re.search(r"emb|wte|shared", name):
            rate *= 5.0
        decay = (
            0.0
            if p.dim() < 2 or (layout == "embeddings apart" and re.search(r"emb|wte|shared", name))
            else weight_decay
        )
        sorted_into.setdefault((rate, decay), []).append(p)
    return [{"params": members, "lr": rate, "weight_decay": decay} for (rate, decay), members in sorted_into.items()]


def make(name: str, model: nn.Module, eta: float, weight_decay: float, layout: str) -> list[torch.optim.Optimizer]:
    """The optimizers of a training."""
    groups = _groups(model, eta, weight_decay, layout)
    given: dict[str, Any] = {"lr": eta, "weight_decay": weight_decay}
    if name in ("muon", "moonlight"):
        trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        hidden, rest = [p for n, p in trained if is_hidden(n, p)], [p for n, p in trained if not is_hidden(n, p)]
        if name == "muon":
            return [torch.optim.Muon(hidden, lr=eta * 5, weight_decay=weight_decay), torch.optim.AdamW(rest, **given)]
        return [Muon([{"params": hidden}, {"params": rest, "use_muon": False}], **given)]
    if name == "transformers adafactor":
        from transformers.optimization import Adafactor

        return [Adafactor([p for g in groups for p in g["params"]])]
    return [MADE[name](groups, given)]


MADE: Final[dict[str, Callable[[list[dict[str, Any]], dict[str, Any]], torch.optim.Optimizer]]] = {
    "adamw": lambda groups, given: torch.optim.AdamW(groups, **given),
    "adamw95": lambda groups, given: torch.optim.AdamW(groups, betas=(0.9, 0.95), **given),
    "amsgrad": lambda groups, given: torch.optim.AdamW(groups, amsgrad=True, **given),
    "adam": lambda groups, given: torch.optim.Adam([{**g, "weight_decay": 0.0} for g in groups], lr=given["lr"]),
    "adam, decay in the gradient": lambda groups, given: torch.optim.Adam(
        [{**g, "weight_decay": 1e-3 * g["weight_decay"]} for g in groups], lr=given["lr"]
    ),
    "nadam": lambda groups, given: torch.optim.NAdam(groups, lr=given["lr"], decoupled_weight_decay=True),
    "radam": lambda groups, given: torch.optim.RAdam(groups, lr=given["lr"]),
    "adamax": lambda groups, given: torch.optim.Adamax([{**g, "weight_decay": 0.0} for g in groups], lr=given["lr"]),
    "lion": lambda groups, given: Lion(groups, **given),
    "ademamix": lambda groups, given: AdEMAMix(groups, **given),
    "schedule-free": lambda groups, given: AdamWScheduleFree(groups, **given),
    "adafactor": lambda groups, given: torch.optim.Adafactor(groups, **given),
    "sgd": lambda groups, given: torch.optim.SGD(
        [{**g, "weight_decay": 1e-4} for g in groups], lr=given["lr"], momentum=0.9
    ),
    "nesterov": lambda groups, given: torch.optim.SGD(
        [{**g, "weight_decay": 5e-4} for g in groups], lr=given["lr"], momentum=0.9, nesterov=True
    ),
    "plain sgd": lambda groups, given: torch.optim.SGD([{**g, "weight_decay": 0.0} for g in groups], lr=given["lr"]),
    "lamb": lambda groups, given: LAMB(groups, **given),
    "adan": lambda groups, given: Adan(groups, **given),
    "rmsprop": lambda groups, given: torch.optim.RMSprop([{**g, "weight_decay": 0.0} for g in groups], lr=given["lr"]),
    "adadelta": lambda groups, given: torch.optim.Adadelta(
        [{**g, "weight_decay": 0.0} for g in groups], lr=given["lr"]
    ),
    "asgd": lambda groups, given: torch.optim.ASGD([{**g, "weight_decay": 1e-4} for g in groups], lr=given["lr"]),
    "adagrad": lambda groups, given: torch.optim.Adagrad([{**g, "weight_decay": 0.0} for g in groups], lr=given["lr"]),
}


def rate(schedule: str, step: int, steps: int, warmup: int) -> float:
    """η of a step (from 1) as a share of the peak.

    >>> rate("constant", 5, 100, 10)
    0.5
    """
    if step <= warmup:
        return step / warmup
    phase = (step - warmup) / (steps - warmup)
    return {
        "constant": lambda: 1.0,
        "cosine": lambda: 0.5 * (1 + math.cos(math.pi * phase)),
        "cosine to a tenth": lambda: 0.1 + 0.45 * (1 + math.cos(math.pi * phase)),
        "linear": lambda: 1.0 - phase,
        "stable, then decay": lambda: 1.0 if phase < 0.75 else 1.0 - 0.95 * (phase - 0.75) / 0.25,
        "restarts": lambda: 0.05 + 0.475 * (1 + math.cos(math.pi * (3 * phase % 1.0))),
        "tri-stage": lambda: 1.0 if phase < 0.5 else math.exp(-6.0 * (phase - 0.5)),
        "inverse root": lambda: math.sqrt(warmup / step),
        "drops": lambda: 1.0 if phase < 0.4 else 0.1 if phase < 0.75 else 0.01,
        "cyclic": lambda: 0.1 + 0.9 * abs(1.0 - 2.0 * (4 * phase % 1.0)),
        "one cycle": lambda: 1e-4 + 0.5 * (1 + math.cos(math.pi * phase)),
        "stable, then root": lambda: 1.0 if phase < 0.7 else 1.0 - math.sqrt((phase - 0.7) / 0.3),
        "exponential": lambda: math.exp(-3.0 * phase),
        "halvings": lambda: 0.5 ** math.floor(5 * phase),
        "square": lambda: (1.0 - phase) ** 2,
        "stairs": lambda: (1 + math.floor(3 * phase)) / 3,
        "jump": lambda: 0.25 if phase < 0.5 else 1.0,
        "re-warmed": lambda: 0.5 * (1 + math.cos(math.pi * 2 * phase)) if phase < 0.5 else min(1.0, 8 * (phase - 0.5)),
    }[schedule]()
