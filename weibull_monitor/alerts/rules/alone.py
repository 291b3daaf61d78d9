"""Movements that a matrix makes alone: far beyond its own past, and beyond any other matrix in the same interval."""

from __future__ import annotations

from typing import Final

import numpy as np

from weibull_monitor.alerts.component_arrays import Ints
from weibull_monitor.alerts.rules.movement import MIN_OTHERS
from weibull_monitor.alerts.rules.words import SE_LAMBDA
from weibull_monitor.alerts.statistics import Bools, Floats, or_zero
from weibull_monitor.alerts.window import SampleWindow

TRADES: Final = ((0.8, 2.7), (1.4, 0.75), (2.5, 0.67))
"""Shares of the two limits of `alone` that are enough, too."""
FALLS: Final = ((2.5, 1.8), ((1.6, 0.6),))
"""Limits and trades of `alone` for falls of λ and of the RMS: as many others fall more than once, but none alone."""
AT_ONCE: Final = (1.1, 0.55)
"""Factor of a rise alone of a matrix that did not grow before, and what it is less by for one that grew as fast for its η."""
MIXED: Final = 1.5
"""How many times its own past, and any other's, k and the scale have to move together, by the geometric mean of both …"""
MIXED_RISE: Final = (1.8, 2.3)
"""… and where k falls and the scale rises, which attention that wakes does: for the others, and for W_q and W_k."""
LEAST_MIXED: Final = (0.02, 1.0)
"""How far each of the two moves at least: in itself, and in these units."""
K_ERRORS: Final = 3.0
"""Standard errors by which k moves at least for its shape to have changed: that of a small matrix may just seem so."""
BY_RMS: Final = 0.3
"""Share of a movement of ln λ that ln RMS makes at least, for the scale to have moved."""
OUTSIDE: Final = ((-1.0, 1.0, 3.3), (1.0, -1.0, 1.6))
"""The same for embeddings, heads and others: the direction of k, that of the scale, and how many times; healthy ones reach 2.7
and 1.1. Both that fall are not judged, as convolutions do that."""
LEAST_OUTSIDE: Final = (0.03, 0.05)
"""How far k and the scale of such a matrix move at least."""
AMONG_ALL: Final = 1.5
"""Weight of the comparison with all others, beside that with its own past: they are not of its kind."""
LOST_PART: Final = (1.3, 1.2, 2.5)
"""How many times as far as that of any other, and as its own past, k falls where a part of a matrix got small; and the geometric
mean of both. Healthy ones reach 2.2."""
LOST_BY: Final = 0.1
"""How far k falls then, at least …"""
KEPT_SIZE: Final = (-1.0, 0.2)
"""… and the least and most that ln RMS moves by, in units of the fall of ln k: attention that learns grows meanwhile."""
LOST_SCALE: Final = 0.98
"""λ is at most this many times what it was then."""
BEYOND: Final = (("k", 0.05, 2.0, 4.5), ("log rms", 0.08, 2.0, 3.4))
"""Movements that nothing explains which acts on all matrices alike: the column, how far at least, and how many times as far as
that of any other, and as its own past. With weight decay in the gradient, healthy ones reach 3.8 and 2.8 times their own past
where they are 1.5 times any other."""
EXPERT: Final = 1.2
"""How much further a single expert has to move: there are many, and some wake when the router finds them."""


def largest_other(sizes: Floats, among: Bools, owners: Ints) -> Floats:
    """The largest of the others' ``sizes`` (…, components) for each member of ``among`` (components,), (…, components).

    Components with the same number in ``owners`` (components,) do not count as others: parts of one stored matrix are written
    to together. NaN outside of ``among``, and everywhere if there are fewer than `MIN_OTHERS` owners. NaN counts as 0.

    >>> largest_other(np.array([4.0, 1.0, 3.0, np.nan, 2.0, 0.0, 9.0, 3.5]), np.arange(8) != 6, np.array([0, *range(7)])).tolist()
    [3.5, 3.5, 4.0, 4.0, 4.0, 4.0, nan, 4.0]
    """
    found = np.full(sizes.shape, np.nan)
    members = or_zero(sizes[..., among])  # (…, members)
    numbers, owner = np.unique(owners[among], return_inverse=True)
    if len(numbers) >= MIN_OTHERS:
        order = np.argsort(owner, kind="stable")
        starts = np.searchsorted(owner[order], np.arange(len(numbers)))
        largest = np.maximum.reduceat(members[..., order], starts, axis=-1)  # (…, owners)
        second, first = np.moveaxis(np.partition(largest, -2, axis=-1)[..., -2:, None], -2, 0)  # each (…, 1)
        found[..., among] = np.where(largest[..., owner] < first, first, second)
    return found


def largest_peer(window: SampleWindow, sizes: Floats, siblings: bool) -> Floats:
    """The largest of the ``sizes`` (components,) of those that a matrix is like, for each; NaN where there are too few.

    W_q and W_k are compared with all matrices of the blocks, the others among themselves if there are enough, and single experts
    with all experts. With ``siblings``, W_q and W_k of one stored matrix are others to each other: they wake together.
    """
    components = window.components
    body = components.body & components.trainable
    rest = body & ~components.wakes
    of_body = largest_other(sizes, body, np.arange(len(body)) if siblings else components.owners)
    of_rest = largest_other(sizes, rest, components.owners)
    found = np.where(of_rest == of_rest, of_rest, of_body)
    experts = components.expert & components.trainable
    return np.where(experts, largest_other(sizes, experts, components.owners), found) if experts.any() else found


def alone(
    window: SampleWindow,
    moved: Floats,
    own: Floats,
    noise: Floats,
    limits: tuple[float, float],
    trades: tuple[tuple[float, float], ...] = (),
    siblings: bool = False,
) -> Floats:
    """How far movements are beyond those of any other matrix in the interval, and beyond their own past, shape (components,).

    Between samples far apart a healthy matrix may move more than ever before, and attention that wakes moves more than all else;
    but it wakes in several matrices.

    Args:
        window: The window.
        moved: The movements in the direction that counts, shape (components,); those in the other are below 0.
        own: The largest past movement, shape (components,).
        noise: Size of a movement that is noise, shape (components,).
        limits: How many times as large as that of any other, and as its own past; both have to be reached for a strength of 1.
        trades: Shares of both that are enough, too: the further beyond the one, the less beyond the other.
        siblings: As for `largest_peer`.
    """
    size = np.fmax(moved, 0.0)
    by_past = size / (limits[1] * np.maximum(own, noise))
    if not np.any(by_past >= min(share for _, share in (*trades, (1.0, 1.0)))):
        return np.zeros(moved.shape)  # nearly always
    by_others = size / (limits[0] * np.maximum(largest_peer(window, size, siblings), noise))
    strength = np.minimum(by_others, by_past)
    for share_others, share_past in trades:
        strength = np.fmax(strength, np.minimum(by_others / share_others, by_past / share_past))
    return or_zero(np.where(window.components.expert, strength / EXPERT, strength))


def at_once(window: SampleWindow) -> Floats:
    """Factor of the strength of a rise alone, shape (components,): more for one that comes at once than for one that goes on.

    What learns gathers speed, so that a part of it is seen in the interval before; what is written to a matrix comes at once.
    """
    before, now = window.before("speed"), window.now("speed")
    return AT_ONCE[0] - AT_ONCE[1] * or_zero(np.fmin(before / now, 1.0))


def fall_alone(window: SampleWindow, noise: Floats, others: Floats) -> Floats:
    """Strength of falls of λ or of the RMS that a matrix makes alone, shape (components,).

    Training makes matrices shrink, too, but in an interval in which one shrinks further than it ever moved, others do.

    Args:
        window: The window.
        noise: Size of a movement that is noise, shape (components,).
        others: `Movement.others` of ln λ.
    """
    fell = np.zeros(noise.shape)
    noise = np.fmax(noise, others)
    for column in ("lambda", "rms"):
        down = -window.log_change(column)
        fell = np.fmax(fell, alone(window, down, window.furthest(f"log {column}"), noise, *FALLS))
    return fell


def moved_together(window: SampleWindow) -> Floats:
    """Strength of movements of k and of the scale at once, each alone, shape (components,).

    Where values of two sizes are mixed in a matrix, k falls while λ or the RMS jumps. Either may just happen in a healthy run.
    Both in one matrix, in one interval, and in no other matrix, are as unlikely as a far larger movement of one of them.
    """
    return window.once("moved together", lambda: _moved_together(window))


def _moved_together(window: SampleWindow) -> Floats:
    by_k = window.now("k") - window.before("k")  # all arrays (components,)
    least, unlike = LEAST_MIXED
    strength, far = np.zeros(by_k.shape), np.abs(by_k) >= least
    if not far.any():
        return strength  # nearly always, as below
    error = window.now("k_se")
    noise = SE_LAMBDA * error / window.now("k")
    far &= np.abs(by_k) >= np.fmax(unlike * window.furthest("k"), K_ERRORS * error)
    if not far.any():
        return strength
    falls = np.fmax(*(alone(window, sign * by_k, window.furthest("k"), error, (1.0, 1.0)) for sign in (-1.0, 1.0)))
    grown = window.log_change("rms")
    rise_limit = np.where(by_k < 0.0, np.where(window.components.wakes, MIXED_RISE[1], MIXED_RISE[0]), np.inf)
    for column in ("lambda", "rms"):
        rose = window.log_change(column)
        # λ is the RMS over a function of k, so it moves with k while the RMS stays; and that is one movement.
        far_too = far & (np.abs(rose) >= least) & (np.sign(rose) * grown >= BY_RMS * np.abs(rose))
        for sign, limit in ((-1.0, MIXED), (1.0, rise_limit)):
            scale = alone(window, sign * rose, window.furthest(f"log {column}"), noise, (1.0, 1.0))
            enough = far_too & (falls >= unlike) & (scale >= unlike)
            strength = np.fmax(strength, np.where(enough, np.sqrt(falls * scale) / limit, 0.0))
    return strength


def part_lost(window: SampleWindow) -> Floats:
    """Strength of falls of k that no other matrix has, while the size is kept, shape (components,).

    k of a matrix that learns falls because some of its values grow. Where rows, columns or a piece of it are set to zero, the
    others stay as they are. After a few steps the zeros are small values, and no longer exact zeros.
    """
    return window.once("part lost", lambda: _part_lost(window))


def _part_lost(window: SampleWindow) -> Floats:
    now, before = window.now("k"), window.before("k")  # all arrays (components,)
    fall = before - now
    judged = fall >= LOST_BY
    if not judged.any():
        return np.zeros(now.shape)  # nearly always
    share = window.log_change("rms") / np.log(before / now)
    judged &= (share >= KEPT_SIZE[0]) & (share <= KEPT_SIZE[1])
    judged &= window.now("lambda") <= LOST_SCALE * window.before("lambda")  # as it does where k falls and the RMS stays
    if not judged.any():
        return np.zeros(now.shape)
    error = window.now("k_se")
    of_others = fall / np.fmax(largest_peer(window, np.abs(fall), siblings=False), error)
    of_past = fall / np.fmax(window.furthest("k"), error)
    least_others, least_past, both = LOST_PART
    judged &= (of_others >= least_others) & (of_past >= least_past) & ~window.components.expert
    return or_zero(np.where(judged, np.sqrt(of_others * of_past) / both, 0.0))


def beyond_others(window: SampleWindow) -> Bools:
    """Matrices that moved too far, beside their own past and any other matrix, for what acts on all alike; (components,).

    Such as weight decay: it moves all matrices that have it.
    """
    return window.once("beyond others", lambda: _beyond_others(window))


def _beyond_others(window: SampleWindow) -> Bools:
    error = window.now("k_se")
    found = np.zeros(error.shape, dtype=bool)
    for column, least, others, own in BEYOND:
        if column == "k":
            moved, noise = np.abs(window.now("k") - window.before("k")), error
        else:
            moved, noise = np.abs(window.log_change("rms")), SE_LAMBDA * error / window.now("k")
        far = moved >= least
        if far.any():
            found |= far & (alone(window, moved, window.furthest(column), noise, (others, own)) >= 1.0)
    return found


def moved_together_outside(window: SampleWindow) -> Floats:
    """`moved_together` for embeddings, heads and other matrices outside attention and feed-forward, shape (components,).

    They are like no others, so that their own past says more: the others are all that is trained.
    """
    components = window.components
    judged = ~components.body & ~components.expert & components.trainable
    by_k, error = window.now("k") - window.before("k"), window.now("k_se")  # all arrays (components,)
    strength = np.zeros(by_k.shape)
    judged = judged & (np.abs(by_k) >= np.fmax(LEAST_OUTSIDE[0], np.fmax(window.furthest("k"), error)))
    if not judged.any():
        return strength  # nearly always
    among, noise = components.trainable & ~components.expert, SE_LAMBDA * error / window.now("k")

    def units(moved: Floats, own: Floats, noise: Floats) -> Floats:
        size = np.fmax(moved, 0.0)
        others = largest_other(size, among, components.owners)
        return np.fmin(size / np.fmax(own, noise), AMONG_ALL * size / np.fmax(others, noise))

    for column in ("lambda", "rms"):
        rose = window.log_change(column)
        for of_k, of_scale, limit in OUTSIDE:
            shape = units(of_k * by_k, window.furthest("k"), error)
            scale = units(of_scale * rose, window.furthest(f"log {column}"), noise)
            found = judged & (np.abs(rose) >= LEAST_OUTSIDE[1])
            strength = np.fmax(strength, np.where(found, np.sqrt(shape * scale) / limit, 0.0))
    return or_zero(strength)
