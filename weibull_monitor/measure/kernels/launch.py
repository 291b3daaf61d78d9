"""The kernels on one device: what they need there, and their launches. Nothing here waits for the device.

>>> WINDOWS[torch.bfloat16]
Window(low=6336, limit=2047)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from weibull_monitor.measure.bins import Bins, bins_of
from weibull_monitor.measure.kernels import COUNTED
from weibull_monitor.measure.kernels import count as counting
from weibull_monitor.measure.kernels import solve as solving
from weibull_monitor.measure.kernels.table import COLUMNS, ROWS, TILE, Table, table_of
from weibull_monitor.measure.solve import LEVELS, MIN_BINS, MIN_VALUES, RESULT_COLUMNS, Column, hashes

LOWEST_OCTAVE = -28
"""The window of bfloat16 and float32 begins at this power of two: of normal weights of scale 0.01, three in 10⁷ are smaller."""
PROGRAMS_A_PROCESSOR = 4
"""Programs a multiprocessor: of 128 threads and about 100 registers each, so that all are there at once."""


class Window(NamedTuple):
    """The bins of a dtype that are counted in registers; the others are rare.

    Attributes:
        low: The first.
        limit: How many.
    """

    low: int
    limit: int


def _window(dtype: torch.dtype) -> Window:
    bins = bins_of(dtype)
    low = max(1, int((bins.edges[:-1] < 2.0**LOWEST_OCTAVE).sum()) - 1 if bins.finite > counting.WINDOW else 1)
    return Window(low, min(counting.WINDOW - 1, bins.finite - low))


WINDOWS = {dtype: _window(dtype) for dtype in COUNTED}


class Kernels:
    """The two kernels on one device.

    Args:
        device: A CUDA device; the CPU where Triton interprets its kernels (``TRITON_INTERPRET=1``).
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.programs = PROGRAMS_A_PROCESSOR * _multiprocessors(device)
        self._levels = self.upload(np.array(LEVELS))
        self._prepared: set[torch.dtype] = set()
        self._constants: dict[torch.dtype, tuple[Tensor, Tensor]] = {}

    def upload(self, values: npt.NDArray[Any]) -> Tensor:
        """A small array on the device, queued."""
        here = torch.from_numpy(np.ascontiguousarray(values))
        if self.device.type != "cuda":
            return here
        return here.pin_memory().to(self.device, non_blocking=True)

    def table(self, tensors: Sequence[Tensor], rows: Sequence[Sequence[int]]) -> Table:
        """What `count` works through, for tensors of one dtype on this device."""
        return table_of(tensors, rows, self.programs)

    def count(self, pieces: Tensor, starts: Tensor, counts: Tensor, bins: Bins) -> None:
        """Adds the magnitudes of all elements to rows of counts.

        Args:
            pieces: `Table.pieces`, on the device.
            starts: `Table.starts`, on the device.
            counts: int64, (rows, bins.columns).
            bins: The layout of the counts, of a dtype in `COUNTED`.
        """
        programs = len(starts) - 1
        if programs == 0:
            return
        window = WINDOWS[bins.dtype]
        with _on(self.device):
            counting.count_kernel[(programs,)](
                pieces,
                starts,
                counts,
                counts.stride(0),
                itemsize=bins.dtype.itemsize,
                shift=bins.shift,
                finite=bins.finite,
                low=window.low,
                limit=window.limit,
                tile=TILE,
                chunk=counting.CHUNK,
                window=counting.WINDOW,
                columns=COLUMNS,
                rows=ROWS,
                num_warps=counting.WARPS,
            )

    def solve(self, counts: Tensor, rows: Tensor, bins: Bins, out: Tensor, clear: bool = False) -> None:
        """Fits rows of counts, as `weibull_monitor.measure.solve.solve` does.

        Args:
            counts: int64, (…, bins.columns).
            rows: int64, (n, 2): rows of ``counts``, and the rows of ``out`` that their results go to.
            bins: The layout of the counts, of any dtype.
            out: float64, (…, RESULT_COLUMNS).
            clear: Whether to set those rows of counts to zero.
        """
        if len(rows) == 0:
            return
        log_edges, mixed = self._of(bins)
        with _on(self.device):
            solving.solve_kernel[(len(rows),)](
                counts,
                rows,
                log_edges,
                self._levels,
                mixed,
                out,
                counts.stride(0),
                finite=bins.finite,
                width=RESULT_COLUMNS,
                measures=len(Column),
                n_levels=len(LEVELS),
                level_10=LEVELS.index(0.1),
                level_50=LEVELS.index(0.5),
                level_90=LEVELS.index(0.9),
                level_999=LEVELS.index(0.999),
                min_values=MIN_VALUES,
                min_bins=MIN_BINS,
                clear=clear,
                block=solving.BLOCK,
                num_warps=solving.WARPS,
            )

    def prepare(self, dtype: torch.dtype) -> None:
        """Compiles what a dtype needs, or takes it from Triton's cache, by measuring a few values; the first time only."""
        if dtype not in self._prepared:
            self._prepared.add(dtype)
            bins = bins_of(dtype)
            values = torch.zeros(TILE + 8, dtype=dtype, device=self.device)
            table = self.table([values], [[0]])
            counts = torch.zeros(1, bins.columns, dtype=torch.int64, device=self.device)
            self.count(self.upload(table.pieces), self.upload(table.starts), counts, bins)
            out = torch.empty(1, RESULT_COLUMNS, dtype=torch.float64, device=self.device)
            for clear in (False, True):
                self.solve(counts, self.upload(np.zeros((1, 2), dtype=np.int64)), bins, out, clear)

    def _of(self, bins: Bins) -> tuple[Tensor, Tensor]:
        """ln|w| at the edges, and the hash of each column, on the device."""
        if bins.dtype not in self._constants:
            self._constants[bins.dtype] = (
                self.upload(bins.edges.log().numpy()),
                self.upload(hashes(bins.columns).numpy()),
            )
        return self._constants[bins.dtype]


def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def _on(device: torch.device) -> torch.cuda.device:
    return torch.cuda.device(device if device.type == "cuda" else -1)
