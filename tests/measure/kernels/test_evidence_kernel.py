"""What tells a grid, by the kernels, against plain torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from weibull_monitor.measure.bins import bins_of
from weibull_monitor.measure.grid import TALLIES, on_grid, roughness, tally
from weibull_monitor.measure.kernels import COUNTED
from weibull_monitor.measure.kernels.launch import Kernels
from weibull_monitor.measure.kernels.table import looked_at, rows_of
from weibull_monitor.measure.plain.count import count_by_bincount
from weibull_monitor.measure.plain.solve import RESULT_COLUMNS
from weibull_monitor.model.sharding.layout import Elements, Grid


def awkward(dtype: torch.dtype) -> torch.Tensor:
    special = [0.0, -0.0, float("inf"), -float("inf"), float("nan"), 1e-45, 1e-40, 6e-8, 1e-30, 3e38, 65504.0, -1.0]
    return torch.tensor(special).repeat(40).to(dtype)


@pytest.mark.parametrize("dtype", COUNTED, ids=str)
@pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")
def test_neighbouring_bins_differ_as_in_plain_torch(kernels: Kernels, dtype: torch.dtype) -> None:
    bins = bins_of(dtype)
    normal = torch.randn(5000) * 0.02
    steps = normal.abs().max() / 127
    tensors = [normal, normal.bfloat16(), (normal / steps).round() * steps, awkward(dtype), torch.zeros(300)]
    counts = count_by_bincount([tensor.to(dtype) for tensor in tensors], bins)
    rough = torch.full((6, 2), -7, dtype=torch.int64, device=kernels.device)
    out = torch.zeros(6, RESULT_COLUMNS, dtype=torch.float64, device=kernels.device)
    rows = kernels.upload(rows_of([(n, n + 1) for n in range(5)]))
    kernels.solve(counts.to(kernels.device), rows, bins, out, rough=rough)
    assert torch.equal(rough[1:].cpu(), roughness(counts[:, 1:-1], bins))
    assert (rough[0] == -7).all()


@pytest.mark.parametrize("dtype", COUNTED, ids=str)
def test_values_lie_where_plain_torch_finds_them(kernels: Kernels, dtype: torch.dtype) -> None:
    bins = bins_of(dtype)
    normal = (torch.randn(60, 50) * 0.02).to(dtype)
    coarse = normal.float().to(torch.bfloat16).to(dtype)
    flat = [normal.view(-1), coarse.view(-1)[5:1030], coarse.view(-1)[::7], awkward(dtype), normal.new_empty(0)]
    rows, columns = np.arange(60).repeat(20), np.tile(np.arange(0, 40, 2), 60)
    some = [Elements(tensor.to(kernels.device)) for tensor in flat]
    some += [Elements(coarse.to(kernels.device).t(), (columns, rows)), Elements(normal.to(kernels.device)[:, 3])]
    tallies = torch.zeros(len(some), TALLIES, dtype=torch.int64, device=kernels.device)
    kernels.tally(*map(kernels.upload, looked_at(some)), tallies, bins)
    assert torch.equal(tallies.cpu(), tally([elements.values().cpu() for elements in some], bins))
    if dtype is torch.float32:
        plain = [[*row.tolist(), 0, 0] for row in tallies.cpu()]
        assert on_grid(plain, bins) == [False, True, True, True, False, True, False]


def test_a_parameter_and_its_parts_are_looked_at_in_place(kernels: Kernels) -> None:
    from weibull_monitor.model.sharding import Box

    weight = torch.randn(96, 40, device=kernels.device)
    layout = Grid.whole(weight.shape)
    some = [layout.some(weight, None), layout.some(weight, Box((2, 3, 16, 40), ((0, 2), (1, 2), (0, 16), (0, 40))))]
    table, places = looked_at(some)
    assert [row[2] for row in table[:, 1:].tolist()] == [len(elements.values()) for elements in some]
    bytes_of = weight.cpu().view(torch.int32).flatten()
    for (address, step, first, number), elements in zip(table.tolist(), some, strict=True):
        at = np.arange(number) * step if step else places[first : first + number]
        begin = (address - weight.data_ptr()) // 4
        assert torch.equal(bytes_of[torch.from_numpy(begin + at)].view(torch.float32), elements.values().cpu())


def test_elements_that_lie_too_far_apart_are_refused() -> None:
    far = torch.empty(2, 1, device="meta").as_strided((2, 1), (2**31, 1))
    with pytest.raises(ValueError, match="too far apart"):
        looked_at([Elements(far, (np.array([0, 1]), np.array([0, 0])))])
