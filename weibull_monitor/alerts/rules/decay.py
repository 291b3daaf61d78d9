"""Weight decay that is added to the gradient, and falls that go on as before: what explains that weights shrink."""

from __future__ import annotations

from typing import Final

import numpy as np

from weibull_monitor.alerts.rules.alone import beyond_others
from weibull_monitor.alerts.rules.gradient_sized import gradient_sized
from weibull_monitor.alerts.statistics import Bools, Floats, or_zero, quiet, resolution
from weibull_monitor.alerts.window import SampleWindow

MOST: Final = 0.5
"""Share of the matrices with weight decay that have it in the gradient, from which on all are taken to have it there."""
OF_SIZE: Final = 0.2
"""Share of a fall of λ that the RMS falls by, too, at least, if the size of a matrix has changed and not only its shape."""
FADED: Final = 0.97
"""Below this share of what decoupled weight decay would have left of λ at the baseline, a matrix has faded."""
EMPTIED: Final = 0.5
"""Below this share, nearly nothing of its start is left: it may grow again to any shape."""
AS_BEFORE: Final = 1.5
"""A fall per Σ η goes on if it is at most this many times that of one of the last intervals …"""
RECENT: Final = 3
"""… of which there are so many."""
CARRIED: Final = 0.5
"""Change of the RMS per Σ η from which on the steps of a matrix go one way …"""
FASTER: Final = 2.0
"""… and how many times as far they may go in the next interval."""
K_MOVES: Final = 1.0
"""Standard errors by which k moves where training and not a factor moves λ."""
DRIVEN: Final = 3.0
"""The same where decay is in the gradient, against all samples kept: it grows as momentum and v settle."""
FIRST: Final = 0.15
"""Falls per Σ η that decay in the gradient makes without any before."""

LOST: Final = 2 / 3
"""Share of what training has added to a matrix that no healthy fall takes away in one interval …"""
LEFT: Final = 0.15
"""Share that is left where an interval is able to that: training takes nothing back as a whole."""
RENEWED: Final = 0.5
"""… unless its steps, in random directions, make this share of the RMS."""
GATHERS: Final = 8.0
"""How many times as fast for its η a movement that gathers gets from one interval to the next, at most."""

IN_GRADIENT: Final = (
    "This optimizer adds weight decay to the gradient and then normalises it: values with small gradients move to zero by up to "
    "η at each step, instead of in proportion to their size. If you did not mean that, use AdamW or "
    "decoupled_weight_decay=True; otherwise nothing has to be done."
)
"""What an info says of a matrix that such a decay moves."""
GOES_ON: Final = "For its learning rate, it fell just as fast before, so nothing sudden happened to it."
"""What an info says of a fall that goes on."""
SCALED: Final = (
    "This optimizer scales its steps by the norm of the weights, weight decay included: where the gradient is small, a step "
    "shrinks the weights by a share of up to η, not ηλ_wd. Nothing sudden happened to it."
)
"""What an info says of such a fall."""
GATHERING: Final = (
    "It moved faster and faster before, like a matrix that begins to learn, so nothing sudden happened to it."
)
"""What an info says of a movement that goes on so."""
GIVEN_BACK: Final = (
    "k moves in most matrices, and neither weight decay nor a factor does that: training takes back what it had added."
)
"""What an info says of such a fall."""


def in_gradient(window: SampleWindow) -> Bools:
    """Matrices whose weight decay is added to a gradient that the optimizer normalises; shape (components,).

    Such a decay is not in proportion to the weights: where it is larger than the gradient of the loss, all values move to zero
    by the size of a step, the small ones arrive first, and k and R² fall. What each sample counts of such matrices does not
    say which they are, so most of those with weight decay have to be.
    """
    return window.once("decay in gradient", lambda: _in_gradient(window))


def _in_gradient(window: SampleWindow) -> Bools:
    if len(window.steps) < 2 or not np.any(window.withheld.coupled):
        return np.zeros(window.now("lambda").shape, dtype=bool)  # nearly always
    decaying = (window.now("weight_decay") > 0.0) & np.isfinite(window.now("lambda"))
    enough = np.asarray(window.withheld.coupled) >= MOST * decaying.sum(axis=-1, keepdims=True)
    found: Bools = decaying & enough
    return found


def faded(window: SampleWindow) -> Bools:
    """Matrices that decay in the gradient has shrunk below `FADED` of what decoupled decay would have left, (components,).

    At a sample that is still kept, as they may grow again; or now, if such a decay explains the last interval. In a run without
    a sample at step 0 all that decay so.
    """
    return window.once(
        "faded", lambda: _shrunk(window, FADED) | _shrunk(window, FADED, now=True) & explained_by_decay(window)
    )


def fades(window: SampleWindow) -> Bools:
    """Matrices with decay in the gradient whose λ has come down to `FADED` of its highest, (components,).

    What grew first does so, too, and its k falls as slowly as that of one that never grew.
    """
    return window.once("fades", lambda: _fades(window))


def _fades(window: SampleWindow) -> Bools:
    decaying = in_gradient(window)
    if not decaying.any():
        return decaying
    highest = np.fmax(np.fmax.reduce(window["lambda"], axis=0), window.baseline["lambda"])
    found: Bools = decaying & (window.now("lambda") <= FADED * highest)
    return found


def _shrunk(window: SampleWindow, share: float, now: bool = False) -> Bools:
    decaying = in_gradient(window)
    if not decaying.any():
        return decaying
    least = window.now("lambda") if now else np.fmin.reduce(window["lambda"][:-1], axis=0)
    found: Bools = decaying & ~(least >= share * window.baseline["lambda"] * np.exp(-window.now("decay")))
    return found


def explained_by_decay(window: SampleWindow) -> Bools:
    """Movements of the RMS that decay in the gradient can have made in the last interval, shape (components,).

    It falls by at most Σ η, and about as fast for Σ η as it did before. What has been emptied may grow by as much again. What
    only one matrix does is no decay.
    """
    decaying = in_gradient(window)
    if not decaying.any():
        return decaying
    with quiet():
        falls = fall_rates(window)
        most = np.fmin(np.fmax(FIRST, DRIVEN * _highest(falls[:-1])), 1.0)
        explained = (falls[-1] <= most) & (falls[-1] > 0.0) | (np.abs(falls[-1]) <= 1.0) & _shrunk(window, EMPTIED)
        found: Bools = decaying & explained & ~window.jumped & ~beyond_others(window)
    return found


def scaled_to_zero(window: SampleWindow) -> Bools:
    """Falls of the RMS that decay makes where steps are scaled by the norm of the weights, as of LAMB; shape (components,).

    Such a step has the size η·‖w‖ whatever it consists of: u/‖u‖ with u = m̂/√v̂ + λ_wd·w (Y. You et al., "Large Batch
    Optimization for Deep Learning", 2020, algorithm 2). Where the gradient of the loss is small beside λ_wd·w, it points to zero
    as a whole, and ln RMS falls by η a step, not by ηλ_wd. What only one matrix does, but an expert, is no decay.
    """
    if len(window.steps) < 2 or not np.any(window.withheld.scaled):
        return np.zeros(window.now("lambda").shape, dtype=bool)  # nearly always
    with quiet():
        decaying = (window.now("weight_decay") > 0.0) & np.isfinite(window.now("lambda"))
        enough = np.asarray(window.withheld.scaled) >= MOST * decaying.sum(axis=-1, keepdims=True)
        fell = np.log(window.before("rms") / window.now("rms"))
        # n steps leave (1 - η)ⁿ of the weights.
        most = window.path / (1.0 - np.fmin(np.fmax(window.now("eta"), window.before("eta")), 0.5))
        most = most + resolution(window.components.numel)
        found: Bools = decaying & enough & (fell > 0.0) & (fell <= most) & ~window.jumped
        if found.any():
            found &= window.components.expert | ~beyond_others(window)
    return found


def falls_in_shape(window: SampleWindow, moved: Floats, decay: Floats) -> Bools:
    """Falls of λ beyond decay that the RMS does not share, (components,): the matrix changed its shape, and not its size.

    Most values shrink and a few grow, as under decay in the gradient, and where a young matrix begins to learn.

    Args:
        window: The window.
        moved: What ln λ moved by beyond decay, (components,).
        decay: What decay explains, (components,).
    """
    found: Bools = -(window.log_change("rms") + decay) < OF_SIZE * -moved
    return found


def gathers(window: SampleWindow) -> Bools:
    """Movements of the RMS that grow from interval to interval, and no faster than they did; shape (components,).

    What leaves a state in which it stood grows by a factor in each time: attention before it learns, a matrix that was just
    unfrozen. The last of three movements for as much Σ η is at most as many times the second as that is the first, and neither
    is more than `GATHERS`. What is written to a matrix comes at once, and what goes wrong from some step on begins within an
    interval, so that its first part is far more than all before.
    """
    with quiet():
        rates = fall_rates(window, 4)
        if len(rates) < 3:
            return np.zeros(window.now("rms").shape, dtype=bool)
        first, second, third = rates[-3], rates[-2], rates[-1]
        noise = resolution(window.components.numel) * window.now("rms") / window["work"][-2]
        times = third / second
        grew = second / first
        alike = (first * second > 0.0) & (grew <= GATHERS)
        found: Bools = (np.abs(second) > noise) & alike & (times > 0.0) & (times <= np.fmax(grew, 1.0))
    return found


def goes_on_falling(window: SampleWindow) -> Bools:
    """Matrices whose RMS falls no faster for Σ η than in one of the last intervals, shape (components,)."""
    with quiet():
        falls = fall_rates(window, RECENT + 2)
        found: Bools = (falls[-1] > 0.0) & (falls[-1] <= AS_BEFORE * _highest(falls[:-1]))
    return found


def given_back(window: SampleWindow) -> Bools:
    """Matrices from which training takes what it had added, within Σ η, while k moves with it; shape (components,).

    Neither weight decay nor a factor moves k. But training takes nothing back as a whole: what is where it began was written.
    """
    with quiet():
        moved = np.abs(window.now("k") - window.before("k")) > K_MOVES * window.now("k_se")
        left = added(window) >= LEFT * np.fmax(added(window, -2), 0.0)
        within = np.abs(window.now("rms") - window.before("rms")) <= window.path * np.fmin(
            window.now("update_max"), 1.0
        )
        # Where no Σ η is known, nothing says how far steps lead.
        found: Bools = moved & left & (within | np.isnan(window.path))
    return found


def added(window: SampleWindow, at: int = -1) -> Floats:
    """ln of what training has added to λ, beside what weight decay has left of the start, at a sample, shape (components,)."""
    grown: Floats = np.log(window["lambda"][at] / window.baseline["lambda"]) + window["decay"][at]
    return grown


def lost_most(window: SampleWindow, moved: Floats, decay: Floats) -> Bools:
    """Falls that leave less than a third of what training has added to a matrix, where they cannot be its own, (components,).

    They can where the interval has as large a share of the Σ η of all steps before it, or its steps in random directions replace
    the matrix, and some is left; and where what goes has only come in the interval before.

    Args:
        window: The window.
        moved: Movement of ln λ, shape (components,).
        decay: Σ ηλ_wd of the last interval, shape (components,).
    """
    still = added(window)
    was = still - moved - decay
    most = still < (1.0 - LOST) * was
    path, steps = window.path, np.fmax(window.steps[-1] - window.steps[-2], 1)
    able = path > LOST * window.before("eta_sum")
    able |= path / np.sqrt(steps) >= RENEWED * window.before("rms")
    able &= still > LEFT * was
    able |= window.now("lambda") >= window["lambda"][-3]
    able |= gradient_sized(window)  # a gradient that has grown may take back all in one step
    found: Bools = most & ~able
    return found


def carried_on(window: SampleWindow) -> Floats:
    """Change of the RMS per Σ η that goes on from the last intervals, shape (components,); 0 where it was small.

    Gradients that grow and keep their sign lead to steps of up to several times η; but such steps begin small, unlike what
    writes to a matrix.
    """
    with quiet():
        before = _highest(np.abs(fall_rates(window, RECENT + 2)[:-1]))
    return np.where(before >= CARRIED, FASTER * before, 0.0)


def grows_on(window: SampleWindow) -> Bools:
    """Matrices whose RMS grows by `CARRIED` times Σ η or more, as it did before, shape (components,)."""
    with quiet():
        growth = -fall_rates(window, 2)[-1] if len(window.steps) > 1 else np.zeros(len(window.components))
        found: Bools = (growth >= CARRIED) & (growth <= carried_on(window))
    return found


def fall_rates(window: SampleWindow, samples: int | None = None) -> Floats:
    """Falls of the RMS over the work of each interval, shape (intervals, components); NaN without a step."""
    rms, work = window["rms"][-(samples or 0) :], window["work"][-(samples or 0) :]
    rates: Floats = (rms[:-1] - rms[1:]) / work[1:]
    return rates


def _highest(rates: Floats) -> Floats:
    highest: Floats = np.fmax.reduce(rates, axis=0) if len(rates) else np.zeros(rates.shape[1:])
    return or_zero(highest)
