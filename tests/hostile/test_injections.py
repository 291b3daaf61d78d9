"""Exceptions in calls that the monitor makes: training goes on, and its weights are those of a training without them.

A few of them; `benchmarks/hostile.py injections` tries every place, with every exception, under every host.
"""

from __future__ import annotations

import logging
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hostile.injections import EXCEPTIONS, inject, places

every_host = pytest.importorskip("every_host")


class AllMethods:
    """A tracker that is called for everything."""

    def begin(self, record: object) -> None: ...

    def log(self, metrics: object, step: int) -> None: ...

    def alert(self, alert: object) -> None: ...

    def picture(self, snapshot: object) -> None: ...

    def close(self) -> None: ...


def training_of(host: str, folder: Path) -> Callable[[], list[torch.Tensor]]:
    """A training of a few steps under a host, that returns the weights at its end."""

    def training() -> list[torch.Tensor]:
        made: list[torch.nn.Module] = []
        network = every_host.Network

        class Kept(network):  # type: ignore[misc,valid-type]
            def __init__(self) -> None:
                super().__init__()
                made.append(self)

        torch.manual_seed(0)
        every_host.Network, every_host.STEPS, every_host.SAVED = Kept, 5, 3
        try:
            every_host.HOSTS[host](folder, trackers=[AllMethods()], every=1)
        finally:
            every_host.Network, every_host.STEPS, every_host.SAVED = network, 12, 6
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
