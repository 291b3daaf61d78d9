"""Counts on real processes are those of one process, integer by integer, however the model is spread over them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from .launch import launch


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [2, 4])
def test_counts_are_those_of_one_process(size: int, dtype: torch.dtype, tmp_path: Path) -> None:
    main, *others = launch("layouts:all_layouts", size, tmp_path, dtype)
    alone = main.pop("alone")
    assert len(alone) > 60
    for layout, rows in main.items():
        assert rows.keys() <= alone.keys(), layout
        if layout != "pipeline":
            assert rows.keys() == alone.keys(), layout
        for name, row in rows.items():
            assert row == alone[name], (layout, name)
    assert all(rows == {} for other in others for layout, rows in other.items() if layout != "alone")
