"""The result of a rule: a strength for every component, and the words for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from weibull_monitor.alerts.rules.words import decimal
from weibull_monitor.alerts.statistics import Bools, Floats, quiet
from weibull_monitor.history.alert import MAX_NAMES, SEVERITIES, Finding

Ranks = npt.NDArray[np.int8]


@dataclass(frozen=True, eq=False)
class RuleResult:
    """The result of one rule at one sample; every array has the shape (components,), and one number stands for equal ones.

    Attributes:
        strength: The rule finds a component at 1 and above; it may clear below 0.8. Never NaN.
        severity: Rank of the severity: 1 info, 2 warning, 3 error.
        value: The measured value.
        low: Lower end of the expected range; NaN where it is open.
        high: Upper end; NaN where it is open.
        z: Distance from the usual value, in units of its usual size; NaN where there is none.
        meaning: What happened to the component with this index, and what to check.
        quantity: Name of the value of the component with this index.
        levels: Values now whose jump is what the rule finds, shape (levels, components); None for rules that find states. When
            an alert clears, it says where they are.
        before: The same at the sample before.
        level_names: Names of the levels.
        together: Indices of components that are judged two by two, each of shape (pairs,); None if each is judged by itself.
        lasting: Whether an alert stands until the levels are back, and not only until nothing more jumps.
    """

    strength: Floats
    severity: Ranks
    value: Floats
    low: Floats | float
    high: Floats | float
    z: Floats | float
    meaning: Callable[[int], str]
    quantity: Callable[[int], str]
    levels: Floats | None = None
    before: Floats | None = None
    level_names: tuple[str, ...] = ()
    lasting: bool = False
    together: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None = None


def strongest(found: Sequence[RuleResult], **more: Any) -> RuleResult:
    """For each component the strongest of several results; ``more`` are attributes of `RuleResult` to set."""
    if len(found) == 1:
        return replace(found[0], **more)
    chosen = np.argmax([result.strength for result in found], axis=0)  # (components,)

    def pick(name: str) -> Any:
        return np.choose(chosen, [getattr(result, name) for result in found])

    return RuleResult(
        strength=pick("strength"),
        severity=pick("severity"),
        value=pick("value"),
        low=pick("low"),
        high=pick("high"),
        z=pick("z"),
        meaning=lambda i: found[int(chosen[i])].meaning(i),
        quantity=lambda i: found[int(chosen[i])].quantity(i),
        **more,
    )


def rule_result(
    strength: Floats,
    severity: int | Ranks,
    quantity: str | Callable[[int], str],
    value: Floats,
    meaning: str | Callable[[int], str],
    low: float | Floats = np.nan,
    high: float | Floats = np.nan,
    z: float | Floats = np.nan,
    **more: Any,
) -> RuleResult:
    """A `RuleResult` from arrays and single numbers. A strength of NaN becomes 0, so what is not known is not found."""
    return RuleResult(
        strength=np.where(strength > 0.0, np.minimum(strength, 1e9), 0.0),
        severity=severity if isinstance(severity, np.ndarray) else np.full(strength.shape, severity, dtype=np.int8),
        value=value,
        low=low,
        high=high,
        z=z,
        meaning=(lambda _: meaning) if isinstance(meaning, str) else meaning,
        quantity=(lambda _: quantity) if isinstance(quantity, str) else quantity,
        **more,
    )


EXACT: Final = ("nonfinite", "unchanged", "optimizer_reset")
"""Rules about facts, which have no threshold that a healthy run could reach."""


def finding_of(
    rule: str, found: RuleResult, of: Bools, step: int, names: tuple[str, ...], sure: float = 1.0
) -> Finding:
    """The finding about some components; the worst has the highest severity, then the highest strength.

    Args:
        rule: The rule's name.
        found: Its result.
        of: Which components it is about, bool, shape (components,); not all False.
        step: The sample's step.
        names: The components' names.
        sure: The strength from which it is a warning.
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
        expected=(_number(_at(found.low, worst)), _number(_at(found.high, worst))),
        z=_number(_at(found.z, worst)),
        meaning=f"{found.meaning(worst)} {_sureness(rule, found, worst, sure)}",
    )


def _sureness(rule: str, found: RuleResult, i: int, sure: float) -> str:
    """How sure a finding is, in words."""
    strength = float(found.strength[i])
    if rule in EXACT or found.severity[i] > 2:
        return "This is certain."
    if found.severity[i] > 1:
        return f"Strength {decimal(strength)}, a warning from {sure:.3g} on."
    if strength < sure:
        return f"Strength {decimal(strength)}, a warning from {sure:.3g} on: healthy runs can have this, too{_alone(found, i)}."
    return f"Healthy runs can have this, too{_alone(found, i)}."


def _alone(found: RuleResult, i: int) -> str:
    """What an info adds where its rule says to go back, which is right for a warning."""
    return ", so do that only if the loss or another alert says so" if "go back" in found.meaning(i) else ""


def graded(strength: Floats, levels: tuple[Floats | float, ...]) -> Ranks:
    """Ranks of severity: the number of ``levels`` that ``strength`` (components,) reaches."""
    with quiet():
        ranks: Ranks = np.sum([strength >= level for level in levels], axis=0).astype(np.int8)
    return ranks


def _at(values: Floats | float, index: int) -> float:
    return float(values[index]) if isinstance(values, np.ndarray) and values.ndim else float(values)


def _number(value: float) -> float | None:
    return float(f"{value:.9g}") if np.isfinite(value) else None
