"""λ and the RMS against what the optimizer can do, and against their own past: `impossible_change`, `scale_shift`,
`scale_runaway`, `scale_stall`."""

from __future__ import annotations

from typing import Final

import numpy as np

from weibull_monitor.alerts.rules.movement import MIN_INTERVALS, shift_result, usual_movement
from weibull_monitor.alerts.rules.result import RuleResult, graded, rule_result
from weibull_monitor.alerts.rules.words import SE_LAMBDA, apart, cause_of
from weibull_monitor.alerts.settings import ImpossibleChange, ScaleRunaway, ScaleShift, ScaleStall
from weibull_monitor.alerts.statistics import median_of, quiet, spread_of
from weibull_monitor.alerts.window import SampleWindow

EARLY_PROGRESS: Final = 0.05
"""Change of the RMS, as a share of Σ η, that counts as usual for a matrix with few past intervals."""
COMMON: Final = 0.5
"""Share of ``z`` that is enough if half of all matrices move in the same direction, or if η has jumped."""
COARSE: Final = 1e-4
"""Dtypes with a larger precision than this (bf16, fp16) may double a step by rounding."""
IN_BINS: Final = 0.02
"""Resolution of the RMS, times √n: values may lie anywhere in bins of 1 %, which is 0.0045 of noise between two samples."""
ON_GRIDS: Final = 2e-5
"""Resolution of the RMS beside that: a few values on a grid that do not fill their bins are not noticed."""
SPEED_SAMPLES: Final = 15
"""Samples that `scale_stall` looks at."""


def impossible_change(window: SampleWindow, settings: ImpossibleChange) -> RuleResult | None:
    """The RMS moved further since the previous sample than the optimizer can have moved it.

    By the triangle inequality |ΔRMS| ≤ RMS(Δw) ≤ Σ_t η_t(|u|_max + λ_wd·RMS), with |u|_max of
    `weibull_monitor.scaling.optimizers`. Beyond that is an error. Gradients reach Adam's bound only while they keep growing; with
    gradients of a steady size the mean of u² is at most about 1 (Σ g²/v telescopes: A. Défossez et al., "A Simple Convergence
    Proof of Adam and Adagrad", 2020, lemma 5.2). Beyond ``sustained`` times that, and within the bound, is a warning. Rounding
    to bf16 or fp16 can at most double a step. The RMS is computed from bins: what they cannot tell apart is no change.
    """
    if len(window.steps) < 2:
        return None
    rms, before = window.now("rms"), window.before("rms")  # all arrays: (components,)
    precision = window.components.precision
    with quiet():
        path = window.now("eta_sum") - np.nan_to_num(window.before("eta_sum"), nan=0.0)
        path = np.where(path > 0, path, np.nan)  # Σ η over the interval
        # The larger λ_wd and RMS of both ends bound those of every step between.
        decay = np.nan_to_num(np.fmax(window.now("weight_decay"), window.before("weight_decay")), nan=0.0)
        resolution = ON_GRIDS + IN_BINS / np.sqrt(np.fmax(window.components.numel, 1.0))
        rest = (path * decay + precision + resolution) * np.fmax(rms, before)
        bound = np.fmax(window.now("update_max"), window.before("update_max"))
        rounding = np.where(precision > COARSE, 2.0, 1.0)
        certain = path * bound * rounding + rest
        likely = path * np.minimum(bound, settings.sustained) * rounding + rest
        moved = np.abs(rms - before)
        strength = moved / likely
    return rule_result(
        strength=np.where(window.components.trainable, strength, 0.0),
        severity=graded(moved, (likely, likely, certain)),
        quantity="RMS",
        value=rms,
        low=np.maximum(0.0, before - likely),
        high=before + likely,
        meaning=lambda i: (
            f"The RMS went from {' to '.join(apart(before[i], rms[i]))} since step {window.steps[-2]}; "
            + ("no optimizer step" if moved[i] > certain[i] else "optimizer steps with gradients of a steady size")
            + f" at this η can move it by more than {(certain if moved[i] > certain[i] else likely)[i]:.2g}. "
            + cause_of(window, i, strength >= 1.0)
        ),
    )


def scale_shift(window: SampleWindow, settings: ScaleShift) -> RuleResult | None:
    """λ moved in a way that is unusual for this matrix, at a learning rate that is not higher than before.

    Half of ``z`` is enough if half of the attention and feed-forward matrices move in the same direction at the same sample,
    which noise does not do, or if η has jumped. λ may grow quickly when a matrix begins to learn, but it falls no faster than
    weight decay makes it: a fall is compared with past falls and Σ ηλ_wd alone, with the λ_wd of the sample before.
    """
    if len(window.steps) < MIN_INTERVALS + 2:
        return None
    components = window.components
    with quiet():
        move = usual_movement(window, "log lambda", settings.lookback)
        # The least usual size: noise of the fit, a floor, and the early progress of a matrix with few intervals of this length.
        noise = SE_LAMBDA * window.now("k_se") / window.now("k")
        bounded = np.isfinite(window.now("update_max"))
        early = np.where(bounded, EARLY_PROGRESS * window.now("work") / window.now("rms"), EARLY_PROGRESS)
        least = noise**2 + settings.floor**2 + (early / (1.0 + move.alike) ** 2) ** 2
        usual = np.sqrt(move.size**2 + least)
        z = (move.last - move.centre) / usual  # (components,)
        # A fall has its own usual size, about 0: past falls and weight decay. The more unusual of the two counts.
        falls = np.minimum(move.past, 0.0)  # (intervals, components)
        decay = np.nan_to_num(window.before("weight_decay") * window.now("work"), nan=0.0)
        usual_fall = np.sqrt(median_of(falls**2) + spread_of(falls, median_of(falls)) ** 2 + decay**2 + least)
        fallen = np.isfinite(move.centre) & (move.last < 0.0) & (np.abs(move.last) / usual_fall > np.abs(z))
        usual, centre = np.where(fallen, usual_fall, usual), np.where(fallen, 0.0, move.centre)
        z = (move.last - centre) / usual
        # A common movement of many matrices.
        of_body = z[components.body & components.trainable]
        common = float(median_of(of_body[:, None])[0]) if len(of_body) > MIN_INTERVALS else 0.0
        together = (np.sign(z) * common >= COMMON * settings.z) & components.body
        needed = settings.z * np.where(together | window.jumped, COMMON, 1.0)
    now, before = window.now("lambda"), window.before("lambda")
    return shift_result(
        window,
        "log lambda",
        (move.last, centre, usual),
        (needed, settings.change),
        components.trainable & window.warm,
        "λ",
        lambda i: (
            f"λ went from {before[i]:.4g} to {now[i]:.4g} since step {window.steps[-2]}; a usual change in this time is "
            f"{100 * centre[i]:+.1f} %. η is {_known(window, 'eta', i)} and λ_wd {_known(window, 'weight_decay', i)}: check "
            "that these are the values you set. If they are, check the last batches and, after a resumption, the checkpoint."
        ),
    )


def scale_runaway(window: SampleWindow, settings: ScaleRunaway) -> RuleResult | None:
    """λ is far above what the same learning rates give the other matrices.

    c = √(λ² - λ₀²·exp(-2S))/√I (`weibull_monitor.scaling.budget`) is similar in all matrices of a model whose steps have the
    size η. A matrix whose c is ``ratio`` times the median was pushed in one direction, or rescaled.
    """
    components = window.components
    body = components.body & components.trainable
    if len(window.steps) < MIN_INTERVALS + 2 or body.sum() <= MIN_INTERVALS:
        return None
    with quiet():
        grown = window.now("lambda") ** 2 - window.baseline["lambda"] ** 2 * np.exp(-2.0 * window.now("decay"))
        c = np.where(
            np.isfinite(window.now("update_max")), np.sqrt(grown / window.now("budget")), np.nan
        )  # (components,)
        usual = float(median_of(c[body][:, None])[0])
        strength = c / (settings.ratio * usual)
    return rule_result(
        strength=np.where(body & window.warm & (c > 1.0), strength, 0.0),
        severity=2,
        quantity="budget ratio c",
        value=c,
        high=settings.ratio * usual,
        meaning="λ has grown much further than in the other matrices for the same steps. Check the learning rate of this "
        "matrix, the attention logits if it is a W_q or W_k, and whether it was rescaled.",
    )


def scale_stall(window: SampleWindow, settings: ScaleStall) -> RuleResult | None:
    """A matrix that has nearly stopped moving though its η is not low; `unchanged` is the exact case.

    Speed is the movement of k and ln λ in standard errors, over Σ η in units of the RMS. The larger speed of the last two
    intervals is compared with the median of the twelve before.
    """
    if len(window.steps) < settings.history + 3:
        return None
    with quiet():
        columns = ("k", "lambda", "k_se", "rms", "work")
        k, scale, error, rms, work = (window[c][-SPEED_SAMPLES:] for c in columns)  # each (samples, components)
        by_shape = np.diff(k, axis=0) / error[1:]
        by_scale = np.diff(np.log(scale), axis=0) / (SE_LAMBDA * error[1:] / k[1:])
        speed = np.hypot(by_shape, by_scale) * rms[1:] / work[1:]  # (intervals, components)
        usual, now = median_of(speed[:-2]), np.fmax(speed[-1], speed[-2])
        share = now / usual
        strength = settings.share / np.maximum(share, 1e-3 * settings.share)
    return rule_result(
        strength=np.where(window.moving & window.warm & window.components.body & (now > 0), strength, 0.0),
        severity=2,
        quantity="share of the usual speed",
        value=share,
        low=settings.share,
        meaning="k and λ move at only this share of their usual speed, although η is not low. Check for updates lost in rounding "
        "(bf16 weights without a master copy), a parameter group with a wrong learning rate, and a vanished gradient.",
    )


def _known(window: SampleWindow, column: str, index: int) -> str:
    value = window.now(column)[index]
    return f"{value:.3g}" if np.isfinite(value) else "not known"
