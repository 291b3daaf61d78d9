"""What the ranks send each other: nothing is lost in a window, and what would be is noticed."""

from __future__ import annotations

import pytest
import torch

from weibull_monitor.measure.bins import bins_of
from weibull_monitor.measure.count import count_magnitudes
from weibull_monitor.measure.reader.packing import ABOVE, BELOW, MISSING, buckets, window_of

FLOATS = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_rows_come_back_as_they_were(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(3, 70_000, generator=generator, dtype=torch.float64) * torch.tensor([[1.0], [1e-3], [0.02]])
    values[0, :10], values[1, 0], values[2, 0] = 0.0, torch.nan, -torch.inf
    counts = count_magnitudes(list(values.to(dtype)), bins_of(dtype))
    window = window_of(dtype)
    packed = torch.full((3, window.width), -7, dtype=torch.int32)
    window.pack(counts, packed)
    assert packed[:, [BELOW, ABOVE, MISSING]].eq(0).all()
    assert torch.equal(window.unpack(packed), counts)
    assert window.width < 3_100


@pytest.mark.parametrize(
    ("value", "column"), [(1e-30, BELOW), (300.0, ABOVE), (2.0**-44, None), (15.99, None), (17.0, ABOVE)]
)
def test_what_lies_outside_is_counted_there(value: float, column: int | None) -> None:
    window = window_of(torch.float32)
    packed = torch.empty(1, window.width, dtype=torch.int32)
    window.pack(count_magnitudes([torch.tensor([value, 0.5])], bins_of(torch.float32)), packed)
    assert packed[0, [BELOW, ABOVE]].tolist() == [int(column == BELOW), int(column == ABOVE)]
    assert int(packed.sum()) == 2
    whole = window_of(torch.float32, whole=True)
    packed = torch.empty(1, whole.width, dtype=torch.int32)
    whole.pack(count_magnitudes([torch.tensor([value, 0.5])], bins_of(torch.float32)), packed)
    assert packed[0, [BELOW, ABOVE]].tolist() == [0, 0]


def test_two_thousand_matrices_are_one_sum_and_more_are_several() -> None:
    def asked(count: int) -> list[tuple[int, torch.dtype, int, bool]]:
        return [(i, torch.bfloat16, 10**6, False) for i in range(count)]

    [bucket] = buckets(asked(2_000), notes=2 + 12 * 2_000)
    assert bucket.indices == tuple(range(2_000))
    several = buckets(asked(47_000), notes=2)
    assert sorted(i for b in several for i in b.indices) == list(range(47_000))
    assert all(b.size * b.dtype.itemsize <= 32 << 20 for b in several)
    assert [b.notes for b in several[:2]] == [2, 0]


def test_rows_of_different_widths_and_of_very_large_matrices() -> None:
    asked = [(0, torch.float32, 10, True), (1, torch.bfloat16, 10, False), (2, torch.float32, 10, False)]
    [bucket] = buckets([*asked, (3, torch.float32, 2**31, False)], notes=5)
    assert bucket.dtype == torch.int64
    buffer = torch.arange(bucket.size)
    seen = buffer[:5].tolist()
    for first, last, place in bucket.runs():
        rows = bucket.rows(buffer, first, last, place)
        assert all(window.width == rows.shape[1] for window in bucket.windows[first:last])
        seen += rows.flatten().tolist()
    assert seen == buffer.tolist()
    assert [b.indices for b in buckets([], notes=3)] == [()]
