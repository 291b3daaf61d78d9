"""`scale_shift`, with jumps of the scale that are unlike all that a matrix ever did: most of all of embeddings and heads.

Embeddings, output heads and mixers are like no others, and move in their own way, so that the others of the interval say little.
But what training does to a matrix it does for a while: it goes on in the next interval. What writes to a matrix moves it once.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Final

import numpy as np

from weibull_monitor.alerts.rules.alone import largest_other
from weibull_monitor.alerts.rules.movement import MIN_INTERVALS, from_nothing
from weibull_monitor.alerts.rules.result import RuleResult, rule_result, strongest
from weibull_monitor.alerts.rules.scale import scale_shift as shift
from weibull_monitor.alerts.rules.words import SE_LAMBDA, between, unstepped
from weibull_monitor.alerts.settings import ScaleShift
from weibull_monitor.alerts.statistics import Bools, Floats, or_zero, quiet
from weibull_monitor.alerts.window import EARLY, JUMP, SampleWindow

MIN_ELEMENTS: Final = 512
"""Smaller matrices are not judged: with few values, one of them moves the scale."""
LEAST: Final = 0.08
"""|Δ ln λ| and |Δ ln RMS| of a jump, at least."""
RISE: Final = ((1.0, 16.0), (2.5, 6.0))
"""How many times the growth of any other matrix, and its own largest past movement, a jump up is; either pair is enough."""
FALL: Final = 5.2
"""How many times its own largest past movement a jump down is."""
RESTED_RISE: Final = ((1.0, 5.6), (0.0, 7.5))
"""As `RISE`, for a jump that is as many times what the matrix moved by in the next interval, too."""
RESTED_FALL: Final = 3.2
"""As `FALL`, the same …"""
RESTED_FALL_OF_BODY: Final = 4.3
"""… and for matrices of attention and feed-forward, many of which may fall in one interval."""
SCALES: Final = ("lambda", "rms")


def scale_shift(window: SampleWindow, settings: ScaleShift) -> RuleResult | None:
    """λ moved in a way that neither η, nor weight decay, nor the matrix's own past explains (`scale.scale_shift`), or jumped."""
    found = shift(window, settings)
    if found is None:
        return None
    with quiet():
        last, rested = (window.once(name, partial(_jumps, window, n)) for n, name in ((1, "jump"), (2, "rested")))
        jump = np.where(from_nothing(window), 0.0, np.fmax(last, rested))
        if not (jump >= 1.0).any():
            return found  # nearly always
    jumped = jump >= 1.0
    earlier = rested >= last
    back = np.where(earlier, window["rms"][-3], window.before("rms"))

    def meaning(i: int) -> str:
        start, end = (window.steps[-3], window.steps[-2]) if earlier[i] else (window.steps[-2], window.steps[-1])
        was, at = back[i], (window.before("rms") if earlier[i] else window.now("rms"))[i]
        furthest = window.furthest("log rms", -2 if earlier[i] else -1)[i]
        after = (
            f", and has moved by {100 * abs(window.now('rms')[i] / at - 1.0):.2g} % since step {end}"
            if earlier[i]
            else ""
        )
        return (
            f"RMS {between(was, at, start)}, by {100 * (at / was - 1.0):+.1f} %{after}; its largest change before, in such a "
            f"time, was {100 * np.expm1(furthest):.1f} %. "
            + ("Training does not jump and then rest: something" if earlier[i] else "Probably something")
            + " wrote to this matrix (a checkpoint that was loaded, an embedding that was scaled twice, an adapter that was "
            "merged). Check first what did; if it was not you, go back to the last checkpoint."
        )

    jumps = rule_result(
        np.where(jumped, type(settings).sure * jump, 0.0),
        np.where(unstepped(window), 1, 2).astype(np.int8),
        "RMS",
        window.now("rms"),
        meaning,
    )
    levels = {
        "levels": window.now("lambda")[None],
        "before": np.where(earlier & jumped, window["lambda"][-3], window.before("lambda"))[None],
        "level_names": ("λ",),
    }
    return strongest([replace(found, strength=np.where(jumped, 0.0, found.strength)), jumps], **levels)


def _jumps(window: SampleWindow, ago: int) -> Floats:
    """Strength of jumps of λ and the RMS in the last interval, or in the one before it (``ago`` 2), shape (components,).

    λ and the RMS jump together, and the one that jumped less counts. A jump in the interval before has to be far beyond what the
    matrix moved by in the last one, too.
    """
    components = window.components
    nothing = np.zeros(window.now("rms").shape)
    if len(window.steps) < MIN_INTERVALS + 2 + ago:
        return nothing
    # What weight decay takes away in proportion is no jump.
    spent = window["decay"][-ago] - window["decay"][-ago - 1]
    moved = [np.log(window[c][-ago] / window[c][-ago - 1]) + spent for c in SCALES]
    size = np.minimum(*np.abs(moved))
    outside = ~components.body & ~components.expert
    judged = components.trainable & (components.numel >= MIN_ELEMENTS) & (moved[0] * moved[1] > 0.0)
    judged &= (size >= LEAST) & (np.asarray(window.steps[-ago]) > EARLY) & window.warm
    if not judged.any():
        return nothing  # nearly always
    noise = SE_LAMBDA * window["k_se"][-ago] / window["k"][-ago]
    units = np.full(nothing.shape, np.inf)
    for column, by in zip(SCALES, moved, strict=True):
        usual = np.fmax(window.furthest(f"log {column}", -ago), noise)
        usual = np.fmax(usual, _after(window, column)) if ago > 1 else usual * _longer(window)
        units = np.minimum(units, np.abs(by) / usual)
    fell = moved[1] < 0.0
    fall, rise = (RESTED_FALL, RESTED_RISE) if ago > 1 else (FALL, RISE)
    strength = np.where(fell & outside, units / fall, 0.0)
    if ago > 1:
        strength = np.where(fell & components.body, units / RESTED_FALL_OF_BODY, strength)
    rose = judged & ~fell & outside & (units >= min(own for _, own in rise))
    if rose.any():
        grown = np.fmax(moved[1], 0.0)
        others = largest_other(grown, components.trainable & ~components.expert, components.owners)
        for alone, own in rise:
            further = np.minimum(units / own, grown / (alone * others)) if alone else units / own
            strength = np.where(rose, np.fmax(strength, or_zero(further)), strength)
    known = (np.isfinite(window["rms"]) & (window["eta_sum"] > 0.0)).sum(axis=0) > MIN_INTERVALS + ago
    return or_zero(np.where(judged & known & ~_rate_jumped(window, ago), strength, 0.0))


def _after(window: SampleWindow, column: str) -> Floats:
    """What each matrix moved by in the last interval, brought to the length of the one before, (components,)."""
    moved = np.abs(np.log(window.now(column) / window.before(column)))
    return moved * np.sqrt(np.fmax(window.before("work") / window.now("work"), 1.0))


def _longer(window: SampleWindow) -> Floats:
    """The root of how much longer the last interval is than all before, at least 1, (components,): drifts go on so."""
    work = window["work"]
    longer: Floats = np.sqrt(np.fmax(work[-1] / np.fmax.reduce(work[1:-1], axis=0), 1.0))
    return longer


def _rate_jumped(window: SampleWindow, ago: int) -> Bools:
    """Whether η of the interval was above all before it by `JUMP`, (components,)."""
    spent, steps = window["eta_sum"], np.array(window.steps)
    lengths = steps[1:] - steps[:-1]
    rates = (spent[1:] - spent[:-1]) / (lengths[:, None] if lengths.ndim == 1 else lengths)
    found: Bools = (rates[-ago] > JUMP * np.fmax.reduce(rates[:-ago], axis=0)) | (window.jumped if ago == 1 else False)
    return found
