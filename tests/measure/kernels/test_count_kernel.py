"""The counting kernel against plain torch: the same integers, to the last count, whatever the values and strides are."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from measure.test_count import awkward

from weibull_monitor.measure.bins import bins_of
from weibull_monitor.measure.kernels import COUNTED
from weibull_monitor.measure.kernels.launch import Kernels
from weibull_monitor.measure.kernels.table import COLUMNS, FIRST_TILE, ROWS, TILE, pieces_of, table_of
from weibull_monitor.measure.plain.count import count_by_bincount

DTYPES = list(COUNTED)


def counted(kernels: Kernels, tensors: list[torch.Tensor], rows: list[list[int]] | None = None) -> torch.Tensor:
    bins = bins_of(tensors[0].dtype)
    rows = rows or [[n] for n in range(len(tensors))]
    here = [t.to(kernels.device) for t in tensors]
    table = kernels.table(here, rows)
    counts = torch.zeros(1 + max(map(max, rows)), bins.columns, dtype=torch.int64, device=kernels.device)
    kernels.count(kernels.upload(table.pieces), kernels.upload(table.starts), counts, bins)
    return counts.cpu()


def expected(tensors: list[torch.Tensor]) -> torch.Tensor:
    return count_by_bincount(tensors, bins_of(tensors[0].dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [1, 7, TILE - 1, TILE, 3 * TILE + 5])
def test_the_integers_are_those_of_plain_torch(kernels: Kernels, dtype: torch.dtype, n: int) -> None:
    tensor = (torch.randn(n) * 0.02).to(dtype)
    torch.testing.assert_close(counted(kernels, [tensor]), expected([tensor]), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_awkward_values_are_counted_one_by_one(kernels: Kernels, dtype: torch.dtype) -> None:
    tensor = awkward(dtype)
    torch.testing.assert_close(counted(kernels, [tensor]), expected([tensor]), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_bit_pattern_has_its_bin(kernels: Kernels, dtype: torch.dtype) -> None:
    if dtype.itemsize == 2:
        tensor = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    else:  # of 2³² patterns, one in 32 of the upper half, with random lower halves
        upper = torch.arange(-(2**15), 2**15, dtype=torch.int64).repeat(2) << 16
        tensor = (upper + torch.randint(0, 2**16, upper.shape)).to(torch.int32).view(dtype)
    found = counted(kernels, [tensor])
    torch.testing.assert_close(found, expected([tensor]), rtol=0, atol=0)
    assert int(found.sum()) == tensor.numel()


@pytest.mark.parametrize("scale", [1e-30, 1e-8, 300.0, 1e30])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_weights_outside_of_the_window_are_exact(kernels: Kernels, dtype: torch.dtype, scale: float) -> None:
    tensor = (torch.randn(TILE + 100, dtype=torch.float64) * scale).to(dtype)
    torch.testing.assert_close(counted(kernels, [tensor]), expected([tensor]), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_zeros_among_weights_are_counted_into_all_rows(kernels: Kernels, dtype: torch.dtype) -> None:
    whole = torch.randn(2 * TILE // 64, 128).to(dtype)
    whole[torch.rand(whole.shape) < 0.5] = 0.0
    whole[0, 0] = 1e30  # Inf in fp16
    parts = list(whole.split(64, dim=1))  # in runs
    rows = counted(kernels, [*parts, whole], [[0, 2], [1, 2], [3]])
    torch.testing.assert_close(rows[:2], expected(parts), rtol=0, atol=0)
    torch.testing.assert_close(rows[2:], expected([whole, whole]), rtol=0, atol=0)


def _views(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    base = (torch.randn(96, 3 * 128) * 0.02).to(dtype)
    cube = (torch.randn(4, 3, 8, 160) * 0.02).to(dtype)
    return {
        "dense": base,
        "transposed": base.t(),
        "columns, aligned": base[:, 128:256],
        "columns, not aligned": base[:, 3:131],
        "columns, of an odd width": base[:, 8:21],
        "rows": base[5:77],
        "every second row": base[::2],
        "every second column": base[:, ::2],
        "permuted": cube.permute(2, 0, 3, 1),
        "heads of a fused matrix": cube[:, 1],
        "columns of heads": cube.permute(3, 0, 1, 2)[:, :, 1],
        "three dimensions that do not merge": cube[:, :2, :5, :64],
        "expanded": base[:1].expand(7, -1),
        "one value": base[3, 4],
        "not aligned": base.view(-1)[1:],
        "empty": base[:0],
    }


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("name", list(_views(torch.float32)))
def test_strides(kernels: Kernels, dtype: torch.dtype, name: str) -> None:
    view = _views(dtype)[name]
    torch.testing.assert_close(counted(kernels, [view]), expected([view]), rtol=0, atol=0)


@pytest.mark.parametrize("name", list(_views(torch.float32)))
def test_the_pieces_of_a_tensor_hold_each_of_its_elements_once(name: str) -> None:
    base = _views(torch.float32)[name]
    # Each element of the storage holds its own address, so that what is addressed can be read back.
    storage = torch.arange(base.untyped_storage().nbytes() // 4, dtype=torch.int32)
    view = storage.as_strided(base.shape, base.stride(), base.storage_offset())
    found: list[int] = []
    for address, begin, end, run, stride, _ in pieces_of(view):
        at = (address - storage.data_ptr()) // 4
        found += [at + i // run * stride + i % run for i in range(begin, end)]
    assert sorted(found) == sorted(view.reshape(-1).tolist())


def test_aligned_runs_are_read_in_vectors() -> None:
    whole = torch.empty(4096, 3 * 1024, dtype=torch.bfloat16)
    kinds = {name: [p[5] for p in pieces_of(part)] for name, part in zip("qkv", whole.split(1024, dim=1), strict=True)}
    assert kinds == {"q": [1], "k": [1], "v": [1]}
    assert [p[5] for p in pieces_of(whole)] == [0]
    assert [p[5] for p in pieces_of(torch.empty(TILE + 3, dtype=torch.float32))] == [0, 2]


def test_parts_are_counted_into_the_whole_at_no_extra_read(kernels: Kernels) -> None:
    whole = torch.randn(48, 64).to(torch.bfloat16)
    parts = list(whole.split(16))
    rows = counted(kernels, parts, [[0, 3], [1, 3], [2, 3]])
    torch.testing.assert_close(rows[:3], expected(parts), rtol=0, atol=0)
    torch.testing.assert_close(rows[3:], expected([whole]), rtol=0, atol=0)


def test_many_matrices_in_one_launch_shared_by_many_programs(kernels: Kernels) -> None:
    sizes = [1, 50, TILE, 2 * TILE + 1, 8, 3 * TILE]
    tensors = [torch.randn(n).to(torch.float16) for n in sizes]
    here = [t.to(kernels.device) for t in tensors]
    bins = bins_of(torch.float16)
    for programs in (1, 2, 3, 7, 100):
        table = table_of(here, [[n] for n in range(len(here))], programs)
        counts = torch.zeros(len(here), bins.columns, dtype=torch.int64, device=kernels.device)
        kernels.count(kernels.upload(table.pieces), kernels.upload(table.starts), counts, bins)
        torch.testing.assert_close(counts.cpu(), expected(tensors), rtol=0, atol=0)


@pytest.mark.parametrize("programs", [1, 4, 13, 1000])
def test_programs_share_the_tiles_evenly_and_leave_none_out(programs: int) -> None:
    tensors = [torch.empty(n, dtype=torch.bfloat16) for n in (5, 40 * TILE, 3, 7 * TILE + 9)]
    table = table_of(tensors, [[n] for n in range(4)], programs)
    assert table.pieces.shape[1] == COLUMNS == FIRST_TILE + 2 + ROWS
    first = table.starts[:, 0]
    shares = np.diff(first)
    assert first[0] == 0
    assert first[-1] == table.pieces[-1, FIRST_TILE] == sum(-(-t.numel() // TILE) for t in tensors)
    assert shares.max() - shares.min() <= 1
    assert shares.min() >= 1
    for (tile, piece), _ in itertools.pairwise(table.starts.tolist()):
        assert table.pieces[piece, FIRST_TILE] <= tile < table.pieces[piece + 1, FIRST_TILE]


def test_nothing_to_count(kernels: Kernels) -> None:
    empty = torch.empty(0, dtype=torch.float32)
    assert table_of([empty], [[0]], 8).programs == 0
    assert int(counted(kernels, [empty]).sum()) == 0
