"""Models measured by the kernels, from the plan of the launches to the history, against plain torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, Qwen3MoeConfig, Qwen3MoeForCausalLM

from weibull_monitor import WeibullMonitor, discover_components, read_history
from weibull_monitor.measure.bins import Bins, bins_of
from weibull_monitor.measure.choose import solve
from weibull_monitor.measure.grid import roughness
from weibull_monitor.measure.kernels.launch import Kernels
from weibull_monitor.measure.kernels.plan import Plan
from weibull_monitor.measure.plain.solve import RESULT_COLUMNS, Column, solve_on_device
from weibull_monitor.measure.reader import counter as planning
from weibull_monitor.measure.reader.reader import ModelReader
from weibull_monitor.measure.reader.sums import Sums, count_components
from weibull_monitor.model.components import Component
from weibull_monitor.model.components.finder import Finder


class Quick(Kernels):
    """The counting kernel beside the solve of plain torch: interpreted, a row takes a tenth of a second."""

    def solve(
        self, counts: Tensor, rows: Tensor, bins: Bins, out: Tensor, clear: bool = False, rough: Tensor | None = None
    ) -> None:
        taken, written = rows.unbind(dim=1)
        if rough is not None:
            rough[written] = roughness(counts[taken, 1:-1], bins)
        out[written] = solve_on_device(counts[taken], bins, trim=False).to(out.device)
        if clear:
            counts[taken] = 0


@pytest.fixture(scope="module")
def quick(kernels: Kernels) -> Kernels:
    return kernels if kernels.device.type == "cuda" else Quick(kernels.device)


def gpt2(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    config = GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=100, n_positions=32)  # Conv1D: q, k, v side by side
    return GPT2LMHeadModel(config).to(dtype)


def moe() -> nn.Module:
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=100, hidden_size=32, intermediate_size=48, moe_intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16, num_experts=3, num_experts_per_tok=2,
    )  # fmt: skip
    return Qwen3MoeForCausalLM(config)


def pieces_of(
    model: nn.Module, kernels: Kernels, resolution: Any = "matrix"
) -> tuple[tuple[Component, ...], Sums, dict[int, list[Tensor]]]:
    model.to(kernels.device)
    components = discover_components(model, resolution=resolution)
    sums, weights = Sums(components), dict(model.named_parameters())
    pieces = {}
    for index in sums.read:
        component = components[index]
        weight = weights[component.parameter].detach()
        pieces[index] = [component.part.select(weight) if component.part else weight]
    return components, sums, pieces


def plainly(sums: Sums, pieces: dict[int, list[Tensor]]) -> dict[int, Tensor]:
    on_cpu = {index: [tensor.cpu() for tensor in here] for index, here in pieces.items()}
    batches = sums.complete(count_components(on_cpu))
    return {i: row for b in batches for i, row in zip(b.indices, solve(b.counts, b.bins), strict=True)}


@pytest.mark.parametrize(
    ("build", "resolution", "rows"),
    [(gpt2, "head", 1), (gpt2, "matrix", 9), (gpt2, "head", 1000), (moe, "matrix", 9)],
)
def test_any_number_of_rows_at_once_gives_the_same(
    quick: Kernels, build: Callable[[], nn.Module], resolution: str, rows: int
) -> None:
    components, sums, pieces = pieces_of(build(), quick, resolution)
    columns = bins_of(torch.float32).columns
    plan = Plan(quick, torch.float32, pieces, sums.makes_up, count_bytes=rows * columns * 8)
    expected = plainly(sums, pieces)
    assert sorted(plan.indices) == list(range(len(components)))
    assert plan.bytes < (max(rows, len(components)) + 20) * (columns + RESULT_COLUMNS) * 8
    once = plan.run().clone()
    for result in (once, plan.run()):  # rows are empty again for the second run
        for index, row in zip(plan.indices, result.cpu(), strict=True):
            assert row[Column.CHECKSUM] == expected[index][Column.CHECKSUM], components[index].name
            wanted = expected[index][: Column.AIC_WEIBULL]
            torch.testing.assert_close(row[: Column.AIC_WEIBULL], wanted, rtol=1e-8, atol=1e-12, equal_nan=True)


def test_a_whole_of_which_a_part_is_missing_does_not_come_and_leaves_nothing_behind(quick: Kernels) -> None:
    components, sums, pieces = pieces_of(gpt2(), quick)
    missing = next(index for index in pieces if sums.makes_up.get(index))
    (whole,) = sums.makes_up[missing]
    some = {index: here for index, here in pieces.items() if index != missing}
    plan = Plan(quick, torch.float32, some, sums.makes_up)
    expected = plainly(sums, pieces)
    for _ in range(2):
        result = plan.run()
        assert set(plan.indices) == set(range(len(components))) - {missing, whole}
        for index, row in zip(plan.indices, result.cpu(), strict=True):
            assert row[Column.CHECKSUM] == expected[index][Column.CHECKSUM]


def test_a_failed_launch_leaves_nothing_for_the_next(quick: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    _, sums, pieces = pieces_of(gpt2(), quick)
    plan = Plan(quick, torch.float32, pieces, sums.makes_up, count_bytes=0)
    before = plan.run().clone()
    solved = []

    def failing(*args: Any, **kwargs: Any) -> None:
        solved.append(args)
        if len(solved) == 2:
            raise RuntimeError("out of resources")
        type(quick).solve(quick, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(quick, "solve", failing)
        with pytest.raises(RuntimeError, match="out of resources"):
            plan.run()
    torch.testing.assert_close(plan.run(), before, rtol=0, atol=0, equal_nan=True)


@pytest.fixture
def on_kernels(quick: Kernels, monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """Has models of the CPU measured by the interpreted kernels; what is planned comes into the list."""
    made: list[Plan] = []

    class Watched(Plan):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(planning, "Plan", Watched)
    if quick.device.type == "cpu":
        monkeypatch.setattr(planning, "kernels_for", lambda device, dtype: quick if dtype != torch.float64 else None)
    return made


def measured(model: nn.Module) -> Any:
    reader = ModelReader(model, Finder(None, None, None, "matrix"))
    reader.agree()
    return reader


def test_a_training_is_recorded_as_on_the_cpu(
    tmp_path: Path, kernels: Kernels, on_kernels: list[Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By both kernels, as they are."""
    if kernels.device.type == "cpu":
        monkeypatch.setattr(planning, "kernels_for", lambda device, dtype: kernels)

    def run(where: Path) -> list[Any]:
        model = gpt2().to(kernels.device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        tokens = torch.arange(32).expand(2, -1).to(kernels.device)
        with WeibullMonitor(model, optimizer, every_n_steps=lambda step: False, output_dir=where) as monitor:
            for _ in range(4):
                model(input_ids=tokens, labels=tokens).loss.backward()
                optimizer.step()
                monitor.step()
                optimizer.zero_grad()
        return [replace(s, time=0.0, seconds=0.0) for s in read_history(where).snapshots]

    by_kernels = run(tmp_path / "kernels")
    assert len(on_kernels) == 1  # made once, and used at every sample
    monkeypatch.setenv("WEIBULL_MONITOR_KERNELS", "0")
    monkeypatch.setattr(planning, "kernels_for", lambda device, dtype: None)
    plain = run(tmp_path / "plain")
    assert len(by_kernels) == len(plain) == 2
    for mine, theirs in zip(by_kernels, plain, strict=True):
        assert mine.columns["zeros"] == theirs.columns["zeros"]
        for column in ("k", "lambda", "r2", "k_se", "rms", "effective"):
            assert mine.values(column) == pytest.approx(theirs.values(column), rel=1e-9)


def test_the_plan_follows_what_moves_and_what_comes_and_goes(quick: Kernels, on_kernels: list[Plan]) -> None:
    model = gpt2().to(quick.device)
    reader = measured(model)
    first = reader.read().measurement().fits
    assert reader.read().measurement().fits == first
    assert len(on_kernels) == 1
    weight = model.transformer.h[0].mlp.c_fc.weight  # type: ignore[union-attr]
    weight.data = weight.data * 2  # another address
    moved = reader.read().measurement().fits
    assert len(on_kernels) == 2
    name = "transformer.h.0.mlp.c_fc.weight"
    assert moved[name].lambda_ == pytest.approx(2 * first[name].lambda_, rel=1e-6)
    assert {n: f for n, f in moved.items() if n != name} == {n: f for n, f in first.items() if n != name}
    model.transformer.h[0].mlp.c_proj.weight.requires_grad_(False)  # type: ignore[union-attr]
    reader.read().measurement()
    later = reader.read().measurement().fits  # without the frozen matrix, which is remembered
    assert later == moved


def test_dtypes_that_the_kernels_do_not_count_go_beside_them(quick: Kernels, on_kernels: list[Plan]) -> None:
    model = gpt2(torch.bfloat16)
    model.transformer.h[0].mlp.double()  # type: ignore[union-attr]
    attention = model.transformer.h[0].attn.float()  # type: ignore[union-attr]
    with torch.no_grad():
        for parameter in attention.parameters():  # what lies on a grid is not left to the kernels
            parameter.normal_(std=0.02)
    model.to(quick.device)
    fits = measured(model).read().measurement().fits
    assert len(on_kernels) == 2
    assert set(fits) == {c.name for c in discover_components(model)}
    expected = {c.name for c in discover_components(model) if ".h.0.mlp" in c.name}
    assert expected
    assert all(fits[name].available for name in expected)


def test_problems_are_reported_at_every_sample(quick: Kernels, on_kernels: list[Plan]) -> None:
    model = gpt2().to(quick.device)
    weight = model.transformer.h[0].mlp.c_fc.weight  # type: ignore[union-attr]
    with torch.no_grad():
        weight.fill_(float("nan"))
    reader = measured(model)
    for _ in range(2):
        problems = reader.read().measurement().problems
        assert list(problems) == ["transformer.h.0.mlp.c_fc.weight"]
    assert len(on_kernels) == 1
