"""Small real trainings, healthy and broken on purpose: what `benchmarks/alerts.py` judges the rules by.

Every run writes the history that the rules are replayed over, and the losses. Runs differ in architecture, optimizer,
schedule, dtype and initialisation; a fault happens once, at a step and to a matrix that the seed chooses.
"""

from __future__ import annotations

import json
import math
import random
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from alert_faults import FAULTS, World
from alert_models import Case, Text, build, optimizers, rate
from torch import nn

from weibull_monitor import WeibullMonitor


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
