"""What ranks exchange before they add up their counts, on a process group that is a list."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from weibull_monitor.measure.reader.counter import NOTE_NUMBERS
from weibull_monitor.measure.reader.distributed import DistributedCounter

State = tuple[bool, int, dict[str, tuple[float, ...]]]
"""Of a rank: whether its parameters are unchanged, its step, its notes."""
ON = {"stage1.w": 1, "stage2.w": 2}
"""Parameters that rank 0 does not have, and the rank that has them."""


def exchanged(states: list[State]) -> list[Any]:
    """What each rank gets: the notes of the others, None, or the error."""

    def exchange(rank: int, sum_: Callable[[Tensor], Tensor]) -> Any:
        ranks = SimpleNamespace(me=rank, size=len(states), device=torch.device("cpu"), is_main=rank == 0, sum_=sum_)
        counter = DistributedCounter(ranks)  # type: ignore[arg-type]
        counter._noted = ON
        try:
            return counter._exchange(*states[rank])
        except RuntimeError as error:
            return error

    sent: list[Tensor] = []
    for rank in range(len(states)):
        exchange(rank, lambda table: sent.append(table.clone()) or table)
    total = torch.stack(sent).sum(0)
    return [exchange(rank, lambda table: total.clone()) for rank in range(len(states))]


def test_notes_come_to_the_main_rank_as_they_were_written() -> None:
    note = (1.0, 0.1, 1e-300, -3.0, math.inf, *[1 / 3] * (NOTE_NUMBERS - 6), math.nan)
    others = {"stage1.w": note, "stage2.w": tuple(-x for x in note)}
    main, *rest = exchanged([(True, 7, {}), (True, 7, others), (True, 7, {})])  # rank 2 has no note on what it steps
    assert main.keys() == {"stage1.w"}
    assert main["stage1.w"] == pytest.approx(note, rel=0, abs=0, nan_ok=True)
    assert rest == [{}, {}]


@pytest.mark.parametrize("steps", [(4, 5, 6), (5, 5, 6), (2**40, 2**40, 1)])
def test_every_rank_notices_different_steps(steps: tuple[int, ...]) -> None:
    for step, found in zip(steps, exchanged([(True, step, {}) for step in steps]), strict=True):
        assert isinstance(found, RuntimeError)
        assert f"this rank samples at step {step}" in str(found)


def test_very_late_steps_are_equal_too() -> None:
    assert exchanged([(True, 3 * 2**33 + 16_383, {})] * 3) == [{}, {}, {}]


def test_a_change_on_one_rank_comes_to_all() -> None:
    assert exchanged([(True, 3, {}), (False, 3, {}), (True, 4, {})]) == [None, None, None]
