"""What the compiler makes of the kernels for GPUs that are not here: its machine code is read, and its PTX is executed."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from measure.kernels.ptx.machine import Memory, PTXError, Tally
from measure.kernels.ptx.program import Program
from measure.test_count import awkward
from oracle import samples

from weibull_monitor.measure.bins import bins_of
from weibull_monitor.measure.grid import roughness
from weibull_monitor.measure.kernels import COUNTED
from weibull_monitor.measure.kernels.launch import probes
from weibull_monitor.measure.kernels.table import TILE, rows_of, table_of
from weibull_monitor.measure.plain.count import count_by_bincount
from weibull_monitor.measure.plain.solve import LEVELS, RESULT_COLUMNS, Column, hashes, solve_on_device

WAYS = ("own", "Triton")


@pytest.fixture(scope="module")
def ptx(code: list[dict[str, Any]], ptx_folder: Path) -> dict[str, tuple[str, int]]:
    """PTX, and the shared memory that a launch asks for, by the kernel's name and capability."""
    return {
        f"{row['kernel']}, {row['capability']}": ((ptx_folder / row["ptx"]).read_text(), row["shared"]) for row in code
    }


def program(ptx: dict[str, tuple[str, int]], dtype: torch.dtype, way: str, capability: int = 90) -> Program:
    return Program(*ptx[f"count {str(dtype).removeprefix('torch.')}, {way} histogram, {capability}"])


def count(
    program: Program, tensors: Sequence[torch.Tensor], rows: Sequence[Sequence[int]], programs: int = 3, seed: int = 0
) -> tuple[torch.Tensor, Tally]:
    table = table_of(tensors, rows, programs)
    pieces, starts = torch.from_numpy(table.pieces), torch.from_numpy(table.starts)
    bins = bins_of(tensors[0].dtype)
    counts = torch.zeros(1 + max(map(max, rows)), bins.columns, dtype=torch.int64)
    weights = {f"weight {n}": tensor for n, tensor in enumerate(tensors)}
    memory = Memory(pieces=pieces, starts=starts, counts=counts, **weights)
    arguments = [pieces.data_ptr(), starts.data_ptr(), counts.data_ptr(), counts.stride(0)]
    return counts, program.run(table.programs, memory, arguments, seed)


def expected(tensors: Sequence[torch.Tensor], rows: Sequence[Sequence[int]]) -> torch.Tensor:
    bins = bins_of(tensors[0].dtype)
    out = torch.zeros(1 + max(map(max, rows)), bins.columns, dtype=torch.int64)
    for tensor, into in zip(tensors, rows, strict=True):
        out[list(into)] += count_by_bincount([tensor], bins)
    return out


@pytest.mark.parametrize("dtype", COUNTED, ids=str)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("capability", [80, 90])
def test_it_counts_what_plain_torch_counts_and_does_not_race(
    ptx: dict[str, tuple[str, int]], capability: int, way: str, dtype: torch.dtype
) -> None:
    patterns, normal = probes(dtype)
    tensors = [patterns, normal[:, 64:192], normal.view(-1)[1:]]  # dense; in runs; not aligned
    rows = [(0,), (1, 3), (2, 3)]
    found, _ = count(program(ptx, dtype, way, capability), tensors, rows, seed=capability)
    torch.testing.assert_close(found, expected(tensors, rows), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", COUNTED, ids=str)
def test_many_small_and_awkward_tensors_whatever_warp_comes_first(
    ptx: dict[str, tuple[str, int]], dtype: torch.dtype
) -> None:
    base = (torch.randn(40, 48) * 0.02).to(dtype)
    cube = (torch.randn(4, 3, 8, 160) * 0.02).to(dtype)
    tensors = [
        awkward(dtype),
        base.t(),
        base[:, ::2],
        base[3, 4],
        cube.permute(2, 0, 3, 1),
        cube[:, 1],
        cube[:, :2, :5],
    ]
    tensors += [(torch.randn(n) * 0.02).to(dtype) for n in (1, TILE, 2 * TILE + 5)]
    rows = [(n,) for n in range(len(tensors))]
    for programs, seed in ((1, 1), (4, 2)):
        found, _ = count(program(ptx, dtype, "own"), tensors, rows, programs, seed)
        torch.testing.assert_close(found, expected(tensors, rows), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", COUNTED, ids=str)
def test_each_weight_is_read_once_and_added_once(ptx: dict[str, tuple[str, int]], dtype: torch.dtype) -> None:
    tensor = torch.rand(4 * TILE).add(0.01).to(dtype)  # all in the window
    _, tally = count(program(ptx, dtype, "own"), [tensor], [(0, 1, 2)])
    assert tally.bytes_read["weight 0"] == tensor.numel() * dtype.itemsize
    assert tally.shared_adds == tensor.numel()
    assert tally.instructions["ld.global.v4.b32"] == tensor.numel() * dtype.itemsize // 16 // 32
    assert tally.shared_adds // 32 < tally.passes < 4 * tally.shared_adds // 32


@pytest.mark.parametrize("dtype", COUNTED, ids=str)
def test_zeros_are_read_once_too(ptx: dict[str, tuple[str, int]], dtype: torch.dtype) -> None:
    tensor = torch.rand(4 * TILE).add(0.01).to(dtype)
    tensor[torch.rand(len(tensor)) < 0.5] = 0.0
    found, tally = count(program(ptx, dtype, "own"), [tensor], [(0,)])
    torch.testing.assert_close(found, expected([tensor], [(0,)]), rtol=0, atol=0)
    assert tally.bytes_read["weight 0"] == tensor.nbytes


def test_the_fit_is_that_of_plain_torch(ptx: dict[str, tuple[str, int]]) -> None:
    bins = bins_of(torch.bfloat16)
    tensors = [
        samples("normal", 20_000),
        torch.zeros(500),
        torch.cat([torch.randn(400), torch.zeros(50), torch.full((7,), torch.inf)]),
    ]
    counts = count_by_bincount([tensor.to(torch.bfloat16) for tensor in tensors], bins)
    plain = solve_on_device(counts, bins, trim=False)
    constants = {
        "log_edges": bins.edges.log(),
        "levels": torch.tensor(LEVELS, dtype=torch.float64),
        "hashes": hashes(bins.columns),
    }
    out = torch.full((4, RESULT_COLUMNS), -7.0, dtype=torch.float64)
    rough = torch.full((4, 2), -7, dtype=torch.int64)
    expected_rough = roughness(counts[:, 1:-1], bins)
    rows = torch.from_numpy(rows_of([(0, 3), (1, 1), (2, 0)]))
    memory = Memory(counts=counts, rows=rows, out=out, rough=rough, **constants)
    addresses = [tensor.data_ptr() for tensor in (counts, rows, *constants.values(), out, rough)]
    Program(*ptx["solve, 90"]).run(len(rows), memory, [*addresses, counts.stride(0)])
    assert not counts.any()  # emptied for the next sample
    assert (out[2] == -7.0).all()
    assert torch.equal(rough[[3, 1, 0]], expected_rough)
    found = out[[3, 1, 0]]
    gamma = found[:, Column.AIC_GAMMA].clone()
    torch.testing.assert_close(gamma, plain[:, Column.AIC_GAMMA], rtol=1e-7, atol=0, equal_nan=True)
    found[:, Column.AIC_GAMMA] = plain[:, Column.AIC_GAMMA]
    torch.testing.assert_close(found, plain, rtol=1e-9, atol=1e-12, equal_nan=True)


# What would be wrong is seen.


def broken(text: str, pattern: str, which: int) -> str:
    """Code without one place of it."""
    place = list(re.finditer(pattern, text))[which]
    return text[: place.start()] + text[place.end() :]


BARRIER = r"bar\.sync\s+0;"


def test_a_barrier_that_is_missing_is_seen(ptx: dict[str, tuple[str, int]]) -> None:
    text, shared = ptx["count bfloat16, own histogram, 90"]
    tensor = (torch.randn(3 * TILE + 100) * 0.02).to(torch.bfloat16)
    tensor[TILE + 5] = 0  # outside of the window, in the second tile
    unseen = []
    for which in range(len(re.findall(BARRIER, text))):
        with contextlib.suppress(PTXError):
            count(Program(broken(text, BARRIER, which), shared), [tensor, tensor[5:]], [(0,), (1,)], programs=1)
            unseen.append(which)
    # The one before the bins are taken: Triton's own barriers, in the sum of the zeros, happen to do the same.
    assert len(unseen) <= 1


def test_bins_that_are_not_emptied_are_seen(ptx: dict[str, tuple[str, int]]) -> None:
    text, shared = ptx["count bfloat16, own histogram, 90"]
    tensors = [torch.randn(TILE).to(torch.bfloat16)]
    found, _ = count(Program(re.sub(r"st\.shared\.u32 \[a\], 0;", "", text), shared), tensors, [(0,)])
    assert not torch.equal(found, expected(tensors, [(0,)]))


def test_a_read_beyond_a_tensor_is_seen(ptx: dict[str, tuple[str, int]]) -> None:
    tensor = torch.randn(2 * TILE).to(torch.bfloat16)
    table = table_of([tensor], [(0,)], 1)
    pieces, starts = torch.from_numpy(table.pieces), torch.from_numpy(table.starts)
    counts = torch.zeros(1, bins_of(torch.bfloat16).columns, dtype=torch.int64)
    short = torch.from_numpy(tensor.view(torch.int16).numpy()[: TILE + 8].copy())
    pieces[0, 0] = short.data_ptr()
    memory = Memory(pieces=pieces, starts=starts, counts=counts, short=short)
    with pytest.raises(PTXError, match="outside of the tensors"):
        program(ptx, torch.bfloat16, "own").run(1, memory, [t.data_ptr() for t in (pieces, starts, counts)])


def test_code_that_is_not_understood_is_refused(ptx: dict[str, tuple[str, int]]) -> None:
    text, shared = ptx["count bfloat16, own histogram, 90"]
    with pytest.raises(PTXError, match=r"no such instruction here: lg2\.approx\.f32"):
        Program(text.replace("redux.sync.add.s32", "lg2.approx.f32", 1), shared)


def test_they_compile_without_spilling(code: list[dict[str, Any]]) -> None:
    assert len(code) == 2 * 15
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
