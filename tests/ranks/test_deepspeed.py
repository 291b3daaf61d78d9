"""DeepSpeed's engine at every stage of ZeRO: counts as on one process, η and λ_wd of the step just taken."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from .launch import launch

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None,
    reason="needs DeepSpeed: pip install deepspeed",
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_counts_are_those_of_one_process(dtype: torch.dtype, tmp_path: Path) -> None:
    main, other = launch("zero:all_stages", 2, tmp_path, dtype)
    assert len(main) == 10
    for stage, (sharded, alone) in main.items():
        assert len(alone) > 60
        assert sharded == alone, stage
        assert other[stage][0] == {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rates_are_those_of_the_step_taken_though_the_engine_moves_the_scheduler(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    main, other = launch("zero:monitored", 2, tmp_path, dtype)
    assert list(main) == ["ZeRO-0", "ZeRO-1", "ZeRO-2", "ZeRO-3"]
    for stage, by_step in main.items():
        assert list(by_step) == [0, 1, 2, 3], stage
        assert set(by_step.pop(0)) == {(None, None)}, stage
        for step, values in by_step.items():
            assert len(values) > 20
            assert values == [pytest.approx((1e-3 / step, 0.1))] * len(values), (stage, step)
    assert other == {}
