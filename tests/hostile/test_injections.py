"""Exceptions in calls that the monitor makes: training goes on, and its weights are those of a training without them.

A few of them; `benchmarks/hostile.py injections` tries every place, with every exception, under every host.
"""

from __future__ import annotations

import logging
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hostile.injections import EXCEPTIONS, INTERRUPTIONS, Series, inject, places
from weibull_monitor import read_history
from weibull_monitor.history import HistoryWriter

every_host = pytest.importorskip("every_host")


class AllMethods:
    """A tracker that is called for everything."""

    def begin(self, record: object) -> None: ...

    def log(self, metrics: object, step: int) -> None: ...

    def alert(self, alert: object) -> None: ...

    def picture(self, snapshot: object) -> None: ...

    def close(self) -> None: ...


def training_of(host: str, folder: Path, steps: int = 5, kept: bool = False) -> Callable[..., list[torch.Tensor]]:
    """A training of a few steps under a host, that returns the weights at its end.

    Args:
        host: The host.
        folder: Its directory.
        steps: Optimizer steps.
        kept: Whether to leave the directory.
    """

    def training(at_each_step: Callable[[], object] = lambda: None) -> list[torch.Tensor]:
        made: list[torch.nn.Module] = []
        network, stream = every_host.Network, every_host.Stream

        class Kept(network):  # type: ignore[misc,valid-type]
            def __init__(self) -> None:
                super().__init__()
                made.append(self)

        class Told(stream):  # type: ignore[misc,valid-type]
            def __iter__(self) -> Iterator[Any]:
                for batch in super().__iter__():
                    at_each_step()
                    yield batch

        torch.manual_seed(0)
        every_host.Network, every_host.Stream = Kept, Told
        every_host.STEPS, every_host.SAVED = steps, 3
        try:
            every_host.HOSTS[host](folder, trackers=[AllMethods()], every=1)
        finally:
            every_host.Network, every_host.Stream = network, stream
            every_host.STEPS, every_host.SAVED = 12, 6
            if not kept:
                shutil.rmtree(folder, ignore_errors=True)
        return [parameter.detach().clone() for parameter in made[-1].parameters()]

    return training


@pytest.mark.parametrize("host", ["bare", "transformers"])
def test_training_goes_on(host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("weibull_monitor"), "propagate", False)
    training = training_of(host, tmp_path / "run")
    expected = training()
    found = places(training)
    assert len(found) > 50
    for place in random.Random(0).sample(sorted(found), 8):
        ended: list[list[torch.Tensor]] = []
        raised, escaped = inject(lambda to=ended: to.append(training()), (place, found[place]), EXCEPTIONS["no text"])
        assert raised or found[place] > 1, place
        assert not escaped
        assert all(map(torch.equal, ended[0], expected)), place


@pytest.mark.parametrize("host", ["bare", "lightning"])
def test_one_after_the_other(host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("weibull_monitor"), "propagate", False)
    training = training_of(host, tmp_path / "run", 16)
    expected, source = training(), random.Random(1)
    often = sorted(place for place, count in places(training).items() if count > 10)
    series = Series([(place, source.choice([*EXCEPTIONS.values()])) for place in source.sample(often, 12)])
    found = training(series.arm)
    assert len(series.raised) > 4
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("kind", INTERRUPTIONS)
def test_what_ends_a_program_passes(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the history can be read, and continued."""
    monkeypatch.setattr(logging.getLogger("weibull_monitor"), "propagate", False)
    training_of("bare", tmp_path / "run")()  # the first one has more calls
    counts = places(training_of("bare", tmp_path / "run"))
    often = sorted(place for place, count in counts.items() if count > 4)
    for number, place in enumerate(random.Random(kind).sample(often, 5)):
        folder = tmp_path / str(number)
        raised, escaped = inject(training_of("bare", folder, kept=True), (place, counts[place]), INTERRUPTIONS[kind])
        assert raised
        assert escaped.startswith(kind), place
        steps = [sample.step for sample in read_history(folder).snapshots]
        assert steps
        assert steps == [*range(len(steps))]
        assert HistoryWriter(folder).lock()  # nobody has it open any more
