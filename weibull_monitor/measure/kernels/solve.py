"""The kernel that turns counts into fits: one program per row, everything in float64, one launch for all rows.

It computes what `weibull_monitor.measure.plain.solve` does, which also says where the formulas are from. There the bins of all
rows lie side by side in tensors; here a program goes over the used blocks of its row, once for each sum that needs the sums
before.
"""

# The annotations of a kernel are read by Triton: they cannot be strings.
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

import triton
import triton.language as tl

from weibull_monitor.measure.kernels.evidence import rough_triples

BLOCK = 512
"""Bins that a program looks at together: eight octaves."""
WARPS = 4


@triton.jit
def _f64(value: tl.constexpr):
    """A constant in float64; as a bare number beside another scalar it would be rounded to float32."""
    return tl.full((), value, tl.float64)


@triton.jit
def _clamp(x, low, high):
    return tl.minimum(tl.maximum(x, low), high)


@triton.jit
def _bins(counts, edges, start, before, n, finite: tl.constexpr, block: tl.constexpr):
    """A block of bins from ``start`` on, of which ``before`` values are below.

    Returns:
        The count of each, ln|w| at both edges, F at both edges, whether it is a bin at all, (block,) each; and the number of
        values up to the end of the block.
    """
    at = start + tl.arange(0, block)
    valid = at < finite
    count = tl.load(counts + 1 + at, mask=valid, other=0)
    x0 = tl.load(edges + at, mask=valid, other=0.0)
    x1 = tl.load(edges + at + 1, mask=valid, other=1.0)
    upto = before + tl.cumsum(count, 0)
    f0 = (upto - count).to(tl.float64) / n
    f1 = upto.to(tl.float64) / n
    return count, x0, x1, f0, f1, valid, before + tl.sum(count, 0)


@triton.jit
def _points(x0, x1, f0, f1):
    """The part of each bin within the fitted range: F, ln|w| and ln(-ln(1 - F)) at both ends, (block,) each.

    And by how much the mean of the last differs from that of a line between the ends.
    """
    f_low = _f64(0.1)
    f_high = _f64(0.9)
    fa = _clamp(f0, f_low, f_high)
    fb = _clamp(f1, f_low, f_high)
    step = tl.maximum(f1 - f0, _f64(1e-300))
    xa = x0 + (x1 - x0) * _clamp((fa - f0) / step, _f64(0.0), _f64(1.0))
    xb = x0 + (x1 - x0) * _clamp((fb - f0) / step, _f64(0.0), _f64(1.0))
    # Across an empty bin F stands still and ln|w| goes on.
    xb = tl.where((f0 == f1) & (fa > f_low) & (fa < f_high), x1, xb)
    ha = -tl.log(1.0 - fa)
    hb = -tl.log(1.0 - fb)
    y_more = (fb - fa) * (1.0 / ((1.0 - fa) * ha) - 1.0 / ((1.0 - fb) * hb)) / 12.0
    return fa, fb, xa, xb, tl.log(ha), tl.log(hb), y_more


@triton.jit
def _in_bin(x0, x1, centre):
    """Mean and mean square of |w| within each bin, in units of exp(centre), with ln|w| uniform within it."""
    low = tl.exp(_clamp(x0 - centre, _f64(-300.0), _f64(300.0)))
    high = tl.exp(_clamp(x1 - centre, _f64(-300.0), _f64(300.0)))
    return (high - low) / (x1 - x0), (high * high - low * low) / (2.0 * (x1 - x0))


@triton.jit
def _influences(x0, x1, f0, f1, x_mean, y_mean, k, sxx, at_lambda):
    """F at both ends of each piece, and the influence of the piece on k and on ln λ."""
    fa, fb, xa, xb, ya, yb, _ = _points(x0, x1, f0, f1)
    ka = ((ya - y_mean) - 2.0 * k * (xa - x_mean)) / sxx
    kb = ((yb - y_mean) - 2.0 * k * (xb - x_mean)) / sxx
    dx = (xb - xa) / 0.8
    return fa, fb, (ka + kb) / 2.0 * dx, (2.0 + at_lambda * (ka + kb)) / 2.0 * dx


@triton.jit
def _integral(df, ua, ub, va, vb):
    """Integral of u·v, both linear in F between the ends of each piece; six times it."""
    return tl.sum(df * (2.0 * ua * va + 2.0 * ub * vb + ua * vb + ub * va), 0)


@triton.jit
def _log_gamma_and_derivatives(x):
    """ln Γ(x), ψ(x), ψ'(x) for x > 0: Stirling's series at x + 10, and back by recurrence (DLMF 5.5, 5.11, 5.15)."""
    log_product = _f64(0.0)
    psi = _f64(0.0)
    psi1 = _f64(0.0)
    for _ in tl.static_range(10):
        log_product += tl.log(x)
        psi -= 1.0 / x
        psi1 += 1.0 / (x * x)
        x += 1.0
    r = 1.0 / x
    q = r * r
    log_x = tl.log(x)
    log_gamma = (x - 0.5) * log_x - x + 0.9189385332046727 - log_product
    log_gamma += r * (1.0 / 12 - q * (1.0 / 360 - q * (1.0 / 1260 - q * (1.0 / 1680 - q * (1.0 / 1188)))))
    psi += log_x - 0.5 * r - q * (1.0 / 12 - q * (1.0 / 120 - q * (1.0 / 252 - q * (1.0 / 240 - q * (1.0 / 132)))))
    psi1 += r * (1.0 + 0.5 * r + q * (1.0 / 6 - q * (1.0 / 30 - q * (1.0 / 42 - q * (1.0 / 30 - q * (5.0 / 66))))))
    return log_gamma, psi, psi1


@triton.jit
def _or_nan(x, usable):
    """The value, or NaN where it is not usable or not finite."""
    return tl.where(usable & (tl.abs(x) < float("inf")), x, float("nan"))


@triton.jit
def _likeliest_power(
    counts, edges, first, last, n, centre, log_mean, k, finite: tl.constexpr, block: tl.constexpr
):  # fmt: skip
    """The likeliest shape of a Weibull distribution by three steps of Newton from k, and ln E[|w|^shape] there.

    Both in units of exp(centre), with ``log_mean`` the mean of ln|w| in them.
    """
    lane = tl.arange(0, block)
    power = tl.where(k > 1e-3, k, _f64(1e-3))
    log_e0 = _f64(0.0)
    for iteration in range(4):  # the last only sums
        e0 = _f64(0.0)
        e1 = _f64(0.0)
        e2 = _f64(0.0)
        for start in range(first, last, block):
            valid = start + lane < finite  # (block,), like all that follow
            share = tl.load(counts + 1 + start + lane, mask=valid, other=0).to(tl.float64) / n
            x0 = tl.load(edges + start + lane, mask=valid, other=0.0)
            x1 = tl.load(edges + start + lane + 1, mask=valid, other=0.0)
            u = tl.where(valid, (x0 + x1) / 2.0 - centre, log_mean)
            e = share * tl.exp(power * (u - log_mean))
            e0 += tl.sum(e, 0)
            e1 += tl.sum(e * u, 0)
            e2 += tl.sum(e * u * u, 0)
        log_e0 = tl.log(e0) + power * log_mean
        if iteration < 3:
            value = e1 / e0 - log_mean - 1.0 / power
            power -= value / (e2 / e0 - (e1 / e0) * (e1 / e0) + 1.0 / (power * power))
            power = tl.maximum(power, _f64(1e-3))
    return power, log_e0


@triton.jit(do_not_specialize=["row_stride"])
def solve_kernel(
    counts, rows, edges, levels, hashes, out, rough, row_stride,
    finite: tl.constexpr, width: tl.constexpr, measures: tl.constexpr, n_levels: tl.constexpr,
    level_10: tl.constexpr, level_50: tl.constexpr, level_90: tl.constexpr, level_999: tl.constexpr,
    min_values: tl.constexpr, min_bins: tl.constexpr, clear: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Fits one row of counts.

    Args:
        counts: int64, (rows, row_stride).
        rows: int64, (programs, 2): the row of ``counts`` that each program solves, and the row of ``out`` it writes.
        edges: float64, (finite + 1,): ln|w| at the edges of the bins.
        levels: float64, (n_levels,): the shares at which quantiles are taken.
        hashes: int64, (finite + 2,): the hash of each column, for the fingerprint.
        out: float64, (…, width): as `weibull_monitor.measure.choose.solve` returns it.
        rough: int64, (…, 2): as `weibull_monitor.measure.grid.roughness` returns it, in the rows of ``out``.
        row_stride: Elements between two rows of ``counts``.
        finite: Finite bins.
        width: Columns of ``out``.
        measures: Columns before the quantiles.
        n_levels: Number of levels.
        level_10: Place of 0.1 among the levels; so are the next three.
        level_50: Place of 0.5.
        level_90: Place of 0.9.
        level_999: Place of 0.999.
        min_values: Fewer values than this give no fit.
        min_bins: Fewer occupied bins than this give no fit.
        clear: Whether to set the row of counts to zero for the next sample.
        block: Bins that are looked at together.
    """
    program = tl.program_id(0)
    counts += tl.load(rows + 2 * program) * row_stride
    written = tl.load(rows + 2 * program + 1)
    out += written * width
    lane = tl.arange(0, block)  # (block,): bins that are looked at together
    nan = _f64(float("nan"))
    zero = _f64(0.0)
    one = _f64(1.0)
    tiny = _f64(1e-300)

    # First pass: which blocks are in use, how many values there are, the fingerprint, and by how much neighbours differ. The
    # others go from `first` to `last`.
    zeros = tl.load(counts)
    nonfinite = tl.load(counts + 1 + finite)
    checksum = zeros * tl.load(hashes) + nonfinite * tl.load(hashes + 1 + finite)
    values = tl.full((), 0, tl.int64)
    triples = tl.full((), 0, tl.int64)
    parts = tl.full((), 0, tl.int64)
    first = finite
    last = 0
    for start in range(0, finite, block):
        valid = start + lane < finite
        count = tl.load(counts + 1 + start + lane, mask=valid, other=0)
        here = tl.sum(count, 0)
        if here > 0:
            checksum += tl.sum(count * tl.load(hashes + 1 + start + lane, mask=valid, other=0), 0)
            values += here
            more_triples, more_parts = rough_triples(counts, start + lane, count, valid)
            triples += more_triples
            parts += more_parts
            first = tl.minimum(first, start)
            last = start + block
    n = values.to(tl.float64)
    tl.store(rough + 2 * written, triples)
    tl.store(rough + 2 * written + 1, parts)

    # Second pass: means of both coordinates over the fitted range, and the quantiles.
    x_mean = zero
    y_mean = zero
    occupied = tl.full((), 0, tl.int32)
    q10 = nan
    q50 = nan
    q90 = nan
    q999 = nan
    before = tl.full((), 0, tl.int64)
    for start in range(first, last, block):
        f_start = before.to(tl.float64) / n
        count, x0, x1, f0, f1, valid, before = _bins(counts, edges, start, before, n, finite, block)
        f_end = before.to(tl.float64) / n
        fa, fb, xa, xb, ya, yb, y_more = _points(x0, x1, f0, f1)
        df = (fb - fa) / 0.8
        x_mean += tl.sum(df * (xa + xb), 0) / 2.0
        y_mean += tl.sum(df * ((ya + yb) / 2.0 + y_more), 0)
        occupied += tl.sum(((df > 0.0) & (count > 0)).to(tl.int32), 0)
        # A level is in one block only: there it is interpolated linearly in F within its bin.
        for level in range(n_levels):
            p = tl.load(levels + level)
            if (f_start < p) & (p <= f_end):
                bin = tl.sum((f1 < p).to(tl.int32), 0)
                here = lane == bin
                f_a = tl.sum(tl.where(here, f0, 0.0), 0)
                f_b = tl.sum(tl.where(here, f1, 0.0), 0)
                x_a = tl.sum(tl.where(here, x0, 0.0), 0)
                x_b = tl.sum(tl.where(here, x1, 0.0), 0)
                share = (p - f_a) / tl.maximum(f_b - f_a, tiny)
                share = tl.minimum(tl.maximum(share, zero), one)
                q = x_a + (x_b - x_a) * share
                tl.store(out + measures + level, q)
                q10 = tl.where(level == level_10, q, q10)
                q50 = tl.where(level == level_50, q, q50)
                q90 = tl.where(level == level_90, q, q90)
                q999 = tl.where(level == level_999, q, q999)
    if values == 0:
        for level in range(n_levels):
            tl.store(out + measures + level, nan)

    # Third pass, around the means: sums of the regression, and moments in units of the median, so that no scale overflows.
    sxx = zero
    sxy = zero
    syy = zero
    mean = zero
    square = zero
    log_mean = zero
    before = tl.full((), 0, tl.int64)
    for start in range(first, last, block):
        count, x0, x1, f0, f1, valid, before = _bins(counts, edges, start, before, n, finite, block)
        fa, fb, xa, xb, ya, yb, y_more = _points(x0, x1, f0, f1)
        df = (fb - fa) / 0.8
        square_more = y_more * (ya + yb - 2.0 * y_mean)
        xa -= x_mean
        xb -= x_mean
        ya -= y_mean
        yb -= y_mean
        sxx += _integral(df, xa, xb, xa, xb) / 6.0
        sxy += _integral(df, xa, xb, ya, yb) / 6.0 + tl.sum(df * (xa + xb) * y_more, 0) / 2.0
        syy += _integral(df, ya, yb, ya, yb) / 6.0 + tl.sum(df * square_more, 0)
        share = count.to(tl.float64) / n
        mean_in_bin, square_in_bin = _in_bin(x0, x1, q50)
        mean += tl.sum(share * mean_in_bin, 0)
        square += tl.sum(share * square_in_bin, 0)
        log_mean += tl.sum(share * ((x0 + x1) / 2.0 - q50), 0)
    usable = (values >= min_values) & (occupied >= min_bins)
    k = tl.where(usable, sxy / sxx, nan)
    log_lambda = x_mean - y_mean / k
    lambda_ = tl.exp(log_lambda)
    at_lambda = y_mean / (k * k)

    # Fourth pass, with the fit: influence of all values, distance to the fitted distribution, variance of ln|w|, Lorenz curve.
    whole_k = zero
    whole_l = zero
    ks = zero
    largest = _f64(-1e300)
    log_var = zero
    lorenz_sum = zero
    lorenz = zero
    before = tl.full((), 0, tl.int64)
    for start in range(first, last, block):
        count, x0, x1, f0, f1, valid, before = _bins(counts, edges, start, before, n, finite, block)
        fa, fb, on_k, on_l = _influences(x0, x1, f0, f1, x_mean, y_mean, k, sxx, at_lambda)
        whole_k += tl.sum(on_k, 0)
        whole_l += tl.sum(on_l, 0)
        fitted0 = 1.0 - tl.exp(-tl.exp(k * (x0 - log_lambda)))
        fitted1 = 1.0 - tl.exp(-tl.exp(k * (x1 - log_lambda)))
        apart = tl.maximum(tl.abs(f0 - fitted0), tl.abs(f1 - fitted1))
        ks = tl.maximum(ks, tl.max(tl.where(valid, apart, 0.0), 0))
        largest = tl.maximum(largest, tl.max(tl.where(valid & (count > 0), x1, -1e300), 0))
        share = count.to(tl.float64) / n
        u = (x0 + x1) / 2.0 - q50
        d = u - log_mean
        log_var += tl.sum(share * (d * d + (x1 - x0) * (x1 - x0) / 12.0), 0)
        mean_in_bin, square_in_bin = _in_bin(x0, x1, q50)
        part = share * mean_in_bin / mean
        to_here = lorenz + tl.cumsum(part, 0)
        lorenz_sum += tl.sum(share * (2.0 * to_here - part), 0)
        lorenz += tl.sum(part, 0)

    # Standard errors: `ahead` and `behind` are the influence of one value at the lower and upper end of each piece.
    first_k = zero
    first_l = zero
    second_k = zero
    second_l = zero
    past_k = zero
    past_l = zero
    before = tl.full((), 0, tl.int64)
    for start in range(first, last, block):
        count, x0, x1, f0, f1, valid, before = _bins(counts, edges, start, before, n, finite, block)
        fa, fb, on_k, on_l = _influences(x0, x1, f0, f1, x_mean, y_mean, k, sxx, at_lambda)
        behind = whole_k - past_k - tl.cumsum(on_k, 0)
        ahead = behind + on_k
        first_k += tl.sum((fb - fa) * (ahead + behind), 0) / 2.0
        second_k += tl.sum((fb - fa) * (ahead * ahead + ahead * behind + behind * behind), 0) / 3.0
        past_k += tl.sum(on_k, 0)
        behind = whole_l - past_l - tl.cumsum(on_l, 0)
        ahead = behind + on_l
        first_l += tl.sum((fb - fa) * (ahead + behind), 0) / 2.0
        second_l += tl.sum((fb - fa) * (ahead * ahead + ahead * behind + behind * behind), 0) / 3.0
        past_l += tl.sum(on_l, 0)
    first_k += 0.1 * whole_k
    first_l += 0.1 * whole_l
    var_k = tl.maximum(second_k + 0.1 * whole_k * whole_k - first_k * first_k, zero) / n
    var_l = tl.maximum(second_l + 0.1 * whole_l * whole_l - first_l * first_l, zero) / n

    power, log_e0 = _likeliest_power(counts, edges, first, last, n, q50, log_mean, k, finite, block)
    # Mean log-likelihoods at their maximum; of the gamma distribution by Minka's approximation and one step of Newton.
    aic_weibull = tl.log(power) - log_e0 + (power - 1.0) * log_mean - 1.0
    aic_lognormal = -0.5 * tl.log(6.283185307179586 * log_var) - 0.5 - log_mean
    s = tl.log(mean) - log_mean
    shape = (3.0 - s + tl.sqrt((s - 3.0) * (s - 3.0) + 24.0 * s)) / (12.0 * s)
    log_gamma, psi, psi1 = _log_gamma_and_derivatives(shape)
    shape -= (tl.log(shape) - psi - s) / (1.0 / shape - psi1)
    log_gamma, psi, psi1 = _log_gamma_and_derivatives(shape)
    aic_gamma = shape * tl.log(shape / mean) - log_gamma + (shape - 1.0) * log_mean - shape

    # Zeros belong to the RMS and to Gini. The columns are those of `weibull_monitor.measure.plain.solve.Column`.
    zeros_f = zeros.to(tl.float64)
    kept = n / (n + zeros_f)
    rms = tl.sqrt(square * kept) * tl.exp(q50)
    rms = tl.where(values == 0, tl.where(zeros > 0, zero, nan), rms)
    tl.store(out + 0, k)
    tl.store(out + 1, lambda_)
    tl.store(out + 2, tl.where(usable, sxy * sxy / (sxx * syy), nan))
    tl.store(out + 3, tl.where(usable, tl.sqrt(var_k), nan))
    tl.store(out + 4, tl.where(usable, lambda_ * tl.sqrt(var_l), nan))
    tl.store(out + 5, tl.where(usable, ks, nan))
    tl.store(out + 6, n)
    tl.store(out + 7, zeros_f)
    tl.store(out + 8, nonfinite.to(tl.float64))
    tl.store(out + 9, rms)
    tl.store(out + 10, tl.exp(q90 - q10))
    tl.store(out + 11, tl.exp(q999 - q50))
    tl.store(out + 12, tl.where(values == 0, nan, 1.0 - kept * lorenz_sum))
    tl.store(out + 13, _or_nan(4.0 - 2.0 * n * (aic_weibull - q50), usable))
    tl.store(out + 14, _or_nan(4.0 - 2.0 * n * (aic_lognormal - q50), usable))
    tl.store(out + 15, _or_nan(4.0 - 2.0 * n * (aic_gamma - q50), usable))
    tl.store(out + 16, occupied.to(tl.float64))
    tl.store(out + 17, (checksum & ((1 << 52) - 1)).to(tl.float64))
    tl.store(out + 18, tl.where(values == 0, nan, tl.exp(largest)))

    if clear:
        tl.debug_barrier()  # every thread has read the row before any empties it
        tl.store(counts, tl.full((), 0, tl.int64))
        tl.store(counts + 1 + finite, tl.full((), 0, tl.int64))
        for start in range(first, last, block):
            tl.store(counts + 1 + start + lane, tl.full((block,), 0, tl.int64), mask=start + lane < finite)
