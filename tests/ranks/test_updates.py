"""Updates on several ranks, from the states that each of them owns."""

from __future__ import annotations

from pathlib import Path

from ranks.launch import launch


def test_updates_are_those_of_one_process_digit_by_digit(tmp_path: Path) -> None:
    main, *others = launch("updates:all_layouts", 4, tmp_path)
    alone = {"in 8 bits": main.pop("alone in 8 bits"), "": main.pop("alone")}
    assert len(alone[""]["found"]["update_k"]) > 20
    for name, one in main.items():
        expected = alone["in 8 bits" if "8 bits" in name else ""]
        assert one["found"] == expected["found"], name
        assert one["messages"] == [], name
        assert one["collectives"] == ["c10d::allreduce_"], name
        # Nothing larger is made than by one process, whose largest are the counts.
        assert all(ranks[name]["largest"] <= expected["largest"] for ranks in (main, *others)), name
