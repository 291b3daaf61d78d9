"""The kernel that counts |w|: all matrices of a dtype and device in one launch, one read of each element, integer adds only.

Each program goes through some consecutive tiles. Tiles of one row are counted in shared memory, in `WINDOW` bins around where
weights lie, and added to the row in global memory when the program comes to another row. Values outside of the window, which a
tile hardly ever has, go to their bin one by one, so that every integer is exact whatever the values are. Integers add in any
order: the result is deterministic.

Tiles that are aligned and full are read in 16-byte vectors: a 16-bit dtype as 32-bit words that hold two values. What is left
over at the end of a piece, and pieces of odd strides, are read value by value under a mask.

There are two ways to make a histogram. `triton.language.histogram` makes a new one for every tile; before Triton 3.7 it uses warp
ballots, whose cost grows with the number of bins. So on NVIDIA GPUs the bins are declared and added to in PTX, with one
shared-memory atomic per value, whatever the version of Triton. AMD GPUs and Triton's interpreter take the first way.
"""

# The annotations of a kernel are read by Triton: they cannot be strings.
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

import triton
import triton.language as tl

from weibull_monitor.measure.kernels import table

WINDOW = 2048
"""Bins that are counted in shared memory: 32 octaves of 64."""
CHUNK = 1024
"""Elements of a tile that are read one by one at a time, where that has to be."""
WARPS = 4

# The bins in PTX: add one to bin $1, read it, read it and set it to zero.
_ADD: tl.constexpr = tl.constexpr(
    "{ .reg .u32 a; mov.u32 a, weibull_bins; mad.lo.u32 a, $1, 4, a; red.shared.add.u32 [a], 1; mov.u32 $0, 0; }"
)
_GET: tl.constexpr = tl.constexpr(
    "{ .reg .u32 a; mov.u32 a, weibull_bins; mad.lo.u32 a, $1, 4, a; ld.shared.u32 $0, [a]; }"
)
_TAKE: tl.constexpr = tl.constexpr(
    "{ .reg .u32 a; mov.u32 a, weibull_bins; mad.lo.u32 a, $1, 4, a; ld.shared.u32 $0, [a]; st.shared.u32 [a], 0; }"
)

# The columns of the table of pieces, and its layouts, as a kernel can see them.
ADDRESS: tl.constexpr = tl.constexpr(table.ADDRESS)
BEGIN: tl.constexpr = tl.constexpr(table.BEGIN)
END: tl.constexpr = tl.constexpr(table.END)
RUN: tl.constexpr = tl.constexpr(table.RUN)
STRIDE: tl.constexpr = tl.constexpr(table.STRIDE)
FIRST_TILE: tl.constexpr = tl.constexpr(table.FIRST_TILE)
LAYOUT: tl.constexpr = tl.constexpr(table.LAYOUT)
FIRST_ROW: tl.constexpr = tl.constexpr(table.FIRST_ROW)
DENSE: tl.constexpr = tl.constexpr(table.DENSE)
RUNS: tl.constexpr = tl.constexpr(table.RUNS)
ODD: tl.constexpr = tl.constexpr(table.ODD)


def declared(window: int) -> str:
    """PTX that makes room for the bins, and gives a zero; its one place in a kernel is at the beginning."""
    return f".shared .align 16 .b32 weibull_bins[{window}]; mov.u32 $0, 0;"


@triton.jit
def _add_outside(
    bits, valid, zeros, counts, piece, row_stride,
    low: tl.constexpr, limit: tl.constexpr, shift: tl.constexpr, mask: tl.constexpr, finite: tl.constexpr,
    rows: tl.constexpr,
):  # fmt: skip
    """Adds values outside of the window to their bins, one by one: the smallest, the largest, Inf and NaN.

    Zeros may be many: returns ``zeros`` (chunk,) with those of each place added.
    """
    magnitude = bits & mask  # (chunk,)
    pattern = magnitude >> shift
    outside = valid & ((pattern < low) | (pattern >= low + limit))
    some = outside & (magnitude != 0)
    # Whatever lies beyond the finite bins is Inf or NaN, in the last column.
    column = 1 + tl.minimum(pattern, finite)
    one = tl.full(bits.shape, 1, counts.dtype.element_ty)
    for place in tl.static_range(rows):
        row = tl.load(piece + FIRST_ROW + place)
        if row >= 0:
            tl.atomic_add(counts + row * row_stride + column, one, mask=some, sem="relaxed")
    return zeros + (outside & (magnitude == 0)).to(tl.int32)


@triton.jit
def _add_window(
    total, bins, zeros, counts, piece, row_stride, low: tl.constexpr, limit: tl.constexpr, rows: tl.constexpr
):  # fmt: skip
    """Adds the histogram of the window, ``total`` (window,), and ``zeros`` to every row that a piece is counted into."""
    # The last bin, `limit`, holds values outside of the window: `_add_outside` has added them, or they are zeros.
    some = (total > 0) & (bins < limit)
    for place in tl.static_range(rows):
        row = tl.load(piece + FIRST_ROW + place)
        if row >= 0:
            to = counts + row * row_stride
            tl.atomic_add(to, zeros.to(counts.dtype.element_ty), mask=zeros > 0, sem="relaxed")  # column 0
            tl.atomic_add(to + 1 + low + bins, total.to(counts.dtype.element_ty), mask=some, sem="relaxed")


@triton.jit(do_not_specialize=["row_stride"])
def count_kernel(
    pieces, starts, counts, row_stride,
    itemsize: tl.constexpr, shift: tl.constexpr, finite: tl.constexpr, low: tl.constexpr, limit: tl.constexpr,
    tile: tl.constexpr, chunk: tl.constexpr, window: tl.constexpr, columns: tl.constexpr, rows: tl.constexpr,
    declare: tl.constexpr,
):  # fmt: skip
    """Counts the tiles of one program.

    Args:
        pieces: int64, (pieces + 1, columns): what there is to count, as `weibull_monitor.measure.kernels.table` makes it.
        starts: int64, (programs + 1, 2): the first tile of each program, and the piece that this tile is in.
        counts: int64, (rows, row_stride): zeros, finite bins, non-finite; added to.
        row_stride: Elements between two rows of ``counts``.
        itemsize: Bytes of a value: 2 or 4.
        shift: Mantissa bits that are dropped.
        finite: Finite bins.
        low: The pattern at which the window begins, at least 1.
        limit: Patterns in the window, less than ``window``.
        tile: Elements of a tile.
        chunk: Elements that are read one by one at a time.
        window: Bins of the histogram, a power of two.
        columns: Columns of ``pieces``.
        rows: Rows that a piece may be counted into.
        declare: `declared` for bins in shared memory of its own; empty for Triton's histogram.
    """
    mask: tl.constexpr = 0x7FFF if itemsize == 2 else 0x7FFFFFFF
    each: tl.constexpr = 4 // itemsize  # values in a word of 32 bits
    n_words: tl.constexpr = tile // each
    own: tl.constexpr = declare != ""
    vector: tl.constexpr = 4 * each  # values in 16 bytes

    program = tl.program_id(0)
    at = tl.load(starts + program * 2)
    piece = pieces + tl.load(starts + program * 2 + 1) * columns
    end = tl.load(starts + program * 2 + 2)
    bins = tl.arange(0, window)  # (window,)
    lane = tl.arange(0, n_words)  # (n_words,): a tile in words of 32 bits
    if own:
        # `none` is a zero that only the declaration gives, so that nothing is moved before it. Taking empties the bins.
        none = tl.inline_asm_elementwise(declare, "=r,r", [row_stride], dtype=tl.int32, is_pure=False, pack=1)
        tl.inline_asm_elementwise(_TAKE, "=r,r", [bins], dtype=tl.int32, is_pure=False, pack=1)
        tl.debug_barrier()
    # One turn for each piece that the tiles `at` to `end` touch.
    while at < end:
        first = tl.load(piece + FIRST_TILE)
        stop = tl.minimum(end, tl.load(piece + columns + FIRST_TILE))
        address = tl.load(piece + ADDRESS)
        piece_begin = tl.load(piece + BEGIN)
        piece_end = tl.load(piece + END)
        layout = tl.load(piece + LAYOUT)
        run = tl.load(piece + RUN)
        stride = tl.load(piece + STRIDE)
        total = tl.zeros((window,), tl.int32)  # the histogram of this piece
        zeros = tl.zeros((chunk,), tl.int32)  # its zeros that are seen one by one
        whole = tl.full((), 0, tl.int32)  # and those of whole tiles
        seen = tl.full((), 0, tl.int32)
        # One turn for each tile of the piece.
        while at < stop:
            begin = piece_begin + (at - first) * tile
            one_by_one = layout == ODD
            if layout != ODD:
                words = tl.multiple_of(address.to(tl.pointer_type(tl.int32)), 16)
                if layout == DENSE:
                    word = tl.load(words + (begin // vector) * 4 + lane)  # so that it is seen to be aligned
                else:
                    # Runs of whole vectors: the vector that holds each group of four words, then the words.
                    group = (begin // vector).to(tl.int32) + tl.arange(0, n_words // 4)
                    a_run = (run // vector).to(tl.int32)
                    start = (group // a_run) * (stride // vector) + group % a_run
                    word = tl.load(words + (start * 4)[:, None] + tl.arange(0, 4)[None, :])
                    word = tl.reshape(word, (n_words,))
                # The place of each value in the window; `limit` for those above it, and for those below: the subtraction wraps.
                below = (((word & mask) >> shift) - low).to(tl.uint32, bitcast=True)
                below = tl.minimum(below, limit).to(tl.int32, bitcast=True)
                above = ((((word >> 16) & mask) >> shift) - low).to(tl.uint32, bitcast=True)
                above = tl.minimum(above, limit).to(tl.int32, bitcast=True)
                if own:
                    tl.inline_asm_elementwise(_ADD, "=r,r", [below], dtype=tl.int32, is_pure=False, pack=1)
                    if itemsize == 2:
                        tl.inline_asm_elementwise(_ADD, "=r,r", [above], dtype=tl.int32, is_pure=False, pack=1)
                    tl.debug_barrier()
                    outside = tl.inline_asm_elementwise(
                        _GET, "=r,r", [none + limit], dtype=tl.int32, is_pure=False, pack=1
                    )
                    tl.debug_barrier()  # all have read it before anyone adds to it
                    more = outside - seen
                    seen = outside
                    one_by_one = more > 0
                    # Many weights may be zeros: where all that is outside of the window is one, nothing is read again.
                    if one_by_one:
                        empty = ((word & mask) == 0).to(tl.int32)
                        if itemsize == 2:
                            empty += (((word >> 16) & mask) == 0).to(tl.int32)
                        here = tl.sum(empty, 0)
                        one_by_one = here != more
                        if here == more:
                            whole += here
                else:
                    if itemsize == 2:
                        found = tl.histogram(tl.reshape(tl.join(below, above), (tile,)), window)
                    else:
                        found = tl.histogram(below, window)
                    total += found
                    one_by_one = tl.sum(tl.where(bins == limit, found, 0), 0) > 0
            # A tile that is odd, or has values outside of the window, is read again value by value.
            if one_by_one:
                until = tl.minimum(begin + tile, piece_end)
                while begin < until:
                    index = begin + tl.arange(0, chunk)
                    valid = index < until
                    offset = index
                    if layout != DENSE:  # a division of 64 bits takes longer than all the rest
                        offset = (index // run) * stride + index % run
                    if itemsize == 2:
                        bits = tl.load(address.to(tl.pointer_type(tl.int16)) + offset, mask=valid, other=0).to(tl.int32)
                    else:
                        bits = tl.load(address.to(tl.pointer_type(tl.int32)) + offset, mask=valid, other=0)
                    if layout == ODD:  # those in the window are not counted yet
                        inside = (((bits & mask) >> shift) - low).to(tl.uint32, bitcast=True)
                        inside = tl.minimum(inside, limit).to(tl.int32, bitcast=True)
                        if own:
                            tl.inline_asm_elementwise(_ADD, "=r,r", [inside], dtype=tl.int32, is_pure=False, pack=1)
                        else:
                            total += tl.histogram(inside, window)
                    zeros = _add_outside(
                        bits, valid, zeros, counts, piece, row_stride, low, limit, shift, mask, finite, rows
                    )
                    begin += chunk
            at += 1
        if own:
            tl.debug_barrier()
            total = tl.inline_asm_elementwise(_TAKE, "=r,r", [bins], dtype=tl.int32, is_pure=False, pack=1)
            tl.debug_barrier()
        _add_window(total, bins, whole + tl.sum(zeros, 0), counts, piece, row_stride, low, limit, rows)
        piece += columns
