"""Kinds that are new as a whole in a model whose other kinds were trained: names that did not match when it was loaded."""

from __future__ import annotations

from collections import defaultdict
from typing import Final

import numpy as np

from weibull_monitor.alerts.component_arrays import Ints
from weibull_monitor.alerts.rules.trained import CERTAIN, Start, configured, customary, families, noise_of, rough
from weibull_monitor.alerts.statistics import quiet
from weibull_monitor.alerts.window import SampleWindow

KINDS: Final = 3
"""Kinds of a list of blocks from which on one of them may be unlike the others."""
BLOCKS: Final = 4
"""And its blocks."""
FAR_KINDS: Final = 4.0
"""Spread of ln λ over the blocks of the other kinds, in standard errors of a matrix: at least, by the median."""
PRECISE_KIND: Final = 0.005, 0.003
"""Standard error of the mean ln λ of a kind up to which it may be as the configuration says, and as is usual."""


def new_kinds(window: SampleWindow) -> list[Ints]:
    """The kinds of self-attention and feed-forward blocks that are as initialised in every block, though the others are not.

    All blocks together must have k and λ of one way to initialise, and λ of most other kinds of these blocks must differ from
    block to block as training makes it. Cross-attention that is new as a whole is ordinary, and so is a tower.

    Returns:
        Indices of the matrices of each kind by rising block, of shape (members,) each.
    """
    towers: dict[str, list[Ints]] = defaultdict(list)
    for group in window.components.groups:
        if len(group.members) >= BLOCKS and not group.label.startswith("cross_"):
            towers[window.components.towers[group.members[0]]].append(group.members)
    found: list[Ints] = []
    with quiet():
        for groups in towers.values():
            if len(groups) < KINDS:
                continue
            trained = [group for group in groups if rough(window, [group])]
            new = [group for group in groups if _is_new(window, group)]
            if new and len(new) <= 0.5 * len(groups) <= len(trained) and _apart(window, trained):
                found += [group for group in new if not any(group is other for other in trained)]
    return found


def _is_new(window: SampleWindow, group: Ints) -> bool:
    limits = zip((configured(window), customary(window)), PRECISE_KIND, strict=True)
    return any(_began_so(window, group, start, precise) for starts, precise in limits for start in starts)


def _began_so(window: SampleWindow, group: Ints, start: Start, precise: float) -> bool:
    """Whether all matrices of a group together have k and λ of one way to initialise."""
    family, k = families()[start.family], window.loaded["k"][group]
    error = float(np.sqrt(np.mean(noise_of(window)[group] ** 2) / len(group)))
    beside = np.mean(np.log(window.loaded["lambda"][group] / (family.ratio * start.sigma[group]))) / error
    away = np.mean(k - family.k) / np.sqrt(np.mean(window.loaded["k_se"][group] ** 2) / len(group))
    return bool(error <= precise and beside**2 + away**2 <= CERTAIN)


def _apart(window: SampleWindow, trained: list[Ints]) -> bool:
    """Whether the blocks of the other kinds differ by far more than a fit can tell."""
    scale, noise = np.log(window.loaded["lambda"]), noise_of(window)
    spread = [float(np.std(scale[group]) / np.mean(noise[group])) for group in trained]
    return bool(np.median(spread) >= FAR_KINDS)
