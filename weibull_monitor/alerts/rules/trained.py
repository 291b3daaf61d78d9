"""Whether a run goes on from trained weights, as its first sample shows: k, and how λ differs from block to block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np

from weibull_monitor.alerts.component_arrays import Ints
from weibull_monitor.alerts.rules.words import SAME_ERRORS, SE_LAMBDA
from weibull_monitor.alerts.statistics import Bools, Floats, quiet
from weibull_monitor.alerts.window import SampleWindow
from weibull_monitor.measure.weibull import anchors

TRAINED_ERRORS: Final = 6.0
"""Standard errors from every initialisation beyond which k is that of a trained matrix."""
TRAINED_SHARE: Final = 0.25
"""Share of such matrices from which on a run goes on from trained weights."""
ROUGH_ERRORS: Final = 5.0
"""Standard deviations of noise from which on λ differs from block to block as no initialisation makes it."""
CERTAIN: Final = 11.8
"""Bound of the squared errors of k and ln λ together, for both to be those of an initialisation: 99.7 % of them are within."""
SLOPES: Final = (0.0, 0.5, 1.0, -0.5)
"""Initialisations whose standard deviation depends on the depth divide it by a power of the number of the block, from 1 on."""


class Family(NamedTuple):
    """A distribution that matrices are initialised with.

    Attributes:
        name: Its name in `weibull_monitor.measure.weibull.anchors`.
        k: Its shape.
        ratio: λ in units of its standard deviation, or for a truncated one of the standard deviation before it was cut.
    """

    name: str
    k: float
    ratio: float


def families() -> tuple[Family, ...]:
    """The distributions in use, the commonest first."""
    known = anchors()
    unit = {"uniform": 3.0**0.5}  # λ of the anchor is in units of the bound
    names = "normal", "uniform", "truncated_normal_2", "truncated_normal_3"
    return tuple(Family(name, known[name].k, known[name].lambda_ * unit.get(name, 1.0)) for name in names)


def goes_on(window: SampleWindow) -> bool:
    """Whether the run goes on from trained weights, or has no sample at step 0 that could tell."""
    return window.always("goes on", lambda: window.loaded_at > 0 or were_trained(window))


def were_trained(window: SampleWindow) -> bool:
    """Whether the weights that the run began with were trained, as k of its attention and feed-forward matrices and λ show."""
    start, body = window.loaded, window.components.body
    away = errors_from_families(start["k"], start["k_se"]).min(axis=0)[body]
    known = away[np.isfinite(away)]
    return (
        not len(known)
        or float((known > TRAINED_ERRORS).mean()) >= TRAINED_SHARE
        or rough(window, [group.members for group in window.components.groups])
    )


def errors_from_families(k: Floats, error: Floats) -> Floats:
    """Standard errors between k and that of each of `families`, shape (families, components)."""
    return np.stack([np.abs(k - family.k) / error for family in families()])


def noise_of(window: SampleWindow) -> Floats:
    """Standard error of ln λ at the first sample, shape (components,)."""
    return np.asarray(SE_LAMBDA * window.loaded["k_se"] / window.loaded["k"])


def rough(window: SampleWindow, groups: list[Ints]) -> bool:
    """Whether λ differs from block to block as no initialisation makes it: training leaves no two matrices alike.

    For each kind two sizes are taken, in units of the standard error and beyond a known course over the depth (`SLOPES`): the
    steps from block to block, of which the median over all kinds counts; and the standard deviation without the block that
    differs most, which sees small differences, if there are enough blocks.

    Args:
        window: The window.
        groups: Matrices of one kind by rising block, indices of shape (members,) each.
    """
    scale, noise = np.log(window.loaded["lambda"]), noise_of(window)
    steps, spreads, freedom = [np.zeros(0)], [], 0
    for members in _of_one_size(window, groups):
        values = scale[members] + np.outer(SLOPES, np.log(window.components.blocks[members] + 1.0))  # (slopes, members)
        of_step = np.abs(np.diff(values, axis=1)) / np.hypot(noise[members[1:]], noise[members[:-1]])
        steps.append(min(of_step, key=np.median))
        if len(members) > 2:
            off = np.abs(values - np.median(values, axis=1, keepdims=True)) / noise[members]
            kept = np.sort(off, axis=1)[:, :-1]
            spreads.append(float(np.sqrt((kept**2).sum(axis=1) / (len(members) - 2)).min()))
            freedom += len(members) - 2
    # Standard deviations of noise: of a median of N values |x| for normal x, and of one of G roots of means of n squares.
    number = sum(map(len, steps))
    by_steps = number > 0 and np.median(np.concatenate(steps)) > 0.674 + ROUGH_ERRORS * 0.786 / np.sqrt(number)
    return bool(by_steps or (spreads and np.median(spreads) > 1.0 + ROUGH_ERRORS * 1.25 / np.sqrt(2.0 * freedom)))


def _of_one_size(window: SampleWindow, groups: list[Ints]) -> Iterator[Ints]:
    """The parts of groups, of two or more members, whose matrices have one size: others may be initialised otherwise."""
    known = np.isfinite(window.loaded["lambda"] + window.loaded["k_se"]) & (window.components.blocks >= 0)
    for members in groups:
        sizes = window.components.numel[members]
        for size in np.unique(sizes):
            of_size = members[(sizes == size) & known[members]]
            if len(of_size) > 1:
                yield of_size


def initial_spread(window: SampleWindow) -> tuple[Floats, Floats]:
    """The standard deviation of each matrix if it is as initialised, and by how many standard errors its k departs from that.

    Of the first of `families` whose k fits within `SAME_ERRORS`, since most matrices are initialised so; else of the nearest.
    Shape (components,) each.
    """
    away = errors_from_families(window.loaded["k"], window.loaded["k_se"])  # (families, components)
    order = np.where(away <= SAME_ERRORS, np.arange(len(away))[:, None] - float(len(away)), away)
    nearest = np.argmin(np.where(np.isfinite(order), order, np.inf), axis=0)
    ratios = np.array([family.ratio for family in families()])[nearest]
    return window.loaded["lambda"] / ratios, np.take_along_axis(away, nearest[None], axis=0)[0]


class Start(NamedTuple):
    """A way to initialise matrices.

    Attributes:
        family: Index of the distribution in `families`.
        sigma: Its standard deviation (before it is cut) for each matrix, shape (components,); NaN where it is not used.
    """

    family: int
    sigma: Floats


NORMAL, UNIFORM, CUT_AT_2, CUT_AT_3 = range(4)
CUT: Final = 0.87962566103423978
"""Standard deviation of a normal distribution that is cut at ±2; libraries divide by it, to keep the standard deviation."""
COMMON_SIGMA: Final = 0.02
"""The commonest standard deviation of language models and vision transformers."""


def configured(window: SampleWindow) -> list[Start]:
    """The ways to initialise that the configuration's ``initializer_range`` names, also for outputs scaled by the depth."""
    initial = window.initial
    if not initial:
        return []
    everywhere = np.full(len(window.components), initial)
    return [Start(NORMAL, everywhere), *(Start(NORMAL, initial * scale) for scale in _by_depth(window))]


def customary(window: SampleWindow) -> list[Start]:
    """The ways to initialise that are in use: GPT-2's, and those of LeCun, Glorot and He, normal, uniform and cut at ±2σ.

    Sources: A. Radford et al. (2019); Y. LeCun et al., "Efficient BackProp" (1998); X. Glorot, Y. Bengio (2010); K. He et al.
    (2015). PyTorch's layers are uniform with the bound 1/√fan_in.
    """
    sides = window.components.sides  # (4, components)
    everywhere = np.full(len(window.components), COMMON_SIGMA)
    starts = [Start(family, everywhere) for family in (NORMAL, CUT_AT_2, CUT_AT_3)]
    starts += [Start(NORMAL, COMMON_SIGMA * scale) for scale in _by_depth(window)[:1]]
    for side in sides:
        lecun = 1.0 / np.sqrt(side)
        starts += [Start(NORMAL, lecun), Start(NORMAL, lecun * 2.0**0.5), Start(CUT_AT_2, lecun / CUT)]
        starts += [Start(UNIFORM, lecun), Start(UNIFORM, lecun * 2.0**0.5), Start(UNIFORM, lecun / 3.0**0.5)]
    for glorot in (np.sqrt(2.0 / (sides[0] + sides[1])), np.sqrt(2.0 / (sides[2] + sides[3]))):
        starts += [Start(NORMAL, glorot), Start(UNIFORM, glorot)]
    return starts


def _by_depth(window: SampleWindow) -> list[Floats]:
    """What outputs of blocks are multiplied by: 1/√2n for n blocks, or 1/√2l or 1/√l in block l; NaN for other matrices."""
    components = window.components
    ends = np.array([label.endswith(("attn_o", "ffn_down", "ffn_out")) for label in components.labels], dtype=bool)
    last: dict[str, int] = {}
    for tower, block in zip(components.towers, components.blocks.tolist(), strict=True):
        last[tower] = max(block, last.get(tower, 0))
    deepest = np.array([last[tower] + 1.0 for tower in components.towers])
    level = components.blocks + 1.0
    scales = 1.0 / np.sqrt(2.0 * deepest), 1.0 / np.sqrt(2.0 * level), 1.0 / np.sqrt(level)
    return [np.where(ends, scale, np.nan) for scale in scales]


def matches(window: SampleWindow, starts: list[Start]) -> Bools:
    """Whether k and λ of a matrix are together those of one of these ways to initialise, 99.7 % sure; shape (components,)."""
    found = np.zeros(len(window.components), dtype=bool)
    with quiet():
        away = errors_from_families(window.loaded["k"], window.loaded["k_se"])
        noise, scale = noise_of(window), np.log(window.loaded["lambda"])
        for start in starts:
            beside = (scale - np.log(families()[start.family].ratio * start.sigma)) / noise
            found |= beside**2 + away[start.family] ** 2 <= CERTAIN
    return found
