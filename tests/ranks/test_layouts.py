"""Counts on real processes are those of one process, integer by integer, however the model is spread over them."""

from __future__ import annotations

from pathlib import Path

from .launch import launch


def test_counts_are_those_of_one_process(tmp_path: Path) -> None:
    main, *others = launch("layouts:all_layouts", 4, tmp_path)
    for values, layouts in main.items():
        alone = layouts.pop("alone")
        assert len(alone) > 60
        assert sum(bool(offsets) for _, offsets in alone.values()) > (50 if values == "on grids" else -1)
        for layout, rows in layouts.items():
            assert rows.keys() == alone.keys(), (values, layout)
            for name, row in rows.items():
                assert row == alone[name], (values, layout, name)
    for other in others:
        for layouts in other.values():
            assert all(rows == {} for layout, rows in layouts.items() if layout != "alone")
