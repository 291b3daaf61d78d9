"""The kernels on one device: their constants and their launches. Nothing here waits for the device.

>>> window_of(torch.bfloat16, Shape())
SharedBins(low=6336, limit=2047)
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from weibull_monitor.errors import say, text_of
from weibull_monitor.measure.bins import Bins, bins_of
from weibull_monitor.measure.grid import TALLIES, lows_of, roughness, tally
from weibull_monitor.measure.kernels import count as counting
from weibull_monitor.measure.kernels import elements as some
from weibull_monitor.measure.kernels import evidence as looking
from weibull_monitor.measure.kernels import solve as solving
from weibull_monitor.measure.kernels.table import (
    COLUMNS,
    ELEMENTS,
    ROWS,
    SUMS,
    TILE,
    WorkTable,
    looked_at,
    rows_of,
    table_of,
)
from weibull_monitor.measure.plain.count import count_by_bincount
from weibull_monitor.measure.plain.solve import (
    LEVELS,
    MIN_BINS,
    MIN_VALUES,
    RESULT_COLUMNS,
    Column,
    hashes,
    solve_on_device,
)
from weibull_monitor.model.sharding.layout import Elements
from weibull_monitor.model.upload import on_device


@dataclass(frozen=True)
class Shape:
    """How the work of the counting kernel is divided; the counts do not depend on it.

    Attributes:
        window: Bins that are counted in shared memory, a power of two.
        lowest: The power of two at which they begin, for bfloat16 and float32: of normal weights of scale 0.01, three in 10⁷
            are smaller.
        tile: Elements of a tile, a power of two.
        warps: Warps of a program.
        programs: Programs per multiprocessor: of 128 threads and about 100 registers each, so that all of them fit at once.
    """

    window: int = counting.WINDOW
    lowest: int = -28
    tile: int = TILE
    warps: int = counting.WARPS
    programs: int = 4


class SharedBins(NamedTuple):
    """The bins of a dtype that are counted in shared memory; the others are rare.

    Attributes:
        low: The first.
        limit: How many.
    """

    low: int
    limit: int


@cache
def window_of(dtype: torch.dtype, shape: Shape) -> SharedBins:
    """The window of a dtype."""
    bins = bins_of(dtype)
    low = max(1, int((bins.edges[:-1] < 2.0**shape.lowest).sum()) - 1 if bins.finite > shape.window else 1)
    return SharedBins(low, min(shape.window - 1, bins.finite - low))


class Kernels:
    """The kernels on one device.

    Args:
        device: A CUDA device; the CPU where Triton interprets its kernels (``TRITON_INTERPRET=1``).
        shape: How the work of the counting kernel is divided.
    """

    def __init__(self, device: torch.device, shape: Shape = Shape()) -> None:
        self.device, self.shape = device, shape
        self.programs = shape.programs * _multiprocessors(device)
        self._levels = self.upload(np.array(LEVELS))
        self._own: dict[torch.dtype, bool] = {}
        self._constants: dict[torch.dtype, tuple[Tensor, Tensor]] = {}

    def upload(self, values: npt.NDArray[Any]) -> Tensor:
        """A small array on the device, queued."""
        return on_device(torch.from_numpy(np.ascontiguousarray(values)), self.device)

    def table(self, tensors: Sequence[Tensor], rows: Sequence[Sequence[int]]) -> WorkTable:
        """What `count` works through, for tensors of one dtype on this device."""
        return table_of(tensors, rows, self.programs, self.shape.tile)

    def count(self, pieces: Tensor, starts: Tensor, counts: Tensor, bins: Bins) -> Any:
        """Adds the magnitudes of all elements to rows of counts.

        Args:
            pieces: `WorkTable.pieces`, on the device.
            starts: `WorkTable.starts`, on the device.
            counts: int64, (rows, bins.columns).
            bins: The layout of the counts, of a dtype in `weibull_monitor.measure.kernels.COUNTED`.

        Returns:
            The compiled kernel as Triton returns it, to look at its code; None if nothing was launched or compiled.
        """
        programs = len(starts) - 1
        if programs == 0:
            return None
        constants = count_constants(bins, self._own.get(bins.dtype, False), self.shape)
        with _on(self.device):
            return counting.count_kernel[(programs,)](
                pieces, starts, counts, counts.stride(0), **constants, num_warps=self.shape.warps
            )

    def tally(self, values: Tensor, places: Tensor, out: Tensor, bins: Bins) -> None:
        """Counts where some values of each matrix lie, as `weibull_monitor.measure.grid.tally` does.

        Args:
            values: The table of `weibull_monitor.measure.kernels.table.looked_at`, on the device.
            places: Its places, on the device.
            out: int64, (matrices, TALLIES). Columns of grids that are not coarser than the dtype are not written.
            bins: The layout that the matrices are counted into.
        """
        if len(values) and any(lows_of(bins.dtype)):
            with _on(self.device):
                looking.tally_kernel[(len(values),)](
                    values, places, out, **tally_constants(bins), num_warps=looking.WARPS
                )

    def compare(self, addresses: Tensor, offsets: Tensor, last: Tensor, sums: Tensor, step: int, of_step: bool) -> None:
        """Compares a few elements of each matrix with what they were, and keeps them.

        Args:
            addresses: int64, (rows,): where the matrix of each row begins.
            offsets: int64, (rows, size): how far its elements are from there, in elements; ``size`` is `ELEMENTS` at most.
            last: What they were when they were read last, (rows, size).
            sums: float32, (SUMS, rows), which are added to.
            step: The number of steps taken.
            of_step: Whether a step lies between both readings, or anything else.
        """
        rows, size = offsets.shape
        with _on(self.device):
            some.compare_kernel[(rows,)](
                addresses, offsets, last, sums, rows, size, step, block=ELEMENTS, of_step=of_step, num_warps=some.WARPS
            )

    def solve(
        self, counts: Tensor, rows: Tensor, bins: Bins, out: Tensor, clear: bool = False, rough: Tensor | None = None
    ) -> None:
        """Fits rows of counts, as `weibull_monitor.measure.choose.solve` does.

        Args:
            counts: int64, (…, bins.columns).
            rows: int64, (n, 2): rows of ``counts``, and the rows of ``out`` that their results go to.
            bins: The layout of the counts, of a dtype in `weibull_monitor.measure.kernels.COUNTED`.
            out: float64, (…, RESULT_COLUMNS).
            clear: Whether to set those rows of counts to zero.
            rough: int64, (…, 2): takes what `weibull_monitor.measure.grid.roughness` says of the rows, in the rows of ``out``.
        """
        if len(rows) == 0:
            return
        if rough is None:
            rough = torch.empty(len(out), 2, dtype=torch.int64, device=self.device)
        log_edges, mixed = self._of(bins)
        with _on(self.device):
            solving.solve_kernel[(len(rows),)](
                counts,
                rows,
                log_edges,
                self._levels,
                mixed,
                out,
                rough,
                counts.stride(0),
                **solve_constants(bins),
                clear=clear,
                num_warps=solving.WARPS,
            )

    def prepare(self, dtype: torch.dtype) -> None:
        """Compiles what a dtype needs, or takes it from Triton's cache, and proves it; the first time only, and then it waits.

        Raises:
            Exception: Whatever the compiler raises; `RuntimeError` if the kernels do not count or solve as plain torch does.
        """
        if dtype in self._own:
            return
        ways = (True, False) if self.device.type == "cuda" and torch.version.hip is None else (False,)
        for own in ways:
            self._own[dtype] = own
            try:
                self._prove(dtype)
            except Exception as error:
                del self._own[dtype]
                if own is ways[-1]:
                    raise
                what = text_of(error)
                say(logging.DEBUG, f"weibull_monitor: bins in PTX cannot be used ({what}); Triton's histogram is used")
            else:
                return

    def _prove(self, dtype: torch.dtype) -> None:
        """Counts and solves some tensors here and in plain torch on the CPU, and compares."""
        bins = bins_of(dtype)
        patterns, normal = (tensor.to(self.device) for tensor in probes(dtype))
        tensors = [patterns, normal[:, 64:192], normal.view(-1)[1:]]  # dense; in runs; not aligned
        table = self.table(tensors, [(0,), (1, 3), (2, 3)])
        counts = torch.zeros(4, bins.columns, dtype=torch.int64, device=self.device)
        self.count(self.upload(table.pieces), self.upload(table.starts), counts, bins)
        expected = count_by_bincount([tensor.cpu() for tensor in tensors], bins)
        expected = torch.cat([expected, expected[1:].sum(dim=0, keepdim=True)])
        if not torch.equal(counts.cpu(), expected):
            raise RuntimeError(f"the kernel does not count {dtype} as plain torch does")
        out = torch.empty(4, RESULT_COLUMNS, dtype=torch.float64, device=self.device)
        rough = torch.zeros(4, 2, dtype=torch.int64, device=self.device)
        rows = self.upload(rows_of([(row, row) for row in range(1, 4)]))
        for clear in (False, True):
            self.solve(counts, rows, bins, out, clear, rough)
        plain = solve_on_device(expected[1:], bins, trim=False)
        if counts[1:].any() or not torch.allclose(out[1:].cpu(), plain, rtol=1e-6, atol=1e-9, equal_nan=True):
            raise RuntimeError(f"the kernel does not solve {dtype} as plain torch does")
        flat = [Elements(patterns[::3]), Elements(normal, (np.arange(150), np.arange(150)))]
        tallies = torch.zeros(2, TALLIES, dtype=torch.int64, device=self.device)
        values, places = looked_at(flat)
        self.tally(self.upload(values), self.upload(places), tallies, bins)
        same = torch.equal(tallies.cpu(), tally([some.values().cpu() for some in flat], bins))
        if not same or not torch.equal(rough[1:].cpu(), roughness(expected[1:, 1:-1], bins)):
            raise RuntimeError(f"the kernel does not find grids of {dtype} as plain torch does")
        if not self._compares(normal):
            raise RuntimeError(f"the kernel does not compare elements of {dtype} as plain torch does")

    def _compares(self, normal: Tensor) -> bool:
        """Whether elements of some rows are compared as they are."""
        offsets = torch.arange(3 * ELEMENTS, device="cpu").view(3, -1) * 7 % normal.numel()
        here = normal.view(-1)[offsets.to(self.device)]  # (3, ELEMENTS)
        last, sums = here.clone(), torch.zeros(SUMS, 3, dtype=torch.float32, device=self.device)
        last[1] = 0.0
        addresses = self.upload(np.full(3, normal.data_ptr()))
        for of_step in (False, True):
            self.compare(addresses, self.upload(offsets.numpy()), last, sums, 5, of_step)
            if of_step != bool(sums[3].any()) or not torch.equal(last, here):
                return False
            last[2] = 0.0
        squares = here.float().square().sum(dim=1).cpu()
        of_row = [torch.tensor(chosen, device="cpu") for chosen in ([0, 1, 0], [0, 0, 1])]
        expected = [squares * of_row[0], of_row[0], 5 * of_row[0], squares * of_row[1], of_row[1], squares * of_row[0]]
        return torch.allclose(sums.cpu(), torch.stack([one.float() for one in expected]), rtol=1e-5)

    def _of(self, bins: Bins) -> tuple[Tensor, Tensor]:
        """ln|w| at the edges, and the hash of each column, on the device."""
        if bins.dtype not in self._constants:
            self._constants[bins.dtype] = (
                self.upload(bins.edges.log().numpy()),
                self.upload(hashes(bins.columns).numpy()),
            )
        return self._constants[bins.dtype]


def probes(dtype: torch.dtype) -> list[Tensor]:
    """Two tensors that the kernels are tested on: bit patterns of every kind, and normal values."""
    if dtype.itemsize == 2:
        patterns = torch.arange(-(2**15), 2**15, 7, dtype=torch.int16, device="cpu")
    else:  # as many upper halves, with another lower half each
        upper = torch.arange(-(2**15), 2**15, 7, dtype=torch.int64, device="cpu")
        patterns = ((upper << 16) + (upper * 40503 & 0xFFFF)).to(torch.int32)
    generator = torch.Generator("cpu").manual_seed(0)
    normal = torch.randn(200, 384, generator=generator, dtype=torch.float32, device="cpu") * 0.02
    return [patterns.view(dtype), normal.to(dtype)]


def count_constants(bins: Bins, own: bool, shape: Shape = Shape()) -> dict[str, int | str]:
    """What the counting kernel is compiled for.

    Args:
        bins: The layout of the counts.
        own: Whether it keeps its bins in shared memory of its own, in PTX.
        shape: How its work is divided.
    """
    window = window_of(bins.dtype, shape)
    return {
        "itemsize": bins.dtype.itemsize,
        "shift": bins.shift,
        "finite": bins.finite,
        "low": window.low,
        "limit": window.limit,
        "tile": shape.tile,
        "chunk": counting.CHUNK,
        "window": shape.window,
        "columns": COLUMNS,
        "rows": ROWS,
        "declare": counting.declared(shape.window) if own else "",
    }


def solve_constants(bins: Bins) -> dict[str, int]:
    """What the solving kernel is compiled for, except whether it empties the rows."""
    return {
        "finite": bins.finite,
        "width": RESULT_COLUMNS,
        "measures": len(Column),
        "n_levels": len(LEVELS),
        "level_10": LEVELS.index(0.1),
        "level_50": LEVELS.index(0.5),
        "level_90": LEVELS.index(0.9),
        "level_999": LEVELS.index(0.999),
        "min_values": MIN_VALUES,
        "min_bins": MIN_BINS,
        "block": solving.BLOCK,
    }


def tally_constants(bins: Bins) -> dict[str, int]:
    """What the kernel that tallies is compiled for."""
    lows = {f"low_{place}": low for place, low in enumerate(lows_of(bins.dtype))}
    return {
        "itemsize": bins.dtype.itemsize,
        "mask": bins.mask,
        "beyond": bins.finite << bins.shift,
        **lows,
        "block": looking.BLOCK,
    }


def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def _on(device: torch.device) -> torch.cuda.device:
    return torch.cuda.device(device if device.type == "cuda" else -1)
