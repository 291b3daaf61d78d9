from __future__ import annotations

import pytest
import torch

from weibull_monitor.measure.bins import MANTISSA_BITS, bins_of
from weibull_monitor.model.components.storage import MANTISSA

DTYPES = list(MANTISSA)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_edges_rise_strictly_and_cover_every_finite_magnitude(dtype: torch.dtype) -> None:
    bins = bins_of(dtype)
    edges = bins.edges
    assert edges.shape == (bins.finite + 1,)
    rising = edges[1:] > edges[:-1]
    assert rising.all()
    assert edges[0] > 0
    assert edges[-1] == torch.finfo(dtype).max


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d.itemsize <= 2], ids=str)
def test_every_representable_value_lies_between_the_edges_of_its_bin(dtype: torch.dtype) -> None:
    bins = bins_of(dtype)
    patterns = torch.arange(1, 2 ** (8 * dtype.itemsize - 1), dtype=torch.int64)
    values = patterns.to(bins.integer).view(dtype).double()
    finite = torch.isfinite(values)
    values, index = values[finite], (patterns >> bins.shift)[finite]
    assert (values >= bins.edges[index]).all()
    assert (values <= bins.edges[index + 1]).all()


def test_an_octave_has_as_many_bins_as_stated() -> None:
    edges = bins_of(torch.float32).edges
    per_octave = int(((edges >= 1.0 - 1e-6) & (edges < 2.0 - 1e-6)).sum())
    assert per_octave == 2**MANTISSA_BITS
    assert int(((bins_of(torch.bfloat16).edges >= 0.995) & (bins_of(torch.bfloat16).edges < 1.99)).sum()) == per_octave


def test_edges_of_rounded_storage_lie_midway_between_representable_values() -> None:
    """bf16 has 128 values an octave; with 64 bins, the edge below 1 lies halfway between 1 - 2**-8 and 1."""
    edges = bins_of(torch.bfloat16).edges
    assert (edges == 1.0 - 2.0**-9).any()
