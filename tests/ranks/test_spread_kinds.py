"""A model that is spread over ranks has the kinds, parts and evidence that it has on one."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from .launch import launch

WAYS = ("fsdp1", "fsdp1 with its parameters", "fsdp2")


def test_kinds_parts_and_evidence_are_those_of_one_process(tmp_path: Path) -> None:
    ways = WAYS + (("zero3",) if importlib.util.find_spec("deepspeed") else ())
    main, other = launch("spread_kinds:everything", 2, tmp_path, ways)
    assert main == other
    for name in ("head by head", "groups, tied", "in a task", "home-made"):
        alone = main[f"{name}, alone"]
        rows = [row for matrix, row in alone.items() if not matrix.startswith("probe")]
        assert {row[6] for row in rows} == {"use"}, name
        assert {"attn_q", "attn_k", "attn_v", "attn_o"} <= {row[0] for row in rows}, name
        assert any("head 0" in matrix for matrix in alone), name
        for way in ways:
            assert main[f"{name}, {way}"] == alone, (name, way)
