"""Small real trainings, healthy and broken on purpose: what `benchmarks/alerts.py` judges the rules by.

Every run writes the history that the rules are replayed over, and the losses. Runs differ in architecture, optimizer,
schedule, dtype and initialisation; a fault happens once, at a step and to a matrix that the seed chooses.
"""

from __future__ import annotations

import json
import math
import random
import sysconfig
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForMaskedLM

from weibull_monitor import Component, WeibullMonitor
from weibull_monitor.model.components import discover

BYTES, MASK, WINDOW, BATCH = 256, 256, 64, 8


@dataclass(frozen=True)
class Case:
    """One training.

    Attributes:
        name: What is special about it.
        arch: One of `ARCHITECTURES`.
        seed: Chooses the weights, the data, and where and when the fault strikes.
        fault: One of `FAULTS`; empty for none.
        optimizer: ``adamw``, or another of `optimizers`.
        schedule: Course of η, as `rate` has it.
        eta: Highest η.
        weight_decay: λ_wd.
        dtype: Of the weights.
        init: ``normal``, ``uniform``, ``lora``, ``frozen`` (in part) or ``fine-tuned`` (from a training of its own).
        clip: Largest gradient norm; 0 for any.
        warmup: Steps of rising η.
        steps: Optimizer steps.
        every: Steps between samples.
        width: Width of the model.
        blocks: Number of its blocks.
        resolution: Of the monitor.
    """

    name: str
    arch: str = "llama"
    seed: int = 0
    fault: str = ""
    optimizer: str = "adamw"
    schedule: str = "cosine"
    eta: float = 2e-3
    weight_decay: float = 0.1
    dtype: str = "float32"
    init: str = "normal"
    clip: float = 1.0
    warmup: int = 20
    steps: int = 320
    every: int = 10
    width: int = 96
    blocks: int = 3
    resolution: str = "auto"


SMALL = {"vocab_size": BYTES + 1, "bos_token_id": None, "eos_token_id": None, "max_position_embeddings": WINDOW}


def _llama_like(case: Case, **more: Any) -> dict[str, Any]:
    return SMALL | {
        "hidden_size": case.width,
        "intermediate_size": 8 * case.width // 3 // 8 * 8,
        "num_hidden_layers": case.blocks,
        "num_attention_heads": 4,
        **more,
    }


ARCHITECTURES: dict[str, tuple[str, Callable[[Case], dict[str, Any]]]] = {
    "llama": ("llama", _llama_like),
    "llama-gqa": ("llama", lambda c: _llama_like(c, num_key_value_heads=2)),
    "qwen3": ("qwen3", lambda c: _llama_like(c, num_key_value_heads=2, head_dim=c.width // 4)),
    "olmo2": ("olmo2", lambda c: _llama_like(c, pad_token_id=None)),
    "neox": ("gpt_neox", lambda c: _llama_like(c, intermediate_size=4 * c.width)),
    "gpt2": (
        "gpt2",
        lambda c: (
            {k: v for k, v in SMALL.items() if k != "max_position_embeddings"}
            | {"n_embd": c.width, "n_layer": c.blocks, "n_head": 4, "n_positions": WINDOW}
        ),
    ),
    "bert": ("bert", lambda c: _llama_like(c, intermediate_size=4 * c.width)),
    "mixtral": (
        "mixtral",
        lambda c: _llama_like(
            c, intermediate_size=c.width, num_local_experts=4, num_key_value_heads=2, num_experts_per_tok=2
        ),
    ),
    "deepseek": (
        "deepseek_v3",
        lambda c: _llama_like(
            c,
            num_key_value_heads=4,
            q_lora_rank=48,
            kv_lora_rank=48,
            qk_rope_head_dim=16,
            qk_nope_head_dim=16,
            v_head_dim=24,
            n_routed_experts=4,
            n_group=1,
            topk_group=1,
            first_k_dense_replace=c.blocks,
            pad_token_id=None,
        ),
    ),
}


def build(case: Case) -> nn.Module:
    """A model of the case's architecture and initialisation, in its dtype."""
    torch.manual_seed(case.seed)
    kind, arguments = ARCHITECTURES[case.arch]
    auto = AutoModelForMaskedLM if kind == "bert" else AutoModelForCausalLM
    model: nn.Module = auto.from_config(CONFIG_MAPPING[kind](**arguments(case)), attn_implementation="eager")
    if case.init == "uniform":  # PyTorch's own default of nn.Linear
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.reset_parameters()
    if case.init == "lora":
        import peft

        targets = "all-linear"
        model = peft.get_peft_model(model, peft.LoraConfig(r=8, target_modules=targets, lora_dropout=0.0))
    if case.init == "frozen":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("layers.0" not in name and "embed" not in name)
    return model.to(getattr(torch, case.dtype))


class Text:
    """Python's standard library as bytes, in random windows."""

    def __init__(self, case: Case) -> None:
        files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
        data = b"".join(file.read_bytes() for file in files)[:3_000_000]
        self._tokens = torch.frombuffer(bytearray(data), dtype=torch.uint8).long()
        self._random = torch.Generator().manual_seed(1000 + case.seed)
        self._masked = case.arch == "bert"

    def batch(self, noisy: bool) -> dict[str, torch.Tensor]:
        """Tokens and labels; labels at random if they are to be noisy."""
        at = torch.randint(len(self._tokens) - WINDOW, (BATCH,), generator=self._random)
        tokens = torch.stack([self._tokens[i : i + WINDOW] for i in at.tolist()])
        labels = torch.randint(BYTES, tokens.shape, generator=self._random) if noisy else tokens.clone()
        if self._masked:
            hidden = torch.rand(tokens.shape, generator=self._random) < 0.15
            tokens = tokens.masked_fill(hidden, MASK)
            labels = labels.masked_fill(~hidden, -100)
        return {"input_ids": tokens, "labels": labels}


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


def optimizers(case: Case, model: nn.Module) -> list[torch.optim.Optimizer]:
    """One AdamW with a group for selection, one for other matrices and one for the rest; or what the case asks for."""
    kinds = {c.parameter: c for c in discover(model).components if c.part is None}
    q, matrices, vectors = [], [], []
    for name, p in model.named_parameters():
        if p.requires_grad:
            chosen = kinds[name].component_class in ("selection", "mixed") if name in kinds else False
            (vectors if p.dim() < 2 else q if chosen else matrices).append(p)
    groups = [{"params": q}, {"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    groups = [g for g in groups if g["params"]]
    common = {"lr": case.eta, "weight_decay": case.weight_decay}
    if case.optimizer == "lion":
        return [Lion(groups, **common)]
    if case.optimizer == "sgd":
        return [torch.optim.SGD(groups, momentum=0.9, **common)]
    if case.optimizer == "adafactor":
        return [torch.optim.Adafactor(groups, **common)]
    if case.optimizer == "adamw95":
        return [torch.optim.AdamW(groups, betas=(0.9, 0.95), **common)]
    if case.optimizer == "adam-l2":
        return [torch.optim.Adam(groups, lr=case.eta, weight_decay=1e-4)]
    if case.optimizer == "muon":
        muon = [p for n, p in model.named_parameters() if p.dim() == 2 and "embed" not in n and "head" not in n]
        others = [p for n, p in model.named_parameters() if not (p.dim() == 2 and "embed" not in n and "head" not in n)]
        return [
            torch.optim.Muon(muon, lr=case.eta * 5, weight_decay=case.weight_decay),
            torch.optim.AdamW(others, **common),
        ]
    return [torch.optim.AdamW(groups, **common)]


def rate(case: Case, step: int) -> float:
    """η of a step (from 1) as a share of the peak."""
    if step <= case.warmup:
        return step / case.warmup
    phase = (step - case.warmup) / (case.steps - case.warmup)
    if case.schedule == "constant":
        return 1.0
    if case.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * phase))
    if case.schedule == "linear":
        return 1.0 - phase
    if case.schedule == "stable-decay":
        return 1.0 if phase < 0.75 else 1.0 - 0.95 * (phase - 0.75) / 0.25
    if case.schedule == "restarts":
        return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (3 * phase % 1.0)))
    raise ValueError(case.schedule)


@dataclass
class World:
    """What a fault may touch."""

    case: Case
    model: nn.Module
    optimizers: list[torch.optim.Optimizer]
    random: random.Random
    factor: dict[int, float]
    noisy: bool = False
    infinite: bool = False
    victims: tuple[str, ...] = ()

    def components(self, *kinds: str, resolution: Any = "matrix") -> list[Component]:
        """Components of these kinds, the middle blocks of the model."""
        found = discover(self.model, resolution=resolution).components
        return [c for c in found if c.kind in kinds and c.block is not None]

    def one(self, *kinds: str) -> Component:
        """One component of these kinds, by chance."""
        return self.random.choice(self.components(*kinds))

    def values(self, component: Component) -> torch.Tensor:
        """The elements of a component, in place."""
        parameter = self.model.get_parameter(component.parameter).data
        return component.part.select(parameter) if component.part else parameter

    def groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]


SELECTION = ("attn_q", "attn_k", "attn_q_b")
MATRICES = (*SELECTION, "attn_v", "attn_o", "ffn_gate", "ffn_up", "ffn_down", "ffn_in", "ffn_out")


def _names_touched(world: World, parameter: str) -> tuple[str, ...]:
    """Every component that shares the parameter."""
    return tuple(c.name for c in discover(world.model).components if c.parameter == parameter)


def _faster_selection(world: World) -> None:
    world.factor[0] = 30.0
    names = [c.name for c in discover(world.model).components if c.component_class in ("selection", "mixed")]
    world.victims = tuple(names)


def _faster(world: World) -> None:
    for i in range(len(world.groups())):
        world.factor[i] = 30.0


def _blown_up(world: World) -> None:
    component = world.one("attn_q", "attn_q_b")
    world.values(component).mul_(8.0)
    world.victims = _names_touched(world, component.parameter)


def _reset(world: World, component: Component) -> None:
    world.values(component).normal_(std=0.02)


def _one_reset(world: World) -> None:
    component = world.one("attn_k", "attn_q_b")
    _reset(world, component)
    world.victims = _names_touched(world, component.parameter)


def _block_reset(world: World) -> None:
    block = world.random.randrange(world.case.blocks)
    members = [c for c in world.components(*MATRICES) if c.block == block]
    for component in members:
        _reset(world, component)
    world.victims = tuple(n for c in members for n in _names_touched(world, c.parameter))


def _head_zeroed(world: World) -> None:
    heads = world.components("attn_q", "attn_k", "attn_v", resolution="head")
    heads = [c for c in heads if c.part and c.part.label.split()[-1].isdigit()]
    one = world.random.choice([c for c in heads if c.kind == "attn_q"])
    number = one.part.label.split()[-1]  # type: ignore[union-attr]
    members = [c for c in heads if c.block == one.block and c.part and c.part.label.split()[-1] == number]
    for component in members:
        world.values(component).zero_()
    world.victims = tuple(n for c in members for n in _names_touched(world, c.parameter))


def _own_group(world: World, component: Component) -> int:
    """Gives the component's parameter a parameter group of its own, and its index."""
    parameter = world.model.get_parameter(component.parameter)
    (optimizer,) = world.optimizers
    for group in optimizer.param_groups:
        kept = [p for p in group["params"] if p is not parameter]
        if len(kept) < len(group["params"]):
            group["params"] = kept
            optimizer.param_groups.append({**group, "params": [parameter]})
            return len(optimizer.param_groups) - 1
    raise ValueError(component.parameter)


def _frozen_by_rounding(world: World) -> None:
    component = world.one("ffn_up", "ffn_in", "attn_o")
    world.factor[_own_group(world, component)] = 1e-4  # a step below half a unit of bf16 for all but the tiniest
    world.victims = _names_touched(world, component.parameter)


def _decay(world: World) -> None:
    for group in world.groups():
        group["weight_decay"] *= 100.0
    world.victims = ()


def _infinite(world: World) -> None:
    world.infinite = True


def _corrupted(world: World, random_bytes: bool) -> None:
    component = world.one(*MATRICES)
    flat = world.model.get_parameter(component.parameter).data.view(-1)
    size = 4096 // flat.element_size()
    at = world.random.randrange(0, flat.numel() - size, size)
    block = flat[at : at + size]
    if random_bytes:
        noise = torch.tensor(list(world.random.randbytes(4096)), dtype=torch.uint8).view(flat.dtype)
        block.copy_(torch.nan_to_num(noise, nan=1.0, posinf=1e30, neginf=-1e30))
    else:
        block.zero_()
    world.victims = _names_touched(world, component.parameter)


def _noisy(world: World) -> None:
    world.noisy = True


def _forgotten(world: World) -> None:
    for optimizer in world.optimizers:
        optimizer.state.clear()


FAULTS: dict[str, Callable[[World], None]] = {
    "eta x 30 for q and k": _faster_selection,
    "eta x 30 for all": _faster,
    "W_q of a layer x 8": _blown_up,
    "W_k of a layer re-initialised": _one_reset,
    "block re-initialised": _block_reset,
    "head zeroed": _head_zeroed,
    "bf16 freezes a matrix": _frozen_by_rounding,
    "weight decay x 100": _decay,
    "bad batch giving Inf": _infinite,
    "4 KiB of random bytes": lambda world: _corrupted(world, True),
    "4 KiB of zeros": lambda world: _corrupted(world, False),
    "label noise": _noisy,
    "optimizer state lost": _forgotten,
}
SUDDEN = tuple(name for name in FAULTS if name not in ("label noise", "optimizer state lost"))
"""Those that change weights or rates at once; of the two others the first is gradual, and the second leaves the weights alone."""


@dataclass(frozen=True)
class Outcome:
    """What a run left: where its history is, when the fault struck and whom, and the loss of each step."""

    case: Case
    place: str
    fault_step: int | None
    victims: tuple[str, ...]
    losses: tuple[float | None, ...]


def train(case: Case, place: Path, **options: Any) -> Outcome:
    """Trains a case with a monitor in ``place``; returns and writes there what came of it. One thread, reproducible."""
    torch.set_num_threads(1)
    if case.init == "fine-tuned":
        first = replace(case, init="normal", steps=200, eta=2e-3, schedule="cosine", fault="")
        train(first, place / "pretraining", **options)
        model = _loaded(first, place / "pretraining")
    else:
        model = build(case)
    text, chance = Text(case), random.Random(case.seed)
    followed = optimizers(case, model)
    world = World(case, model, followed, chance, {})
    base = [group["lr"] for group in world.groups()]
    fault_step = chance.randrange(case.steps * 4 // 10, case.steps * 6 // 10) if case.fault else None
    losses: list[float | None] = []
    given: dict[str, Any] = {"every_n_steps": case.every, "resolution": case.resolution}
    monitor = WeibullMonitor(model, followed, output_dir=place, **given | options)
    for step in range(1, case.steps + 1):
        for i, group in enumerate(world.groups()):
            group["lr"] = base[min(i, len(base) - 1)] * rate(case, step) * world.factor.get(i, 1.0)
        loss = model(**text.batch(world.noisy)).loss
        value = loss.item()
        losses.append(value if math.isfinite(value) else None)
        for optimizer in followed:
            optimizer.zero_grad()
        (loss * math.inf if world.infinite else loss).backward()
        world.infinite = False
        if case.clip:
            nn.utils.clip_grad_norm_(model.parameters(), case.clip)
        for optimizer in followed:
            optimizer.step()
        monitor.step(last=step == case.steps)
        if step == fault_step:
            with torch.no_grad():
                FAULTS[case.fault](world)
    monitor.close()
    outcome = Outcome(case, str(place), fault_step, world.victims, tuple(losses))
    (place / "outcome.json").write_text(json.dumps(asdict(outcome)))
    if place.name == "pretraining":
        torch.save(model.state_dict(), place / "weights.pt")
    return outcome


def _loaded(case: Case, place: Path) -> nn.Module:
    model = build(case)
    model.load_state_dict(torch.load(place / "weights.pt"))
    return model


def outcome_of(place: Path) -> Outcome:
    """Reads back what `train` wrote."""
    value = json.loads((place / "outcome.json").read_text())
    case = Case(**value.pop("case"))
    lists = {name: tuple(value.pop(name)) for name in ("victims", "losses")}
    return Outcome(case, **value, **lists)


def healthy_cases(seed: int) -> list[Case]:
    """Trainings that nothing is wrong with, of every variety."""
    cases = []
    for arch in ("llama", "llama-gqa", "qwen3", "neox", "gpt2", "bert"):
        cases += [
            Case("cosine, decay", arch),
            Case("constant, decay", arch, schedule="constant"),
            Case("cosine, no decay", arch, weight_decay=0.0),
            Case("cosine, decay, bf16", arch, dtype="bfloat16"),
        ]
    cases += [
        Case("olmo2", "olmo2"),
        Case("latent attention", "deepseek"),
        Case("mixture of experts", "mixtral"),
        Case("every head", resolution="head"),
        Case("uniform initialisation", init="uniform"),
        Case("uniform initialisation, constant", init="uniform", schedule="constant", weight_decay=0.0),
        Case("restarts", schedule="restarts", warmup=10),
        Case("stable, then decay", schedule="stable-decay"),
        Case("long warm-up", warmup=160),
        Case("no warm-up, no clipping", warmup=1, clip=0.0),
        Case("high rate", eta=6e-3),
        Case("low rate", eta=1e-4, schedule="constant"),
        Case("strong decay", weight_decay=1.0),
        Case("tiny", width=32, blocks=2),
        Case("six blocks", blocks=6, width=64),
        Case("beta2 0.95", "neox", optimizer="adamw95"),
        Case("Lion", optimizer="lion", eta=2e-4),
        Case("SGD", optimizer="sgd", eta=0.1, weight_decay=1e-4),
        Case("Adafactor", optimizer="adafactor", eta=1e-2, weight_decay=0.0),
        Case("Muon", optimizer="muon"),
        Case("Adam with decay in the gradient", optimizer="adam-l2"),
        Case("LoRA", init="lora"),
        Case("partly frozen", init="frozen"),
        Case("fine-tuning", init="fine-tuned", eta=2e-4),
        Case("fine-tuning, hot", "llama-gqa", init="fine-tuned", eta=2e-3),
        Case("sampled every 3 steps", every=3, steps=150),
        Case("sampled every 40 steps", every=40, steps=640),
    ]
    return [replace(case, seed=seed + i) for i, case in enumerate(cases)]


def faulty_cases(seed: int, repeats: int) -> list[Case]:
    """Every fault in several architectures and at several steps."""
    variants = [
        Case("cosine", "llama", schedule="cosine"),
        Case("constant", "llama-gqa", schedule="constant"),
        Case("no decay", "qwen3", weight_decay=0.0),
        Case("fused", "neox"),
        Case("fused Conv1D", "gpt2", schedule="constant"),
        Case("masked", "bert"),
    ]
    cases = []
    for repeat in range(repeats):
        for index, fault in enumerate(FAULTS):
            case = replace(variants[(index + repeat) % len(variants)], steps=240)
            if fault == "weight decay x 100" and case.weight_decay == 0.0:
                case = replace(case, weight_decay=0.1, name="decay")
            if fault == "bf16 freezes a matrix":
                case = replace(case, dtype="bfloat16", name=case.name + ", bf16")
            cases.append(replace(case, fault=fault, seed=seed + 100 * index + repeat))
    return cases
