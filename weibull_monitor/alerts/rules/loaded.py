"""What was loaded: matrices that sit at their initialisation in a run that goes on from trained weights, `initialised_anew`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from weibull_monitor.alerts.component_arrays import Ints
from weibull_monitor.alerts.rules.layers import departure
from weibull_monitor.alerts.rules.new_kinds import new_kinds
from weibull_monitor.alerts.rules.result import RuleResult, rule_result
from weibull_monitor.alerts.rules.trained import (
    TRAINED_ERRORS,
    configured,
    customary,
    initial_spread,
    matches,
    noise_of,
    were_trained,
)
from weibull_monitor.alerts.rules.words import SAME_ERRORS
from weibull_monitor.alerts.settings import InitialisedAnew
from weibull_monitor.alerts.statistics import Bools, Floats, quiet
from weibull_monitor.alerts.window import SampleWindow

EXCEPTIONS: Final = 0.6
"""If more than this share of the attention and feed-forward matrices are as initialised, they are not the exception."""
MIN_ELEMENTS: Final = 512
"""Smaller matrices are not judged: any k is within a few standard errors of that of an initialisation."""
LEAST: Final = 3
"""Matrices of a kind (or heads of a matrix) that are needed besides one, for it to be unlike the others."""
MOVED: Final = 0.1
"""|ln| of the ratio of two standard deviations from which on one of them was trained, if the other is the initial one."""
FAR: Final = 8.0
"""The same in standard errors."""
PRECISE: Final = 0.004
"""Standard error of ln λ up to which a matrix by itself may be said to be as its configuration initialises it (45,000 values)."""
MANY: Final = 3
"""Or this many matrices of one block together."""
APART: Final = 0.05
"""Departure of ln λ that a matrix needs whose k and λ are those of the initialisation, if it is the only one in its block."""


@dataclass(frozen=True, eq=False)
class _Loaded:
    """The matrices that were found at the baseline.

    Attributes:
        found: Their indices, shape (found,).
        group: The indices of each one's group, and its place in it.
        sigma: The standard deviation that each would have been initialised with, shape (found,).
        usual: λ of the others, shape (found,); NaN where the kind is new as a whole.
        z: Departure of ln λ, in units of the usual one, shape (found,).
        whole: Those whose kind is new as a whole.
        zero: Those that are zero.
    """

    found: Ints
    group: list[tuple[Ints, int]]
    sigma: Floats
    usual: Floats
    z: Floats
    whole: frozenset[int]
    zero: frozenset[int]


def initialised_anew(window: SampleWindow, settings: InitialisedAnew) -> RuleResult | None:
    """A matrix, a head or a block sits at its initialisation though the others of its kind were trained.

    Judged at the first sample (step 0, or that of a resumption without history) of runs that go on from trained weights, among
    attention and feed-forward matrices in blocks.
    So new heads for classification, new rows of embeddings and adapters are never judged, nor is cross-attention or a tower that
    is new as a whole.
    A matrix is found if its k is that of an initialisation (normal, uniform) within four standard errors, and

    - its λ departs from the blocks beside it and from all others by ``log_lambda`` and by ``z`` times their spread, or
      from the nearest other by ``log_lambda`` and by as much as the others span. It also is as the configuration says, or one
      of these holds: it is that of a customary initialisation (`customary`), it is that of two more such matrices of its block,
      or the others are known by their k to be trained. In the first and last block the first two have to hold together; or
    - its λ departs by ``alone``; or
    - its standard deviation is the ``initializer_range``, and that of each of the others is 10 % away from it; or
    - k of the others is that of trained matrices, its own k and λ are those of the ``initializer_range``, and λ departs a
      little or another matrix of its block is so, too; or
    - all of its values are zero, and most others of its kind are not; or
    - its kind is as initialised in every block, and other kinds of these blocks are not (`new_kinds`).

    An alert stands until λ has come half of the way to the others.
    """
    if window.samples == 0 or not np.isfinite(window.loaded["k"]).any():
        return None
    loaded = window.always("loaded", lambda: _look(window, settings))
    if not len(loaded.found):
        return None
    size = len(window.components)
    strength, value, usual, z = np.zeros(size), window.loaded["lambda"], np.full(size, np.nan), np.full(size, np.nan)
    with quiet():
        for n, i in enumerate(loaded.found.tolist()):
            members, place = loaded.group[n]
            start = np.log(window.loaded["lambda"][i] / loaded.usual[n])
            others = np.delete(window.now("lambda")[members], place)
            now = np.log(window.now("lambda")[i] / _middle(others)) if np.isfinite(others).any() else np.nan
            moved = abs(np.log(window.now("lambda")[i] / window.loaded["lambda"][i]))
            stands = abs(now) > 0.5 * abs(start) if abs(start) > settings.log_lambda else moved < settings.log_lambda
            if i in loaded.zero:
                stands = bool(window.now("zeros")[i] >= window.components.numel[i])
            strength[i] = 1.0 + (abs(start) if abs(start) > 0.0 else 0.0) if stands else 0.0
            usual[i], z[i] = loaded.usual[n], loaded.z[n]
    place_of = {int(i): n for n, i in enumerate(loaded.found)}
    blocks = window.components.blocks
    in_block = {b: int((blocks[loaded.found] == b).sum()) for b in set(blocks[loaded.found].tolist())}

    def meaning(i: int) -> str:
        n, many = place_of[i], in_block[int(blocks[i])]
        if i in loaded.zero:
            what = (
                f"all values of this matrix were zero, while those of the others of its kind are not (λ {usual[i]:.4g})"
            )
        elif i in loaded.whole:
            kind, size = window.components.labels[i], len(loaded.group[n][0])
            what = (
                f"the {size} matrices of the kind {kind} looked freshly initialised, with a standard deviation "
                f"of {loaded.sigma[n]:.3g}, "
                f"while other kinds of these blocks were trained (k {window.loaded['k'][i]:.4f})"
            )
        else:
            where = f"as did {many - 1} more of block {blocks[i]}, " if many > 1 else ""
            what = (
                f"this matrix looked freshly initialised, with a standard deviation of {loaded.sigma[n]:.3g}, {where}while "
                f"the others of its kind were trained (k {window.loaded['k'][i]:.4f}; λ {value[i]:.4g}, theirs {usual[i]:.4g})"
            )
        return (
            f"At step {window.loaded_at} {what}. Probably the checkpoint does not have it, or has it under another name: read "
            "the messages about missing keys, and load it again. If it is meant to be new, nothing has to be done."
        )

    return rule_result(strength, 2, f"λ at step {window.loaded_at}", value, meaning, low=usual, high=usual, z=z)


def _look(window: SampleWindow, settings: InitialisedAnew) -> _Loaded:
    components, scale = window.components, window.loaded["lambda"]  # all arrays: (components,)
    with quiet():
        noise = noise_of(window)
        sigma, away = initial_spread(window)
    groups = _groups(window)
    body = np.array(sorted({i for group in groups for i in group.tolist()}), dtype=np.int64)
    empty = _Loaded(np.zeros(0, dtype=np.int64), [], np.zeros(0), np.zeros(0), np.zeros(0), frozenset(), frozenset())
    if not were_trained(window):
        return empty
    unlike: dict[
        int, tuple[Ints, int, float, float, bool]
    ] = {}  # by component: group, place, departure, z, others trained
    for group in groups:
        for place, i in enumerate(group.tolist()):
            others = np.delete(away[group], place)
            others = others[np.isfinite(others)]
            if not away[i] <= SAME_ERRORS or len(others) < LEAST or components.numel[i] < MIN_ELEMENTS:
                continue
            departs, spread = _departure(np.log(scale[group]), place)
            z = departs / float(np.hypot(spread, noise[i]))
            unlike[i] = (group, place, departs, z, bool((others > TRAINED_ERRORS).mean() >= 0.5))
    far = {i for i, (_, _, d, z, _) in unlike.items() if abs(d) >= settings.log_lambda and abs(z) >= settings.z}
    departed = far | {
        i for i, (group, place, *_) in unlike.items() if _outside(scale[group], place, settings.log_lambda)
    }
    exact_ones, usual_ones = matches(window, configured(window)), matches(window, customary(window))
    exactly = {i for i in unlike if exact_ones[i]}

    def beside(i: int, these: Iterable[int]) -> list[int]:
        """Those in the same block."""
        there = components.towers[i], components.blocks[i]
        return [j for j in these if j != i and (components.towers[j], components.blocks[j]) == there]

    found: list[int] = []
    for i, (group, place, d, _, by_shape) in unlike.items():
        exact, peers = i in exactly, beside(i, departed)
        shared = sum(_close(sigma[i], float(sigma[j]), float(np.hypot(noise[i], noise[j]))) for j in peers) >= 2
        rest = group[~exact_ones[group]]  # several blocks may be new
        others = np.abs(np.log(sigma[rest] / sigma[i]))
        only = (
            exact
            and len(rest) >= 0.5 * len(group)
            and bool((others >= max(MOVED, FAR * noise[i]))[np.isfinite(others)].all())
        )
        unlikely = by_shape and exact and (abs(d) >= APART or bool(beside(i, exactly)))
        # The first and the last block differ from the others anyway, and a trained k may pass that of an initialisation.
        within = 0 < place < len(group) - 1
        a_start = exact or bool(usual_ones[i])
        # Training makes matrices larger. A head has few values and few others: only its scale counts.
        if components.body[i]:
            alone = i in far and abs(d) >= settings.alone and (a_start or (within and d < 0.0))
        else:
            sure = exact if window.initial else a_start and d < 0.0
            alone = i in departed and abs(d) >= settings.alone and sure
        # Nor are several matrices of the first block that have grown alike.
        known_so = i in departed and (exact or (within and (by_shape or a_start or shared)) or (a_start and shared))
        if alone or (components.body[i] and (only or unlikely or known_so)):
            found.append(i)
    if len(found) > EXCEPTIONS * len(body):  # then these are not the exception
        return empty
    # The rest of a block that was found in part: matrices whose spread is wider, with the same standard deviation.
    for i, (_, _, d, _, _) in unlike.items():
        alike = sum(_close(sigma[i], float(sigma[j]), float(np.hypot(noise[i], noise[j]))) for j in beside(i, found))
        if i not in found and alike >= 2 and abs(d) >= settings.log_lambda:
            found.append(i)
    for i, group, place in _few(window, exact_ones):
        unlike[i] = (group, place, *_against(np.log(scale[group]), place, float(noise[i])), False)
        found.append(i)
    whole = {int(i): group for group in new_kinds(window) for i in group}
    for i, group in whole.items():
        unlike[i] = (group, int(np.flatnonzero(group == i)[0]), 0.0, np.nan, False)
    zero = _zero(window)
    for i, group, place in zero:
        unlike[i] = (group, place, 0.0, np.nan, False)
    found = list(dict.fromkeys([*found, *whole, *(i for i, *_ in zero)]))
    typical = np.array([np.nan if i in whole else _middle(np.delete(scale[unlike[i][0]], unlike[i][1])) for i in found])
    scores = np.array([unlike[i][3] for i in found])
    places = [(unlike[i][0], unlike[i][1]) for i in found]
    return _Loaded(
        np.array(found, dtype=np.int64),
        places,
        sigma[found],
        typical,
        scores,
        frozenset(whole),
        frozenset(i for i, *_ in zero),
    )


def _zero(window: SampleWindow) -> list[tuple[int, Ints, int]]:
    """Matrices that are zero though most others of their kind are not: for each its index, its group, and its place in it."""
    empty = window.loaded["zeros"] >= window.components.numel
    return [
        (i, group.members, place)
        for group in window.components.groups
        if 0 < empty[group.members].sum() < 0.5 * len(group.members)
        for place, i in enumerate(group.members.tolist())
        if empty[i]
    ]


def _few(window: SampleWindow, exact: Bools) -> list[tuple[int, Ints, int]]:
    """Of groups with few blocks: matrices exactly as configured, if the rest of their tower is far from that.

    Args:
        window: The window.
        exact: Whether a matrix is as its configuration initialises it, shape (components,).

    Returns:
        For each matrix its index, its group, and its place in it.
    """
    components = window.components
    groups = [g.members for g in components.groups if 1 < len(g.members) <= LEAST]
    scale, noise = np.log(window.loaded["lambda"]), noise_of(window)
    found = []
    for tower in {components.towers[group[0]] for group in groups}:
        here = [group for group in groups if components.towers[group[0]] == tower]
        every = np.concatenate(here)
        new = every[exact[every]]
        rest = every[~exact[every] & np.isfinite(scale[every])]
        if not 0 < len(new) <= 0.5 * len(rest):
            continue
        with quiet():
            for group in here:
                others = scale[np.setdiff1d(group, new)]
                for place, i in enumerate(group.tolist()):
                    far = np.abs(others - scale[i]) >= max(MOVED, FAR * noise[i])
                    if exact[i] and len(others) and far.all():
                        found.append((i, group, place))
    # Small matrices may come near it by chance, but not several of one block.
    many = Counter((components.towers[i], components.blocks[i]) for i, *_ in found)
    return [
        f for f in found if noise[f[0]] <= PRECISE or many[components.towers[f[0]], components.blocks[f[0]]] >= MANY
    ]


def _groups(window: SampleWindow) -> list[Ints]:
    """Matrices of one kind by rising block, and heads of one matrix: indices (members,), each of more than `LEAST`."""
    components = window.components
    heads: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, name in enumerate(components.names):
        if "head " in name and components.labels[i].startswith(("attn_", "cross_attn_")):
            heads[name.rpartition("[")[0], components.labels[i]].append(i)
    groups = [group.members for group in components.groups] + [np.array(members) for members in heads.values()]
    return [group for group in groups if len(group) > LEAST]


def _departure(values: Floats, place: int) -> tuple[float, float]:
    """How far a member's value departs from those beside it and from all others, and how far the others do without it.

    As `weibull_monitor.alerts.rules.layers.departure`, but in small groups one value must not widen the spread it is held
    against.

    Args:
        values: By rising block, shape (members,).
        place: Index of the member.
    """
    others = np.delete(values, place)
    near = others[max(0, place - 2) : place + 2]
    with quiet():
        local, whole = values[place] - _middle(near), values[place] - _middle(others)
        spread = float(departure(others[None])[1][0, 0])
    departs = float(np.sign(local) * min(abs(local), abs(whole))) if local * whole > 0 else 0.0
    return departs, spread


def _against(values: Floats, place: int, noise: float) -> tuple[float, float]:
    """Departure of one of few members from the median of the others, and in units of their spread."""
    others = np.delete(values, place)
    departs = float(values[place] - _middle(others))
    return departs, departs / float(np.hypot(np.ptp(others[np.isfinite(others)]), noise))


def _outside(scale: Floats, place: int, least: float) -> bool:
    """Whether ln λ of a member lies outside those of all others, by ``least`` and by as much as they differ."""
    others = np.log(np.delete(scale, place))
    others = others[np.isfinite(others)]
    value = np.log(scale[place])
    gap = max(others.min() - value, value - others.max())
    return bool(gap >= max(least, others.max() - others.min()))


def _middle(values: Floats) -> float:
    """The median of the values that exist; NaN if there is none."""
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else np.nan


def _close(sigma: float, other: float, noise: float) -> bool:
    return bool(abs(np.log(sigma / other)) <= SAME_ERRORS * noise)
