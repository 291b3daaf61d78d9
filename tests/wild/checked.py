"""What has to hold of every training with the monitor, in every situation, under every host, on any number of ranks."""

from __future__ import annotations

import copy
import logging
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch.distributed as dist
from oracle import exact_fit

from weibull_monitor import read_history
from weibull_monitor.history.record import History

from .hosts import Host
from .situations import STEPS, Seen, Situation, Training


@contextmanager
def warnings_of_ours() -> Iterator[list[str]]:
    """What the log `weibull_monitor` says meanwhile, from WARNING on."""
    said: list[str] = []

    class Said(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    handler = Said(logging.WARNING)
    logging.getLogger("weibull_monitor").addHandler(handler)
    try:
        yield said
    finally:
        logging.getLogger("weibull_monitor").removeHandler(handler)


def check(situation: Situation, host: Host, place: Path, change_to: Callable[[Path], None] = os.chdir) -> None:
    """Trains without and with the monitor, in two directories under ``place``, and compares."""
    trainings = []
    is_main = not dist.is_initialized() or dist.get_rank() == 0
    for name in ("plain", "run"):
        (place / name).mkdir(parents=True, exist_ok=True)
        change_to(place / name)
        with warnings_of_ours() as said:
            training, watchers = host(situation, place / name, name == "run")
        trainings.append(training)
    plain, training = trainings
    assert training.model.losses == plain.model.losses
    assert len(plain.model.losses) == STEPS
    said = [message for message in said if "report_to is empty" not in message]
    assert all(any(part in message for part in situation.says) for message in said), said
    for watcher in watchers:  # Ray, submitit and spawned processes take callbacks along
        pickle.loads(pickle.dumps(watcher))
        copy.deepcopy(watcher)
    if not is_main:
        return
    files = sorted((place / "run" / situation.options.get("output_dir", "") / "weibull").rglob("history.jsonl"))
    assert files == sorted(place.rglob("history.jsonl"))
    assert len(files) == len(watchers)
    compared = set()
    for file in files:
        history = read_history(file)
        found = {a.finding.rule for a in history.alerts if a.finding.severity != "info"}
        assert found == set(situation.alerts), history.alerts
        compared |= agrees(history, training)
        situation.expects(Seen(history, training, said))
    assert compared == set(training.weights[STEPS])


def agrees(history: History, training: Training) -> set[str]:
    """Every fit of every sample is that of the exact sort of what the layer used then. Gives the matrices that were compared."""
    compared = set()
    assert [s.step for s in history.snapshots] == list(range(STEPS + 1))
    for snapshot in history.snapshots:
        k, scale = snapshot.values("k"), snapshot.values("lambda")
        for component in snapshot.components:
            weight = training.weights[snapshot.step][component.name]
            exact = exact_fit(weight)
            where = (snapshot.step, component.name)
            assert tuple(component.shape) == tuple(weight.shape), where
            assert k[component.name] == pytest.approx(exact[0], rel=1e-3), where
            assert scale[component.name] == pytest.approx(exact[1], rel=1e-3), where
            compared.add(component.name)
    return compared
