"""The counting kernel cut in other ways, so that its constants can be chosen, and what its code is made of."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gpu_parts.ceiling import READ
from gpu_parts.machine import GIB, Budget, Machine
from gpu_parts.page import Page, ms, reason
from weibull_monitor.measure.bins import bins_of
from weibull_monitor.measure.kernels.launch import Kernels, Shape
from weibull_monitor.measure.kernels.table import rows_of
from weibull_monitor.measure.plain.solve import RESULT_COLUMNS

TITLE = "The shape of the kernel"
LOWEST = {512: -8, 1024: -16, 2048: -28, 4096: -60}
"""Where a window of so many bins begins: a small one has to end at 1."""
FASTEST = 8
"""Of the shapes that differ in more than one way, so many are shown."""
TILES, WARPS, PROGRAMS = (4096, 8192, 16_384), (4, 8), (2, 4, 6, 8)
SHIFT = 2.0**-7
"""What is added to |w| for weights that every window holds."""
OWN = "weibull_bins"
"""The name of the bins in shared memory, where the kernel has its own."""


def run(machine: Machine, page: Page, budget: Budget) -> None:
    """Times every shape on the same weights."""
    weights = _weights(machine)
    size = sum(weight.nbytes for weight in weights)
    shifted = [weight + weight.sign() * SHIFT for weight in weights]
    floor = f", one read of which takes {ms(size / page.figures[READ])} ms" if READ in page.figures else ""
    page.say(
        f"{size / GIB:.3g} GiB of normal bf16 weights in {len(weights)} matrices{floor}. With |w| raised by 2⁻⁷ no value is "
        "outside of any window: there the histogram alone is timed. Programs are those a multiprocessor; in brackets, Triton's "
        "own histogram."
    )
    expected = _count(_kernels(machine, Shape()), weights)[0]
    page.table(
        "window", "tile", "warps", "programs", "ms", "raised, ms", "registers", "spills", "shared, bytes", "counts"
    )
    times: dict[tuple[Shape, bool], float] = {}
    close, far = _shapes(machine)
    others: list[tuple[float, list[str]]] = []
    for place, (shape, own) in enumerate((*close, *far)):
        if budget.left() < (0 if machine.rehearsal else 25):
            page.row(f"the budget is spent: {len(close) + len(far) - place} left out", *[""] * 9)
            break
        cells = [str(value) for value in _cut(shape)]
        cells[0] = cells[0] if own else f"({cells[0]})"
        try:
            kernels = _kernels(machine, shape, own)
            counts, compiled = _count(kernels, weights)
            plain, raised = (_clock(machine, kernels, some) for some in (weights, shifted))
        except Exception as error:  # a shape that does not compile
            if not machine.alive():
                raise
            page.row(*cells, reason(error), "", "", "", "", "")
            continue
        same = "the same" if torch.equal(counts, expected) else "**OTHER**"
        if own and machine.cuda and OWN not in _assembly(compiled):
            same += ", but by Triton's histogram"
        times[shape, own] = plain
        cells += [ms(plain), ms(raised), *_resources(compiled), same]
        if place < len(close) or "OTHER" in same:
            page.row(*cells)
        else:
            others.append((plain, cells))
    for _, cells in sorted(others)[:FASTEST]:
        page.row(*cells)
    if others:
        page.say(f"Below the first {len(close)}: the fastest of {len(others)} others.")
    if times:
        best, own = min(times, key=lambda key: times[key])
        now = times.get((Shape(), True))
        page.say(
            f"Best: {best}{'' if own else ', with the histogram of Triton'}, {ms(times[best, own])} ms. Present: {Shape()}, "
            f"{'not timed' if now is None else ms(now) + ' ms'}."
        )
    _code(machine, page, weights)
    _others(machine, page, weights)


def _shapes(machine: Machine) -> tuple[list[tuple[Shape, bool]], list[tuple[Shape, bool]]]:
    """The present shape, all that differ from it in one way, and Triton's histogram; and all others, the nearest first."""
    now = Shape()
    if machine.rehearsal:
        return [(now, True), (now, False)], [(replace(now, window=1024, lowest=LOWEST[1024], tile=4096), True)]
    every = [
        Shape(window, LOWEST[window], tile, warps, programs)
        for window, tile, warps, programs in itertools.product(LOWEST, TILES, WARPS, PROGRAMS)
    ]
    every.sort(key=lambda shape: _distance(shape, now))
    close = [(shape, True) for shape in every if _distance(shape, now) <= 1]
    return [*close, (now, False)], [(shape, True) for shape in every if _distance(shape, now) > 1]


def _distance(shape: Shape, other: Shape) -> int:
    return sum(a != b for a, b in zip(_cut(shape), _cut(other), strict=True))


def _cut(shape: Shape) -> tuple[int, int, int, int]:
    return shape.window, shape.tile, shape.warps, shape.programs


def _weights(machine: Machine) -> list[Tensor]:
    """Matrices of 4096 × 4096 normal values."""
    if machine.rehearsal:
        return [torch.randn(64, 160).mul(0.02).bfloat16().to(machine.device) for _ in range(2)]
    torch.manual_seed(0)
    number = min(64, machine.memory() // (8 << 25))
    whole = torch.empty(number, 4096, 4096, dtype=torch.bfloat16, device=machine.device).normal_(0.0, 0.02)
    return list(whole.unbind())


def _kernels(machine: Machine, shape: Shape, own: bool = True) -> Kernels:
    """The kernels of a shape; not prepared, they take Triton's histogram."""
    kernels = Kernels(machine.device, shape)
    if own and machine.cuda:
        kernels.prepare(torch.bfloat16)
    return kernels


def _queue(kernels: Kernels, weights: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    table = kernels.table(weights, [(row,) for row in range(len(weights))])
    counts = torch.zeros(len(weights), bins_of(weights[0].dtype).columns, dtype=torch.int64, device=kernels.device)
    return kernels.upload(table.pieces), kernels.upload(table.starts), counts


def _count(kernels: Kernels, weights: list[Tensor]) -> tuple[Tensor, Any]:
    """The counts, and the compiled kernel."""
    pieces, starts, counts = _queue(kernels, weights)
    return counts, kernels.count(pieces, starts, counts, bins_of(weights[0].dtype))


def _clock(machine: Machine, kernels: Kernels, weights: list[Tensor]) -> float:
    """Seconds of a count on the device."""
    arguments, bins = _queue(kernels, weights), bins_of(weights[0].dtype)
    return machine.clock(lambda: kernels.count(*arguments, bins), times=7, limit=0.5, warm=1).device


def _assembly(compiled: Any) -> str:
    return str(getattr(compiled, "asm", {}).get("ptx", ""))


def _resources(compiled: Any) -> list[str]:
    """Registers, spills and shared memory, where the compiled kernel tells."""
    found = (getattr(compiled, "n_regs", None), getattr(compiled, "n_spills", None))
    shared = getattr(getattr(compiled, "metadata", None), "shared", None)
    if shared is not None and (own := re.search(rf"{OWN}\[(\d+)\]", _assembly(compiled))):
        shared += 4 * int(own[1])
    return ["–" if value is None else str(value) for value in (*found, shared)]


def _code(machine: Machine, page: Page, weights: list[Tensor]) -> None:
    """Which instructions the present kernel, and Triton's histogram, are made of."""
    for own in (True, False):
        name = "the bins in shared memory" if own else "Triton's histogram"
        try:
            _, compiled = _count(_kernels(machine, Shape(), own), weights)
            ptx = _assembly(compiled)
            if not ptx:
                page.say(f"Code, with {name}: there is none here.")
                continue
            page.say(f"PTX, with {name}: {_instructions(ptx)}.")
            sass = compiled.asm["sass"]
            page.say(f"Machine code, with {name}: {_machine_instructions(sass)}.")
        except Exception as error:
            if not machine.alive():
                raise
            page.say(f"Code, with {name}: {reason(error)}.")


def _instructions(ptx: str) -> str:
    """Atomics, ballots and loads in PTX."""
    found = re.findall(r"\b(?:atom|red|vote|match|ld\.global|ld\.local|st\.local)\.[\w.:]+", ptx)
    return _listed(Counter(found))


def _machine_instructions(sass: str) -> str:
    """The same in machine code."""
    return _listed(Counter(re.findall(r"\b(?:ATOMS|ATOMG|RED|REDG|VOTE|VOTEU|MATCH|LDG|LDL|STL)\b[\w.]*", sass)))


def _listed(found: Counter[str]) -> str:
    return ", ".join(f"{count} × `{name}`" for name, count in found.most_common(14)) or "none of those looked for"


def _others(machine: Machine, page: Page, weights: list[Tensor]) -> None:
    """Other weights with the present shape, and the solve of some hundreds and thousands of rows."""
    kernels = _kernels(machine, Shape())
    half = [weight * (torch.rand_like(weight, dtype=torch.float32) < 0.5) for weight in weights]
    page.table("the present shape", "ms")
    page.row("normal weights", ms(_clock(machine, kernels, weights)))
    page.row("half of them zero", ms(_clock(machine, kernels, half)))
    del half
    page.row("all of them equal", ms(_clock(machine, kernels, [torch.full_like(weight, 0.5) for weight in weights])))
    for dtype in (torch.float32, torch.float16):
        some = [weight.to(dtype) for weight in weights[: len(weights) // (dtype.itemsize // 2)]]
        other = Kernels(machine.device)
        if machine.cuda:
            other.prepare(dtype)
        page.row(f"normal {str(dtype).removeprefix('torch.')}, as many bytes", ms(_clock(machine, other, some)))
        del some
    bins, counts = bins_of(torch.bfloat16), _count(kernels, weights)[0]
    for rows in (1,) if machine.rehearsal else (300, 3000):
        many = counts.repeat(-(-rows // len(counts)), 1)[:rows].contiguous()
        out = torch.empty(rows, RESULT_COLUMNS, dtype=torch.float64, device=machine.device)
        places = kernels.upload(rows_of([(row, row) for row in range(rows)]))
        timing = machine.clock(
            lambda many=many, places=places, out=out: kernels.solve(many, places, bins, out), times=7
        )
        page.row(f"solving {rows:,} rows", ms(timing.device))
