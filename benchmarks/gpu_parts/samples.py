"""What a sample costs, for each model: time on the device, on this thread, memory, synchronisations, and the same integers."""

from __future__ import annotations

import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from gpu_parts import models
from gpu_parts.ceiling import COPY, READ
from gpu_parts.correct import DIFFERENT
from gpu_parts.machine import GIB, Budget, Machine, Span
from gpu_parts.models import Spec
from gpu_parts.page import Page, ms, tried
from weibull_monitor import WeibullMonitor
from weibull_monitor.measure.bins import Bins, bins_of
from weibull_monitor.measure.fit import WeibullFit
from weibull_monitor.measure.kernels import SWITCH
from weibull_monitor.measure.kernels.launch import Kernels
from weibull_monitor.measure.kernels.plan import Plan
from weibull_monitor.measure.plain.count import count_by_bincount
from weibull_monitor.measure.plain.solve import Column, solve_on_device
from weibull_monitor.measure.reader.counter import readable
from weibull_monitor.measure.reader.reader import ModelReader
from weibull_monitor.measure.reader.sums import Sums

TITLE = "A sample"
CHECKED = 600_000_000
"""Values of a model that are counted once more on the CPU."""


def run(machine: Machine, page: Page, budget: Budget) -> None:
    """Measures every model, the most important first."""
    page.say(
        "Random bf16 weights. On the device: medians of up to 20 samples, from before the first launch to the end of the copy of "
        "the results, with the device kept busy until everything was queued. On the host: in the same samples, so while the "
        "device was busy. A sample of `WeibullMonitor` also reads the optimizer; its delivery, at a later step, unpacks, judges "
        "and writes it. Synchronisations are those that torch notices in one such step. Extra memory is the peak above what was "
        "taken before the reader was made."
    )
    for spec in models.MODELS:
        if budget.left() < (0 if machine.rehearsal else 25):
            page.say(f"{spec.name}: left out, the budget is spent.")
            continue
        tried(machine, page, spec.name, lambda spec=spec: _measure(spec, machine, page))
        machine.free()
    page.meets("integers", page.figures.get(DIFFERENT, 0))


def read_once(reader: ModelReader) -> Mapping[str, WeibullFit]:
    """The fits of a model, waiting for them."""
    return reader.read().measurement().fits


def clocked(reader: ModelReader, machine: Machine, times: int = 20) -> Any:
    """The timing of `ModelReader.read`."""
    return machine.clock(lambda: reader.read(1), times, after=lambda reading: reading.measurement())


def _measure(spec: Spec, machine: Machine, page: Page) -> None:
    torch.manual_seed(0)
    model = spec.build(machine.device, machine.rehearsal)
    machine.kernels()  # compiled, and their constants there, before memory is looked at
    page.say(f"#### {spec.name}")

    def prepare() -> tuple[ModelReader, Mapping[str, WeibullFit], float]:
        reader = models.reader_of(model, spec.resolution)
        begin = time.perf_counter()
        return reader, read_once(reader), time.perf_counter() - begin

    (reader, fits, first), memory = machine.extra_memory(prepare)
    components = reader.discovery.components
    read = Sums(components).read
    size = sum(components[index].numel * components[index].dtype.itemsize for index in read)
    timing = clocked(reader, machine)
    page.figures[f"{spec.name}: a sample, s"], page.figures[f"{spec.name}: values"] = (
        timing.device,
        sum(c.numel for c in (components[i] for i in read)),
    )
    page.table("on the device", "")
    page.row("parameters", f"{sum(p.numel() for p in model.parameters()):,}")
    page.row("matrices, parts included", f"{len(components):,}")
    page.row("weights, GiB", f"{size / GIB:.3f}")
    page.row("a sample, ms", ms(timing.device))
    page.row("the slowest of them, ms", ms(timing.slowest))
    if not timing.covered:
        page.row("(the host was slower than the device: its time is in that)", "")
    if READ in page.figures:
        floor = size / page.figures[READ]
        share = size / timing.device / page.figures[COPY]
        page.row("floor: one read, ms", ms(floor))
        page.row("share of the read bandwidth", f"{100 * floor / timing.device:.1f} %")
        page.row("share of the copy bandwidth", f"{100 * share:.1f} %")
    _breakdown(reader, machine, page)
    page.row("extra memory, MiB", "–" if memory is None else f"{memory / 2**20:.1f}")
    page.row("the first reading, which makes the plan, ms", ms(first))
    page.row("a reading, host time, ms", ms(timing.host))
    monitored: list[Any] = []
    if tried(machine, page, f"{spec.name}: WeibullMonitor", lambda: monitored.extend(_monitored(spec, model, machine))):
        page.row("a sample of `WeibullMonitor`, queueing it, host time, ms", ms(monitored[0]))
        page.row("its delivery at a later step, host time, ms", ms(monitored[1]))
        page.row("synchronisations", "–" if monitored[2] is None else str(monitored[2]))
    else:
        page.table("further", "")
    checked, wrong = _check(model, components, fits)
    page.figures[DIFFERENT] = page.figures.get(DIFFERENT, 0) + wrong
    page.row(f"other counts than on the CPU, of {checked} matrices", str(wrong))
    _without_kernels(spec, model, timing.device, machine, page)
    if spec.name == models.LARGE:
        page.meets("device", 1e3 * timing.device)
        if READ in page.figures:
            page.meets("share", 100 * size / timing.device / page.figures[COPY])
        page.meets("read", 1e3 * timing.host)
        if monitored:
            page.meets("queue", 1e3 * monitored[0])
            page.meets("host", 1e3 * (monitored[0] + monitored[1]))
            if monitored[2] is not None:
                page.meets("waits", monitored[2])
        if memory is not None:
            page.meets("memory", memory / 2**20)


class _Clocked(Kernels):
    """Kernels that note when each launch begins and ends."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine.device)
        self._machine = machine
        self.spans: dict[str, list[Span]] = {"count": [], "solve": []}

    def count(self, pieces: torch.Tensor, starts: torch.Tensor, counts: torch.Tensor, bins: Bins) -> Any:
        with Span(self._machine) as span:
            done = super().count(pieces, starts, counts, bins)
        self.spans["count"].append(span)
        return done

    def solve(self, *arguments: Any, **named: Any) -> None:
        with Span(self._machine) as span:
            super().solve(*arguments, **named)
        self.spans["solve"].append(span)


def _breakdown(reader: ModelReader, machine: Machine, page: Page) -> None:
    """Rows of what the two kernels take of a sample, with a clock around each launch."""
    if machine.kernels() is None:
        page.row("kernels: not in use", "")
        return
    kernels, components = _Clocked(machine), reader.discovery.components
    if machine.cuda:
        kernels.prepare(torch.bfloat16)
    sums = Sums(components)
    pieces = {i: here for some in readable(components, sums.read, reader.weights, {}) for i, here in some.items()}
    if not machine.cuda:  # an interpreter takes half a second for a row
        pieces = dict(itertools.islice(pieces.items(), 2))
    plan = Plan(kernels, torch.bfloat16, pieces, sums.makes_up)
    taken: dict[str, list[float]] = {"count": [], "solve": []}
    for _ in range(1 if machine.rehearsal else 10):
        for spans in kernels.spans.values():
            spans.clear()
        machine.occupy(0.01)
        plan.run()
        machine.synchronize()
        for name, spans in kernels.spans.items():
            taken[name].append(sum(span.seconds() for span in spans))
    launches = len(kernels.spans["count"])
    page.row(f"counting, {launches} launch{'es' * (launches > 1)}, ms", ms(statistics.median(taken["count"])))
    page.row("solving, ms", ms(statistics.median(taken["solve"])))


def _monitored(spec: Spec, model: nn.Module, machine: Machine) -> tuple[float, float, int | None]:
    """Host seconds of a step that samples and of the next, which delivers the sample, and how often the first waited."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1)
    queue: list[float] = []
    deliver: list[float] = []
    with tempfile.TemporaryDirectory() as place:
        monitor = WeibullMonitor(
            model,
            optimizer,
            every_n_steps=lambda step: step % 2 == 1,
            output_dir=place,
            resolution=spec.resolution,  # type: ignore[arg-type]
            process_group=None,
        )
        for _ in range(2 if machine.rehearsal else 12):
            machine.occupy(0.03)
            times = [time.perf_counter()]
            monitor.step()
            times.append(time.perf_counter())
            machine.synchronize()
            times.append(time.perf_counter())
            monitor.step()
            times.append(time.perf_counter())
            queue.append(times[1] - times[0])
            deliver.append(times[3] - times[2])
        if monitor.last is None or monitor.last.step != 2 * len(queue) - 1:
            raise RuntimeError("the monitor took no sample; the log says why")
        waits = machine.synchronisations(monitor.step)
        monitor.close(sample_last=False)
    return statistics.median(queue[1:]), statistics.median(deliver[1:]), waits


def _check(model: nn.Module, components: Any, fits: Mapping[str, WeibullFit]) -> tuple[int, int]:
    """How many stored matrices were counted once more on the CPU, and how many of them have other counts."""
    stored = dict(model.named_parameters())
    checked = wrong = values = 0
    whole = [c for c in components if c.part is None]
    largest = max(whole, key=lambda c: c.numel)
    for component in (largest, *(c for c in whole[::-1] if c is not largest)):  # the others as far as it goes
        if checked and values + component.numel > CHECKED:
            continue
        values += component.numel
        checked += 1
        bins = bins_of(component.dtype)
        counts = count_by_bincount([stored[component.parameter].detach().cpu()], bins)
        checksum = int(solve_on_device(counts, bins, trim=True)[0, Column.CHECKSUM])
        fit = fits.get(component.name)
        n = int(counts[0, 1:-1].sum())
        wrong += fit is None or (fit.checksum, fit.n, fit.zeros) != (checksum, n, int(counts[0, 0]))
    return checked, wrong


def _without_kernels(spec: Spec, model: nn.Module, ours: float, machine: Machine, page: Page) -> None:
    """One row: what plain torch takes for the same, unless that would take minutes."""
    known, values = page.figures.get("plain torch, s a value"), page.figures[f"{spec.name}: values"]
    what = f"the same in plain torch (`{SWITCH}=0`), ms"
    if spec.name != models.SMALL and not machine.rehearsal and (known is None or known * values > 6):
        if known is not None:
            page.row(f"{what}: by the rate of {models.SMALL}", f"about {ms(known * values)}")
        return
    before = os.environ.get(SWITCH)
    os.environ[SWITCH] = "0"
    try:
        reader = models.reader_of(model, spec.resolution)
        read_once(reader)
        timing = machine.clock(lambda: read_once(reader), times=3, limit=5.0, waits=True, warm=0)
    finally:
        if before is None:
            del os.environ[SWITCH]
        else:
            os.environ[SWITCH] = before
    if spec.name == models.SMALL:
        page.figures["plain torch, s a value"] = timing.device / values
    page.row(what, f"{ms(timing.device)} ({timing.device / ours:,.0f} ×)")
