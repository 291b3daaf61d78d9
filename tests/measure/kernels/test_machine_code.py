"""What the compiler makes of the kernels, for GPUs that are not here: Triton brings its own assembler."""

from __future__ import annotations

from typing import Any


def test_they_compile_without_spilling(code: list[dict[str, Any]]) -> None:
    assert len(code) == 2 * 7
    assert {row["capability"] for row in code} == {80, 90}
    for row in code:
        assert row.get("stack", 0) == 0, row


def test_the_weights_are_read_in_vectors_and_counted_with_one_atomic_each(code: list[dict[str, Any]]) -> None:
    for row in code:
        if "own histogram" in row["kernel"]:
            values_a_thread = row["values"]
            assert values_a_thread == 64
            words = values_a_thread // (1 if "float32" in row["kernel"] else 2)
            assert row["vector_loads"] == 2 * words // 4  # of dense tiles, and of those in runs
            assert row["ballots"] == 0
            assert row["per_value"] < 9


def test_the_solve_is_in_float64_throughout(code: list[dict[str, Any]]) -> None:
    assert [row["float32_in_float64"] for row in code if row["kernel"] == "solve"] == [0, 0]
