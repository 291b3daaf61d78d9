"""What the ranks send each other: nothing is lost in a window, and what would be is noticed."""

from __future__ import annotations

import pytest
import torch

from weibull_monitor.measure.bins import bins_of
from weibull_monitor.measure.choose import count_magnitudes
from weibull_monitor.measure.grid import TALLIES
from weibull_monitor.measure.reader.packing import ABOVE, BELOW, MISSING, buckets, sent_bins
from weibull_monitor.model.components import Component

FLOATS = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_rows_come_back_as_they_were(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(3, 70_000, generator=generator, dtype=torch.float64) * torch.tensor([[1.0], [1e-3], [0.02]])
    values[0, :10], values[1, 0], values[2, 0] = 0.0, torch.nan, -torch.inf
    counts = count_magnitudes(list(values.to(dtype)), bins_of(dtype))
    window = sent_bins(dtype)
    packed = window.pack(counts, torch.zeros(len(counts), TALLIES, dtype=torch.int64)).to(torch.int32)
    assert packed.shape == (3, window.width)
    assert packed[:, [BELOW, ABOVE, MISSING]].eq(0).all()
    assert torch.equal(window.unpack(packed), counts)
    assert window.width < 3_110


@pytest.mark.parametrize(
    ("value", "column"), [(1e-30, BELOW), (300.0, ABOVE), (2.0**-44, None), (15.99, None), (17.0, ABOVE)]
)
def test_what_lies_outside_is_counted_there(value: float, column: int | None) -> None:
    window = sent_bins(torch.float32)
    counts = count_magnitudes([torch.tensor([value, 0.5])], bins_of(torch.float32))
    packed = window.pack(counts, torch.zeros(len(counts), TALLIES, dtype=torch.int64))
    assert packed[0, [BELOW, ABOVE]].tolist() == [int(column == BELOW), int(column == ABOVE)]
    assert int(packed.sum()) == 2
    whole = sent_bins(torch.float32, whole=True)
    packed = whole.pack(counts, torch.zeros(len(counts), TALLIES, dtype=torch.int64))
    assert packed[0, [BELOW, ABOVE]].tolist() == [0, 0]
    assert torch.equal(whole.unpack(packed), counts)


def matrices(dtype: torch.dtype, *numels: int) -> list[Component]:
    return [
        Component(f"{dtype}.{i}", "other", None, None, False, (n, 1), dtype, True, f"{dtype}.{i}")
        for i, n in enumerate(numels)
    ]


def test_two_thousand_matrices_are_one_sum_and_more_are_several() -> None:
    [bucket] = buckets(matrices(torch.bfloat16, *[10**6] * 2_000), range(2_000))
    assert bucket.indices == tuple(range(2_000))
    several = buckets(matrices(torch.bfloat16, *[10**6] * 47_000), range(47_000))
    assert [i for b in several for i in b.indices] == list(range(47_000))
    assert all(b.nbytes <= 32 << 20 for b in several)
    assert len(several) == 18  # 2,725 rows of 3,078 int32 are 32 MiB


def test_rows_of_different_widths_and_of_very_large_matrices_are_summed_apart() -> None:
    components = [*matrices(torch.float32, 10, 10, 2**31, 2**31 - 1), *matrices(torch.bfloat16, 10)]
    found = {b.indices: (b.sent, b.dtype) for b in buckets(components, range(5), whole={components[0].name})}
    usual = sent_bins(torch.float32)
    assert found == {
        (0,): (sent_bins(torch.float32, whole=True), torch.int32),
        (1, 3): (usual, torch.int32),
        (2,): (usual, torch.int64),
        (4,): (sent_bins(torch.bfloat16), torch.int32),
    }
    assert buckets(components, []) == []
