"""The machine that is measured: its clock, its memory, and the kernels on it. In a rehearsal without a GPU it is the CPU."""

from __future__ import annotations

import gc
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from weibull_monitor.measure.kernels.launch import Kernels

CYCLES_A_SECOND = 2e9
"""About the clock of a GPU; only how long it is kept busy ahead of a measurement depends on it."""
LONGEST_AHEAD = 0.05
GIB = 2.0**30


class Budget:
    """The seconds that are left."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        return self._end - time.monotonic()


@dataclass(frozen=True)
class Timing:
    """Seconds of some repetitions.

    Attributes:
        device: Median from before the first piece of work on the device to the end of the last.
        host: Median on this thread.
        slowest: The longest on the device.
        repetitions: How many there were.
        covered: Whether the device was kept busy until everything was queued, so that its time holds no waiting for the host.
    """

    device: float
    host: float
    slowest: float
    repetitions: int
    covered: bool


class Span:
    """A stretch of work on the device."""

    def __init__(self, machine: Machine) -> None:
        self._cuda = machine.cuda
        self._ends: list[Any] = []

    def __enter__(self) -> Span:
        self._mark()
        return self

    def __exit__(self, *_: object) -> None:
        self._mark()

    def _mark(self) -> None:
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._ends.append(event)
        else:
            self._ends.append(time.perf_counter())

    def seconds(self) -> float:
        """What it took; the device has to have been synchronised."""
        begin, end = self._ends
        return begin.elapsed_time(end) / 1e3 if self._cuda else end - begin


class Machine:
    """The first CUDA device, or the CPU.

    Args:
        rehearsal: Whether everything is to be tiny and done once or twice.
    """

    def __init__(self, rehearsal: bool) -> None:
        self.rehearsal = rehearsal
        self.cuda = torch.cuda.is_available()
        self.device = torch.device("cuda", 0) if self.cuda else torch.device("cpu")
        if self.cuda:
            torch.cuda.set_device(self.device)

    def describe(self) -> str:
        """What it is, in a line."""
        versions = f"Python {platform.python_version()}, torch {torch.__version__}, Triton {_version('triton')}, "
        versions += f"transformers {_version('transformers')}"
        if not self.cuda:
            return f"{platform.processor() or platform.machine()}, {versions}"
        about = torch.cuda.get_device_properties(self.device)
        return (
            f"{about.name}, {about.multi_processor_count} multiprocessors, {about.total_memory / GIB:.0f} GiB, "
            f"CUDA {torch.version.cuda}, {versions}"
        )

    def kernels(self, dtype: torch.dtype = torch.bfloat16) -> Kernels | None:
        """The kernels as the monitor uses them, compiled for a dtype; in Triton's interpreter where there is no GPU."""
        from weibull_monitor.measure.kernels import kernels_for
        from weibull_monitor.measure.kernels.launch import Kernels

        return kernels_for(self.device, dtype) if self.cuda else Kernels(self.device)

    def synchronize(self) -> None:
        """Waits until the device has nothing to do."""
        if self.cuda:
            torch.cuda.synchronize()

    def alive(self) -> bool:
        """Whether the device still works: after an illegal access nothing does in this process."""
        try:
            torch.zeros(1, device=self.device).sum().item()
            self.synchronize()
        except RuntimeError:
            return False
        return True

    def free(self) -> None:
        """Gives back memory that nothing refers to."""
        gc.collect()
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()

    def memory(self) -> int:
        """Bytes that are free."""
        return int(torch.cuda.mem_get_info()[0]) if self.cuda else 1 << 30

    def repetitions(self, wanted: int) -> int:
        """As many as wanted, but in a rehearsal: there an interpreter takes seconds for what a GPU does in microseconds."""
        return min(2 if self.cuda else 1, wanted) if self.rehearsal else wanted

    def occupy(self, seconds: float) -> None:
        """Gives the device something to do for a while, so that the host can queue work behind it."""
        if self.cuda and seconds > 0 and (sleep := getattr(torch.cuda, "_sleep", None)) is not None:
            sleep(int(seconds * CYCLES_A_SECOND))

    def clock(
        self,
        work: Callable[[], Any],
        times: int = 20,
        limit: float = 3.0,
        after: Callable[[Any], object] | None = None,
        waits: bool = False,
        warm: int = 2,
    ) -> Timing:
        """Times some work.

        Args:
            work: Queues it.
            times: Repetitions at most.
            limit: Seconds after which no more are taken.
            after: Takes what ``work`` gave, off the clock.
            waits: Whether the work waits for the device, so that nothing is gained by keeping that busy ahead.
            warm: Calls before the first that counts.
        """
        host = 0.0
        for _ in range(self.repetitions(warm)):
            self.synchronize()
            begin = time.perf_counter()
            done = work()
            host = time.perf_counter() - begin
            self.synchronize()
            if after is not None:
                after(done)
        ahead = 0.0 if waits else min(LONGEST_AHEAD, max(0.002, 3 * host))
        spans: list[Span] = []
        hosts: list[float] = []
        stop = time.perf_counter() + limit
        for _ in range(self.repetitions(times)):
            self.occupy(ahead)
            with Span(self) as span:
                begin = time.perf_counter()
                done = work()
                hosts.append(time.perf_counter() - begin)
            self.synchronize()
            spans.append(span)
            if after is not None:
                after(done)
            if time.perf_counter() > stop:
                break
        device = [span.seconds() for span in spans]
        return Timing(
            statistics.median(device), statistics.median(hosts), max(device), len(device), max(hosts) < 0.8 * ahead
        )

    def synchronisations(self, work: Callable[[], object]) -> int | None:
        """How often some work made the host wait, as torch notices it; None if that is not known."""
        if not self.cuda or self._noticed(torch.ones(1, device=self.device).item) < 1:
            return None
        return self._noticed(work)

    def _noticed(self, work: Callable[[], object]) -> int:
        torch.cuda.synchronize()
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                work()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return sum("called a synchronizing" in str(warning.message) for warning in seen)

    def extra_memory(self, work: Callable[[], Any]) -> tuple[Any, int | None]:
        """What some work gives, and the bytes that it took above what was taken before, at its peak."""
        self.free()
        if not self.cuda:
            return work(), None
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        done = work()
        self.synchronize()
        return done, torch.cuda.max_memory_allocated() - before


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "(none)"
