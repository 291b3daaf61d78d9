"""Small real trainings, healthy and broken on purpose: what the pictures of the documentation show.

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
