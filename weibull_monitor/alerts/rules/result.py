"""What a rule reads off a window: a strength for every component, and what to say of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from weibull_monitor.alerts.statistics import Bools, Floats, quiet
from weibull_monitor.history.alert import MAX_NAMES, SEVERITIES, Finding

Ranks = npt.NDArray[np.int8]


@dataclass(frozen=True, eq=False)
class RuleResult:
    """One rule's view of one sample; every array has the shape (components,).

    Attributes:
        strength: 1 and above: found. What stands stays until it falls below 0.8. Never NaN.
        severity: Rank of the severity, where found: 1 info, 2 warning, 3 error.
        value: What was measured.
        low: Lower end of the expected range; NaN where it is open.
        high: Upper end.
        z: Distance from it in units of what is usual; NaN where there is none.
        meaning: What to say of the component with this index.
        quantity: What the value of the component with this index is.
    """

    strength: Floats
    severity: Ranks
    value: Floats
    low: Floats
    high: Floats
    z: Floats
    meaning: Callable[[int], str]
    quantity: Callable[[int], str]


def rule_result(
    strength: Floats,
    severity: int | Ranks,
    quantity: str | Callable[[int], str],
    value: Floats,
    meaning: str | Callable[[int], str],
    low: float | Floats = np.nan,
    high: float | Floats = np.nan,
    z: float | Floats = np.nan,
) -> RuleResult:
    """A `RuleResult` from arrays and single numbers; a strength that is NaN becomes 0: what is unknown is not found."""

    def full(values: float | Floats) -> Floats:
        return np.broadcast_to(np.asarray(values, dtype=float), strength.shape)

    return RuleResult(
        strength=np.nan_to_num(strength, nan=0.0, posinf=1e9, neginf=0.0),
        severity=np.broadcast_to(np.asarray(severity, dtype=np.int8), strength.shape),
        value=full(value),
        low=full(low),
        high=full(high),
        z=full(z),
        meaning=(lambda _: meaning) if isinstance(meaning, str) else meaning,
        quantity=(lambda _: quantity) if isinstance(quantity, str) else quantity,
    )


def finding_of(rule: str, found: RuleResult, of: Bools, step: int, names: tuple[str, ...]) -> Finding:
    """The finding of the components ``of``, which is not empty: the worst is of the highest severity, then strength.

    Args:
        rule: The rule's name.
        found: Its reading.
        of: Which components it concerns, shape (components,).
        step: The sample's step.
        names: The components' names.
    """
    indices = np.flatnonzero(of)
    ordered = indices[np.lexsort((-found.strength[indices], -found.severity[indices]))]
    worst = int(ordered[0])
    return Finding(
        rule=rule,
        severity=SEVERITIES[max(1, int(found.severity[worst])) - 1],
        step=step,
        component=names[worst],
        components=tuple(names[i] for i in ordered[:MAX_NAMES]),
        count=len(indices),
        quantity=found.quantity(worst),
        value=_number(found.value[worst]),
        expected=(_number(found.low[worst]), _number(found.high[worst])),
        z=_number(found.z[worst]),
        meaning=found.meaning(worst),
    )


def graded(strength: Floats, levels: tuple[Floats | float, ...]) -> Ranks:
    """Ranks of severity from the strengths at which each begins."""
    with quiet():
        ranks: Ranks = np.sum([strength >= level for level in levels], axis=0).astype(np.int8)
    return ranks


def _number(value: float) -> float | None:
    return float(f"{value:.6g}") if np.isfinite(value) else None
