"""Trains small models drawn at random, healthy and broken on purpose, for runs that nobody has seen; a new seed draws new ones.

    python benchmarks/corpus_unseen.py DIR --seed 1 --healthy 120 --faults 60 --processes 2
    python benchmarks/corpus_unseen.py DIR --seed 6 --device cuda --processes 16   # at once, on one GPU

Architecture, task, names, first values, optimizer, course of η and events are drawn; so are where, how and when a fault
strikes. About a third of the healthy runs have an ordinary event. Each broken run leaves its healthy twin at one step, as in
`corpus.py`, and the histories are replayed by the same means. A training whose loss does not fall is left out when alerts are
judged: `corpus_replay.Run.learned` tells.

| event | what happens at half of the steps, besides those of `corpus_events` |
|---|---|
| ``rate falls``, ``rate rises`` | η is a tenth, or twice as large |
| ``new phase`` | the optimizer begins anew, with a warm-up of 20 steps |
| ``smaller batches`` | batches are a quarter as large |
| ``other data`` | letters are other ones, or numbers have the other sign |
| ``longer context`` | sequences are twice as long |
| ``new head`` | the last matrix is drawn anew |
| ``reloaded`` | model, optimizer and monitor go on from a checkpoint, in new objects |
| ``frozen half`` | the first half of the parameters is not trained at all |
| ``average beside`` | a moving average of the weights is evaluated at every 25th step |
| ``masters`` | weights are in bfloat16, the optimizer steps copies in float32 |
"""

from __future__ import annotations

import argparse
import copy
import functools
import io
import math
import random
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch
from corpus import AFTER, Training, train_all, train_with  # first: it sets the environment
from corpus_case import Case
from corpus_drawn import LAYOUTS, OPTIMIZERS, SCHEDULES, one
from corpus_events import prepared
from corpus_families import Batch, Task
from corpus_optimizers import make
from corpus_unseen_arch import Arch, drawn_arch
from corpus_unseen_faults import KINDS, UNSEEN_FAULTS
from corpus_unseen_models import build
from corpus_unseen_tasks import TASKS
from torch import Tensor

EVENTS: Final = {
    "rate falls": 4, "rate rises": 2, "new phase": 2, "smaller batches": 2, "other data": 4, "longer context": 3,
    "new head": 3, "reloaded": 3, "frozen half": 2, "average beside": 3, "masters": 3, "larger batches": 3,
    "unfreezing": 3, "resumed": 2, "restored": 2, "adapters": 4, "trained before": 4, "frozen embeddings": 1,
    "accumulation": 2, "micro-batches": 1, "autocast": 2,
}  # fmt: skip
"""How often each is drawn among runs with an event."""
MORE: Final = {"adadelta": (1, 1.0), "asgd": (1, 0.2)}
EACH: Final = 4
"""Faults that are tried on a twin; some find nothing to strike."""
WORK: Final = 4e7
"""Most weights times tokens of a step."""


@dataclass(frozen=True)
class Unseen(Case):
    """A drawn training.

    Attributes:
        arch: Its architecture.
        betas: Of the optimizer; empty for its own.
    """

    arch: Arch = field(kw_only=True)
    betas: tuple[float, ...] = ()


def drawn(seed: int, healthy: int, faults: int) -> list[Unseen]:
    """So many healthy trainings, and so many broken ones with their twins, one after the other in any order."""
    chance = random.Random(seed)
    deck: list[str] = []

    def fit(case: Unseen) -> list[str]:
        return [name for name in dict.fromkeys(deck) if case.arch.experts or "expert" not in name]

    found = [_case(f"drawn unseen {seed} {n}", chance) for n in range(healthy)]
    for n in range(healthy, healthy + round(faults / (EACH - 0.5))):
        case = _case(f"drawn unseen {seed} {n}", chance, struck=True)
        if len(fit(case)) < EACH:
            deck += chance.sample([*KINDS], len(KINDS))
        faults_here = fit(case)[:EACH]
        for name in faults_here:
            deck.remove(name)
        found.append(replace(case, faults=tuple(faults_here)))
    chance.shuffle(found)
    return found


def _case(name: str, chance: random.Random, struck: bool = False) -> Unseen:
    a = drawn_arch(chance)
    table = OPTIMIZERS | MORE
    optimizer = one(chance, {key: share for key, (share, _) in table.items()})
    event = one(chance, EVENTS) if not struck and chance.random() < 0.3 else ""
    if event == "adapters" and (a.store != "linear" or a.wrap):
        event = "trained before"
    if event in ("adapters", "frozen half", "unfreezing") and optimizer in ("muon", "moonlight"):
        optimizer = "adamw"  # nothing may be left for Muon
    eta = table[optimizer][1] * math.exp(chance.uniform(-1.2, 0.6)) * (0.4 if event == "trained before" else 1.0)
    t, batch = TASKS[a.task], chance.choice((1, 2, 4, 4, 8, 8, 8, 16, 16, 32, 64))
    while batch * a.length * a.elements > WORK:
        batch //= 2
    plain = not a.wrap and a.others != "gru" and not struck
    strikes = chance.randrange(100, 190) if struck else 0
    decay = chance.choice((0.1, 0.1, 0.1, 0.01, 0.01, 0.0, 0.05, 0.3))
    layout = one(chance, LAYOUTS | {"by name": 12})
    if layout == "by layer" and a.blocks > 4:
        layout = "by name"  # the rates by layer are those of four blocks
    first = one(chance, {0.9: 12, 0.95: 3, 0.8: 2, 0.85: 1})
    return Unseen(
        name, f"{a.style}_{a.task}", optimizer, schedule=one(chance, SCHEDULES), eta=float(f"{eta:.2g}"),
        weight_decay=3 * decay if optimizer == "lion" else decay, layout=layout,
        dtype="bfloat16" if (event == "masters" and plain) or (not event and plain and chance.random() < 0.04) else "float32",
        event=event, clip=chance.choice((1.0, 1.0, 1.0, 1.0, 0.5, 0.1, 0.0, 0.0)),
        warmup=chance.choice((1, 5, 10, 20, 30, 30, 50, 80)),
        steps=strikes + AFTER + 5 if struck else chance.choice((150, 180, 200, 220, 250, 300, 300, 350, 400)),
        batch=max(t.least, batch),
        dropout=True, strikes=strikes, arch=a, betas=(first, chance.choice((0.999, 0.999, 0.99, 0.98, 0.95))),
    )  # fmt: skip


def _others(t: Tensor) -> Tensor:
    """Numbers with the other sign, and letters that are other ones; classes, acts and what is left out or masked stay."""
    if t.is_floating_point():
        return -t
    return torch.where((t < 0) | (t > 127), t, 127 - t) if t.dim() > 1 and t.max() > 16 else t


class UnseenTraining(Training):
    """A drawn training under way."""

    case: Unseen

    def __init__(self, case: Unseen, task: Task, place: Path) -> None:
        self.masters: list[tuple[Tensor, Tensor]] = []
        if case.event == "frozen half":
            parameters = [*task.model.parameters()]
            for p in parameters[: len(parameters) // 2]:
                p.requires_grad_(False)
        super().__init__(case, task, place)
        self.world.first = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        self.average = copy.deepcopy(self.model) if case.event == "average beside" else None

    def make_optimizers(self) -> list[torch.optim.Optimizer]:
        case, model = self.case, self.model
        if case.event == "masters" and case.dtype == "bfloat16":
            model = copy.deepcopy(model).float()
            self.masters = [*zip(self.model.parameters(), model.parameters(), strict=True)]
        optimizers = make(case.optimizer, model, case.eta, case.weight_decay, case.layout)
        for group in (g for o in optimizers for g in o.param_groups if len(g.get("betas", ())) == 2):
            group["betas"] = case.betas
        if self.masters:
            optimizers[0].register_step_pre_hook(lambda *_: self._to_masters())
            optimizers[-1].register_step_post_hook(lambda *_: self._from_masters())
        return optimizers

    def _to_masters(self) -> None:
        for p, master in self.masters:
            master.grad = None if p.grad is None else p.grad.float()

    def _from_masters(self) -> None:
        with torch.no_grad():
            for p, master in self.masters:
                p.copy_(master)
                p.grad = None

    def _size(self, late: bool) -> int:
        size = super()._size(late)
        smaller = late and self.case.event == "smaller batches"
        return max(TASKS[self.case.arch.task].least, size // 4) if smaller else size

    def _batch(self, late: bool) -> Batch:
        event, batch = self.case.event, super()._batch(late)
        if event == "longer context" and not late and self.case.arch.task not in ("translate", "pictures"):
            length = self.case.arch.length
            batch = {name: t[:, : length // 2] if t.dim() > 1 else t for name, t in batch.items()}
        if event == "other data" and late:
            batch = {name: _others(t) for name, t in batch.items()}
        return batch

    def _events(self) -> None:
        super()._events()
        case, half = self.case, self.step - self.case.steps // 2
        if case.event in ("rate falls", "rate rises") and half == 0:
            factor = 0.1 if case.event == "rate falls" else 2.0
            self.world.factors = dict.fromkeys(self.base, factor)
        if case.event == "new phase" and 0 <= half <= 20:
            self.world.factors = dict.fromkeys(self.base, (half + 1) / 21)
            for optimizer in self.optimizers if half == 0 else ():
                optimizer.state.clear()
        if case.event == "new head" and half == 0:
            self._new_head()
        if case.event == "reloaded" and half == 0:
            self._reload()
        if self.average is not None:
            with torch.no_grad():
                for mean, p in zip(self.average.parameters(), self.model.parameters(), strict=True):
                    mean.lerp_(p, 0.02)
                if self.step % 25 == 0:
                    self.task.loss(self.average, self.task.batch(torch.Generator().manual_seed(1), 8))

    def _new_head(self) -> None:
        p = [p for p in self.model.parameters() if p.dim() > 1 and p.requires_grad][-1]
        with torch.no_grad():
            p.normal_(std=0.02)
        for optimizer in self.optimizers:
            optimizer.state.pop(p, None)

    def _reload(self) -> None:
        file = io.BytesIO()
        torch.save({"model": self.model.state_dict(), "optimizers": [o.state_dict() for o in self.optimizers]}, file)
        state = self.monitor.state_dict()
        self.monitor.close(sample_last=False)
        file.seek(0)
        saved = torch.load(file)
        self.model = copy.deepcopy(self.model)
        self.model.load_state_dict(saved["model"])
        self.optimizers = self.make_optimizers()
        for optimizer, its in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(its)
        self.world.model, self.world.optimizers = self.model, self.optimizers
        self.monitor = self._monitor(state)


def _placed(task: Task, device: str) -> Task:
    """A task whose batches are made on the CPU, so that they are the same everywhere, and moved to a device."""

    def batch(random: torch.Generator, size: int) -> Batch:
        with torch.device("cpu"):
            made = task.batch(random, size)
        return {name: t.to(device) for name, t in made.items()}

    return replace(task, batch=batch)


def train(case: Unseen, root: Path, device: str = "cpu") -> list[dict[str, Any]]:
    """Trains a case and its broken branches on a device; returns their entries of the index."""

    def begin(place: Path) -> Training:
        return UnseenTraining(case, prepared(case, lambda: _placed(build(case.arch), device)), place)

    with torch.device(device):
        return train_with(case, root, begin, UNSEEN_FAULTS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--seed", type=int, default=1, help="of all that is drawn (1)")
    parser.add_argument("--healthy", type=int, default=120, help="healthy trainings, besides the twins (120)")
    parser.add_argument("--faults", type=int, default=60, help="broken trainings, about (60)")
    parser.add_argument("--processes", type=int, default=1, help="trainings at once (1)")
    parser.add_argument("--device", default="cpu", help="where models are trained (cpu)")
    parser.add_argument("--seconds", type=float, default=math.inf, help="after these, no training begins")
    options = parser.parse_args()
    options.root.mkdir(parents=True, exist_ok=True)
    left = [
        case
        for case in drawn(options.seed, options.healthy, options.faults)
        if not (options.root / case.folder / "case.json").exists()
    ]
    on_device = functools.partial(train, device=options.device)
    rest = 4 if options.device == "cpu" else None  # a process keeps its context of the GPU
    train_all(left, options.root, options.processes, options.seconds, on_device, rest)


if __name__ == "__main__":
    main()
