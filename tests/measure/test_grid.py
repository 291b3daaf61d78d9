"""Values on a grid, against the sort of all values: in every way that they are measured."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from oracle import exact_fit, samples
from safetensors.torch import save_file
from torch import Tensor, nn

from weibull_monitor import WeibullFit, WeibullMonitor, fit_weibull
from weibull_monitor.checkpoint.scan import scan_all
from weibull_monitor.measure import bins_of, count_magnitudes, solve
from weibull_monitor.measure.bins import Bins
from weibull_monitor.measure.choose import sum_places
from weibull_monitor.measure.grid import evidence, offsets_from, on_grid, roughness, tally
from weibull_monitor.measure.plain.count import places_by_scatter
from weibull_monitor.measure.plain.solve import Column, solve_on_device
from weibull_monitor.measure.reader import counter
from weibull_monitor.measure.reader.packing import sent_bins
from weibull_monitor.measure.reader.reader import ModelReader
from weibull_monitor.measure.reader.sums import count_components
from weibull_monitor.model.components.finder import Finder
from weibull_monitor.model.sharding.layout import Box, Flat, Grid, whole


def int8(w: Tensor) -> Tensor:
    step = w.abs().max() / 127
    return (w / step).round() * step


def by_row(w: Tensor, levels: int, length: int) -> Tensor:
    rows = w.view(-1, length)
    step = rows.abs().amax(1, keepdim=True) / levels
    return ((rows / step).round() * step).flatten()


NF4 = torch.tensor(
    [
        -1.0,
        -0.6962,
        -0.5251,
        -0.3949,
        -0.2844,
        -0.1848,
        -0.0911,
        0.0,
        0.0796,
        0.1609,
        0.2461,
        0.3379,
        0.4407,
        0.5626,
        0.723,
        1.0,
    ]
)


def nf4(w: Tensor) -> Tensor:
    groups = w.view(-1, 64)
    scale = groups.abs().amax(1, keepdim=True)
    nearest = ((groups / scale).unsqueeze(2) - NF4).abs().argmin(2)
    return (NF4[nearest] * scale).flatten()


def measure_offsets(tensors: list[Tensor], bins: Bins, counts: Tensor) -> Tensor:
    return offsets_from(sum_places(tensors, bins), counts, bins)


def grids_among(tensors: list[Tensor], bins: Bins) -> list[bool]:
    found = evidence(tally([whole(w) for w in tensors], bins), count_magnitudes(tensors, bins), bins)
    return on_grid(found.tolist(), bins)


def partly_bf16(w: Tensor) -> Tensor:
    return torch.where(torch.arange(len(w)) % 3 == 0, w.bfloat16().to(w.dtype), w)


GRIDS: dict[str, Callable[[Tensor], Tensor]] = {
    "bf16 in fp32": lambda w: w.bfloat16().float(),
    "fp16 in fp32": lambda w: w.half().float(),
    "bf16 in fp64": lambda w: w.bfloat16().double(),
    "bf16 in fp16": lambda w: w.bfloat16().half(),
    "a third bf16 in fp32": partly_bf16,
    "int8 in fp32": int8,
    "int8 in bf16": lambda w: int8(w).bfloat16(),
    "int8 in fp16": lambda w: int8(w).half(),
    "int8 by row": lambda w: by_row(w, 127, 256),
    "int4 by group": lambda w: by_row(w, 7, 128),
    "fp8 in fp32": lambda w: (w * 8).to(torch.float8_e4m3fn).float(),
    "fp8": lambda w: (w * 8).to(torch.float8_e4m3fn),
    "nf4 in fp32": nf4,
    "nf4 in fp64": lambda w: nf4(w).double(),
    "int8 by row in fp64": lambda w: by_row(w, 127, 256).double(),
    "int8, a tenth stepped": lambda w: torch.where(torch.arange(len(w)) % 10 == 0, w * 1.0001 + 1e-6, int8(w)),
    "int8, half of it stepped": lambda w: torch.cat([int8(w)[: len(w) // 2], w[len(w) // 2 :]]),
    "bf16 in fp32, half of it stepped": lambda w: torch.cat([w.bfloat16().float()[: len(w) // 2], w[len(w) // 2 :]]),
    "multiples of 2⁻⁹": lambda w: (w * 512).round() / 512,
}


def assert_exact(fit: WeibullFit, stored: Tensor, tolerance: float = 1e-4, rms: float = 1e-5) -> None:
    k, lambda_, _ = exact_fit(stored)
    assert fit.k == pytest.approx(k, abs=tolerance)
    assert fit.lambda_ == pytest.approx(lambda_, rel=tolerance)
    assert fit.rms == pytest.approx(float(stored.detach().double().square().mean().sqrt()), rel=rms)


@pytest.mark.parametrize("name", ["normal", "uniform", "weibull 0.76"])
@pytest.mark.parametrize("grid", GRIDS)
def test_agrees_with_the_exact_sort(grid: str, name: str) -> None:
    stored = GRIDS[grid](samples(name, 20_480).float() * 10)
    # Of uniform values all groups have almost the same scale: each bin holds a large share of the values, in a narrow part of it.
    assert_exact(fit_weibull(stored), stored, 3e-4 if (grid, name) == ("int4 by group", "uniform") else 1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["normal", "uniform", "student t 3", "weibull 0.3", "half zeros", "two scales"])
def test_what_is_on_no_grid_is_read_once(name: str, dtype: torch.dtype) -> None:
    tensors = [samples(name, 65_536, seed).to(dtype) for seed in range(20)]
    assert sum(grids_among(tensors, bins_of(dtype))) <= 1  # a wrong guess would cost time


def test_looking_at_values_on_no_grid_changes_nothing() -> None:
    bins, w = bins_of(torch.float32), samples("normal", 200_000).float()
    counts = count_magnitudes([w], bins)
    plain, looked = solve(counts, bins), solve(counts, bins, measure_offsets([w], bins, counts))
    torch.testing.assert_close(looked[:, : Column.KS], plain[:, : Column.KS], rtol=2e-3, atol=1e-4)


def test_offsets_add_and_are_the_same_in_every_way() -> None:
    bins, stored = bins_of(torch.float32), GRIDS["int8 in fp32"](samples("half zeros", 40_000).float())
    counts = count_magnitudes([stored], bins)
    offsets = measure_offsets([stored], bins, counts)
    assert torch.equal(offsets, offsets_from(places_by_scatter([stored], bins), counts, bins))
    halves = [stored[::2], stored[1::2]]
    of_halves = count_magnitudes(halves, bins)
    assert torch.equal(measure_offsets(halves, bins, of_halves).sum(0), offsets[0])
    sent, places = sent_bins(torch.float32), sum_places([stored], bins)
    assert torch.equal(offsets_from(sent.unpack_places(sent.pack_places(places)), counts, bins), offsets)
    queued = solve_on_device(counts, bins, False, offsets)
    torch.testing.assert_close(queued, solve(counts, bins, offsets), rtol=1e-9, atol=1e-9, equal_nan=True)


SHAPE = (257, 81)
PART = Box((257, 3, 27), ((0, 257), (1, 2), (0, 27)))
CUTS = {
    "flat": [Flat(SHAPE, a, b) for a, b in itertools.pairwise((0, 1, 3_331, 9_999, 257 * 81))],
    "rows": [Grid(SHAPE, (((a, b),), ((0, 81),))) for a, b in itertools.pairwise((0, 1, 64, 150, 257))],
    "columns": [Grid(SHAPE, (((0, 257),), ((a, b),))) for a, b in itertools.pairwise((0, 7, 40, 81))],
    "both": [Grid(SHAPE, (((0, 99),), ((0, 81),))), *(Grid(SHAPE, (((99, 257),), (r,))) for r in ((0, 40), (40, 81)))],
    "strides": [Grid(SHAPE, (((0, 100), (200, 257)), ((0, 81),))), Grid(SHAPE, (((100, 200),), ((0, 81),)))],
}


@pytest.mark.parametrize("box", [None, PART], ids=["whole", "part"])
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("grid", GRIDS)
def test_what_tells_a_grid_adds_up_over_any_division(grid: str, cut: str, box: Box | None) -> None:
    padded = samples("normal", 256 * 82).float()  # whole groups of 64, 128 and 256
    stored = GRIDS[grid](padded)[: 257 * 81].view(SHAPE)
    bins = bins_of(stored.dtype)

    def found(layout: Grid | Flat, local: Tensor) -> Tensor:
        counts = count_magnitudes(layout.select(local, box), bins, [0] * len(layout.select(local, box)))
        counts = counts if len(counts) else torch.zeros(1, bins.columns, dtype=torch.int64)
        return torch.cat([tally([layout.some(local, box).values()], bins), counts], 1)

    def local(layout: Grid | Flat) -> Tensor:
        if isinstance(layout, Flat):
            return torch.nn.functional.pad(stored.flatten()[layout.start : layout.stop].float(), (0, 5)).to(
                stored.dtype
            )
        rows, columns = (torch.cat([torch.arange(*r) for r in ranges]) for ranges in layout.ranges)
        return stored[rows][:, columns].t().contiguous().t()  # columns lie next to each other in memory

    expected = found(Grid.whole(SHAPE), stored)
    assert torch.equal(sum(found(layout, local(layout)) for layout in CUTS[cut]), expected)
    assert 1_000 < len(Grid.whole(SHAPE).some(stored, box).values()) < 3_000


def test_roughness_needs_only_the_bins_that_hold_values() -> None:
    bins = bins_of(torch.float32)
    tensors = [GRIDS["int8 in fp32"](samples("normal", 5_000).float()), samples("half zeros", 5_000).float()]
    counts = count_magnitudes(tensors, bins)
    finite = counts[:, 1:-1]
    used = finite.any(0).nonzero()
    first, last = int(used[0]), int(used[-1]) + 1
    assert torch.equal(roughness(finite[:, first:last], bins, first), roughness(finite, bins))
    sent = sent_bins(torch.float32)
    tallies = tally([whole(w) for w in tensors], bins)
    assert torch.equal(sent.evidence(sent.pack(counts, tallies).int()), evidence(tallies, counts, bins))
    assert torch.equal(roughness(finite * 2**31, bins)[0], roughness(finite * 2**31, bins)[0])


@pytest.mark.parametrize("n", [100, 1_000, 30_000, 3_000_000])
def test_chance_is_no_grid(n: int) -> None:
    """Draws on no grid, of all sizes: one in thousands is taken for one."""
    tensors = [
        samples(name, n, seed).float() for name in ("normal", "uniform", "two scales") for seed in range(1 + 10**5 // n)
    ]
    found = grids_among(tensors, bins_of(torch.float32))
    assert sum(found) <= len(found) / 500


@pytest.mark.parametrize("grid", ["bf16 in fp32", "int8 in fp32", "nf4 in fp32"])
def test_a_checkpoint_gives_the_fits_of_the_model(grid: str, tmp_path: Path) -> None:
    class Fused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = nn.ModuleDict({"c_attn": nn.Linear(96, 288), "c_proj": nn.Linear(96, 96)})
            self.big = nn.Linear(2_048, 1_100, bias=False)  # two windows

    model = Fused()
    with torch.no_grad():
        for n, parameter in enumerate(model.parameters()):
            if parameter.dim() > 1:
                values = samples("normal", parameter.numel(), n).float().mul_(0.02)
                parameter.copy_(GRIDS[grid](values).view_as(parameter))
    save_file({name: p.detach() for name, p in model.named_parameters()}, tmp_path / "model.safetensors")
    scanned = scan_all(tmp_path).checkpoints[0].fits
    reader = ModelReader(model, Finder(None, None, None, "matrix"))
    reader.agree()
    live = reader.read().measurement().fits
    for name in ("attn.c_attn.weight", "attn.c_proj.weight", "big.weight"):
        assert scanned[name].checksum == live[name].checksum
        for value in ("k", "lambda_", "rms", "k_se"):
            assert getattr(scanned[name], value) == pytest.approx(getattr(live[name], value), rel=1e-12), (name, value)
    k, lambda_, _ = exact_fit(model.big.weight.detach())
    assert live["big.weight"].k == pytest.approx(k, abs=1e-4)
    assert live["big.weight"].lambda_ == pytest.approx(lambda_, rel=1e-4)


@pytest.mark.parametrize("step", [1e-7, 1e-6, 1e-5, 4e-5, 1e-4, 3e-4])
@pytest.mark.parametrize("grid", ["bf16 in fp32", "fp16 in fp32", "bf16 in fp64", "int8 in fp32", "nf4 in fp32"])
def test_what_has_just_left_a_grid(grid: str, step: float) -> None:
    """The first steps of a fine-tuning move each value by about the learning rate, one way or the other."""
    stored = GRIDS[grid](samples("normal", 65_536).float() * 0.05)
    generator = torch.Generator().manual_seed(1)
    signs = torch.randint(0, 2, stored.shape, generator=generator).mul(2).sub(1)
    moved = stored + step * signs.to(stored.dtype)
    assert_exact(
        fit_weibull(moved), moved, 3e-4 if step >= 1e-4 and grid in ("int8 in fp32", "nf4 in fp32") else 1e-4, 1e-4
    )


def test_strided_pieces_and_components_of_several() -> None:
    w = GRIDS["bf16 in fp32"](samples("normal", 90_000).float()).view(300, 300)
    fused = {0: [w[:, :100]], 1: [w[:, 100:], w[:7, :100].t()], 2: [torch.randn(300, 300)]}
    batches = {i: (b, n) for b in count_components(fused) for n, i in enumerate(b.indices)}
    assert batches[2][0].offsets is None
    for index in (0, 1):
        batch, row = batches[index]
        assert batch.offsets is not None
        every = torch.cat([piece.flatten() for piece in fused[index]])
        expected = measure_offsets([every], batch.bins, count_magnitudes([every], batch.bins))
        assert torch.equal(batch.offsets[row], expected[0])


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj = nn.Linear(160, 160), nn.Linear(160, 160)
        for p in self.parameters():
            nn.init.normal_(p, std=0.05)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.tanh(self.q_proj(x)) * self.k_proj(x)
        return out


@pytest.mark.parametrize("grid", ["bf16 in fp32", "int8 in fp32"])
def test_a_training_that_leaves_the_grid_raises_no_alert(grid: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Layer()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(GRIDS[grid](p))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    with WeibullMonitor(model, optimizer, every_n_steps=1, output_dir=tmp_path) as monitor:
        for _ in range(3):
            model(torch.randn(8, 160)).square().mean().backward()
            optimizer.step()
            monitor.step()
    lines = [json.loads(line) for path in tmp_path.rglob("history.jsonl") for line in path.read_text().splitlines()]
    assert not [line for line in lines if line["type"] == "alert"]
    assert_exact(fit_weibull(model.q_proj.weight), model.q_proj.weight.detach(), rms=2e-4)


def test_a_device_is_looked_at_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where work is queued, values are looked at when the reading is prepared, and at each sample for the next."""
    monkeypatch.setattr(counter, "queued_on", lambda device: True)
    model = Layer()
    weight = model.q_proj.weight
    with torch.no_grad():
        weight.copy_(weight.bfloat16())
    reader = ModelReader(model, Finder(None, None, None, "matrix"))
    reader.agree()
    for _ in range(2):
        assert_exact(reader.read().measurement().fits["q_proj.weight"], weight.detach())
    with torch.no_grad():
        weight.add_(torch.randn_like(weight), alpha=3e-3)
    launches = []
    for _ in range(3):
        assert_exact(reader.read().measurement().fits["q_proj.weight"], weight.detach(), rms=2e-4)
        launches.append(set(reader._counter._launches.apart))  # type: ignore[union-attr]
    assert [len(found) for found in launches] == [1, 0, 0]


@pytest.mark.parametrize("n", [100, 144, 256, 576, 1000, 4096])
@pytest.mark.parametrize("name", ["normal", "weibull 0.7", "uniform", "student t 3", "bf16", "fp16", "int8"])
def test_standard_errors_are_the_spread_of_repeated_fits(name: str, n: int) -> None:
    """1,000 draws each: their spread is known to 2.2 %."""
    rng = np.random.default_rng(n)
    draw = {
        "weibull 0.7": lambda: rng.weibull(0.7, (1000, n)),
        "uniform": lambda: rng.uniform(0, 1, (1000, n)),
        "student t 3": lambda: rng.standard_t(3, (1000, n)),
    }.get(name, lambda: rng.standard_normal((1000, n)))
    w = torch.from_numpy(draw()).float()
    w = {"bf16": lambda: w.bfloat16(), "fp16": lambda: w.half(), "int8": lambda: (w / 3 * 127).round() * 3 / 127}.get(
        name, lambda: w
    )()
    fits = fit_weibull(list(w.float()))
    for estimate, error in (("k", "k_se"), ("lambda_", "lambda_se")):
        values = [getattr(fit, estimate) for fit in fits if fit.available]
        stated = np.mean([getattr(fit, error) for fit in fits if fit.available])
        assert len(values) == sum(fit.n >= 100 for fit in fits) > 250  # a draw of 100 that holds a zero has too few
        assert stated == pytest.approx(np.std(values), rel=0.1), estimate
