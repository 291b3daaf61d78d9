"""The parts ``injections`` and ``interruptions`` of `hostile.py`: exceptions in each outward call of a training."""

from __future__ import annotations

import argparse
import logging
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch
from hostile.injections import EXCEPTIONS, INTERRUPTIONS, Place, Series, inject, places
from hostile.inputs import Model
from hostile.running import Tally

from weibull_monitor import WeibullMonitor, read_history
from weibull_monitor.history import HistoryWriter

HOSTS = ("bare", "transformers", "lightning", "accelerate")
STEPS = 48
"""Optimizer steps of a training with one exception at nearly every step."""
ALONE = 0.15
"""Share of the time for exceptions at places that are passed once or twice in a training, each in a training of its own."""
Training = Callable[..., list[torch.Tensor]]


def injections(options: argparse.Namespace, folder: Path) -> Tally:
    """One exception in a training at places that are seldom passed, and in trainings of many steps one at each step."""
    from hostile.test_injections import training_of

    logging.getLogger("weibull_monitor").propagate = False
    tally = Tally()
    for host in options.only.split(",") if options.only else HOSTS:
        share = options.seconds / (len(options.only.split(",")) if options.only else len(HOSTS))
        source = random.Random(f"{options.seed} {host}")
        short, long = training_of(host, folder / "run"), training_of(host, folder / "run", STEPS)
        short()  # the first one has more calls
        found = {place: count for place, count in places(short).items() if options.places in place[0]}
        seldom = [
            (place, n, kind) for place, count in found.items() if count < 4 for n in {1, count} for kind in EXCEPTIONS
        ]
        often = [(place, kind) for place, count in found.items() if count >= 4 for kind in EXCEPTIONS]
        source.shuffle(seldom)
        source.shuffle(often)
        print(f"{host}: {len(seldom)} and {len(often)} combinations at {len(found)} places", flush=True)
        one = _one_by_one(host, short, seldom, time.monotonic() + share * ALONE)
        many = _in_series(host, long, short, often, time.monotonic() + share * (1 - ALONE))
        for part in (one, many):
            print(f"{host}: {part.tried} tried, {len(part.faults)} faults", flush=True)
            print(*(f"  {fault}" for fault in part.faults), sep="\n", flush=True)
            tally += part
    return tally


def ends(options: argparse.Namespace, folder: Path) -> Tally:
    """Every exception at every place of what begins and ends a monitor: its baseline, its state, the last sample, closing."""
    from hostile.test_injections import AllMethods

    logging.getLogger("weibull_monitor").propagate = False

    def begun() -> WeibullMonitor:
        torch.manual_seed(0)
        model = Model()
        made = WeibullMonitor(
            model,
            torch.optim.AdamW(model.parameters()),
            output_dir=folder / "run",
            trackers=[AllMethods()],
            every_n_steps=2,
            on_alert=lambda alert: None,
        )
        made.step()
        with torch.no_grad():
            model.layers[0].mlp["up_proj"].weight.mul_(50.0)
        made.step()
        made.step()
        return made

    def ended(monitor: WeibullMonitor) -> None:
        monitor.state_dict()
        monitor.finish()
        monitor.close()

    tally = Tally()
    for what, prepare, run in (("begin", lambda: None, lambda _: begun().close()), ("end", begun, ended)):
        run(prepare())
        subject = prepare()
        found = places(lambda it=subject, do=run: do(it))  # type: ignore[misc]
        jobs = [(place, n, kind) for place, count in found.items() for n in {1, count} for kind in EXCEPTIONS]
        random.Random(options.seed).shuffle(jobs)
        stop, before = time.monotonic() + options.seconds / 2, tally.tried
        for place, number, kind in jobs:
            if time.monotonic() > stop:
                break
            subject = prepare()
            raised, escaped = inject(lambda it=subject, do=run: do(it), (place, number), EXCEPTIONS[kind])  # type: ignore[misc]
            if raised:
                _count(tally, f"{what}, {kind}: {escaped}" if escaped else "")
            if subject is not None:
                subject.close()
            shutil.rmtree(folder / "run", ignore_errors=True)
        print(f"{what}: {tally.tried - before} of {len(jobs)} combinations at {len(found)} places", flush=True)
    return tally


def _one_by_one(host: str, training: Training, jobs: list[tuple[Place, int, str]], end: float) -> Tally:
    tally, expected = Tally(), training()
    while jobs and time.monotonic() < end:
        place, number, kind = jobs.pop()
        ended: list[list[torch.Tensor]] = []
        raised, escaped = inject(lambda to=ended: to.append(training()), (place, number), EXCEPTIONS[kind])  # type: ignore[misc]
        if raised:
            fault = escaped or ("" if all(map(torch.equal, ended[0], expected)) else f"other weights: {place}")
            _count(tally, f"{host}, {kind}: {fault}" if fault else "")
    return tally


def _in_series(host: str, training: Training, short: Training, jobs: list[tuple[Place, str]], end: float) -> Tally:
    tally, expected, alone = Tally(), training(), short()
    while jobs and time.monotonic() < end:
        chosen, jobs[-STEPS + 2 :] = jobs[-STEPS + 2 :], []
        series, fault = Series([(place, EXCEPTIONS[kind]) for place, kind in chosen]), ""
        try:
            if not all(map(torch.equal, training(series.arm), expected)):
                fault = "other weights"
        except BaseException as error:
            fault = type(error).__name__
        for place, make in series.raised:
            ended: list[list[torch.Tensor]] = []
            escaped = ""
            if fault:  # which of them was it?
                _, escaped = inject(lambda to=ended: to.append(short()), (place, 3), make)  # type: ignore[misc]
                escaped = escaped or ("" if all(map(torch.equal, ended[0], alone)) else f"other weights: {place}")
            _count(tally, f"{host}: {escaped}" if escaped else "")
        if fault and not any(host in found for found in tally.faults[-len(series.raised) :]):
            tally.faults.append(f"{host}: {fault} in a series that ends with {series.raised[-1:]}")
    return tally


def interruptions(options: argparse.Namespace, folder: Path) -> Tally:
    """What ends a program, in each call: it has to come out, and the history to be whole."""
    from hostile.test_injections import training_of

    logging.getLogger("weibull_monitor").propagate = False
    tally = Tally()
    for host in HOSTS:
        run, end = folder / "run", time.monotonic() + options.seconds / len(HOSTS)
        training = training_of(host, run, kept=True)
        training()  # the first one has more calls
        shutil.rmtree(run)
        found = places(training)
        jobs = [
            (place, source_of, kind)
            for place, count in found.items()
            for source_of in {1, count}
            for kind in INTERRUPTIONS
        ]
        random.Random(options.seed).shuffle(jobs)
        before = tally.tried
        while jobs and time.monotonic() < end:
            shutil.rmtree(run, ignore_errors=True)
            place, number, kind = jobs.pop()
            raised, escaped = inject(training, (place, number), INTERRUPTIONS[kind])
            if raised:
                _count(tally, _interrupted(host, run, kind, escaped, place))
        print(f"{host}: {tally.tried - before} tried", flush=True)
    return tally


def _interrupted(host: str, run: Path, kind: str, escaped: str, place: Place) -> str:
    """What is wrong after an interruption; empty if nothing is. Lightning makes a SystemExit of a KeyboardInterrupt."""
    where = f"{host}, {kind} in {place[0].rpartition('/')[2]}:{place[1]} {place[2]}"
    if not escaped.startswith((kind, "SystemExit") if kind == "KeyboardInterrupt" else kind):
        return f"{where}: {escaped or 'it is lost'}"
    try:
        read_history(run)
        if host == "bare" and not HistoryWriter(run).lock():
            return f"{where}: the history is still open"
    except Exception as error:
        if "begins a run" not in str(error) and "no history" not in str(error):
            return f"{where}: {error}"
    return ""


def _count(tally: Tally, fault: str) -> None:
    tally.tried += 1
    tally.read += not fault
    tally.faults += [fault] if fault else []
