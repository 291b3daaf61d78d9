"""Values of groups: medians over the blocks of a kind, and one result for all members."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from weibull_monitor.alerts.component_arrays import JudgedGroup
from weibull_monitor.alerts.rules.result import RuleResult, rule_result
from weibull_monitor.alerts.statistics import Floats, median_of


class GroupResults:
    """Collects one result per group; every member of the group gets it. All arrays have the shape (components,)."""

    def __init__(self, size: int) -> None:
        self.strength, self.severity = np.zeros(size), np.ones(size, dtype=np.int8)
        self.value, self.low, self.high = np.full(size, np.nan), np.full(size, np.nan), np.full(size, np.nan)

    def set(self, group: JudgedGroup, severity: int, strength: float, value: float, low: float, high: float) -> None:
        """Sets the result of a group."""
        at = group.members
        self.severity[at], self.strength[at], self.value[at] = severity, strength, value
        self.low[at], self.high[at] = low, high

    def rule_result(self, quantity: str, meaning: str | Callable[[int], str]) -> RuleResult:
        """The result of the rule."""
        return rule_result(self.strength, self.severity, quantity, self.value, meaning, self.low, self.high)


def group_median(values: Floats, group: JudgedGroup) -> float:
    """Median of ``values`` (components,) over the members of a group; NaN if there is no value."""
    return float(median_of(values[group.members][:, None])[0])


def around(low: float, start: float, high: float) -> tuple[float, float]:
    """The range from ``low`` to ``high``, widened to hold ``start`` if that is known.

    >>> around(1.0, 1.5, 1.2), around(1.0, float("nan"), 1.2)
    ((1.0, 1.5), (1.0, 1.2))
    """
    return (min(low, start), max(high, start)) if start == start else (low, high)


def group_error(errors: Floats, group: JudgedGroup) -> float:
    """Standard error of the group's median, from the standard errors (components,) of its members.

    For more than two normal values it is 1.2533 times that of their mean.
    """
    known = errors[group.members]
    known = known[np.isfinite(known)]
    return float((1.2533 if len(known) > 2 else 1.0) * np.sqrt(np.sum(known**2)) / len(known)) if len(known) else np.nan
