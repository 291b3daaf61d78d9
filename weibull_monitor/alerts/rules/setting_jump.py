"""The optimizer's settings against their own past: `setting_jump`."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from weibull_monitor.alerts.rules.movement import MIN_INTERVALS, usual_movement
from weibull_monitor.alerts.rules.result import RuleResult, rule_result
from weibull_monitor.alerts.rules.words import SE_LAMBDA, apart, signed
from weibull_monitor.alerts.settings import SettingJump
from weibull_monitor.alerts.statistics import Floats, lengths_of, median_along, median_of, or_zero, quiet, rates_of
from weibull_monitor.alerts.window import SCALES, SampleWindow

LATELY: Final = 6
"""The last samples, in which a setting that jumped counts as new: samples are dense after a jump of η."""
ROSE: Final = 2.0
"""What has not grown by this factor lately did not jump: η that stays while that of the others falls."""
LEAST_BURST: Final = 1.2
"""The same of the mean over an interval."""
STEADY: Final = 1.2
"""Factor within which η of a group, beside that of the others, stays the same through a warm-up that they have in common."""
LOOKBACK: Final = 8
"""Past intervals that say how a matrix usually moves."""
LEAST: Final = 0.015
"""|Δ ln λ| and |Δ ln RMS| below which nothing is said of η: it did nothing yet."""
MATTERS: Final = 0.01
"""Change of ln λ that another λ_wd has to make …"""
WITHIN: Final = 1e4
"""… within so many steps, to be worth a word."""
CERTAIN: Final = 1e3
"""Strength of a sign that is wrong."""


class Outgrown(NamedTuple):
    """How many times as high as its past explains η is, each of shape (components,); 1 or less where it did not jump.

    Attributes:
        alone: Beside the η of the others.
        all: In itself.
        burst: Its mean over the last interval, over all that was seen up to now: it was far higher in between.
        mean: Mean η of the last interval.
        usual: Σ η of the last interval without the jump, at most.
    """

    alone: Floats
    all: Floats
    burst: Floats
    mean: Floats
    usual: Floats


def setting_jump(window: SampleWindow, settings: SettingJump) -> RuleResult | None:
    """η, λ_wd, β₁ or β₂ of a parameter group jumped as no schedule makes it.

    These are facts, and no statistics. But η may be higher on purpose, or do nothing, so λ or the RMS has to move, too: ``moved``
    times as far as the root mean square of its recent movements, brought to the length of the interval at the η from before.
    """
    if len(window.steps) < MIN_INTERVALS + 2:
        return None
    trainable = window.components.trainable
    with quiet():
        grown = outgrown(window)  # all arrays (…, components)
        by_rate = np.zeros(grown.all.shape)
        jumped = np.fmax(grown.alone / settings.group, grown.all / settings.all)
        jumped = np.fmax(jumped, grown.burst / settings.burst)
        jumped = np.where(window.withheld.own_rate > 0, 0.0, jumped)  # it is not a setting then
        if (jumped[..., trainable] >= 1.0).any():
            noise = SE_LAMBDA * window.now("k_se") / window.now("k")
            shorter = np.sqrt(np.fmin(1.0, grown.usual / window.now("work")))
            for column in SCALES:  # where some values grow far more than the others, λ hardly moves, or the wrong way
                move = usual_movement(window, f"log {column}", LOOKBACK)
                moved = np.abs(move.last)
                far = moved / (settings.moved * np.hypot(move.recent * shorter, noise))
                by_rate = np.fmax(by_rate, or_zero(np.minimum(np.minimum(jumped, far), moved / LEAST)))
        # A negative η climbs, and nobody means it.
        by_rate = np.where((window.now("eta") < 0.0) & (window.peak > 0.0), CERTAIN, by_rate)
        decay, of_bound = _decay(window, settings), _bound(window, settings)
        strength = np.maximum(np.maximum(by_rate, decay), of_bound)
    eta, its_decay = window.now("eta"), window.now("weight_decay")
    by_decay = decay >= strength
    by_bound = ~by_decay & (of_bound >= strength)

    def meaning(i: int) -> str:
        before, since = window.steps[-1 - lately(window)], window.steps[-2]
        correct = "Check first whether you set it so. If not, correct it, and go back to the checkpoint from before."
        if by_decay[i]:
            was, is_now = apart(_old(window, "weight_decay")[-1][i], window.now("weight_decay")[i])
            return f"λ_wd of its parameter group is {is_now}; at step {before} it was {was}. {correct}"
        if by_bound[i]:
            was, is_now = (column[i] for column in (_old(window, "element_max")[-1], window.now("element_max")))
            return (
                f"At step {before} a step of the optimizer could move a value by {was:.3g} times η at most; now "
                + (f"it can by {is_now:.3g} times. " if np.isfinite(is_now) else "there is no such bound. ")
                + f"So β₁, β₂ or another of its settings has changed, or the optimizer. {correct}"
            )
        if eta[i] < 0.0:
            climbs = "each step now makes the loss larger"
            return f"η of its parameter group is {eta[i]:.3g}, and was above 0 before step {since}: {climbs}. {correct}"
        times = max(grown.all[i], grown.burst[i])
        shown = f"was {rate[i]:.4g} on average since step {since}" if between[i] else f"is {eta[i]:.4g}"
        how = (
            f"{grown.alone[i]:.3g} times as high against that of the others as before"
            if grown.alone[i] >= settings.group
            else f"{times:.3g} times as high as at any sample: it was far higher in between"
            if between[i]
            else f"{times:.3g} times as high as ever before"
        )
        by_scale, by_rms = (window.log_change(column)[i] for column in SCALES)
        name, by = ("λ", by_scale) if abs(by_scale) >= LEAST else ("the RMS", by_rms)
        return f"η of its parameter group {shown}, {how}; {name} moved by {signed(by)} since step {since}. {correct}"

    with quiet():
        between = grown.mean > LEAST_BURST * eta
        rate = np.where(between, grown.mean, eta)
        value = np.where(by_decay, its_decay, np.where(by_bound, window.now("element_max"), rate))
        high = np.where(by_decay, its_decay / decay, np.where(by_bound, np.nan, rate / jumped))
        negative = (by_decay & (its_decay < 0.0)) | (eta < 0.0)
    return rule_result(
        strength=np.where(trainable, strength, 0.0),
        severity=2,
        quantity=lambda i: "λ_wd" if by_decay[i] else "bound of a step" if by_bound[i] else "η",
        value=value,
        meaning=meaning,
        low=np.where(negative, 0.0, np.nan),
        high=np.where(negative, np.nan, high),
        levels=np.stack([eta, its_decay]),
        before=np.stack([window.before("eta"), window.before("weight_decay")]),
        level_names=("η", "λ_wd"),
        lasting=True,
    )


def outgrown(window: SampleWindow) -> Outgrown:
    """How far η has outgrown its past, and what the η of the others does.

    In itself: η now, or its mean over the last interval, over its highest before; through a warm-up over what one makes of that
    at most, the square of the share of the steps. A scheduler for each group, a warm-up of a group of its own, unfreezing and
    restarts are not jumps against the others.
    """
    return window.once("outgrown", lambda: _outgrown(window))


def _outgrown(window: SampleWindow) -> Outgrown:
    eta, spent, peak = window["eta"], window["eta_sum"], window.peak
    now, new = eta[-1], lately(window)  # (…, components), as all below
    lengths = lengths_of(window.steps)
    last, before = (spent[-1] - spent[-2]) / lengths[-1], (spent[-2] - spent[-3]) / lengths[-2]
    rose = now / np.fmin.reduce(eta[-new - 1 : -1], axis=0)
    if not ((rose >= ROSE) | (last >= LEAST_BURST * before)).any():
        none = np.zeros(now.shape)
        return Outgrown(none, none, none, last, window.now("work"))  # nearly always
    rates = rates_of(spent, window.steps)  # (intervals, …, components)
    # A monitor that is called at every fourth step of the optimizer sees four times η in each.
    calls = np.fmax(1.0, median_of(rates[:-1] / eta[1:-1]))
    mean = last / calls
    highest = np.fmax(np.fmax.reduce(rates[:-1], axis=0) / calls, peak)
    steps = [np.asarray(window.steps[n], dtype=float) for n in (-2, -1)]
    passed = (steps[1] - window.loaded_at) / np.fmax(steps[0] - window.loaded_at, 0.0)
    warming = np.where(window.settled, 1.0, passed**2)
    of_all = np.where(peak > 0.0, or_zero(np.fmax(now / peak, mean / highest) / warming), 0.0)
    alone = np.where(rose >= ROSE, or_zero(_beside_others(window, eta[:-new], now)), 0.0)
    burst = np.where(peak > 0.0, or_zero(mean / np.fmax(highest, now)), 0.0)
    high = np.fmax.reduce([alone, of_all, burst, np.ones(now.shape)])
    usual = lengths[-1] * calls * np.fmax(now, mean) / high
    return Outgrown(alone, of_all, burst, mean, usual)


def _beside_others(window: SampleWindow, past: Floats, now: Floats) -> Floats:
    """By how much η grew since the past samples, at least, beside the median growth of all, (…, components).

    The median is that of the growth, and not of η: where half of a model has another η than the rest, it may pass from the one to
    the other.
    """
    moving = window.components.trainable & (past > 0.0) & (now > 0.0)
    growth = np.where(moving, now / past, np.nan)  # (samples, …, components)
    beside = growth / median_along(growth)
    least, most = np.fmin.reduce(beside, axis=0), np.fmax.reduce(beside, axis=0)
    known = (beside == beside).sum(axis=0) >= MIN_INTERVALS
    return np.where(known & (window.settled | (most <= STEADY * least)), least, 0.0)


def lately(window: SampleWindow) -> int:
    """Number of samples that count as new."""
    return min(LATELY, len(window.steps) // 2)


def _old(window: SampleWindow, column: str) -> Floats:
    """A column before its latest samples, shape (samples, …, components)."""
    return window[column][: -lately(window)]


def _decay(window: SampleWindow, settings: SettingJump) -> Floats:
    """Strength of a λ_wd that is higher than ever, or negative, (…, components).

    A λ_wd that is set to a constant over η grows while η falls: ηλ_wd has to have grown as well.
    """
    now, eta = window.now("weight_decay"), window.now("eta")
    if (now == window["weight_decay"][-1 - lately(window)]).all():
        return np.zeros(now.shape)  # nearly always
    old = _old(window, "weight_decay")
    most = np.fmax.reduce(old, axis=0)
    known = (old == old).sum(axis=0) >= MIN_INTERVALS
    grown = np.fmin(now / most, now * eta / (old[-1] * _old(window, "eta")[-1]))
    grown = np.where(most > 0.0, grown, 0.0)  # switching it on is not a mistake
    grown = np.where((now < 0.0) & (np.fmin.reduce(old, axis=0) >= 0.0), np.inf, grown)
    effect = eta * np.abs(now - most) * WITHIN / MATTERS
    return np.where(known & (effect >= 1.0), np.fmin(or_zero(grown / settings.decay), CERTAIN), 0.0)


def _bound(window: SampleWindow, settings: SettingJump) -> Floats:
    """Strength of a bound of steps that has changed or is gone, (…, components): it depends on the optimizer and its β alone."""
    now, old = window.now("element_max"), _old(window, "element_max")
    if ((now == old[-1]) | (old[-1] != old[-1])).all():
        return np.zeros(now.shape)  # nearly always
    known = (old == old).sum(axis=0) >= MIN_INTERVALS
    change = np.where(now == now, np.fmax(now / old[-1], old[-1] / now) / settings.bound, 1.0)
    return np.where(known & (window.now("eta") > 0.0), or_zero(change), 0.0)
