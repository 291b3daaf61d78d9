"""A finding of a rule, and the alert that is sent about it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from weibull_monitor.errors import visible
from weibull_monitor.measure.shown import table

Severity = Literal["info", "warning", "error"]
Phase = Literal["begins", "worsens", "ends"]

SEVERITIES: Final[tuple[Severity, ...]] = ("info", "warning", "error")
"""From the least to the most severe. Arrays hold ranks: n for ``SEVERITIES[n - 1]``, and 0 for no severity."""
MAX_NAMES: Final = 20
"""Components that an alert names; the rest are only counted."""


def short_name(name: str) -> str:
    """A component's name without what nearly all names have.

    >>> short_name("model.layers.3.self_attn.q_proj.weight")
    'layers.3.self_attn.q_proj'
    """
    return name.removeprefix("model.").removesuffix(".weight")


def digits_apart(first: float, second: float) -> int:
    """How many digits tell two numbers apart: at least four, at most nine.

    >>> digits_apart(0.0342, 0.2746), digits_apart(0.050481, 0.050483)
    (4, 5)
    """
    return next((n for n in range(4, 9) if f"{first:.{n}g}" != f"{second:.{n}g}"), 9)


def apart(first: float, second: float) -> tuple[str, str]:
    """Two numbers with as many digits as tell them apart.

    >>> apart(0.050481, 0.050483)
    ('0.050481', '0.050483')
    """
    digits = digits_apart(first, second)
    return f"{first:.{digits}g}", f"{second:.{digits}g}"


def in_digits(value: float, digits: int) -> str:
    """A number with so many digits; whole numbers, which count something, with all of them.

    >>> in_digits(0.0274612, 4), in_digits(24672.0, 4), in_digits(4e36, 4)
    ('0.02746', '24,672', '4e+36')
    """
    return f"{value:,.0f}" if float(value).is_integer() and 1e3 <= abs(value) < 1e12 else f"{value:.{digits}g}"


def rank(severity: Severity) -> int:
    """1 for info, 2 for warning, 3 for error."""
    return SEVERITIES.index(severity) + 1


@dataclass(frozen=True)
class Finding:
    """The components that one rule found at one sample.

    Attributes:
        rule: The rule's name.
        severity: ``info``, ``warning`` or ``error``, for the worst component.
        step: Optimizer step of the sample.
        component: Name of the worst component.
        components: Names of the components, the worst first; at most 20.
        count: Number of components.
        quantity: Name of the quantity: k, λ, R², …
        value: Value of the quantity for the worst component; None if it is not a number.
        expected: Expected range of that value, (low, high); None for an open end.
        z: Distance of the value from the usual one, in units of the usual spread; None for rules that do not use it.
        meaning: One sentence that says what it may mean and what to look at.
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
    """A message about a finding: the alert is raised, gets worse, or is cleared.

    Attributes:
        phase: ``begins`` (raised), ``worsens`` or ``ends`` (cleared).
        since: Optimizer step of the sample at which the alert was raised.
        step: Optimizer step of the sample that this message is about.
        finding: The finding when the alert was raised or last got worse.
        name: Name of the model among several in one run; None if there is only one.
        ending: For a cleared alert: how things stand now.

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
    name: str | None = None
    ending: str = ""

    def __repr__(self) -> str:
        return f"Alert({self.title}; {visible(self.text)})"

    def _repr_html_(self) -> str:
        return table(self.title, [], [[self.text]])

    @property
    def title(self) -> str:
        """The same for all alerts of one rule, severity and phase; shorter than 64 characters, the limit of W&B."""
        ending = " is over" if self.phase == "ends" else f" ({self.finding.severity})"
        whose = f"weibull of {self.name}" if self.name else "weibull"
        return f"{whose}: {self.finding.rule}{ending}"

    @property
    def text(self) -> str:
        """One line with the components, the value, the expected range and the meaning."""
        finding = self.finding
        more = f" and {finding.count - 1} more" if finding.count > 1 else ""
        if self.phase == "ends":
            how = self.ending or f"no longer found; it began at step {self.since}."
            return f"step {self.step}: {finding.component}{more}: {how}"
        numbers = f": {self.numbers}" if self.numbers else ""
        return f"step {self.step}: {finding.component}{more}{numbers}. {finding.meaning}"

    @property
    def numbers(self) -> str:
        """The value and what was expected, with digits that tell them apart; empty if the finding has no value."""
        finding = self.finding
        if finding.value is None:
            return ""
        z = f", z {finding.z:.1f}" if finding.z is not None and math.isfinite(finding.z) else ""
        edges = [edge for edge in finding.expected if edge is not None and edge != finding.value]
        digits = max((digits_apart(finding.value, edge) for edge in edges), default=4)
        return f"{measured(finding, digits)}{expectation(finding.expected, digits, finding.quantity)}{z}"

    def to_json(self) -> dict[str, Any]:
        """The ``alert`` line of the history."""
        line = {"step": self.step, "phase": self.phase, "since": self.since, "found": self.finding.step}
        line |= {name: value for name, value in asdict(self.finding).items() if name != "step"}
        return line | ({"ending": self.ending} if self.ending else {})


def measured(finding: Finding, digits: int) -> str:
    """The quantity and its value in so many digits; the quantity alone if the finding has no value."""
    if finding.value is None:
        return finding.quantity
    name, unit = _name_and_unit(finding.quantity)
    return f"{name} {in_digits(finding.value, digits)}{unit}"


def expectation(expected: tuple[float | None, float | None], digits: int = 4, quantity: str = "") -> str:
    """The expected range of a quantity in words; empty if it is open at both ends."""
    low, high = (None if edge is None else in_digits(edge, digits) for edge in expected)
    unit = _name_and_unit(quantity)[1]
    if low is not None and high is not None:
        return f", expected {low}{unit}" if low == high else f", expected {low} to {high}{unit}"
    if low is not None:
        return f", expected at least {low}{unit}"
    return f", expected at most {high}{unit}" if high is not None else ""


def _name_and_unit(quantity: str) -> tuple[str, str]:
    """The name of a quantity, and what follows its values: " %" for one "in %"."""
    name = quantity.removesuffix(" in %")
    return name, " %" if name != quantity else ""


def alert_from_json(line: Mapping[str, Any]) -> Alert:
    """The alert of an ``alert`` line of the history.

    >>> finding = Finding("dead", "warning", 8, "a", ("a", "b"), 2, "zeros", 0.5, (None, 0.1), 4.0, "Look.")
    >>> alert_from_json(Alert("begins", 8, 8, finding).to_json()) == Alert("begins", 8, 8, finding)
    True
    """
    known = {name: line[name] for name in Finding.__dataclass_fields__ if name != "step"}
    low, high = known["expected"]
    known |= {"step": line["found"], "components": tuple(known["components"]), "expected": (low, high)}
    return Alert(line["phase"], line["since"], line["step"], Finding(**known), ending=line.get("ending", ""))
