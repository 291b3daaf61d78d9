"""λ and the RMS against what the optimizer can do, and against their own past: `impossible_change`, `scale_shift`,
`scale_runaway`, `scale_stall`."""

from __future__ import annotations

import numpy as np

from weibull_monitor.alerts.rules.result import RuleResult, graded, rule_result
from weibull_monitor.alerts.settings import ImpossibleChange, ScaleRunaway, ScaleShift, ScaleStall
from weibull_monitor.alerts.statistics import Floats, median_of, quiet, spread_of
from weibull_monitor.alerts.window import SampleWindow

SE_LAMBDA = 0.761
"""se(ln λ) in units of se(k)/k, at the normal anchor: 0.862/1.132 (`weibull.anchors`)."""
SIMILAR_RATIO = 1.5
"""An interval is as long as another if its `work` is at most so many times as much."""
EARLY_PROGRESS = 0.05
"""Change of the RMS, as a share of Σ η, that a matrix of which little is known is allowed as usual."""
BINS = 32
"""Bins of an octave (`weibull_monitor.measure.bins`): the share of a value that its bin is wide."""
CROSSED = 0.25
"""What one value that crosses the edge of a bin changes the RMS by, in units of RMS/n: its square over `BINS`, up to 2.8 RMS."""
FEW = 12.0
"""Values that may cross an edge at steps too small for any to be expected to."""
COMMON = 0.5
"""Share of ``z`` that is enough where half of all matrices show it in the same direction, or where η has jumped."""
HISTORY = 3
"""Intervals between samples that a matrix has to have behind it before one can be called unusual."""


def impossible_change(window: SampleWindow, settings: ImpossibleChange) -> RuleResult | None:
    """The RMS moved further since the sample before than the optimizer can have moved it.

    |ΔRMS| ≤ RMS(Δw) ≤ Σ_t η_t(|u|_max + λ_wd·RMS), by the triangle inequality, with |u|_max of
    `weibull_monitor.scaling.optimizers`: an
    error. Adam's bound is reached by gradients that grow without end only; while their size is steady the mean of u² is at
    most about 1 (Σ g²/v telescopes: A. Défossez et al., "A Simple Convergence Proof of Adam and Adagrad", 2020, lemma 5.2).
    What is beyond ``sustained`` times that, and within the bound, is a warning. Rounding to bf16 or fp16 can at most double a
    step. The RMS is that of bins, which moves when a value crosses an edge: of small steps it shows a few jumps.
    """
    if len(window.steps) < 2:
        return None
    rms, before = window.now("rms"), window.before("rms")
    with quiet():
        path = window.now("eta_sum") - np.nan_to_num(window.before("eta_sum"), nan=0.0)
        path = np.where(path > 0, path, np.nan)
        coarse = window.facts.precision > 1e-4
        decay = np.nan_to_num(np.fmax(window.now("weight_decay"), window.before("weight_decay")), nan=0.0)
        largest = np.fmax(rms, before)
        rest = path * decay * largest + window.facts.precision * largest
        bound = np.fmax(window.now("update_max"), window.before("update_max"))
        # A value that crosses an edge moves the RMS by up to CROSSED·RMS/n; as many cross as the path is long.
        crossings = window.facts.numel * path * np.fmin(bound, settings.sustained) / (largest / BINS)
        rest = rest + CROSSED * largest / window.facts.numel * (FEW + 6.0 * np.sqrt(crossings))
        certain = path * bound * np.where(coarse, 2.0, 1.0) + rest
        likely = path * np.minimum(bound, settings.sustained) * np.where(coarse, 2.0, 1.0) + rest
        moved = rms - before
        strength = np.abs(moved) / likely
    return rule_result(
        strength=np.where(window.facts.trainable, strength, 0.0),
        severity=graded(np.abs(moved), (likely, likely, certain)),
        quantity="RMS",
        value=rms,
        low=np.maximum(0.0, before - likely),
        high=before + likely,
        meaning=lambda i: (
            f"Its RMS went from {before[i]:.4g} to {rms[i]:.4g} since step {window.steps[-2]}, further than steps of η can carry "
            "it: something else wrote to it. Look for a mis-loaded or re-initialised layer, a rescaling, or corrupted memory"
        ),
    )


def usual_movement(window: SampleWindow, column: str, lookback: int) -> tuple[Floats, Floats, Floats, Floats]:
    """The last movement of a column, the centre and the size of what is usual, and how many past intervals are as long.

    Past movements are brought to the length of the last interval: in proportion to its `work` if that is longer, as a drift
    would go, and to the square root if it is shorter, as noise would. Usual is the root sum of squares of their robust
    spread and of their median size.

    Args:
        window: The window.
        column: Name of the column; ``log lambda`` for the logarithm of one.
        lookback: Intervals that are looked back on.

    Returns:
        Four arrays of shape (components,); the centre is NaN with fewer than `HISTORY` intervals.
    """
    if (column, lookback) in window.memo:
        known: tuple[Floats, Floats, Floats, Floats] = window.memo[column, lookback]
        return known
    values = window[column.removeprefix("log ")][-lookback - 2 :]
    work = window["work"][-lookback - 2 :][1:]
    with quiet():
        moves = np.diff(np.log(values) if column.startswith("log ") else values, axis=0)
        ratio = work[-1] / work[:-1]
        past = moves[:-1] * np.where(ratio > 1.0, ratio, np.sqrt(ratio))
        centre = median_of(past)
        size = np.sqrt(spread_of(past, centre) ** 2 + median_of(np.abs(past)) ** 2)
        enough = np.isfinite(past).sum(axis=0) >= HISTORY
        alike = (ratio <= SIMILAR_RATIO).sum(axis=0).astype(float)
        window.memo["past", column, lookback] = past
    window.memo[column, lookback] = moves[-1], np.where(enough, centre, np.nan), size, alike
    return moves[-1], np.where(enough, centre, np.nan), size, alike


def scale_shift(window: SampleWindow, settings: ScaleShift) -> RuleResult | None:
    """λ moved in a way that is not this matrix's own, at a learning rate that is not higher than it has been.

    Half of ``z`` is enough where half of the attention and feed-forward matrices show it in the same direction at the same
    sample, which noise does not do, and where η itself has jumped. λ may grow quickly when a matrix begins to learn, but it
    falls no faster than weight decay makes it: a fall is held against past falls and Σ ηλ_wd alone, with the λ_wd of before.
    """
    if len(window.steps) < HISTORY + 2:
        return None
    with quiet():
        moved, centre, size, alike = usual_movement(window, "log lambda", settings.lookback)
        noise = SE_LAMBDA * window.now("k_se") / window.now("k")
        bounded = np.isfinite(window.now("update_max"))
        young = (
            np.where(bounded, EARLY_PROGRESS * window.now("work") / window.now("rms"), EARLY_PROGRESS)
            / (1.0 + alike) ** 2
        )
        least = noise**2 + settings.floor**2 + young**2
        usual = np.sqrt(size**2 + least)
        z = (moved - centre) / usual
        falls = np.minimum(window.memo["past", "log lambda", settings.lookback], 0.0)
        decay = np.nan_to_num(window.before("weight_decay") * window.now("work"), nan=0.0)
        of_falls = np.sqrt(median_of(falls**2) + spread_of(falls, median_of(falls)) ** 2 + decay**2 + least)
        fallen = np.isfinite(centre) & (moved < 0.0) & (np.abs(moved) / of_falls > np.abs(z))
        z, usual = np.where(fallen, moved / of_falls, z), np.where(fallen, of_falls, usual)
        centre = np.where(fallen, 0.0, centre)
        of_body = z[window.facts.body & window.facts.trainable]
        common = float(median_of(of_body[:, None])[0]) if len(of_body) > HISTORY else 0.0
        together = (np.sign(z) * common >= COMMON * settings.z) & window.facts.body
        needed = settings.z * np.where(together | window.sprung, COMMON, 1.0)
        strength = np.minimum(np.abs(z) / needed, np.abs(moved - centre) / settings.change)
        now, before = window.now("lambda"), window.before("lambda")
        low, high = (before * np.exp(centre + sign * needed * usual) for sign in (-1.0, 1.0))
    return rule_result(
        strength=np.where(window.facts.trainable & window.warm, strength, 0.0),
        severity=2,
        quantity="λ",
        value=now,
        low=low,
        high=high,
        z=z,
        meaning=lambda i: (
            f"λ went from {before[i]:.4g} to {now[i]:.4g} since step {window.steps[-2]}; it had moved by {100 * centre[i]:+.1f} "
            f"% in such a time. η is {_known(window, 'eta', i)} and λ_wd {_known(window, 'weight_decay', i)}: are they what you "
            "set? If so, look for a batch or a checkpoint that broke it"
        ),
    )


def scale_runaway(window: SampleWindow, settings: ScaleRunaway) -> RuleResult | None:
    """λ far above what the learning rate that was spent gives the other matrices.

    c = √(λ² - λ₀²·exp(-2S))/√I (`weibull_monitor.scaling.budget`) is much the same in all matrices of a model that steps of
    size η move; one whose c is ``ratio`` times the median was pushed one way, or scaled.
    """
    body = window.facts.body & window.facts.trainable
    if len(window.steps) < HISTORY + 2 or body.sum() <= HISTORY:
        return None
    with quiet():
        grown = window.now("lambda") ** 2 - window.baseline["lambda"] ** 2 * np.exp(-2.0 * window.now("decay"))
        c = np.where(np.isfinite(window.now("update_max")), np.sqrt(grown / window.now("budget")), np.nan)
        usual = float(median_of(c[body][:, None])[0])
        strength = c / (settings.ratio * usual)
    return rule_result(
        strength=np.where(body & window.warm & (c > 1.0), strength, 0.0),
        severity=2,
        quantity="budget ratio c",
        value=c,
        high=settings.ratio * usual,
        meaning="λ has grown further beyond its start than the steps that were taken make the other matrices grow: look at this "
        "matrix's rate, at the attention logits if it is a W_q or W_k, and at whether something scaled it",
    )


def scale_stall(window: SampleWindow, settings: ScaleStall) -> RuleResult | None:
    """A matrix that has nearly stopped moving though its η is not low: not `unchanged`, but as good as.

    Movement is that of k and of ln λ in standard errors, over Σ η in units of the RMS; of the last two intervals the larger
    counts, and usual is the median of the last twelve before.
    """
    if len(window.steps) < settings.history + 3:
        return None
    with quiet():
        k, scale, error, rms, work = (window[c][-15:] for c in ("k", "lambda", "k_se", "rms", "work"))
        by_shape = np.diff(k, axis=0) / error[1:]
        by_scale = np.diff(np.log(scale), axis=0) / (SE_LAMBDA * error[1:] / k[1:])
        speed = np.hypot(by_shape, by_scale) * rms[1:] / work[1:]
        usual, now = median_of(speed[:-2]), np.fmax(speed[-1], speed[-2])
        share = now / usual
        strength = settings.share / np.maximum(share, 1e-3 * settings.share)
    return rule_result(
        strength=np.where(window.moving & window.warm & window.facts.body & (now > 0), strength, 0.0),
        severity=2,
        quantity="share of the usual speed",
        value=share,
        low=settings.share,
        meaning="k and λ move at this share of the speed they had, though η is not low: updates that are lost in rounding (bf16 "
        "weights without a master copy), a parameter group with a wrong rate, or a gradient that has vanished",
    )


def _known(window: SampleWindow, column: str, index: int) -> str:
    value = window.now(column)[index]
    return f"{value:.3g}" if np.isfinite(value) else "not known"
