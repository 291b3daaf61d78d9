"""What was done to a few elements of each matrix since they were last read, in one launch, and without a view of any of them."""

# The annotations of a kernel are read by Triton: they cannot be strings.
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

import triton
import triton.language as tl

WARPS = 2


@triton.jit(do_not_specialize=["rows", "size", "step"])
def compare_kernel(addresses, offsets, last, sums, rows, size, step, block: tl.constexpr, of_step: tl.constexpr):
    """Reads the elements of one row, adds their squared distance to the sums, and keeps them.

    Args:
        addresses: int64, (rows,): where the matrix of each row begins.
        offsets: int64, (rows, size): how far its elements are from there, in elements.
        last: The elements as they were read last, (rows, size).
        sums: float32, (SUMS, rows): the sums of `weibull_monitor.measure.kernels.table`.
        rows: How many rows there are.
        size: Elements of a row, at most ``block``.
        step: The number of steps taken.
        block: Elements that a program can read, a power of two.
        of_step: Whether a step lies between both readings, or anything else.
    """
    row = tl.program_id(0)
    at = tl.arange(0, block)  # (block,), as all of the elements
    valid = at < size
    address = tl.load(addresses + row).to(tl.pointer_type(last.dtype.element_ty))
    now = tl.load(address + tl.load(offsets + row * size + at, mask=valid, other=0), mask=valid, other=0.0)
    last += row * size + at
    distance = now.to(tl.float32) - tl.load(last, mask=valid, other=0.0).to(tl.float32)
    tl.store(last, now, mask=valid)
    squares = tl.sum(distance * distance, 0)
    changed = (squares > 0.0).to(tl.float32)
    sums += row
    if of_step:
        tl.store(sums + 3 * rows, tl.load(sums + 3 * rows) + squares)
        tl.store(sums + 4 * rows, tl.load(sums + 4 * rows) + changed)
    else:
        tl.store(sums, tl.load(sums) + squares)
        tl.store(sums + rows, tl.load(sums + rows) + changed)
        largest = tl.load(sums + 5 * rows)
        after = tl.load(sums + 2 * rows)
        tl.store(sums + 2 * rows, tl.where(squares > largest, step.to(tl.float32), after))
        tl.store(sums + 5 * rows, tl.maximum(largest, squares))
