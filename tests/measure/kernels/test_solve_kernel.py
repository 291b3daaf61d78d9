"""The solving kernel against the plain-torch solve, which is itself held to the exact sort and to scipy."""

from __future__ import annotations

import pytest
import torch
from oracle import samples

from weibull_monitor.measure.bins import Bins, bins_of
from weibull_monitor.measure.kernels.launch import Kernels
from weibull_monitor.measure.kernels.table import rows_of
from weibull_monitor.measure.plain.count import count_by_bincount
from weibull_monitor.measure.plain.solve import RESULT_COLUMNS, Column, solve_on_device

SHAPES = ["normal", "weibull 0.76", "weibull 0.3", "student t 3", "laplace", "uniform", "two scales", "half zeros"]


def solved(kernels: Kernels, counts: torch.Tensor, bins: Bins) -> torch.Tensor:
    out = torch.full((len(counts), RESULT_COLUMNS), -7.0, dtype=torch.float64, device=kernels.device)
    rows = kernels.upload(rows_of([(n, n) for n in range(len(counts))]))
    kernels.solve(counts.to(kernels.device), rows, bins, out)
    return out.cpu()


def assert_equal(found: torch.Tensor, plain: torch.Tensor) -> None:
    for column in Column:
        tolerance = 1e-7 if column is Column.AIC_GAMMA else 1e-9  # two ways of computing the gamma function
        torch.testing.assert_close(
            found[:, column],
            plain[:, column],
            rtol=tolerance,
            atol=1e-12,
            equal_nan=True,
            msg=lambda message, name=column.name: f"{name}: {message}",  # type: ignore[misc]
        )
    torch.testing.assert_close(found[:, len(Column) :], plain[:, len(Column) :], rtol=1e-11, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_number_is_that_of_plain_torch(kernels: Kernels, shape: str, dtype: torch.dtype) -> None:
    bins = bins_of(dtype)
    counts = count_by_bincount([samples(shape, 20_000).to(dtype)], bins)
    assert_equal(solved(kernels, counts, bins), solve_on_device(counts, bins, trim=False))


@pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")
def test_rows_that_cannot_be_fitted(kernels: Kernels) -> None:
    bins = bins_of(torch.float32)
    rows = {
        "nothing": torch.empty(0),
        "zeros": torch.zeros(500),
        "not a number": torch.full((500,), torch.nan),
        "few values": torch.randn(99),
        "one value": torch.full((500,), 0.5),
        "two values": torch.tensor([0.5, 2.0]).repeat(300),
        "with zeros and infinities": torch.cat([torch.randn(400), torch.zeros(50), torch.full((7,), torch.inf)]),
        "huge": torch.randn(500) * 1e37,
        "subnormal": torch.randn(500) * 1e-40,
    }
    counts = count_by_bincount(list(rows.values()), bins)
    plain = solve_on_device(counts, bins, trim=False)
    assert plain[:, Column.K].isfinite().tolist() == [False] * 6 + [True, True, False]
    assert_equal(solved(kernels, counts, bins), plain)


def test_rows_are_taken_and_written_where_the_table_says_and_emptied(kernels: Kernels) -> None:
    bins = bins_of(torch.bfloat16)
    counts = count_by_bincount([torch.randn(3000).to(torch.bfloat16) * (n + 1) for n in range(4)], bins)
    plain = solve_on_device(counts, bins, trim=False)
    here = counts.clone().to(kernels.device)
    out = torch.full((5, RESULT_COLUMNS), -7.0, dtype=torch.float64, device=kernels.device)
    kernels.solve(here, kernels.upload(rows_of([(3, 0), (1, 4)])), bins, out, clear=True)
    assert_equal(out[[0, 4]].cpu(), plain[[3, 1]])
    assert (out[1:4] == -7.0).all()
    assert not here[[1, 3]].any()
    torch.testing.assert_close(here[[0, 2]].cpu(), counts[[0, 2]], rtol=0, atol=0)
