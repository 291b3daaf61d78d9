from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from weibull_monitor.measure.bins import bins_of
from weibull_monitor.measure.choose import count_magnitudes
from weibull_monitor.measure.plain.count import (
    HOST_CHUNK,
    SMALL,
    SMALL_CHUNK,
    chunks,
    count_by_bincount,
    count_by_scatter,
    places_by_bincount,
    places_by_scatter,
)
from weibull_monitor.model.components.storage import MANTISSA

DTYPES = list(MANTISSA)


def brute_force(tensor: torch.Tensor) -> np.ndarray:
    """Counts by comparing every value with every edge, in float64, without looking at a bit."""
    bins = bins_of(tensor.dtype)
    values = tensor.double().abs().flatten().numpy()
    finite = np.isfinite(values)
    counts = np.zeros(bins.columns, dtype=np.int64)
    counts[0] = (values == 0).sum()
    counts[-1] = (~finite).sum()
    inside = values[finite & (values > 0)]
    place = np.clip(np.searchsorted(bins.edges.numpy(), inside, side="right") - 1, 0, bins.finite - 1)
    np.add.at(counts, place + 1, 1)
    return counts


def awkward(dtype: torch.dtype, n: int = 20_000) -> torch.Tensor:
    """Normal values with zeros of both signs, infinities, NaN, the extremes and subnormals among them."""
    info = torch.finfo(dtype)
    values = torch.randn(n, dtype=torch.float64) * 0.02
    values[::7] = 0.0
    values[1::7] = -0.0
    special = [
        float("inf"),
        float("-inf"),
        float("nan"),
        info.max,
        info.min,
        info.tiny,
        info.tiny / 2,
        -info.smallest_normal,
    ]
    values[: len(special)] = torch.tensor(special, dtype=torch.float64)
    if dtype.itemsize == 1:
        values = values.clamp(-info.max, info.max)  # torch's cast to fp8 saturates or not by version
    return values.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", [count_by_bincount, count_by_scatter])
def test_counts_equal_brute_force(dtype: torch.dtype, count: object) -> None:
    tensor = awkward(dtype)
    assert callable(count)
    counted = count([tensor], bins_of(dtype))[0].numpy()
    np.testing.assert_array_equal(counted, brute_force(tensor))
    assert counted.sum() == tensor.numel()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_many_small_tensors_are_counted_as_if_each_were_alone(dtype: torch.dtype) -> None:
    """They are counted together: rows that have several tensors, or none, and tensors of all sizes, without values too."""
    bins, sizes = bins_of(dtype), [0, 1, 7, SMALL - 1, SMALL, SMALL + 1, 64, SMALL_CHUNK]
    tensors = [awkward(dtype, max(size, 8))[:size].reshape(size, 1).mT for size in sizes]
    tensors += [torch.zeros(9).to(dtype), torch.full((30, 40), 0.02).to(dtype).T]
    rows = [3, 0, 0, 5, 3, 1, 5, 0, 7, 4]
    counts = count_by_bincount(tensors, bins, rows).numpy()
    for row in range(8):
        mine = [tensor for tensor, of in zip(tensors, rows, strict=True) if of == row]
        expected = np.sum([brute_force(tensor) for tensor in mine], axis=0) if mine else 0
        np.testing.assert_array_equal(counts[row], np.broadcast_to(expected, bins.columns))
    if bins.shift:  # places of 8-bit floats mean nothing
        places, of_scatter = (by(tensors, bins, rows) for by in (places_by_bincount, places_by_scatter))
        torch.testing.assert_close(places[:, :, 2:-1], of_scatter[:, :, 2:-1], rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d.itemsize == 1], ids=str)
@pytest.mark.parametrize("count", [count_by_bincount, count_by_scatter])
def test_all_patterns_of_8_bit_floats(dtype: torch.dtype, count: object) -> None:
    tensor = torch.arange(256, dtype=torch.uint8).view(dtype)
    assert callable(count)
    np.testing.assert_array_equal(count([tensor], bins_of(dtype))[0].numpy(), brute_force(tensor))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_strides_do_not_matter(dtype: torch.dtype) -> None:
    base = (torch.randn(96, 130, 7) * 0.02).to(dtype)
    views = [
        base,
        base.transpose(0, 2),
        base.permute(1, 2, 0),
        base[::2],
        base[:, 3:77],
        base[..., 2],
        base[::3, 1::2, ::2],
        base[:1].expand(5, -1, -1),
        base[0, 0, 0],
        base[:0],
        base.flatten()[5:],
    ]
    counted = count_magnitudes(views, bins_of(dtype))
    for row, view in zip(counted, views, strict=True):
        np.testing.assert_array_equal(row.numpy(), brute_force(view.contiguous()))


def test_threads_divide_the_work_without_changing_the_counts() -> None:
    sizes = [3 * HOST_CHUNK + 17, 5, HOST_CHUNK, 0, 2 * HOST_CHUNK - 1]
    tensors = [torch.randn(n) for n in sizes] + [torch.randn(2000, 1111).t()[::2]]
    one_thread = [count_by_bincount([t], bins_of(torch.float32))[0] for t in tensors]
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            together = count_by_bincount(tensors, bins_of(torch.float32))
            assert torch.equal(together, torch.stack(one_thread))
            assert torch.get_num_threads() == threads  # the caller's setting is as it was
    finally:
        torch.set_num_threads(before)


def test_chunks_hold_each_element_once_and_are_views_of_dense_tensors() -> None:
    base = torch.arange(24.0).view(2, 3, 4)
    for tensor in (base, base.permute(2, 0, 1), base[:, ::2], base[:, :, 1:3]):
        pieces = list(chunks(tensor, 5))
        assert sorted(torch.cat(pieces).tolist()) == sorted(tensor.flatten().tolist())
        assert all(piece.is_contiguous() and piece.numel() <= 5 for piece in pieces)
    dense = next(iter(chunks(base.permute(2, 0, 1), 5)))
    assert dense.untyped_storage().data_ptr() == base.untyped_storage().data_ptr()


def test_deterministic_algorithms_are_allowed() -> None:
    torch.use_deterministic_algorithms(True)
    try:
        w = torch.randn(5000)
        assert torch.equal(count_by_scatter([w], bins_of(w.dtype)), count_by_bincount([w], bins_of(w.dtype)))
    finally:
        torch.use_deterministic_algorithms(False)


def test_weights_and_random_state_are_left_alone() -> None:
    w = torch.randn(100, 100, requires_grad=True)
    before, state = w.detach().clone(), torch.get_rng_state()
    count_magnitudes([w], bins_of(w.dtype))
    assert torch.equal(w.detach(), before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak resident size as Linux reports it")
def test_extra_memory_is_bounded_whatever_the_matrix() -> None:
    """Peak resident memory of a process grows by at most 32 MiB when it fits 256 MiB of weights."""
    program = """
import resource, torch
from weibull_monitor import fit_weibull
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
w = torch.empty(2**26).normal_()
strided = w.view(2**13, 2**13)[:, 1:-1]
fit_weibull(w[:2**20])
before = peak()
fit_weibull([w, strided])
print(peak() - before)
"""
    grown = float(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout)
    assert grown <= 32
