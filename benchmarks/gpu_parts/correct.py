"""Correct first: the integers of the kernel and of the CPU path, one by one, and the numbers that are solved from them."""

from __future__ import annotations

import copy

import torch
from torch import nn

from gpu_parts import models
from gpu_parts.machine import Budget, Machine
from gpu_parts.page import Page, tried
from weibull_monitor.measure.bins import bins_of
from weibull_monitor.measure.choose import count_by_kernel
from weibull_monitor.measure.fit import WeibullFit
from weibull_monitor.measure.kernels.table import rows_of
from weibull_monitor.measure.plain.count import count_by_bincount
from weibull_monitor.measure.plain.solve import RESULT_COLUMNS, Column, solve_on_device

TITLE = "The same integers"
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
DIFFERENT = "matrices with other counts"
REHEARSED = ("dense", "columns, not aligned")
"""The layouts that a rehearsal without a GPU goes through; the others are in the tests of the kernel."""


def run(machine: Machine, page: Page, budget: Budget) -> None:
    """Compares awkward values in awkward layouts, and a model of three dtypes, with and without deterministic algorithms."""
    page.figures[DIFFERENT] = 0
    page.say(
        "Normal weights with zeros, Inf, NaN, subnormal, huge and tiny values: bins in which the kernel differs from "
        "`count_by_bincount` on the CPU, and the largest relative difference of the solved numbers from `solve_on_device` on the "
        "CPU, Akaike's criterion of the gamma model apart."
    )
    page.table("dtype", "layouts", "values", "bins that differ", "deterministic", "solved", "gamma")
    for dtype in DTYPES:
        tried(machine, page, str(dtype), lambda dtype=dtype: _dtype(machine, page, dtype))
    _model(machine, page)
    page.meets("integers", page.figures[DIFFERENT])


def _dtype(machine: Machine, page: Page, dtype: torch.dtype) -> None:
    kernels = machine.kernels(dtype)
    if kernels is None:
        raise RuntimeError("there are no kernels on this device; the log says why")
    bins, views = bins_of(dtype), layouts(dtype, 24 if machine.rehearsal else 1536)
    if machine.rehearsal and not machine.cuda:  # an interpreter goes through every tile step by step
        views = {name: views[name] for name in REHEARSED}
    expected = count_by_bincount(list(views.values()), bins)
    here = [_moved(view, machine.device) for view in views.values()]
    found = count_by_kernel(kernels, here, bins)
    torch.use_deterministic_algorithms(True)
    try:
        again = count_by_kernel(kernels, here, bins)
    finally:
        torch.use_deterministic_algorithms(False)
    differ = [(counts.cpu() != expected) for counts in (found, again)]
    page.figures[DIFFERENT] += int(differ[0].any(1).sum())
    solved = len(views) if machine.cuda else 1  # an interpreter takes a second for a row
    out = torch.empty(solved, RESULT_COLUMNS, dtype=torch.float64, device=machine.device)
    rows = kernels.upload(rows_of([(row, row) for row in range(solved)]))
    kernels.solve(found, rows, bins, out)
    plain = solve_on_device(expected[:solved], bins, trim=False)
    gamma = torch.zeros(plain.shape[1], dtype=torch.bool)
    gamma[Column.AIC_GAMMA] = True
    page.row(
        str(dtype).removeprefix("torch."),
        str(len(views)),
        f"{sum(view.numel() for view in views.values()):,}",
        str(int(differ[0].sum())),
        str(int(differ[1].sum())),
        f"{_apart(out.cpu()[:, ~gamma], plain[:, ~gamma]):.0e}",
        f"{_apart(out.cpu()[:, gamma], plain[:, gamma]):.0e}",
    )


def _model(machine: Machine, page: Page) -> None:
    torch.manual_seed(0)
    model = models.spec(models.SMALL).build(torch.device("cpu"), True)
    extra = nn.Module()
    for number, dtype in enumerate(DTYPES):
        extra.register_parameter(f"weight_{number}", nn.Parameter(layouts(dtype, 96)["dense"]))
    model.add_module("extra", extra)
    there = copy.deepcopy(model).to(machine.device)
    expected, found = fits(model), fits(there)
    torch.use_deterministic_algorithms(True)
    try:
        again = fits(there)
    finally:
        torch.use_deterministic_algorithms(False)
    other = sum(different(found.get(name), fit) for name, fit in expected.items())
    repeated = sum(different(again.get(name), fit) for name, fit in expected.items())
    page.figures[DIFFERENT] += other
    worst = max(abs(found[n].k / fit.k - 1) for n, fit in expected.items() if n in found and fit.available)
    page.say(
        f"A model of {len(expected)} matrices in three dtypes, read whole: {other} with other counts, {repeated} under "
        f"deterministic algorithms; k differs by {worst:.0e} at most."
    )


def fits(model: nn.Module, resolution: str = "auto") -> dict[str, WeibullFit]:
    """The fit of every matrix."""
    return dict(models.reader_of(model, resolution).read().measurement().fits)


def different(found: WeibullFit | None, expected: WeibullFit) -> bool:
    """Whether two fits are of other counts."""
    if found is None:
        return True
    return any(getattr(found, f) != getattr(expected, f) for f in ("n", "zeros", "nonfinite", "checksum"))


def layouts(dtype: torch.dtype, rows: int) -> dict[str, torch.Tensor]:
    """Awkward values on the CPU, and views of them that lie in every way that a kernel has a path for."""
    generator = torch.Generator().manual_seed(7)
    base = (torch.randn(rows, 3 * 128, generator=generator) * 0.02).to(dtype)
    flat, info = base.view(-1), torch.finfo(dtype)
    special = [
        0.0,
        -0.0,
        torch.inf,
        -torch.inf,
        torch.nan,
        info.tiny,
        info.tiny / 4,
        -info.tiny / 8,
        info.max,
        info.min,
    ]
    special += [info.smallest_normal * 3, 1.0, 40.0, 1e-6]
    at = torch.randperm(len(flat), generator=generator)[: len(flat) // 50]
    flat[at] = torch.tensor(special, dtype=torch.float64).to(dtype).repeat(len(at) // len(special) + 1)[: len(at)]
    zeros = base[: len(base) // 2].clone()
    zeros[torch.rand(zeros.shape, generator=generator) < 0.5] = 0.0
    return {
        "dense": base,
        "half zeros": zeros,
        "transposed": base.t(),
        "columns, aligned": base[:, 128:256],
        "columns, not aligned": base[:, 3:131],
        "every second": base[::2, ::2],
        "not aligned": flat[1:],
        "large": base * 1e4,
    }


def _moved(view: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A view of the same strides on another device."""
    whole = torch.empty(0, dtype=view.dtype).set_(view.untyped_storage()).to(device)
    return whole.as_strided(view.shape, view.stride(), view.storage_offset())


def _apart(found: torch.Tensor, plain: torch.Tensor) -> float:
    """The largest relative difference; infinite where only one of the two is a number."""
    same = (found == plain) | (found.isnan() & plain.isnan())
    apart = (found - plain).abs() / plain.abs().clamp(min=1e-12)
    return float(torch.where(same, 0.0, apart.nan_to_num(nan=torch.inf)).max())
