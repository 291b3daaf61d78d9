"""Runs that several tests look at, each trained once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from report.html.trained import llama, run

from weibull_monitor import MemoryTracker, read_history
from weibull_monitor.history.record import History


@pytest.fixture(scope="module", autouse=True)
def _small_models_are_compared() -> Iterator[None]:
    """Lets the small models of these tests stand for the published ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("weibull_monitor.analysis.scope.MIN_PARAMETERS", 0)
        yield


@pytest.fixture(scope="session")
def broken_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MemoryTracker]:
    """A run with a schedule, of which one W_q was made eight times as large after step 20; and what it logged."""
    where = tmp_path_factory.mktemp("broken")
    return where, run(where, llama(), broken_at=20)


@pytest.fixture(scope="session")
def history(broken_run: tuple[Path, MemoryTracker]) -> History:
    return read_history(broken_run[0])


@pytest.fixture(scope="session")
def three(tmp_path_factory: pytest.TempPathFactory, history: History) -> list[tuple[str, History]]:
    """Three runs at different rates."""
    named = [("first", history)]
    for rate in (6e-3, 1e-2):
        where = tmp_path_factory.mktemp("rate")
        run(where, llama(), steps=24, lr=rate)
        named.append((f"η {rate}", read_history(where)))
    return named
