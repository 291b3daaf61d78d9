"""Faults that need no statistics: `nonfinite`, `dead`, `unchanged`, `no_gradient`, `optimizer_reset`."""

from __future__ import annotations

from typing import Final

import numpy as np

from weibull_monitor.alerts.rules.movement import MIN_OTHERS
from weibull_monitor.alerts.rules.result import RuleResult, rule_result
from weibull_monitor.alerts.rules.words import between, last_clean
from weibull_monitor.alerts.settings import Dead, NoGradient, RuleSettings, Unchanged
from weibull_monitor.alerts.statistics import Bools, Floats, median_along, quiet, resolution
from weibull_monitor.alerts.window import CAPACITY, SampleWindow

MIN_ELEMENTS: Final = 1024
"""`unchanged` skips smaller matrices: it can happen that none of their values crosses the edge of a bin."""
LOW_RATE: Final = 0.01
"""Share of the others' η below which that of a matrix explains by itself that it stands still."""
COMPARED: Final = ("k", "lambda", "r2", "rms", "zeros")
"""Columns that are equal to nine digits if the counts are equal."""
WARMS_UP: Final = 0.5
"""Share of the η of the sample before below which a new phase has begun: a schedule that goes on falls more slowly."""
WARMED_UP: Final = 0.95
"""Mean η of an interval, as a share of the mean of both its ends, below which a warm-up lies within it. Schedules that fall
smoothly are above this until they fall by more than half in one interval."""
SMALLER_GRADIENT: Final = 10.0
"""How many times as small as before a gradient may get by itself, where a matrix stood nearly still."""
CERTAIN: Final = 1e6
"""Strength of a matrix that has become zero."""


def nonfinite(window: SampleWindow, settings: RuleSettings) -> RuleResult:
    """A matrix holds Inf or NaN: the run will not recover."""
    count = window.now("nonfinite")
    return rule_result(
        strength=count,
        severity=3,
        quantity="Inf and NaN",
        value=count,
        low=0.0,
        high=0.0,
        meaning=lambda i: (
            f"The matrix holds Inf or NaN, which the next forward pass will spread; {last_clean(window)}. "
            + (
                "All matrices have them, so the weights do not say where it began. "
                if (count[window.components.body] > 0).all()
                else ""
            )
            + "Check first the loss and the gradient norm of the steps since then. Stop, and go back to a checkpoint from then "
            "or before."
        ),
    )


def dead(window: SampleWindow, settings: Dead) -> RuleResult | None:
    """A matrix has become zero, wholly or in part. A matrix that starts as zeros, such as the B of LoRA, is not dead."""
    if len(window.steps) < 2:
        return None
    zeros, before = window.now("zeros"), window["zeros"][:-1]  # (components,), (samples, components)
    with quiet():
        whole = (zeros >= window.components.numel) & (np.fmin.reduce(before, axis=0) < window.components.numel)
        usual = _usual(before)
        allowed = settings.jump + settings.factor * usual
        strength = np.where(whole, CERTAIN, (zeros - usual) / allowed)
        share = zeros / window.components.numel
    return rule_result(
        strength=np.where(window.components.trainable, strength, 0.0),
        severity=np.where(whole | (share > 0.5) & (usual < 0.25 * window.components.numel), 3, 2).astype(np.int8),
        quantity="share of zeros",
        value=share,
        high=np.minimum(1.0, (usual + allowed) / window.components.numel),
        meaning=lambda i: (
            f"Its exact zeros went from {before[-1][i]:,.0f} to {zeros[i]:,.0f} since step {window.steps[-2]}. Check first "
            "whether it was pruned or masked on purpose. If not, a head, an expert or a piece of a checkpoint was erased, or "
            "values underflow: go back to the last checkpoint."
        ),
    )


def _usual(before: Floats) -> Floats:
    """The second lowest count of zeros in the last samples, (components,): a jump has not reached it yet."""
    second: Floats = np.sort(before[-8:], axis=0)[min(1, len(before) - 1)]
    return second


def unchanged(window: SampleWindow, settings: Unchanged) -> RuleResult | None:
    """The fit of a trainable matrix stays the same, digit by digit, for several intervals, though its η is not low."""
    if len(window.steps) <= settings.intervals:
        return None
    if not (window.now("rms") == window.before("rms")).any():
        return None  # nearly always
    same = np.ones((len(window.steps) - 1, len(window.components)), dtype=bool)  # (intervals, components)
    for name in COMPARED:
        values = window[name]
        same &= (values[1:] == values[:-1]) | (np.isnan(values[1:]) & np.isnan(values[:-1]))
    same &= np.isfinite(window["zeros"][1:])
    path = window["eta_sum"]
    same &= ~(path[1:] == path[:-1])  # nothing moves without a step; NaN, where Σ η is not known, counts as a step
    intervals = np.cumprod(same[::-1], axis=0).sum(axis=0)  # unbroken up to the latest sample
    first = np.array(window.steps)[len(window.steps) - 1 - intervals]
    steps = np.where(intervals > 0, window.steps[-1] - first, 0)
    strength = np.minimum(intervals / settings.intervals, steps / settings.steps)
    strength = np.where(window.moving & (window.components.numel >= MIN_ELEMENTS), strength, 0.0)
    # What has never moved is perhaps not used, such as a pooler; unless nothing moves at all.
    never = np.all([window.now(name) == window.baseline[name] for name in ("rms", "zeros")], axis=0)
    body = window.components.body & window.components.trainable
    still = bool(body.any()) and bool((strength[body] >= 1.0).mean() > 0.5)
    others = median_along(np.where(window.components.trainable, window.now("eta"), np.nan))  # (1,)
    # Steps as small as the gradient may be too small for a bin, in all matrices, too.
    by_gradient = ~np.isfinite(window.now("update_max"))
    expected = (never | _slow(window, intervals) | window.components.expert) & (by_gradient | (not still))
    return rule_result(
        strength=strength,
        severity=np.where(expected, 1, 2).astype(np.int8),
        quantity="steps without a change",
        value=steps.astype(float),
        meaning=lambda i: (
            f"No value has changed by more than about 1 %, the least that shows, since step {first[i]}, although η is "
            f"{window.now('eta')[i]:.3g}. "
            + (
                f"The others have {others[0]:.3g}: check first whether its parameter group is meant to have such a low rate."
                if window.now("eta")[i] < LOW_RATE * others[0]
                else "Its values are too coarse for the small steps that this η makes: check first whether there is a master "
                "copy in fp32, and add one, or round stochastically."
                if window.components.coarse[i]
                else "An expert that is given no tokens gets no gradient. If it stays so, check first the load of the experts."
                if window.components.expert[i]
                else "For its η, it had hardly moved before, either. Check first the size of its gradient."
                if expected[i] and not never[i]
                else "Check first whether it gets a gradient and belongs to a parameter group of the optimizer."
            )
        ),
    )


def _slow(window: SampleWindow, intervals: Floats) -> Bools:
    """Matrices that moved so little for their η before that standing still is not a surprise, shape (components,).

    In the interval before they stood still, their RMS and λ moved, for as much Σ η, by less than bins can tell: what comes to
    rest gets slower and slower.

    Args:
        window: The window.
        intervals: The intervals in which each has stood still, shape (components,).
    """
    with quiet():
        work = window["work"]  # (samples, components)
        place = np.arange(len(work))[:, None] - (
            len(work) - 1 - intervals
        )  # 0 at the last sample at which it had moved
        now = np.where(place > 0, work, 0.0).sum(axis=0)
        before = place == 0
        faster = np.zeros(now.shape)
        for column in ("rms", "lambda"):
            levels = np.log(window[column])
            moved = np.where(before[1:], np.abs(levels[1:] - levels[:-1]) / work[1:], np.nan)
            faster = np.fmax(faster, np.fmax.reduce(moved, axis=0))
        # A gradient may get smaller, and so do the steps that have its size.
        fell = np.where(np.isfinite(window.now("update_max")), 1.0, SMALLER_GRADIENT)
        found: Bools = (faster * now < fell * resolution(window.components.numel)) & (place[0] < 0)
        if len(work) >= CAPACITY:
            found |= place[0] >= 0  # what was before is no longer known, and was judged then
    return found


def no_gradient(window: SampleWindow, settings: NoGradient) -> RuleResult | None:
    """Weight decay alone moves a matrix: k stays, and ln λ and ln RMS fall by Σ ηλ_wd, while the other matrices are learning.

    So it is with a gradient of zero, for AdamW after its momentum has faded. A matrix that has been so since the baseline is
    perhaps not used at all, such as a pooler: an info. Without weight decay, `unchanged` finds both.
    """
    if len(window.steps) < 3:
        return None
    components, before, scale = window.components, window.before("lambda"), window.now("lambda")
    with quiet():
        spent = window.now("decay") - window.before("decay")  # all arrays: (components,)
        tolerance = 0.5 * resolution(components.numel) + 0.02 * spent
        moved = [np.abs(window.log_change(c) + spent) / tolerance for c in ("lambda", "rms")]
        moved.append(np.abs(window.now("k") - window.before("k")) / (0.05 * window.now("k_se")))
        most = np.max(moved, axis=0)
        body = (
            components.body & components.trainable
        )  # experts and rows of embeddings may really get no gradient for a while
        others = median_along(most[..., body]) if body.sum() >= MIN_OTHERS else np.zeros(1)
        since = np.abs(np.log(window.now("rms") / window.baseline["rms"]) + window.now("decay")) / tolerance
        judged = (
            window.moving
            & body
            & (components.numel >= MIN_ELEMENTS)
            & (spent > tolerance)
            & (others >= settings.others)
        )
        strength = np.where(judged, 1.0 / np.maximum(most, 0.1), 0.0)
    return rule_result(
        strength=strength,
        severity=np.where(since > settings.others, 2, 1).astype(np.int8),
        quantity="λ",
        value=window.now("lambda"),
        meaning=lambda i: (
            f"Only weight decay moves this matrix: λ {between(before[i], scale[i], window.steps[-2])}, "
            "just what weight decay takes away, so its gradient is zero. Check first whether the layer is used in the forward "
            "pass; then whether something detaches it (torch.no_grad, .detach(), an activation that is always off)."
        ),
    )


def optimizer_reset(window: SampleWindow, settings: RuleSettings) -> RuleResult:
    """The optimizer's own state was emptied, or replaced by a younger one, since the previous sample.

    k and λ may not show it; the optimizer's step count does (`weibull_monitor.scaling.resets`). Only the first sample after
    the reset raises an alert. It is an info where η has fallen below `WARMS_UP` of what it was, or was lower in between
    (`WARMED_UP`), as at the start of a new phase with a warm-up: that is done on purpose, and first steps of another size are
    small then.
    """
    before, now = window.reset
    reset = np.where(window.components.trainable & (now > before), 1.0, 0.0)
    with quiet():
        first, last = window["eta"][-2:][0], window.now("eta")  # (components,)
        steps = window.steps[-1] - window.steps[-2:][0]
        warms_up = (last < WARMS_UP * first) | (window.path < WARMED_UP * steps * (first + last) / 2.0)
    return rule_result(
        strength=reset,
        severity=np.where(warms_up, 1, 2).astype(np.int8),
        quantity="matrices",
        value=np.full(reset.shape, np.nan),
        meaning=lambda i: (
            f"The optimizer of these matrices has lost its state since step {window.steps[-2:][0]}: its "
            "moments start again, and its steps have a different size for a while. "
            + ("η was low in this time, as when a new phase begins with a warm-up. " if warms_up[i] else "")
            + "Check first that the optimizer state of the checkpoint was loaded, and into this optimizer. If it was meant, "
            "nothing has to be done."
        ),
    )
