"""Counts to fits: the middle-80 % probability plot of every row of counts at once, in float64.

The plot is the curve (ln |w|, ln(-ln(1 - F))); k is its least-squares slope over 0.1 <= F <= 0.9 and lambda the |w| at which the
line crosses zero (T. Ding, arXiv:2605.18898, 2026). At a bin edge the empirical F is exact, so the edges are exact
points of the plot. Between two edges both coordinates are taken as linear in F and the sums of the regression are the
integrals of those products; the range is closed by interpolating at F = 0.1 and F = 0.9.

Values on a grid do not fill their bins. Of such rows mean and variance of |w| within each bin are known
(`weibull_monitor.measure.grid`): the line through the bin gets the same, and y is integrated over its mass by quadrature.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from functools import cache

import torch
from torch import Tensor

from weibull_monitor.measure.bins import Bins, middles_of, place_bits
from weibull_monitor.measure.weibull import F_HIGH, F_LOW
from weibull_monitor.measure.weibull import LEVELS as LEVELS
from weibull_monitor.model.upload import on_device

MIN_VALUES = 100
"""Fewer usable values than this give no fit: se(k) would exceed 0.13."""
MIN_BINS = 5
"""Fewer occupied bins than this between F = 0.1 and 0.9 give no fit: there is no line through so few steps."""
ELEMENTS_AT_ONCE = {"cpu": 1 << 15, "other": 1 << 18}
"""Bins solved together, over all rows: a temporary stays in the cache of a CPU core, or within 2 MiB on an accelerator."""


class Column(IntEnum):
    """What the first columns of `solve`'s result hold; ln|w| at `LEVELS` follows."""

    K = 0
    LAMBDA = 1
    R2 = 2
    K_SE = 3
    LAMBDA_SE = 4
    KS = 5
    N = 6
    ZEROS = 7
    NONFINITE = 8
    RMS = 9
    Q90_Q10 = 10
    P999_P50 = 11
    GINI = 12
    AIC_WEIBULL = 13
    AIC_LOGNORMAL = 14
    AIC_GAMMA = 15
    OCCUPIED = 16
    CHECKSUM = 17
    LARGEST = 18


RESULT_COLUMNS = len(Column) + len(LEVELS)
"""Numbers in the result of a row."""


def solve_on_device(counts: Tensor, bins: Bins, trim: bool, offsets: Tensor | None = None) -> Tensor:
    """Like `weibull_monitor.measure.solve`, on the device of the counts.

    Args:
        counts: int64, shape (rows, bins.columns): zeros, finite bins, non-finite.
        bins: The layout of the counts.
        trim: Whether to leave out bins below the first and above the last that any row uses. That is less work, but a device
            would have to be waited for.
        offsets: Where the values lie within their bins, as `weibull_monitor.measure.grid.measure_offsets` returns it; None if
            they fill them.
    """
    edges = _edges(bins, counts.device)  # (bins.finite + 1,)
    first, last = 0, bins.finite
    if trim:
        used = counts[:, 1:-1].sum(dim=0).nonzero()  # much faster than `any`
        first, last = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 1)
    log_edges = edges[first : last + 1].log()  # (bins + 1,), where bins = last - first
    if offsets is None and bins.shift == 0:  # a bin of fp8 is a single value
        offsets = torch.zeros_like(counts).unsqueeze(1).repeat(1, 2, 1)
        offsets[:, 0, 0] = counts[:, 1:-1].sum(dim=1)
    out = counts.new_empty(len(counts), RESULT_COLUMNS, dtype=torch.float64)
    # Some rows at a time, so that temporaries of (rows, bins) stay in the cache.
    at_once = ELEMENTS_AT_ONCE["cpu" if counts.device.type == "cpu" else "other"]
    rows_at_once = max(1, at_once // (last - first))
    for row in range(0, len(counts), rows_at_once):
        part = slice(row, row + rows_at_once)
        finite = counts[part, 1 + first : 1 + last].double()  # (rows, bins)
        out[part, Column.ZEROS] = counts[part, 0].double()
        out[part, Column.NONFINITE] = counts[part, -1].double()
        out[part, Column.CHECKSUM] = _checksum(counts[part], slice(1 + first, 1 + last))
        within = None if offsets is None else _positions(offsets[part], finite, log_edges, bins, first)
        _solve_rows(finite, log_edges, within, out[part])
    return out


@dataclass(frozen=True)
class _Positions:
    """Where the values of rows lie within their bins, (rows, bins) each.

    Attributes:
        shift: Middle of the values less middle of the bin, in ln|w|.
        spread: Width that an even distribution of the same variance has, in widths of the bin.
        log_mean: Logarithm of the mean of |w|.
        variance: Variance of |w|, in units of the square of its mean.
    """

    shift: Tensor
    spread: Tensor
    log_mean: Tensor
    variance: Tensor


def _positions(offsets: Tensor, count: Tensor, x: Tensor, bins: Bins, first: int) -> _Positions:
    """What offsets (rows, 2, bins.columns) say of the bins from ``first`` on, whose log edges are ``x`` (bins + 1,)."""
    used = slice(first, first + len(x) - 1)
    middle, width = (of_all[used] for of_all in _middles(bins, x.device))  # (bins,) each
    n = count.clamp(min=1.0)
    known = (offsets[:, 0, :1] / count.sum(dim=1, keepdim=True).clamp(min=1.0)).clamp(max=1.0)  # (rows, 1)
    mean, square = (offsets[:, moment, 1:-1][:, used] / n for moment in (0, 1))  # (rows, bins) each, in half steps
    # Both in widths of the bin. A value that was not looked at may be anywhere: on average in the middle, with variance 1/12.
    steps = 2.0 ** (place_bits(bins) + 1)
    mean = mean / steps
    variance = (square / steps - known / 3.0 / steps) / steps + 1.0 / 12.0 - mean * mean
    moved = mean * (width / middle)  # as a share of the middle
    log_mean = moved.log1p() + middle.log()
    # The middle of a bin that is filled evenly in ln|w| is not quite the logarithm of its middle.
    shift = moved.log1p() + known * (middle.log() - (x[1:] + x[:-1]) / 2.0)
    variance = variance.clamp(min=0.0)
    return _Positions(shift, (12.0 * variance).sqrt(), log_mean, variance * (width / middle / (1.0 + moved)) ** 2)


def _solve_rows(count: Tensor, x: Tensor, within: _Positions | None, out: Tensor) -> None:
    """Fills in the results of some rows.

    Args:
        count: Values in each bin, (rows, bins).
        x: Log edges, (bins + 1,).
        within: Where the values lie within their bins; None if they fill them.
        out: (rows, RESULT_COLUMNS).
    """
    n = count.sum(dim=1, keepdim=True)  # (rows, 1)
    # The share of values below each edge is exact, because a bin holds all values between two edges. NaN where n = 0.
    f = torch.nn.functional.pad(count.cumsum(dim=1), (1, 0)) / n  # (rows, bins + 1)

    # The part of each bin within the fitted range: from F = fa at ln|w| = xa to F = fb at xb. Bins outside of it get fa = fb,
    # so they have no weight below. Where an end of the range cuts a bin, ln|w| is interpolated linearly in F.
    fa, fb = f[:, :-1].clamp(F_LOW, F_HIGH), f[:, 1:].clamp(F_LOW, F_HIGH)  # (rows, bins) each
    width, step = x[1:] - x[:-1], (f[:, 1:] - f[:, :-1]).clamp(min=1e-300)  # (bins,), (rows, bins)
    xa = x[:-1] + width * ((fa - f[:, :-1]) / step).clamp(0.0, 1.0)
    xb = x[:-1] + width * ((fb - f[:, :-1]) / step).clamp(0.0, 1.0)
    # Across an empty bin within the range F stands still and ln|w| goes on; without weight, but not without influence.
    xb = torch.where((count == 0) & (fa > F_LOW) & (fa < F_HIGH), x[1:], xb)
    ha, hb = -(-fa).log1p(), -(-fb).log1p()  # (rows, bins) each, like all that follow
    ya, yb = ha.log(), hb.log()  # ln(-ln(1 - F)), the other coordinate of the plot
    df = (fb - fa) / (F_HIGH - F_LOW)  # (rows, bins): the weight of each bin; the sum over a row is 1
    # y is not linear in F: by how much do the means of y and y² over each piece differ from those of a line between its ends?
    if within is None:  # pieces are short: the next term of the formula of Euler and Maclaurin
        y_more = (fb - fa) * (1.0 / ((1.0 - fa) * ha) - 1.0 / ((1.0 - fb) * hb)) / 12.0
        square_more = y_more * (ya + yb)
    else:
        xa, xb = (_moved(ends, x, count, within) for ends in (xa, xb))
        y_more, square_more = _more_than_linear(fa, fb, ya, yb)

    def integral(ua: Tensor, ub: Tensor, va: Tensor, vb: Tensor) -> Tensor:
        """Mean over the range of u·v, both linear in F between the ends of each piece, (rows, 1)."""
        return (df * (2 * ua * va + 2 * ub * vb + ua * vb + ub * va)).sum(1, keepdim=True) / 6.0

    # The regression of y on x. Both are centred first: squares of large coordinates would cancel each other.
    x_mean = (df * (xa + xb)).sum(1, keepdim=True) / 2.0  # (rows, 1), like all that follow
    y_mean = (df * ((ya + yb) / 2.0 + y_more)).sum(1, keepdim=True)
    xa, xb, ya, yb = xa - x_mean, xb - x_mean, ya - y_mean, yb - y_mean
    sxx = integral(xa, xb, xa, xb)
    sxy = integral(xa, xb, ya, yb) + (df * (xa + xb) * y_more).sum(1, keepdim=True) / 2.0
    syy = integral(ya, yb, ya, yb) + (df * (square_more - 2.0 * y_mean * y_more)).sum(1, keepdim=True)
    occupied = ((df > 0) & (count > 0)).sum(1, keepdim=True)
    usable = (n >= MIN_VALUES) & (occupied >= MIN_BINS)
    k = torch.where(usable, sxy / sxx, torch.nan)
    log_lambda = x_mean - y_mean / k  # the line crosses y = 0 at |w| = λ
    lambda_ = log_lambda.exp()

    # Standard errors by the delta method: each estimate is a linear functional of the quantile function x(F), which a
    # sample moves by a Brownian bridge (A. W. van der Vaart, Asymptotic Statistics, 1998, §21).
    def standard_error(at_a: Tensor, at_b: Tensor) -> Tensor:
        """Of a functional with these derivatives by x at both ends of each piece, (rows, 1)."""
        piece = (at_a + at_b) / 2.0 * (xb - xa) / (F_HIGH - F_LOW)  # (rows, bins): influence that each piece adds
        added = piece
        if within is not None:  # and the jump of ln|w| from its upper end to the next piece
            jump = (at_b[:, :-1] + at_a[:, 1:]) / 2.0 * (xa[:, 1:] - xb[:, :-1]) / (F_HIGH - F_LOW)
            inside = (fb > F_LOW) & (fb < F_HIGH)
            added = piece + torch.nn.functional.pad(jump, (0, 1)).where(inside, 0.0)
        after = added.flip(1).cumsum(1).flip(1)  # influence of one value at the lower end of each piece
        before = after - piece  # and at its upper end; linear in F between the two
        whole = after[:, :1]  # of a value below the range
        first = ((fb - fa) * (after + before)).sum(1, keepdim=True) / 2.0 + F_LOW * whole  # mean over all values
        second = ((fb - fa) * (after * after + after * before + before * before)).sum(1, keepdim=True) / 3.0
        return ((second + F_LOW * whole * whole - first * first).clamp(min=0.0) / n).sqrt()

    # Derivatives of k = sxy / sxx, and of ln λ = x_mean - y_mean / k through k.
    ka, kb = (ya - 2 * k * xa) / sxx, (yb - 2 * k * xb) / sxx  # (rows, bins)
    at_lambda = y_mean / (k * k)

    out[:, Column.K] = k[:, 0]
    out[:, Column.LAMBDA] = lambda_[:, 0]
    out[:, Column.R2] = (sxy * sxy / (sxx * syy))[:, 0].where(usable[:, 0], torch.nan)
    out[:, Column.K_SE] = standard_error(ka, kb)[:, 0]
    out[:, Column.LAMBDA_SE] = (lambda_ * standard_error(1 + at_lambda * ka, 1 + at_lambda * kb))[:, 0]
    out[:, Column.KS] = (f - (1 - (-((k * (x - log_lambda)).exp())).exp())).abs().amax(1)
    out[:, Column.N] = n[:, 0]
    out[:, Column.OCCUPIED] = occupied[:, 0].double()
    _statistics(count, x, f, k, within, out)


def _moved(ends: Tensor, x: Tensor, count: Tensor, within: _Positions) -> Tensor:
    """Ends of pieces (rows, bins) where the values lie instead of where they would if they filled their bins."""
    middle = (x[1:] + x[:-1]) / 2.0
    return torch.where(count > 0, middle + (ends - middle) * within.spread + within.shift, ends)


_NODES = ((0.0, 128 / 225), (0.5384693101056831, 0.47862867049936647), (0.906179845938664, 0.23692688505618908))
"""The quadrature of Gauss and Legendre with five points on (-1, 1): those from 0 on, and their weights."""


def _more_than_linear(fa: Tensor, fb: Tensor, ya: Tensor, yb: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of y and of y² over each piece, less those of a line between its ends, for pieces of many values."""
    middle, half = (fa + fb) / 2.0, (fb - fa) / 2.0
    mean, square = torch.zeros_like(fa), torch.zeros_like(fa)
    for node, weight in _NODES:
        for at in {node, -node}:
            y = (-(-(middle + at * half)).log1p()).log()
            mean += weight / 2.0 * y
            square += weight / 2.0 * y * y
    return mean - (ya + yb) / 2.0, square - (ya * ya + ya * yb + yb * yb) / 3.0


def _statistics(count: Tensor, x: Tensor, f: Tensor, k: Tensor, within: _Positions | None, out: Tensor) -> None:
    """Fills in the other statistics of the same counts, with |w| taken as log-uniform within a bin that it fills.

    Args:
        count: Values in each bin, (rows, bins).
        x: Log edges, (bins + 1,).
        f: Share of values below each edge, (rows, bins + 1).
        k: Fitted shape, (rows, 1); NaN where there is none.
        within: Where the values lie within their bins; None if they fill them.
        out: (rows, RESULT_COLUMNS).
    """
    n = count.sum(1, keepdim=True)  # (rows, 1)
    # The upper edge of the last bin that holds a value: no value is above it.
    out[:, Column.LARGEST] = torch.where(count > 0, x[1:], -math.inf).amax(1).exp().where(n[:, 0] > 0, torch.nan)
    share = count / n  # (rows, bins)
    middle, width = (x[:-1] + x[1:]) / 2.0, x[1:] - x[:-1]  # (bins,) each
    log_q = _log_quantiles(_levels(f.device), f, x).where(n > 0, torch.nan)  # (rows, levels)
    out[:, len(Column) :] = log_q
    q10, q50, q90, q999 = (log_q[:, LEVELS.index(level)] for level in (0.1, 0.5, 0.9, 0.999))  # (rows,) each
    out[:, Column.Q90_Q10] = (q90 - q10).exp()
    out[:, Column.P999_P50] = (q999 - q50).exp()

    # Moments in units of the median, so that no scale overflows: mean and mean square of |w| within each bin are
    # ∫ exp(u) du and ∫ exp(2u) du over the bin, divided by its width.
    centre = q50.unsqueeze(1)  # (rows, 1)
    low, high = (x[:-1] - centre).clamp(-300, 300).exp(), (x[1:] - centre).clamp(-300, 300).exp()  # (rows, bins)
    mean_in_bin, square_in_bin = (high - low) / width, (high * high - low * low) / (2 * width)
    if within is not None:
        mean_in_bin = (within.log_mean - centre).clamp(-300, 300).exp()  # (rows, bins)
        square_in_bin = mean_in_bin * mean_in_bin * (1.0 + within.variance)
        middle = middle + within.shift
    zeros = out[:, Column.ZEROS].unsqueeze(1)
    kept = n / (n + zeros)  # (rows, 1): the share of non-zero values, since zeros belong to the RMS and to Gini
    square = (share * square_in_bin).sum(1, keepdim=True)
    out[:, Column.RMS] = ((square * kept).sqrt() * centre.exp())[:, 0]
    out[:, Column.RMS] = torch.where(n[:, 0] == 0, torch.where(zeros[:, 0] > 0, 0.0, torch.nan), out[:, Column.RMS])

    # Gini is 1 - 2·(area below the Lorenz curve), here by trapezoids over the bins.
    mean = (share * mean_in_bin).sum(1, keepdim=True)
    lorenz = torch.nn.functional.pad((share * mean_in_bin).cumsum(1), (1, 0)) / mean  # (rows, bins + 1)
    out[:, Column.GINI] = (1 - kept * (share * (lorenz[:, 1:] + lorenz[:, :-1])).sum(1, keepdim=True))[:, 0]

    for column, log_likelihood in _log_likelihoods(share, middle - centre, width, mean, k).items():
        # Akaike's criterion 2·2 - 2 ln L. The density of |w| / exp(centre) is that of |w| times exp(centre).
        aic = 4 - 2 * n * (log_likelihood - centre)
        out[:, column] = aic[:, 0].where(k[:, 0].isfinite() & aic[:, 0].isfinite(), torch.nan)


def _log_likelihoods(share: Tensor, u: Tensor, width: Tensor, mean: Tensor, k: Tensor) -> dict[Column, Tensor]:
    """Mean log-likelihood of three two-parameter distributions at their maximum, (rows, 1), by the column of their AIC.

    Args:
        share: Share of the values in each bin, (rows, bins).
        u: ln|w| in the middle of each bin's values, in units of the median, (rows, bins).
        width: Width of each bin in ln|w|, (bins,).
        mean: Mean of |w| in units of the median, (rows, 1).
        k: Fitted shape, (rows, 1): where the search for the likeliest shape begins.
    """
    # Log-normal: mean and variance of ln|w|, the variance within a bin included.
    log_mean = (share * u).sum(1, keepdim=True)  # (rows, 1)
    log_var = (share * ((u - log_mean) ** 2 + width**2 / 12)).sum(1, keepdim=True)
    lognormal = -0.5 * (2 * torch.pi * log_var).log() - 0.5 - log_mean

    # Gamma: the likeliest shape solves ln(shape) - ψ(shape) = s. Minka (2002) approximates it; then one step of Newton.
    s = mean.log() - log_mean
    shape = (3 - s + ((s - 3) ** 2 + 24 * s).sqrt()) / (12 * s)
    shape = shape - (shape.log() - shape.digamma() - s) / (1 / shape - torch.polygamma(1, shape))
    gamma = shape * (shape / mean).log() - shape.lgamma() + (shape - 1) * log_mean - shape

    # Weibull: the likeliest shape solves E[u·|w|^power] / E[|w|^power] - E[u] = 1 / power; three steps of Newton.
    power = k.clamp(min=1e-3)
    for _ in range(3):
        e = share * (power * (u - log_mean)).exp()  # (rows, bins)
        e0, e1, e2 = e.sum(1, keepdim=True), (e * u).sum(1, keepdim=True), (e * u * u).sum(1, keepdim=True)
        value = e1 / e0 - log_mean - 1 / power
        power = (power - value / (e2 / e0 - (e1 / e0) ** 2 + 1 / power**2)).clamp(min=1e-3)
    e0 = (share * (power * u).exp()).sum(1, keepdim=True)
    weibull = power.log() - e0.log() + (power - 1) * log_mean - 1
    return {Column.AIC_WEIBULL: weibull, Column.AIC_LOGNORMAL: lognormal, Column.AIC_GAMMA: gamma}


def _log_quantiles(p: Tensor, f: Tensor, x: Tensor) -> Tensor:
    """ln|w| at the shares ``p`` (m,), shape (rows, m): linear in F between the edges."""
    f = f.nan_to_num(0.0)  # (rows, bins + 1); rows without values are searched too
    # The edge at or above each share, and the one before it.
    upper = torch.searchsorted(f, p.expand(len(f), -1).contiguous()).clamp(1, f.shape[1] - 1)
    f0, f1 = f.gather(1, upper - 1), f.gather(1, upper)
    return x[upper - 1] + (x[upper] - x[upper - 1]) * ((p - f0) / (f1 - f0).clamp(min=1e-300)).clamp(0, 1)


def _checksum(counts: Tensor, used: slice) -> Tensor:
    """A 52-bit fingerprint of each row, exact in float64: equal counts give equal ones.

    The sum of the counts times a hash of their column, over zeros, non-finite values and the ``used`` bins; others are empty.
    The sum wraps around in int64, and its low 52 bits are kept.
    """
    mixed = _hashes(counts.shape[1], counts.device)
    total = (counts[:, used] * mixed[used]).sum(1) + counts[:, 0] * mixed[0] + counts[:, -1] * mixed[-1]
    return (total & ((1 << 52) - 1)).double()


@cache
def hashes(columns: int) -> Tensor:
    """A hash of each column, int64 (columns,): what the counts are multiplied by for their fingerprint."""
    mixed = torch.arange(1, columns + 1, dtype=torch.int64, device="cpu") * 0x5851F42D4C957F2D
    return (mixed ^ (mixed >> 29)) * 0x14057B7EF767814F


# Constants are sent to a device once: a copy of so many bytes may wait for what is queued there.


@cache
def _edges(bins: Bins, device: torch.device) -> Tensor:
    return on_device(bins.edges, device)


@cache
def _middles(bins: Bins, device: torch.device) -> tuple[Tensor, ...]:
    return tuple(on_device(of_all, device) for of_all in middles_of(bins))


@cache
def _levels(device: torch.device) -> Tensor:
    return on_device(torch.tensor(LEVELS, dtype=torch.float64, device="cpu"), device)


@cache
def _hashes(columns: int, device: torch.device) -> Tensor:
    return on_device(hashes(columns), device)
