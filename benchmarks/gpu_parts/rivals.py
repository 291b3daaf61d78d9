"""Other ways to look at the same weights, in the same run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gpu_parts import models, samples
from gpu_parts.machine import Budget, Machine
from gpu_parts.models import Spec
from gpu_parts.page import Page, ms, reason
from weibull_monitor.measure.bins import bins_of
from weibull_monitor.measure.plain.count import count_by_scatter

TITLE = "Beside it"
PUBLISHED = 16_777_216
"""Values for the published library."""


@dataclass(frozen=True)
class Rival:
    """Another way.

    Attributes:
        name: What it is called in the table.
        work: What it does with all matrices.
        limit: Values that it gets; its time is scaled up from them.
        times: Repetitions at most.
        waits: Whether it waits for the device.
    """

    name: str
    work: Callable[[Sequence[Tensor]], object]
    limit: float = 1e11
    times: int = 3
    waits: bool = True


def _each(work: Callable[[Tensor], object]) -> Callable[[Sequence[Tensor]], object]:
    def all_of_them(weights: Sequence[Tensor]) -> None:
        for weight in weights:
            work(weight)

    return all_of_them


def _norms(weights: Sequence[Tensor]) -> Tensor:
    if (total := getattr(torch.nn.utils, "get_total_norm", None)) is not None:
        return total(weights)
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(weights))))


def _bincount(weight: Tensor) -> Tensor:
    return torch.bincount(weight.view(torch.int16).bitwise_and(0x7FFF).view(-1), minlength=1 << 15)


def _plain_torch(weights: Sequence[Tensor]) -> Tensor:
    return count_by_scatter(weights, bins_of(weights[0].dtype))


def watch_like(weight: Tensor) -> Tensor:
    """What `wandb.watch` does with one tensor: keep the finite values, copy to the host, range, 64-bin histogram."""
    flat = weight.reshape(-1)
    flat = flat[torch.isfinite(flat)].float().cpu().clone()
    low, high = flat.min().item(), flat.max().item()
    return flat.histc(bins=64, min=low, max=high)


RIVALS = (
    Rival("one `vector_norm` a parameter and their norm, as gradient clipping does it", _norms, times=20, waits=False),
    Rival("plain torch, as without kernels: counting alone", _plain_torch, limit=5e8, times=2),
    Rival("`torch.histc` of the values as fp32, 256 bins", _each(lambda w: w.float().histc(256, min=-0.2, max=0.2))),
    Rival("`torch.bincount` of the bit patterns", _each(_bincount), limit=5e8, times=2),
    Rival("`sort` of |w|, each matrix", _each(lambda w: w.reshape(-1).abs().sort()), limit=2e9, times=2),
    Rival("`wandb.watch`-like: finite values to the host, range, 64 bins", _each(watch_like), limit=3e7, times=1),
)


def run(machine: Machine, page: Page, budget: Budget) -> None:
    """Measures every rival on the large model and on the small one."""
    page.say(
        "The same weights as above, in this run. Where a method got a part of the matrices only, its time is scaled up by their "
        "values from the share that the table says."
    )
    for name in (models.LARGE, models.SMALL):
        if budget.left() < (0 if machine.rehearsal else 20):
            page.say(f"{name}: left out, the budget is spent.")
            continue
        _beside(models.spec(name), machine, page, budget)
        machine.free()


def _beside(spec: Spec, machine: Machine, page: Page, budget: Budget) -> None:
    torch.manual_seed(0)
    model = spec.build(machine.device, machine.rehearsal)
    weights = models.matrices(model)
    total = sum(weight.numel() for weight in weights)
    ours = page.figures.get(f"{spec.name}: a sample, s")
    if ours is None:
        ours = samples.clocked(models.reader_of(model, spec.resolution), machine).device
    page.say(f"#### {spec.name}: {len(weights)} stored matrices, {total:,} values")
    page.table("method", "ms", "× a sample", "measured on", "values a second")
    page.row("a sample of `weibull_monitor`", ms(ours), "1.0", "100 %", f"{total / ours:.2e}")
    for rival in RIVALS:
        if budget.left() < (0 if machine.rehearsal else 10):
            page.row(rival.name, "left out, the budget is spent", "", "", "")
            continue
        some = _some(weights, rival.limit)
        share = sum(weight.numel() for weight in some) / total
        try:
            timing = machine.clock(
                lambda some=some, rival=rival: rival.work(some), rival.times, limit=4.0, waits=rival.waits, warm=1
            )
        except Exception as error:  # a comparator that torch refuses
            if not machine.alive():
                raise
            page.row(rival.name, reason(error), "", "", "")
            machine.free()
            continue
        seconds = timing.device / share
        page.row(rival.name, ms(seconds), f"{seconds / ours:,.1f}", f"{100 * share:.3g} %", f"{total / seconds:.2e}")
    if spec.name == models.LARGE:
        _published(weights, total / ours, page, machine)


def _some(weights: Sequence[Tensor], limit: float) -> list[Tensor]:
    """Matrices up to some values together, those of the middle first: not an embedding."""
    out: list[Tensor] = []
    middle = len(weights) // 2
    for weight in (*weights[middle:], *weights[:middle]):
        if out and sum(w.numel() for w in out) + weight.numel() > limit:
            continue
        out.append(weight)
    return out


def _published(weights: Sequence[Tensor], ours: float, page: Page, machine: Machine) -> None:
    name = "npm-weibull-py on the CPU, one matrix"
    try:
        import npm_weibull
    except ImportError:
        page.row(name, "not installed (pip install npm-weibull-py==0.4.0)", "", "", "")
        return
    values = max(weights, key=lambda w: w.numel()).reshape(-1)[:PUBLISHED].float().cpu()
    taken: list[float] = []
    try:
        for _ in range(machine.repetitions(3)):
            begin = time.perf_counter()
            npm_weibull.weibull_fit(npm_weibull.extract_to_histogram(values))
            taken.append(time.perf_counter() - begin)
    except Exception as error:  # it fits no tiny matrix
        page.row(name, reason(error), "", "", "")
        return
    rate = len(values) / min(taken)
    page.row(name, ms(min(taken)), f"{ours / rate:,.0f} a value", f"{len(values):,} values", f"{rate:.2e}")
    page.meets("published", ours / rate)
