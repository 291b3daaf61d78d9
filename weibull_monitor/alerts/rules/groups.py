"""Values of groups: medians over the blocks of a kind, and one result for all members."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from weibull_monitor.alerts.component_arrays import JudgedGroup, at_table, table_of
from weibull_monitor.alerts.rules.result import RuleResult, rule_result
from weibull_monitor.alerts.statistics import Bools, Floats, median_along
from weibull_monitor.alerts.window import SampleWindow


class GroupResults:
    """Collects one result per group; every member of the group gets it.

    Args:
        shape: Shape of a column of the window, (components,), which all arrays have.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.strength, self.severity = np.zeros(shape), np.ones(shape, dtype=np.int8)
        self.value, self.low, self.high = np.full(shape, np.nan), np.full(shape, np.nan), np.full(shape, np.nan)

    def set(
        self,
        group: JudgedGroup,
        far: Bools,
        strength: Floats,
        value: Floats,
        low: Floats | float,
        high: Floats | float,
    ) -> None:
        """Sets the result of a group: a warning if it is ``far`` from what is expected, else an info. Arrays: (1,)."""
        at = np.s_[..., group.members]
        self.severity[at], self.strength[at], self.value[at] = np.where(far, 2, 1), strength, value
        self.low[at], self.high[at] = low, high

    def rule_result(self, quantity: str, meaning: str | Callable[[int], str]) -> RuleResult:
        """The result of the rule."""
        return rule_result(self.strength, self.severity, quantity, self.value, meaning, self.low, self.high)


def medians(window: SampleWindow, values: Floats) -> Floats:
    """Medians of ``values`` (components,) over the members of each group, shape (groups,); NaN if there is no value."""
    table = window.always("table of groups", lambda: table_of([group.members for group in window.components.groups]))
    return median_along(at_table(values, table))[..., 0]


def medians_of_k(window: SampleWindow) -> Floats:
    """Median k of each group now, (groups,); several rules ask for it."""
    return window.once("medians of k", lambda: medians(window, window.now("k")))


def medians_at_start(window: SampleWindow) -> Floats:
    """Median k of each group at the baseline, (groups,)."""
    return window.always("medians at start", lambda: medians(window, window.baseline["k"]))


def drifts_of_k(window: SampleWindow) -> Floats:
    """Median k/k_baseline - 1 of each group, (groups,)."""
    return window.once("drifts of k", lambda: medians(window, window.now("k") / window.baseline["k"]) - 1.0)


def of_group(values: Floats, window: SampleWindow, group: JudgedGroup) -> Floats:
    """The value of a group, (1,), of those of all groups (groups,)."""
    places = window.always("places of groups", lambda: {id(g): n for n, g in enumerate(window.components.groups)})
    n = places[id(group)]
    return values[..., n : n + 1]


def median_k(window: SampleWindow, group: JudgedGroup) -> Floats:
    """Median k of a group now, (1,)."""
    return of_group(medians_of_k(window), window, group)


def median_start(window: SampleWindow, group: JudgedGroup) -> Floats:
    """Median k of a group at the baseline, (1,)."""
    return of_group(medians_at_start(window), window, group)


def median_drift(window: SampleWindow, group: JudgedGroup) -> Floats:
    """Median k/k_baseline - 1 of a group, (1,)."""
    return of_group(drifts_of_k(window), window, group)


def part_groups(window: SampleWindow, group: JudgedGroup) -> tuple[JudgedGroup, ...]:
    """The groups of the parts of stored matrices: of W_q, W_k and W_v for fused ones; none if they are not components."""

    def parts() -> tuple[JudgedGroup, ...]:
        owners, whole = window.components.owners, window.components.whole
        stored = set(owners[group.members[whole[group.members]]].tolist())
        return tuple(
            other
            for other in window.components.groups
            if other is not group and stored.issuperset(owners[other.members].tolist())
        )

    return window.always(("parts", id(group)), parts)


def of_parts(window: SampleWindow, group: JudgedGroup, judge: Callable[[JudgedGroup], Bools]) -> Bools:
    """Whether ``judge`` holds for one of the `part_groups`, (1,); true if there are none.

    Where the parts of a fused matrix have different sizes, k of the whole is low, whatever that of its parts is.
    """
    found = [judge(part) for part in part_groups(window, group)]
    return np.logical_or.reduce(found) if found else np.ones(1, dtype=bool)


def warm(window: SampleWindow, group: JudgedGroup) -> Bools:
    """Whether all members of a group are past the warm-up, (1,)."""
    return np.asarray(window.warm[..., group.members].all(axis=-1, keepdims=True), dtype=bool)


def around(low: float | Floats, start: Floats, high: float | Floats) -> tuple[Floats, Floats]:
    """The range from ``low`` to ``high``, widened to hold ``start`` (groups,) if that is known.

    >>> [end.tolist() for end in around(1.0, np.array([1.5]), 1.2)], [float(end) for end in around(1.0, np.nan, 1.2)]
    ([[1.0], [1.5]], [1.0, 1.2])
    """
    return np.fmin(low, start), np.fmax(high, start)


def group_error(errors: Floats, group: JudgedGroup) -> Floats:
    """Standard error of the group's median, from the standard errors (components,) of its members; shape (1,).

    For more than two normal values it is 1.2533 times that of their mean.
    """
    squares = errors[..., group.members] ** 2
    known = np.isfinite(squares)
    count = np.add.reduce(known, axis=-1, keepdims=True)
    total = np.add.reduce(np.where(known, squares, 0.0), axis=-1, keepdims=True)
    return np.where(count > 0, np.where(count > 2, 1.2533, 1.0) * np.sqrt(total) / count, np.nan)
