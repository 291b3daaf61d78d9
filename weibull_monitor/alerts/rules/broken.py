"""What cannot be right: `nonfinite`, `dead`, `unchanged`, `optimizer_reset`."""

from __future__ import annotations

import numpy as np

from weibull_monitor.alerts.rules.result import RuleResult, rule_result
from weibull_monitor.alerts.settings import Dead, Nonfinite, OptimizerReset, Unchanged
from weibull_monitor.alerts.statistics import Floats, quiet
from weibull_monitor.alerts.window import SampleWindow

LARGE = 1024
"""Of fewer elements than this none may happen to cross the edge of a bin."""
COMPARED = ("k", "lambda", "r2", "rms", "zeros")
"""Columns that are equal, to nine digits, if the counts are equal."""


def nonfinite(window: SampleWindow, settings: Nonfinite) -> RuleResult:
    """Inf or NaN among the values of a matrix: the run will not recover from it."""
    count = window.now("nonfinite")
    return rule_result(
        strength=count,
        severity=3,
        quantity="Inf and NaN",
        value=count,
        low=0.0,
        high=0.0,
        meaning="It holds Inf or NaN, which spreads at the next forward pass: stop, go back to a checkpoint from before, and "
        "look at the batch and at the gradient norm of the steps since the sample before",
    )


def dead(window: SampleWindow, settings: Dead) -> RuleResult | None:
    """A matrix that has become zero, wholly or in part. One that begins as zeros, as the B of LoRA does, is none."""
    if len(window.steps) < 2:
        return None
    zeros, before = window.now("zeros"), window["zeros"][:-1]
    with quiet():
        whole = (zeros >= window.facts.numel) & (np.nanmin(before, axis=0) < window.facts.numel)
        usual = _usual(before)
        allowed = settings.jump + settings.factor * usual
        strength = np.where(whole, 1e6, (zeros - usual) / allowed)
        share = zeros / window.facts.numel
    return rule_result(
        strength=np.where(window.facts.trainable, strength, 0.0),
        severity=np.where(whole | (share > 0.5) & (usual < 0.25 * window.facts.numel), 3, 2).astype(np.int8),
        quantity="share of zeros",
        value=share,
        high=np.minimum(1.0, (usual + allowed) / window.facts.numel),
        meaning="So large a share of its values became exactly zero at once: look for a head, an expert or a piece of a "
        "checkpoint that was erased, a mask, or values that have underflowed",
    )


def _usual(before: Floats) -> Floats:
    """The second lowest count of zeros of the last samples: what a jump has not touched yet."""
    second: Floats = np.sort(before[-8:], axis=0)[min(1, len(before) - 1)]
    return second


def unchanged(window: SampleWindow, settings: Unchanged) -> RuleResult | None:
    """A trainable matrix whose fit is the same, digit by digit, for several intervals, while its η is not low."""
    if len(window.steps) <= settings.intervals:
        return None
    if not (window.now("rms") == window.before("rms")).any():
        return None  # what holds nearly always is told quickly
    same = np.ones((len(window.steps) - 1, len(window.facts)), dtype=bool)
    for name in COMPARED:
        values = window[name]
        same &= (values[1:] == values[:-1]) | (np.isnan(values[1:]) & np.isnan(values[:-1]))
    same &= np.isfinite(window["zeros"][1:])
    path = window["eta_sum"]
    same &= ~(
        path[1:] == path[:-1]
    )  # without a step nothing moves; where Σ η is not known, steps are taken to be taken
    intervals = np.cumprod(same[::-1], axis=0).sum(axis=0)  # the unbroken run up to the latest sample
    first = np.array(window.steps)[len(window.steps) - 1 - intervals]
    steps = np.where(intervals > 0, window.step - first, 0)
    strength = np.minimum(intervals / settings.intervals, steps / settings.steps)
    return rule_result(
        strength=np.where(window.moving & (window.facts.numel >= LARGE), strength, 0.0),
        severity=2,
        quantity="steps without a change",
        value=steps.astype(float),
        meaning=lambda i: (
            f"Not one of its values has moved to another bin in {steps[i]} steps, though η is {window.now('eta')[i]:.3g}: it "
            "gets no gradient, or its updates are lost in rounding (bf16 weights without a master copy)"
        ),
    )


def optimizer_reset(window: SampleWindow, settings: OptimizerReset) -> RuleResult:
    """The optimizer's own state was emptied or replaced by a younger one since the sample before.

    Neither k nor λ has to show it; its step count does (`weibull_monitor.scaling.resets`). The first sample that has it is told.
    """
    before, now = window.reset
    struck = np.where(window.facts.trainable, float(now > before), 0.0)
    return rule_result(
        strength=struck,
        severity=2,
        quantity="matrices",
        value=np.full(len(struck), float(now)),
        high=0.0,
        meaning="The optimizer that steps them has lost its state: its moments begin anew and its steps are of another size for "
        "a while. Look at whether the checkpoint's optimizer was loaded, and into this optimizer",
    )
