"""The trainings that the pictures show, each once: what is there is used again.

Healthy: `followed`, a small Llama-style model under strong weight decay, so that S = Σ ηλ_wd gets to about 3 in a minute or two.
Broken on purpose: `broken`, by the faults of ``benchmarks/alert_faults.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from alert_faults import FAULTS, World
from alert_models import Case
from alert_runs import Outcome, outcome_of
from alert_runs import train as train_case
from small_llama import LibrarySources, small_llama

from pictures import ROOT
from weibull_monitor import WeibullMonitor, read_history
from weibull_monitor.history.record import History

RUNS = ROOT / "runs" / "pictures"
STEPS, ETA, WEIGHT_DECAY, WARMUP = 1500, 1e-3, 2.0, 50


@dataclass(frozen=True)
class Followed:
    """A run, and its weights before and after."""

    history: History
    first: dict[str, torch.Tensor]
    last: dict[str, torch.Tensor]


def followed(width: int = 96, blocks: int = 2) -> Followed:
    """The healthy run, of a model of this size."""
    place = RUNS / f"healthy-{width}x{blocks}"
    if not (place / "last.pt").is_file():
        _train(place, width, blocks)
    return Followed(read_history(place), torch.load(place / "first.pt"), torch.load(place / "last.pt"))


def _train(place: Path, width: int, blocks: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = small_llama(width=width, blocks=blocks)
    data, draw = LibrarySources(window=64), torch.Generator().manual_seed(0)
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=ETA, betas=(0.9, 0.99))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / WARMUP))
    options = {"scheduler": scheduler, "total_steps": STEPS, "every_n_steps": 50, "output_dir": place}
    with WeibullMonitor(model, optimizer, **options) as monitor:
        torch.save(model.state_dict(), place / "first.pt")
        for _ in range(STEPS):
            chosen = torch.randint(len(data), (8,), generator=draw).tolist()
            tokens = torch.stack([data[i]["input_ids"] for i in chosen])
            loss = model(input_ids=tokens, labels=tokens).loss
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            monitor.step()
            scheduler.step()
    torch.save(model.state_dict(), place / "last.pt")


def _half_loaded(world: World) -> None:
    """Half of the rows of one W_up are nearly zero, as if one of two shards had been loaded in other units."""
    component = world.one("ffn_up")
    rows = world.values(component)
    rows[: len(rows) // 2].div_(256.0)
    world.victims = (component.name,)


FAULTS.setdefault("half of the rows / 256", _half_loaded)
COMMON = Case("for a picture", steps=240, blocks=4, schedule="constant")
CASES = {
    "scaled": replace(COMMON, fault="W_q of a layer x 8"),
    "reinitialised": replace(COMMON, fault="W_k of a layer re-initialised"),
    "rate": replace(COMMON, fault="eta x 30 for all"),
    "decay": replace(COMMON, fault="weight decay x 100"),
    "frozen": replace(COMMON, fault="bf16 freezes a matrix", dtype="bfloat16"),
    "nonfinite": replace(COMMON, fault="bad batch giving Inf", every=5),
    "two-populations": replace(COMMON, fault="half of the rows / 256", eta=3e-4, every=2),
}
"""The broken runs, by the name of their picture."""


def broken(name: str) -> tuple[Outcome, History]:
    """A broken run: what happened, and the history with its alerts."""
    place = RUNS / name
    if not (place / "outcome.json").is_file():
        train_case(CASES[name], place)
    return outcome_of(place), read_history(place)
