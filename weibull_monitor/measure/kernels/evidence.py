"""What tells a grid, on the device: by how much neighbouring bins differ, and where some values of each matrix lie.

Both give the integers that `weibull_monitor.measure.grid` gives, which also says what they mean.
"""

# The annotations of a kernel are read by Triton: they cannot be strings.
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

import triton
import triton.language as tl

from weibull_monitor.measure import grid
from weibull_monitor.measure.bins import MANTISSA_BITS
from weibull_monitor.measure.kernels import table

BLOCK = 1024
"""Values that a program looks at together."""
WARPS = 4

OCTAVE: tl.constexpr = tl.constexpr(1 << MANTISSA_BITS)
PARTS: tl.constexpr = tl.constexpr(grid.PARTS)
MOST: tl.constexpr = tl.constexpr(grid.MOST)
SLOTS: tl.constexpr = tl.constexpr(grid.SLOTS)
PLACES: tl.constexpr = tl.constexpr(16)  # the slots and the grid itself, made up to a power of two

# The columns of the table of values that are looked at, as a kernel can see them.
COLUMNS: tl.constexpr = tl.constexpr(table.LOOKED_AT_COLUMNS)
ADDRESS: tl.constexpr = tl.constexpr(table.ADDRESS)
STEP: tl.constexpr = tl.constexpr(table.STEP)
FIRST: tl.constexpr = tl.constexpr(table.FIRST)
NUMBER: tl.constexpr = tl.constexpr(table.NUMBER)


@triton.jit
def rough_triples(counts, at, count, valid):
    """How many triples of neighbouring bins hold values, and their roughness, as `weibull_monitor.measure.grid.roughness`.

    Args:
        counts: A row of counts, whose first column is for zeros.
        at: The bins in the middle of the triples, (block,): whole octaves.
        count: Their counts.
        valid: Whether there is such a bin.
    """
    place = at % OCTAVE
    inner = valid & (place > 0) & (place < OCTAVE - 1)  # triples across a power of two say nothing
    total = count + tl.load(counts + at, mask=inner, other=0) + tl.load(counts + at + 2, mask=inner, other=0)
    used = inner & (total > 0)
    bend = (total - 3 * count).to(tl.float64)
    parts = bend * bend * (PARTS / 2.0) / tl.where(used, total, 1).to(tl.float64)
    parts = tl.where(used, tl.minimum(parts, PARTS * MOST), 0.0)  # not negative: the cast rounds down
    return tl.sum(used.to(tl.int64), 0), tl.sum(parts.to(tl.int64), 0)


@triton.jit
def _slots_of(bits, usable, low: tl.constexpr):
    """How many values lie in each eighth of the way to the next value of a grid, and on it, (PLACES,)."""
    after = bits & ((1 << low) - 1)
    if low >= 3:  # noqa: SIM108 (a branch of the compiler, not of the kernel)
        eighth = after >> (low - 3)
    else:
        eighth = after << (3 - low)
    slot = tl.where(after != 0, eighth, SLOTS)  # (block,)
    found = (slot[:, None] == tl.arange(0, PLACES)[None, :]) & usable[:, None]  # (block, PLACES)
    return tl.sum(found.to(tl.int32), 0)


@triton.jit
def tally_kernel(
    values, places, out,
    itemsize: tl.constexpr, mask: tl.constexpr, beyond: tl.constexpr,
    low_0: tl.constexpr, low_1: tl.constexpr, low_2: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Tallies the values of one matrix that are looked at.

    Args:
        values: int64, (programs, COLUMNS): a table as `weibull_monitor.measure.kernels.table.looked_at` makes it.
        places: int32: how far values lie from their matrix's address, in elements, where they are not evenly spaced.
        out: int64, (programs, 3, SLOTS + 1): as `weibull_monitor.measure.grid.tally` returns it. What is 0 is not written.
        itemsize: Bytes of a value.
        mask: The bits of |w|.
        beyond: The lowest bit pattern of |w| that is not finite.
        low_0: Bits of the mantissa below the first grid; 0 if that is not coarser than the dtype. So are the next two.
        low_1: Of the second.
        low_2: Of the third.
        block: Values that are looked at together.
    """
    program = tl.program_id(0)
    values += program * COLUMNS
    address = tl.load(values + ADDRESS)
    step = tl.load(values + STEP)
    first = tl.load(values + FIRST)
    number = tl.load(values + NUMBER)
    place = tl.arange(0, PLACES)
    sums_0 = tl.full((PLACES,), 0, tl.int32)
    sums_1 = tl.full((PLACES,), 0, tl.int32)
    sums_2 = tl.full((PLACES,), 0, tl.int32)
    for start in range(0, number, block):
        at = start + tl.arange(0, block)  # (block,), like all that follow
        valid = at < number
        offset = at.to(tl.int64) * step
        if step == 0:
            offset = tl.load(places + first + at, mask=valid, other=0).to(tl.int64)
        if itemsize == 2:
            where = address.to(tl.pointer_type(tl.int16)) + offset
        else:
            where = address.to(tl.pointer_type(tl.int32)) + offset
        bits = tl.load(where, mask=valid, other=0).to(tl.int32) & mask
        usable = (bits != 0) & (bits < beyond)  # beyond are Inf and NaN
        if low_0 > 0:
            sums_0 += _slots_of(bits, usable, low_0)
        if low_1 > 0:
            sums_1 += _slots_of(bits, usable, low_1)
        if low_2 > 0:
            sums_2 += _slots_of(bits, usable, low_2)
    out += program * 3 * (SLOTS + 1) + place
    here = place <= SLOTS
    if low_0 > 0:
        tl.store(out, sums_0.to(tl.int64), mask=here)
    if low_1 > 0:
        tl.store(out + SLOTS + 1, sums_1.to(tl.int64), mask=here)
    if low_2 > 0:
        tl.store(out + 2 * (SLOTS + 1), sums_2.to(tl.int64), mask=here)
