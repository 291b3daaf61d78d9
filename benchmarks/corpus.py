"""Trains the corpus that alerts are tried on: small real trainings with their histories, healthy and broken on purpose.

    python benchmarks/corpus.py DIR                     # trains what is not in DIR yet; four hours on one core
    python benchmarks/corpus.py DIR --processes 16      # at once, each on one core
    python benchmarks/corpus.py DIR --only llama--plain # these folders

Every training is sampled at steps 1, 2, 4, … 64 and every 10, so its history can be replayed at any multiple of that
(`corpus_replay.sampled_every`). Faulty trainings leave their healthy twin at one step. `index.json` says what each folder is.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import logging
import math
import multiprocessing
import os
import random
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import torch
from corpus_cases import Case, cases
from corpus_evaluated_faults import EVALUATED_FAULTS, Fault
from corpus_events import changed, freeze, prepared
from corpus_families import Batch, Task, text
from corpus_faults import FAULTS
from corpus_fresh_faults import FRESH_FAULTS
from corpus_optimizers import make, rate
from corpus_sides import SIDES, side
from corpus_world import NotHere, World
from torch import Tensor, nn

from weibull_monitor import WeibullMonitor
from weibull_monitor.history.record import FILE

EVERY = 10
AFTER = 205
"""Steps of a branch: two samples at a cadence of 100."""
STALE = 50
ALL_FAULTS = FAULTS | EVALUATED_FAULTS | FRESH_FAULTS


class Training:
    """One training under way."""

    def __init__(self, case: Case, task: Task, place: Path) -> None:
        self.case, self.task, self.place = case, task, place
        self.model, self.step, self.losses = task.model, 0, []  # type: ignore[var-annotated]
        self.random = torch.Generator().manual_seed(1000 + case.seed)
        self.optimizers = self.make_optimizers()
        self.base = {key: group["lr"] for key, group in self.groups()}
        self.world = World(self.model, self.optimizers, random.Random(case.seed), {})
        self._parts = 4 if case.event == "micro-batches" else 1
        if case.event == "unfreezing":
            freeze(self.model, 1.0)
        self.monitor = self._monitor(None)

    def make_optimizers(self) -> list[torch.optim.Optimizer]:
        case = self.case
        return make(case.optimizer, self.model, case.eta, case.weight_decay, case.layout)

    def groups(self) -> list[tuple[tuple[int, int], dict[str, Any]]]:
        return [
            ((n, g), group)
            for n, optimizer in enumerate(self.optimizers)
            for g, group in enumerate(optimizer.param_groups)
        ]

    def _monitor(self, resume: Mapping[str, Any] | None) -> WeibullMonitor:
        return WeibullMonitor(
            self.model, self.optimizers, every_n_steps=EVERY, output_dir=self.place, alerts=False, resume=resume,
            total_steps=self.case.steps,
        )  # fmt: skip

    def branch(self, place: Path, seed: int) -> Training:
        """A copy that goes on from here with a history of its own."""
        state, monitor = self.monitor.state_dict(), self.monitor
        self.monitor = None  # type: ignore[assignment]
        twin = copy.deepcopy(self, {id(self.task): self.task})
        self.monitor = monitor
        twin.place = place
        (place / FILE).parent.mkdir(parents=True)
        shutil.copy(self.place / FILE, place / FILE)
        chance, world = random.Random(seed), self.world
        twin.world = World(twin.model, twin.optimizers, chance, world.earlier, first=world.first)
        twin.monitor = twin._monitor(state)
        return twin

    def run(self, until: int) -> None:
        case, world = self.case, self.world
        while self.step < until:
            self.step += 1
            self._events()
            for key, group in self.groups():
                base = self.base.get(key)
                if base is None:  # a group that a fault made of another
                    base = self.base[key] = self.base.get(group.get("taken_from")) or case.eta
                if base is not None and not group.get("relative_step"):
                    group["lr"] = (
                        base * rate(case.schedule, self.step, case.steps, case.warmup) * world.factors.get(key, 1.0)
                    )
            for optimizer in self.optimizers:
                optimizer.zero_grad()
            value = sum(self._backward() for _ in range(self._parts)) / self._parts
            self.losses.append(value if math.isfinite(value) else None)
            if case.clip:
                nn.utils.clip_grad_norm_(self.model.parameters(), case.clip)
            for call in list(world.before_step):
                call()
            for optimizer in self.optimizers:
                optimizer.step()
            for call in list(world.after_step):
                call()
            if case.event != "accumulation" or self.step % 4 == 0:
                self.monitor.step(last=self.step == case.steps)
            if case.strikes and self.step == case.strikes - STALE:
                world.earlier = {name: p.detach().clone() for name, p in self.model.named_parameters()}

    def _backward(self) -> float:
        """Adds the gradient of a batch; returns its loss."""
        case = self.case
        batch = self._batch(self.step > case.steps // 2)
        for change in self.world.on_batch:
            change(batch)
        device = next(self.model.parameters()).device.type
        with torch.autocast(device, torch.bfloat16, enabled=case.event == "autocast"):
            loss = self.task.loss(self.model, batch)
        (loss / self._parts).backward()  # type: ignore[no-untyped-call]
        return loss.item()

    def _batch(self, late: bool) -> Batch:
        """A batch of the first or of the second half of the steps."""
        event, batch = self.case.event, self.task.batch(self.random, self._size(late))
        return changed(batch, event) if late and event in ("curriculum", "other inputs") else batch

    def _size(self, late: bool) -> int:
        """How large that batch is."""
        return self.case.batch * (4 if late and self.case.event == "larger batches" else 1)

    def _events(self) -> None:
        if self.case.event == "resumed" and self.step == self.case.steps // 2:  # without what the monitor knew before
            self.monitor.close(sample_last=False)
            shutil.rmtree(self.place)
            self.monitor = self._monitor(None)
        if self.case.event == "restored" and self.step == self.case.steps // 2:
            state = self.monitor.state_dict()
            self.monitor.close(sample_last=False)
            self.monitor = self._monitor(state)
        if self.case.event == "unfreezing" and self.step in (self.case.steps // 3, 2 * self.case.steps // 3):
            freeze(self.model, 0.5 if self.step < self.case.steps // 2 else 0.0)

    def finish(self, **more: Any) -> dict[str, Any]:
        self.monitor.close()
        case = self.case
        entry = {"folder": self.place.name, "steps": self.step, **asdict(case), **more}
        entry.pop("faults")
        (self.place / "case.json").write_text(json.dumps({**entry, "losses": self.losses}, ensure_ascii=False))
        return entry


def train(case: Case, root: Path) -> list[dict[str, Any]]:
    """Trains a case and its faulty branches; returns their entries of the index."""
    return train_with(case, root, lambda place: Training(case, prepared(case), place), ALL_FAULTS)


def train_with(
    case: Case, root: Path, begin: Callable[[Path], Training], faults: Mapping[str, Fault]
) -> list[dict[str, Any]]:
    """`train` with a training and faults of one's own."""
    place = root / case.folder
    shutil.rmtree(place, ignore_errors=True)
    training = begin(place)
    entries = []
    if case.strikes:
        training.run(case.strikes)
        seen = _random_states()
        for n, fault in enumerate(case.faults):
            torch.manual_seed(case.seed + n)
            folder = (
                root
                / f"{case.folder}--{re.sub(r'[^0-9A-Za-z]+', '-', fault.replace('η', 'eta').replace('λ', 'lambda')).strip('-')}"
            )
            shutil.rmtree(folder, ignore_errors=True)
            twin = training.branch(folder, case.seed + n)
            try:
                with torch.no_grad():
                    faults[fault](twin.world)
                _restore(seen)  # dropout goes on as its twin's
                twin.run(case.strikes + AFTER)
            except NotHere:
                twin.monitor.close(sample_last=False)
                shutil.rmtree(folder)
                continue
            more = {"victims": twin.world.victims, **({"drawn": twin.world.drawn} if twin.world.drawn else {})}
            entries.append(twin.finish(fault=fault, struck=case.strikes, twin=case.folder, **more))
        _restore(seen)
    training.run(case.steps)
    return [training.finish(fault=None), *entries]


def _random_states() -> list[Tensor]:
    """Of the CPU, and of the GPU where one is in use."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else ())]


def _restore(states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state_all(states[1:])


def write_index(root: Path) -> None:
    found = [json.loads(p.read_text()) for p in sorted(root.glob("*/case.json"))]
    for entry in found:
        entry.pop("losses")
    (root / "index.json.part").write_text(json.dumps(found, indent=1, ensure_ascii=False))
    (root / "index.json.part").rename(root / "index.json")


def _attempt(case: Case, root: Path, end: float, train: Callable[[Any, Path], list[dict[str, Any]]]) -> str:
    """Trains a case, unless ``end`` has passed; returns a line about it. One family that fails must not end a long run."""
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    begin = time.time()
    if begin > end:
        return f"{case.folder}: not begun, the time is over"
    try:
        entries = train(case, root)
    except Exception as error:
        shutil.rmtree(root / case.folder, ignore_errors=True)
        return f"{case.folder}: {type(error).__name__}: {str(error)[:200]}"
    return f"{case.folder}: {len(entries)} in {time.time() - begin:.0f} s"


def train_all(
    chosen: Sequence[Case], root: Path, processes: int, seconds: float,
    train: Callable[[Any, Path], list[dict[str, Any]]] = train, rest: int | None = 4,
) -> None:  # fmt: skip
    """Trains cases in several processes, and writes the index; after so many seconds, no training begins.

    ``rest`` is after how many cases a process ends and another begins; never with None.
    """
    text()  # read once, before the processes are forked
    work = functools.partial(_attempt, root=root, end=time.time() + seconds, train=train)
    with multiprocessing.get_context("fork").Pool(processes, maxtasksperchild=rest) as pool:
        for line in pool.imap_unordered(work, chosen):
            print(line, flush=True)
    write_index(root)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--side", choices=SIDES, help="only one side")
    parser.add_argument("--only", nargs="*", help="folders of healthy trainings")
    parser.add_argument("--processes", type=int, default=1, help="trainings at once (1)")
    parser.add_argument("--seconds", type=float, default=math.inf, help="after these, no training begins")
    options = parser.parse_args()
    options.root.mkdir(parents=True, exist_ok=True)
    known = {case.folder: case for case in cases()}
    chosen = [
        case
        for case in (known[folder] for folder in options.only or known)
        if options.side in (None, side(case.name))
        and (options.only or not (options.root / case.folder / "case.json").exists())
    ]
    chosen.sort(key=lambda case: -case.steps - AFTER * len(case.faults))  # the longest first
    train_all(chosen, options.root, options.processes, options.seconds)


if __name__ == "__main__":
    main()
