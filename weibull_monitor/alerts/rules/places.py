"""Weights that are those of another place, or of another time: `misplaced`."""

from __future__ import annotations

from itertools import combinations
from typing import Final, NamedTuple

import numpy as np

from weibull_monitor.alerts.component_arrays import Ints
from weibull_monitor.alerts.rules.result import RuleResult, rule_result, strongest
from weibull_monitor.alerts.rules.returned import came_back, moved_far, where_back
from weibull_monitor.alerts.rules.words import SE_LAMBDA, decimal
from weibull_monitor.alerts.settings import Misplaced
from weibull_monitor.alerts.statistics import Bools, Floats, median_along, quiet
from weibull_monitor.alerts.window import SampleWindow

MIN_PAIRS: Final = 4
"""Matrices that have to change places together: one may come to where another was by chance."""
MIN_SAMPLES: Final = 4
"""Samples that there have to be."""
YOUNG: Final = 40
"""Up to this step matrices have hardly parted from their initialisation, and are all alike."""
LARGEST_NOISE: Final = 0.016
"""Width of the bin of the largest value, in its logarithm."""
NEARER: Final = 0.6
"""Share of their difference before that is left, at most, in each of the four: matrices that grow are alike in λ alone."""
STAY: Final = 2.0
"""How many times as far as the others those move that change places: a model in which all move may follow its own trail."""
FEWER: Final = 2.0
"""A quarter of the matrices may be this many times less near than the others."""


class Places(NamedTuple):
    """A way in which weights may have got into the wrong places: what is at ``here`` comes from ``there``, (pairs,) each."""

    how: str
    here: Ints
    there: Ints


def misplaced(window: SampleWindow, settings: Misplaced) -> RuleResult | None:
    """Matrices that jumped to where others were at the sample before, or all back to where they were at an earlier one."""
    found = [result for rule in (_exchanged, _of_another_time) if (result := rule(window, settings)) is not None]
    return strongest(found) if found else None


def may_be_misplaced(window: SampleWindow) -> Bools:
    """Whether the model moved as far as it has to for `misplaced`, shape (…, 1)."""
    return far_moved(window) | moved_far(window)


def _of_another_time(window: SampleWindow, settings: Misplaced) -> RuleResult | None:
    back = came_back(window)
    if back is None or back.nearer < settings.ratio:
        return None  # nearly always
    there = window.components.trainable & ~window.components.expert & (back.of_each >= 1.0)
    return rule_result(
        np.where(there, back.nearer / settings.ratio, 0.0),
        2,
        "ratio of distances",
        back.of_each,
        lambda i: (
            f"λ and the RMS of this matrix are {decimal(back.of_each[i], 2)} times as near to those of step {back.step} as to "
            f"those of step {window.steps[-2]}. {where_back(window)}"
        ),
        high=settings.ratio,
    )


def _exchanged(window: SampleWindow, settings: Misplaced) -> RuleResult | None:
    """Matrices that jumped to where others of the same shape were at the sample before: blocks one off, two kinds exchanged.

    k, λ, the RMS and the largest value over it tell matrices apart. A matrix moves less between two samples than it differs from
    others, so it is nearest to itself. Where most matrices are far nearer to another one under one exchange, in all four numbers,
    and those that are not exchanged stay, they have changed places. Where all move, blocks may follow each other on one trail.
    Distances are in units of what the matrices have moved at most before.
    """
    if not far_moved(window).any():
        return None  # nearly always
    strength, ratios = np.zeros(len(window.components)), np.full(len(window.components), np.nan)
    how, came = "", np.full(len(window.components), -1)
    now, before, unit = _traits(window)  # (4, components)
    body = np.flatnonzero(window.components.body & window.components.trainable)
    for places in _places(window):
        here, there = places.here, places.there
        scale = median_along(unit[:, here])  # (4, 1)
        by_itself = np.sqrt(((now[:, here] - before[:, here]) ** 2 / scale).mean(axis=0))  # (pairs,)
        by_other = np.sqrt(((now[:, here] - before[:, there]) ** 2 / scale).mean(axis=0))
        ratio = by_itself / by_other
        known = np.isfinite(ratio)
        if known.sum() < MIN_PAIRS or np.median(by_itself[known]) < 1.0:
            continue
        left = np.median(np.abs(now[:, here] - before[:, there])[:, known], axis=1)  # (4,)
        was = np.median(np.abs(before[:, here] - before[:, there])[:, known], axis=1)
        rest = np.setdiff1d(body, here)
        of_rest = np.sqrt(((now[:, rest] - before[:, rest]) ** 2 / scale).mean(axis=0))
        still = np.median(by_itself[known]) >= STAY * median_along(of_rest)[0]  # NaN where there are none
        if not (still and (left <= NEARER * was).all()):
            continue
        most = np.median(by_itself[known]) / np.median(by_other[known])
        found = min(most, np.median(ratio[known]), FEWER * np.quantile(ratio[known], 0.25)) / settings.ratio
        if found > strength.max():
            strength[:], ratios[:], how = 0.0, np.nan, places.how
            strength[here] = np.where(ratio >= 1.0, found, 0.0)
            ratios[here], came[here] = ratio, there
    names = window.components.names
    return rule_result(
        strength,
        2,
        "ratio of distances",
        ratios,
        lambda i: (
            f"k, λ, the RMS and the largest value are {ratios[i]:.2g} times as near to those that {names[came[i]]} had at step "
            f"{window.steps[-2]} as to its own: {how}. Check first the names that a checkpoint was loaded or converted with, and "
            "the order of what was split or merged. If nothing was loaded, go back to the last checkpoint."
        ),
        high=settings.ratio,
    )


def far_moved(window: SampleWindow) -> Bools:
    """Whether as many matrices moved further than ever as half of an exchange has, shape (…, 1)."""
    least = min((len(places.here) for places in _places(window)), default=0) // 2
    if not least or len(window.steps) < MIN_SAMPLES:
        return np.zeros(1, dtype=bool)
    with quiet():
        now, before, unit = _traits(window)  # (4, …, components)
        far = ((now - before) ** 2 / unit).mean(axis=0) >= 1.0
        far &= window.components.body & window.components.trainable
        old = np.reshape(window.steps[-2], far.shape[:-1]) > YOUNG
        enough: Bools = np.asarray((far.sum(axis=-1) >= least) & old)[..., None]
        return enough


def _traits(window: SampleWindow) -> tuple[Floats, Floats, Floats]:
    """What tells matrices apart, now and before, and the squares of how far each has moved at most; (4, …, components) each."""
    return window.once("traits", lambda: _made_traits(window))


def _made_traits(window: SampleWindow) -> tuple[Floats, Floats, Floats]:
    last = [window[c][-2:] for c in ("lambda", "rms", "k", "largest")]  # each (2, …, components)
    lambda_, rms, k, largest = last[0], last[1], last[2], last[3]
    traits = np.stack([np.log(lambda_), np.log(rms), k, np.log(largest / rms)])
    error = window.now("k_se")
    noise = np.stack([*(2 * [SE_LAMBDA * error / k[-1]]), error, np.full(error.shape, LARGEST_NOISE)])
    own = np.stack([*(window.furthest(c) for c in ("log lambda", "log rms", "k")), np.zeros(error.shape)])
    return traits[:, -1], traits[:, -2], own**2 + noise**2


def _places(window: SampleWindow) -> tuple[Places, ...]:
    return window.always("places", lambda: tuple(_exchanges(window)))


def _exchanges(window: SampleWindow) -> list[Places]:
    """Blocks one off in both directions, and each two kinds exchanged in all blocks; of matrices of the same shape."""
    components = window.components
    at: dict[tuple[str, str, int], int] = {}
    for group in components.groups:
        for i in group.members.tolist():
            at[components.towers[i], components.labels[i], int(components.blocks[i])] = i
    moves = [
        (
            f"blocks are one too {'early' if by > 0 else 'late'}",
            [(i, at.get((t, kind, block + by))) for (t, kind, block), i in at.items()],
        )
        for by in (1, -1)
    ]
    for one, two in combinations(sorted({kind for _, kind, _ in at}), 2):
        swap = {one: two, two: one}
        pairs = [(i, at.get((t, swap[kind], block))) for (t, kind, block), i in at.items() if kind in swap]
        moves.append((f"{one} and {two} are exchanged", pairs))
    found = []
    for how, pairs in moves:
        alike = [
            (i, j) for i, j in pairs if j is not None and (components.sides[:2, i] == components.sides[:2, j]).all()
        ]
        if len(alike) >= MIN_PAIRS:
            found.append(Places(how, *np.array(alike, dtype=np.int64).T))
    return found
