"""Values of settings, checked against the type and the range of the default."""

from __future__ import annotations

import re
from typing import Any, Final

from weibull_monitor.errors import ConfigurationError, shown
from weibull_monitor.history.alert import SEVERITIES

MOST: Final = 10**9
"""The largest integer of a setting."""


def checked(name: str, value: Any, default: Any) -> Any:
    """The value of one key, if it has the default's type and is in range."""
    if isinstance(default, tuple):
        return _patterns(name, value)
    if isinstance(default, bool):
        fits, needed = isinstance(value, bool), "true or false"
    elif isinstance(default, str):
        fits, needed = value in SEVERITIES, f"one of {', '.join(SEVERITIES)}"
    elif isinstance(default, int):
        least = 0 if name.endswith(".cool_down") else 1
        fits = isinstance(value, int) and not isinstance(value, bool) and least <= value <= MOST
        needed = f"an integer of at least {least}" + (f", at most {MOST:,}" if isinstance(value, int) else "")
    else:
        fits = isinstance(value, (int, float)) and not isinstance(value, bool) and 0.0 < value <= 1e300
        needed = "a number above 0"
    if not fits:
        raise ConfigurationError(f"{name} is {shown(value)}; it must be {needed}")
    return float(value) if isinstance(default, float) else value


def _patterns(name: str, value: Any) -> tuple[str, ...]:
    patterns = [value] if isinstance(value, str) else value
    if not isinstance(patterns, (list, tuple)) or not all(isinstance(p, str) for p in patterns):
        raise ConfigurationError(f"{name} is {shown(value)}; it must be a list of regular expressions")
    try:
        for pattern in patterns:
            re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ConfigurationError(f"{name}: {shown(pattern)} is not a regular expression: {error}") from error
    return tuple(patterns)
