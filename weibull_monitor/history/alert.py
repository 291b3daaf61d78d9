"""What a rule finds and what the engine tells: values, without behaviour."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

Severity = Literal["info", "warning", "error"]
Phase = Literal["begins", "worsens", "ends"]

SEVERITIES: Final[tuple[Severity, ...]] = ("info", "warning", "error")
"""By rising gravity; rank n of an array of severities is ``SEVERITIES[n - 1]``, and 0 is none."""
MAX_NAMES: Final = 20
"""Components that an alert names; their number is told whatever it is."""


def rank(severity: Severity) -> int:
    """1 for info, 2 for warning, 3 for error."""
    return SEVERITIES.index(severity) + 1


@dataclass(frozen=True)
class Finding:
    """What one rule finds at one sample, of all components that it concerns.

    Attributes:
        rule: The rule's name.
        severity: ``info``, ``warning`` or ``error``: of the worst component.
        step: Optimizer step of the sample.
        component: The worst component.
        components: Names of the components, the worst first; at most 20 of them.
        count: How many there are.
        quantity: What was measured: k, λ, R², …
        value: Its value, of the worst component; None where there is no number.
        expected: Range that was expected of that value; an end is None where it is open.
        z: Distance from what is usual, in units of what is usual; None for rules that do not go by it.
        meaning: One sentence: what it may mean and what to look at.
    """

    rule: str
    severity: Severity
    step: int
    component: str
    components: tuple[str, ...]
    count: int
    quantity: str
    value: float | None
    expected: tuple[float | None, float | None]
    z: float | None
    meaning: str


@dataclass(frozen=True)
class Alert:
    """What the engine tells of a finding: that it begins, gets worse, or ends.

    Attributes:
        phase: ``begins``, ``worsens`` or ``ends``.
        since: Step of the sample at which it began.
        step: Step of the sample at which it is told.
        finding: The finding, as it was when it began or got worse.

    >>> finding = Finding(
    ...     "nonfinite", "error", 40, "a.weight", ("a.weight",), 1, "Inf and NaN", 3.0, (0.0, 0.0), None, "Look at the loss."
    ... )
    >>> alert = Alert("begins", 40, 40, finding)
    >>> alert.title
    'weibull: nonfinite (error)'
    >>> print(alert.text)
    step 40: a.weight: Inf and NaN 3, expected 0. Look at the loss.
    """

    phase: Phase
    since: int
    step: int
    finding: Finding

    @property
    def title(self) -> str:
        """The same for every alert of a rule, severity and phase, and shorter than 64 characters, as W&B wants it."""
        ending = " is over" if self.phase == "ends" else f" ({self.finding.severity})"
        return f"weibull: {self.finding.rule}{ending}"

    @property
    def text(self) -> str:
        """One line for people."""
        finding = self.finding
        more = f" and {finding.count - 1} more" if finding.count > 1 else ""
        if self.phase == "ends":
            return f"step {self.step}: {finding.component}{more}: no longer found; it began at step {self.since}."
        return f"step {self.step}: {finding.component}{more}{self._numbers()}. {finding.meaning}"

    def _numbers(self) -> str:
        finding = self.finding
        if finding.value is None:
            return ""
        z = f", z {finding.z:.1f}" if finding.z is not None and math.isfinite(finding.z) else ""
        return f": {finding.quantity} {finding.value:.4g}{expectation(finding.expected)}{z}"

    def to_json(self) -> dict[str, Any]:
        """The ``alert`` line of the history."""
        return {"step": self.step, "phase": self.phase, "since": self.since, "found": self.finding.step} | {
            name: value for name, value in asdict(self.finding).items() if name != "step"
        }


def expectation(expected: tuple[float | None, float | None]) -> str:
    """The expected range in words; empty if it is open at both ends."""
    low, high = expected
    if low is not None and high is not None:
        return f", expected {low:.4g}" if low == high else f", expected {low:.4g} to {high:.4g}"
    if low is not None:
        return f", expected at least {low:.4g}"
    return f", expected at most {high:.4g}" if high is not None else ""


def alert_from_json(line: Mapping[str, Any]) -> Alert:
    """The alert of an ``alert`` line of the history.

    >>> finding = Finding("dead", "warning", 8, "a", ("a", "b"), 2, "zeros", 0.5, (None, 0.1), 4.0, "Look.")
    >>> alert_from_json(Alert("begins", 8, 8, finding).to_json()) == Alert("begins", 8, 8, finding)
    True
    """
    known = {name: line[name] for name in Finding.__dataclass_fields__ if name != "step"}
    low, high = known["expected"]
    known |= {"step": line["found"], "components": tuple(known["components"]), "expected": (low, high)}
    return Alert(line["phase"], line["since"], line["step"], Finding(**known))
