"""What goes wrong on one rank ends neither the training nor the measurement of the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .launch import launch


def test_a_rank_that_cannot_look_at_its_parameters_joins_the_others(tmp_path: Path) -> None:
    main, *_, last = launch("runs:one_rank_fails", 4, tmp_path)
    assert main["steps"] == ["0", "1", "3", "4", "5"]
    assert "1 of 4 ranks could not list their parameters; their logs say why" in "".join(main["messages"])
    assert [m for m in last["messages"] if "sampling failed and is skipped (RuntimeError: out of memory, say)" in m]
    assert [m for m in last["messages"] if "this rank cannot list its matrices (RuntimeError: out of memory, say)" in m]


@pytest.mark.parametrize(("size", "wrapped"), [(2, True), (4, False)])
def test_uneven_data_under_join_ends_sampling_and_nothing_else(size: int, wrapped: bool, tmp_path: Path) -> None:
    results: list[dict[str, Any]] = launch("runs:uneven", size, tmp_path, wrapped)
    for rank, result in enumerate(results):
        assert len([m for m in result["messages"] if "trained under Join" in m]) == 1
        assert result["losses"]["watched"] == result["losses"]["plain"]
        assert len(result["losses"]["plain"]) == 3 + rank


def test_nothing_of_torch_that_is_called_is_deprecated(tmp_path: Path) -> None:
    assert launch("runs:warned", 2, tmp_path) == [[], []]
