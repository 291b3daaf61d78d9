"""Trainings whose settings are drawn at random: what people choose, and in proportion to how often, as far as we know."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any, Final, TypeVar

from corpus_case import Case

T = TypeVar("T")
OPTIMIZERS: Final[dict[str, tuple[int, float]]] = {
    "adamw": (35, 2e-3),
    "adamw95": (15, 2e-3),
    "adam": (5, 1.5e-3),
    "muon": (5, 1.5e-3),
    "moonlight": (4, 1.5e-3),
    "lion": (5, 2e-4),
    "adafactor": (4, 1e-2),
    "transformers adafactor": (2, 1e-3),
    "schedule-free": (4, 4e-3),
    "amsgrad": (2, 2e-3),
    "adam, decay in the gradient": (2, 1.5e-3),
    "nadam": (3, 1.5e-3),
    "radam": (4, 1.5e-3),
    "adamax": (2, 2e-3),
    "ademamix": (3, 1e-3),
    "adan": (3, 1e-3),
    "lamb": (3, 1e-2),
    "rmsprop": (2, 1e-3),
    "adagrad": (2, 1e-2),
    "sgd": (2, 0.05),
    "nesterov": (3, 0.05),
    "plain sgd": (1, 0.1),
}
"""By optimizer: how often it is drawn, and η about which it is drawn."""
SCHEDULES: Final = {
    "cosine": 25,
    "cosine to a tenth": 10,
    "linear": 15,
    "constant": 12,
    "stable, then decay": 8,
    "inverse root": 4,
    "restarts": 3,
    "tri-stage": 3,
    "drops": 3,
    "one cycle": 4,
    "stable, then root": 4,
    "exponential": 3,
    "square": 2,
    "cyclic": 2,
    "halvings": 2,
    "stairs": 1,
    "jump": 2,
    "re-warmed": 2,
}
EVENTS: Final = {
    "": 70,
    "trained before": 6,
    "adapters": 4,
    "unfreezing": 3,
    "frozen embeddings": 2,
    "uniform": 2,
    "curriculum": 1,
    "other inputs": 1,
    "larger batches": 2,
    "accumulation": 2,
    "micro-batches": 1,
    "autocast": 2,
    "resumed": 2,
    "restored": 2,
}
LAYOUTS: Final = {"by dimension": 70, "one": 12, "by layer": 9, "embeddings apart": 9}


def drawn(families: Sequence[str], seed: int, number: int, faults: Sequence[str] = (), each: int = 0) -> list[Case]:
    """``number`` trainings of families that take turns, with ``each`` of the faults in each; the same for the same seed."""
    chance = random.Random(seed)
    order, left, cases = [*families], [], []
    chance.shuffle(order)
    for n in range(number):
        if len(left) < each:
            left = chance.sample(list(faults), len(faults)) + left
        mine, left = left[:each], left[each:]
        cases.append(_case(f"drawn {seed} {n}", order[n % len(order)], chance, tuple(dict.fromkeys(mine))))
    return cases


def _case(name: str, family: str, chance: random.Random, faults: tuple[str, ...]) -> Case:
    optimizer = one(chance, {key: share for key, (share, _) in OPTIMIZERS.items()})
    event = "" if faults else one(chance, EVENTS)
    eta = OPTIMIZERS[optimizer][1] * math.exp(chance.uniform(-1.2, 0.7)) * (0.4 if event == "trained before" else 1.0)
    decay = chance.choice((0.1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.0, 0.0, 0.05, 0.3, 1.0))
    given: dict[str, Any] = {
        "schedule": one(chance, SCHEDULES),
        "eta": float(f"{eta:.2g}"),
        "weight_decay": 3 * decay if optimizer == "lion" else decay,
        "layout": one(chance, LAYOUTS),
        "dtype": "bfloat16" if event == "" and chance.random() < 0.05 else "float32",
        "clip": chance.choice((1.0,) * 7 + (0.0, 0.0, 0.1)),
        "warmup": chance.choice((1, 5, 10, 20, 30, 30, 50, 80, 120)),
        "batch": chance.choice((8, 8, 8, 8, 8, 4, 4, 2, 1, 16)),
        "dropout": chance.random() < 0.2,
    }
    if faults:
        given |= {"steps": 400, "strikes": chance.randrange(70, 190), "faults": faults}
    else:
        given |= {"steps": chance.choice((220, 260, 300, 300, 350, 400, 500)), "event": event}
    return Case(name, family, optimizer, **given)


def one(chance: random.Random, shares: dict[T, int]) -> T:
    """One of these, in proportion to its share."""
    return chance.choices([*shares], [*shares.values()])[0]
