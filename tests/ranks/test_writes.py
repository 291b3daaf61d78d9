"""Writes between two steps on several ranks, each of which sees its own elements."""

from __future__ import annotations

from pathlib import Path

import pytest

from ranks.launch import launch

AT, WRITTEN = 6, "layers.0.mlp.up_proj.weight"
"""As `writes` has them."""


def test_a_write_is_seen_wherever_the_elements_are(tmp_path: Path) -> None:
    main, *_ = launch("writes:all_layouts", 4, tmp_path)
    alone = main.pop("alone")
    assert {name for name, rms in alone["written_rms"].items() if rms > 0} == {WRITTEN}
    for name, one in main.items():
        if name.startswith("fsdp1"):
            assert one["step_rms"] == {}, name  # documented: not watched
            continue
        assert one["step_rms"].keys() == alone["step_rms"].keys(), name
        assert {n for n, rms in one["written_rms"].items() if rms > 0} == {WRITTEN}, name
        assert one["written_after"][WRITTEN] == AT, name
        assert one["written_rms"][WRITTEN] == pytest.approx(one["rms"][WRITTEN] / 2, rel=0.4), name
