"""Counts in plain torch: by `bincount` on the CPU, by `scatter_add` on devices that have no kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock

import torch
from torch import Tensor

from weibull_monitor.measure.bins import Bins, place_bits
from weibull_monitor.measure.threads import alone

HOST_CHUNK = 1 << 19
"""Elements per pass on the CPU at most: 2 MiB of int32 a thread, small enough for the cache, large enough to hide calls."""
HOST_BUFFERS = 1 << 21
"""Elements per pass of all threads together: bounds the extra memory to 8 MiB of int32, and as much for strided pieces."""
DEVICE_CHUNK = 1 << 20
"""Elements per pass elsewhere, where indices are int64: about 21 MiB of temporaries."""
MIN_SHARE = 1 << 20
"""Elements that are worth a thread of their own."""
SMALL = 1 << 12
"""Tensors of fewer elements are counted many at a time: a pass over all columns for each would cost more than its elements."""
SMALL_CHUNK = 1 << 16
"""Elements of those that are counted together: they stay in the cache."""
MAX_THREADS = 16
"""More threads than this wait for memory anyway."""


@torch.no_grad()
def count_by_scatter(tensors: Sequence[Tensor], bins: Bins, rows: Sequence[int] | None = None) -> Tensor:
    """Counts with operations that need no synchronisation; integer adds only, so the result is deterministic."""
    device = tensors[0].device
    rows = range(len(tensors)) if rows is None else rows
    counts = torch.zeros(max(rows, default=-1) + 1, bins.columns, dtype=torch.int64, device=device)
    one = torch.ones(1, dtype=torch.int64, device=device)
    for row, tensor in zip(rows, tensors, strict=True):
        for chunk in chunks(tensor, DEVICE_CHUNK):
            # The bit pattern without its sign rises with |w|; its upper bits are the bin. All (elements,).
            bits = chunk.view(bins.integer)
            magnitude = bits & bins.mask
            column = (magnitude >> bins.shift).long()
            # Column 0 is for exact zeros, so every other value moves up by one; patterns beyond the bins are not finite.
            column = (column + (magnitude != 0)).clamp_(max=bins.columns - 1)
            if bins.integer == torch.uint8:
                column = _place_fp8(bits, magnitude, column, bins)
            counts[row].scatter_add_(0, column, one.expand_as(column))
    return counts


@torch.no_grad()
def count_by_bincount(tensors: Sequence[Tensor], bins: Bins, rows: Sequence[int] | None = None) -> Tensor:
    """Counts on the host with `torch.bincount`, the elements divided evenly among threads.

    `torch.bincount` runs on one thread and releases the GIL, so Python threads share the work.
    """
    return _added(_count_piece, _count_small, (bins.columns,), tensors, bins, rows)


@torch.no_grad()
def places_by_bincount(tensors: Sequence[Tensor], bins: Bins, rows: Sequence[int] | None = None) -> Tensor:
    """What `places_by_scatter` gives, on the host."""
    return _added(_places_of_piece, _places_of_small, (2, bins.columns), tensors, bins, rows)


def _added(
    of_piece: Callable[[Tensor, Bins, Tensor], Tensor],
    of_small: Callable[[Sequence[Tensor], Sequence[int], Bins, Tensor], None],
    shape: tuple[int, ...],
    tensors: Sequence[Tensor],
    bins: Bins,
    rows: Sequence[int] | None,
) -> Tensor:
    """Integers of a shape for each row, the sums over all pieces of its tensors, int64 (rows, *shape)."""
    rows = range(len(tensors)) if rows is None else rows
    counts = torch.zeros(max(rows, default=-1) + 1, *shape, dtype=torch.int64, device="cpu")
    if bins.integer != torch.uint8:  # those have 256 columns
        small = [place for place, tensor in enumerate(tensors) if 0 < tensor.numel() < SMALL]
        for some in _within(small, tensors):
            of_small([tensors[place] for place in some], [rows[place] for place in some], bins, counts)
        large = [place for place, tensor in enumerate(tensors) if tensor.numel() >= SMALL]
        tensors, rows = [tensors[place] for place in large], [rows[place] for place in large]
    total = sum(tensor.numel() for tensor in tensors)
    threads = max(1, min(torch.get_num_threads(), MAX_THREADS, total // MIN_SHARE))
    # One buffer per thread, and all of them within `HOST_BUFFERS`.
    size = max(1, min(HOST_CHUNK, HOST_BUFFERS // threads, total))
    lock = Lock()

    def work(share: list[tuple[int, Tensor]]) -> None:
        buffer = torch.empty(size, dtype=bins.integer, device="cpu")
        for row, piece in share:
            local = of_piece(piece, bins, buffer)  # shape
            with lock:  # several threads may have pieces of one row
                counts[row] += local

    if threads == 1:
        work(list(zip(rows, tensors, strict=True)))
        return counts
    mine, *others = _divide(tensors, rows, threads)
    with ThreadPoolExecutor(threads - 1, "weibull-count", initializer=alone) as pool, alone():
        pending = pool.map(work, others)
        work(mine)  # a caller that only waited would invite the scheduler to put two workers on one core
        list(pending)
    return counts


def _within(places: Sequence[int], tensors: Sequence[Tensor]) -> Iterator[list[int]]:
    """The places of tensors, in groups of at most `SMALL_CHUNK` elements."""
    group: list[int] = []
    elements = 0
    for place in places:
        numel = tensors[place].numel()
        if group and elements + numel > SMALL_CHUNK:
            yield group
            group, elements = [], 0
        group.append(place)
        elements += numel
    if group:
        yield group


@dataclass(frozen=True)
class _Small:
    """Small tensors that are counted together.

    Attributes:
        bits: The bit patterns of all values, (elements,).
        rows: The rows that they belong to, each once, int64 (tensors,) at most.
        used: The columns that they fill, but for that of zeros.
        place: For each value its row among ``rows``, times ``width``, and its column: 0 for zeros, else one more than its place
            among those used; (elements,).
        width: How many columns that are.
    """

    bits: Tensor
    rows: Tensor
    used: slice
    place: Tensor
    width: int

    @staticmethod
    def of(tensors: Sequence[Tensor], rows: Sequence[int], bins: Bins) -> _Small:
        bits = torch.cat([tensor.detach().cpu().reshape(-1) for tensor in tensors]).view(bins.integer)
        magnitude = bits & bins.mask
        # As in `count_by_scatter`. Rows times columns do not fit into 16 bits.
        column = (magnitude >> bins.shift).int() if bins.integer == torch.int16 else magnitude >> bins.shift
        column = (column + (magnitude != 0)).clamp_(max=bins.columns - 1)
        last = int(column.max()) + 1
        first = min(last, int(column.where(column > 0, bins.columns).min()))
        width = last - first + 1
        nth = {row: n for n, row in enumerate(dict.fromkeys(rows))}
        lengths = torch.tensor([tensor.numel() for tensor in tensors], device="cpu")
        of = torch.tensor([nth[row] for row in rows], dtype=column.dtype, device="cpu")
        of = of.repeat_interleave(lengths, output_size=len(bits))
        place = of * width + (column - (first - 1)).clamp_(min=0)
        return _Small(bits, torch.tensor(list(nth), device="cpu"), slice(first, last), place, width)

    def summed(self, weights: Tensor | None = None) -> Tensor:
        """How many values lie in each column, or the sum of their weights, (rows, width)."""
        return torch.bincount(self.place, weights, minlength=len(self.rows) * self.width).view(-1, self.width)


def _count_small(tensors: Sequence[Tensor], rows: Sequence[int], bins: Bins, counts: Tensor) -> None:
    """Adds the counts of small tensors to their rows of ``counts``, (rows, bins.columns)."""
    small = _Small.of(tensors, rows, bins)
    found = small.summed()
    counts[:, 0].index_add_(0, small.rows, found[:, 0])
    counts[:, small.used].index_add_(0, small.rows, found[:, 1:])


def _places_of_small(tensors: Sequence[Tensor], rows: Sequence[int], bins: Bins, sums: Tensor) -> None:
    """Adds the sums of places of small tensors to their rows of ``sums``, (rows, 2, bins.columns)."""
    small = _Small.of(tensors, rows, bins)
    for moment, place in enumerate(_places(small.bits, bins)):
        found = small.summed(place.double())[:, 1:].long()  # exact: below 2⁵³
        sums[:, moment, small.used].index_add_(0, small.rows, found)


def _count_piece(piece: Tensor, bins: Bins, buffer: Tensor) -> Tensor:
    """A row of counts, (bins.columns,), made in chunks of the buffer's size on the CPU."""
    # Patterns are counted first and sorted into columns once at the end: fewer operations per element.
    eight_bits = bins.integer == torch.uint8
    columns = 256 if eight_bits else (bins.mask >> bins.shift) + 1
    patterns = torch.zeros(columns, dtype=torch.int64, device="cpu")
    for chunk in chunks(piece, len(buffer)):
        bits = chunk.cpu().view(bins.integer)  # (elements,)
        if not eight_bits:  # of 8-bit floats all 256 patterns are counted, with their sign
            bits = torch.bitwise_and(bits, bins.mask, out=buffer[: len(bits)]).bitwise_right_shift_(bins.shift)
        patterns += torch.bincount(bits, minlength=len(patterns))
    row = torch.zeros(bins.columns, dtype=torch.int64, device="cpu")
    if eight_bits:
        every = torch.arange(256, dtype=torch.uint8, device="cpu")
        magnitude = every & bins.mask
        return row.index_add_(0, _place_fp8(every, magnitude, magnitude.long() + (magnitude != 0), bins), patterns)
    row[1:-1] = patterns[: bins.finite]
    row[-1] = patterns[bins.finite :].sum()  # exponents of all ones: Inf and NaN
    if patterns[0]:  # zeros share their pattern with the smallest subnormals; a second read tells them apart
        nonzero = sum(
            int(torch.count_nonzero(c.cpu().view(bins.integer) & bins.mask)) for c in chunks(piece, len(buffer))
        )
        row[0] = piece.numel() - nonzero
        row[1] -= row[0]
    return row


def _places_of_piece(piece: Tensor, bins: Bins, buffer: Tensor) -> Tensor:
    """Sums of places and of their squares, (2, bins.columns), made in chunks of a quarter of the buffer's size on the CPU."""
    sums = torch.zeros(2, (bins.mask >> bins.shift) + 1, dtype=torch.float64, device="cpu")
    for chunk in chunks(piece, max(1, len(buffer) // 4)):
        bits = chunk.cpu().view(bins.integer)  # (elements,)
        into = torch.bitwise_and(bits, bins.mask, out=buffer[: len(bits)]).bitwise_right_shift_(bins.shift)
        for moment, place in zip(sums, _places(bits, bins), strict=True):
            moment += torch.bincount(into, weights=place.double(), minlength=sums.shape[1])  # exact: below 2⁵³
    out = torch.zeros(2, bins.columns, dtype=torch.int64, device="cpu")
    out[:, 1:-1] = sums[:, : bins.finite]
    return out


def _places(bits: Tensor, bins: Bins) -> tuple[Tensor, Tensor]:
    """Twice the distance of each value from the middle of its bin, in 2 ** `place_bits` steps a bin, and its square.

    Integers, (elements,) each.
    """
    kept = place_bits(bins)
    place = ((bits >> (bins.shift - kept)) & ((1 << kept) - 1)).int() * 2 - ((1 << kept) - 1)
    return place, place * place


@torch.no_grad()
def places_by_scatter(tensors: Sequence[Tensor], bins: Bins, rows: Sequence[int] | None = None) -> Tensor:
    """Sums over each bin of the places of its values, and of their squares, with operations that need no synchronisation.

    Args:
        tensors: Tensors of dtype ``bins.dtype``, of more than 8 bits, on one device.
        bins: The layout that they are counted into.
        rows: For each tensor its row, as in `weibull_monitor.measure.count_magnitudes`.

    Returns:
        int64, shape (rows, 2, bins.columns). The first and the last column, and what zeros add to the first bin, mean nothing.
    """
    rows = range(len(tensors)) if rows is None else rows
    sums = torch.zeros(max(rows, default=-1) + 1, 2, bins.columns, dtype=torch.int64, device=tensors[0].device)
    for row, tensor in zip(rows, tensors, strict=True):
        for chunk in chunks(tensor, DEVICE_CHUNK):
            bits = chunk.view(bins.integer)  # (elements,)
            magnitude = bits & bins.mask
            # Zeros go to column 0, as they do among the counts.
            column = ((magnitude >> bins.shift).long() + (magnitude != 0)).clamp_(max=bins.columns - 1)
            for moment, place in zip(sums[row], _places(bits, bins), strict=True):
                moment.scatter_add_(0, column, place.long())
    return sums


def _place_fp8(bits: Tensor, magnitude: Tensor, column: Tensor, bins: Bins) -> Tensor:
    """Columns of 8-bit floats, whose NaN is not always the highest pattern: in ``fnuz`` types it is the negative zero."""
    column = column.clamp(max=bins.columns - 1)
    if bins.fnuz:
        return torch.where(bits == 0x80, bins.columns - 1, column)
    return column


def chunks(tensor: Tensor, size: int) -> Iterator[Tensor]:
    """Contiguous 1-D pieces of at most ``size`` elements, each element once, in any order.

    A tensor that is dense in memory (contiguous, transposed, permuted) is not copied; of others, one piece at a time is.
    """
    tensor = flat(tensor)
    if tensor.is_contiguous():
        yield from torch.split(tensor.view(-1), size) if tensor.numel() else ()
    elif tensor[0].numel() > size:
        for part in tensor:
            yield from chunks(part, size)
    else:
        for rows in torch.split(tensor, max(1, size // max(1, tensor[0].numel()))):
            yield rows.reshape(-1)


def flat(tensor: Tensor) -> Tensor:
    """A 1-D view where the elements are dense in memory in some order, else a view with its outermost dimension first.

    The order of the elements does not matter for counts, so a transposed matrix is read in the order of its memory.
    """
    strides = tensor.stride()
    order = sorted(range(tensor.dim()), key=lambda d: -strides[d])
    outermost_first = tensor.detach().permute(order)
    return outermost_first.view(-1) if outermost_first.is_contiguous() else outermost_first


def _divide(tensors: Sequence[Tensor], rows: Sequence[int], shares: int) -> list[list[tuple[int, Tensor]]]:
    """Shares of about equally many elements, as (row, piece of that row's tensor); tensors are cut where need be."""
    # Fill one share after the other: `room` is what the last of them still takes.
    target = -(-sum(tensor.numel() for tensor in tensors) // shares)
    out: list[list[tuple[int, Tensor]]] = [[]]
    room = target
    for row, tensor in zip(rows, tensors, strict=True):
        rest = flat(tensor)
        while len(out) < shares and rest.numel() >= room:
            cut = min(len(rest), -(-room * len(rest) // rest.numel()))  # whole rows of a tensor that is not flat
            out[-1].append((row, rest[:cut]))
            out.append([])
            rest, room = rest[cut:], target
        out[-1].append((row, rest))
        room -= rest.numel()
    return out
