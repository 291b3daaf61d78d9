"""The columns of a recorded sample, and where each is found in a `Snapshot`."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final

_FIT: Final = {
    "k": "k",
    "lambda": "lambda_",
    "r2": "r2",
    "k_se": "k_se",
    "rms": "rms",
    "zeros": "zeros",
    "nonfinite": "nonfinite",
}
_SCALING: Final = {
    "eta": "eta",
    "weight_decay": "weight_decay",
    "effective": "effective",
    "t_over_tau": "t_over_tau",
    "lambda_forecast": "forecast.value",
    "lambda_forecast_low": "forecast.low",
    "lambda_forecast_high": "forecast.high",
    "lambda_equilibrium": "equilibrium.value",
    "eta_sum": "eta_sum",
    "update_max": "update_max",
    "element_max": "element_max",
}
_TAIL: Final = {"largest": "largest", "p999_p50": "p999_p50"}
_FORCES: Final = {f"force_{name}": name for name in ("alignment", "injection", "decay", "net", "closure")}
_UPDATES: Final = {f"update_{name.strip('_')}": name for name in ("k", "lambda_", "rms", "ratio")}
_DELTAS: Final = {f"delta_{name.strip('_')}": name for name in ("k", "lambda_", "rms", "ratio")}
_WRITES: Final = {
    "step_rms": "step_rms",
    "written": "times",
    "written_rms": "rms",
    "state_written": "state_times",
    "written_after": "after",
}
_EXPECTED: Final = {"expected_after": "after"}

SOURCES: Final[dict[str, tuple[str, str]]] = {
    column: (source, path)
    for source, columns in (
        ("fits", _FIT),
        ("scaling", _SCALING),
        ("fits", _TAIL),
        ("forces", _FORCES),
        ("updates", _UPDATES),
        ("deltas", _DELTAS),
        ("writes", _WRITES),
        ("expected", _EXPECTED),
    )
    for column, path in columns.items()
}
"""For each column the mapping of `Snapshot` that holds it, and the attribute of its values."""
COLUMNS: Final = tuple(SOURCES)
"""The columns of a ``snapshot`` line, in order."""
FIRST_COLUMNS: Final = COLUMNS[: len(_FIT) + 2]
"""The columns that lines of every version have: the fit, η and λ_wd."""
FORCES: Final = tuple(_FORCES)
"""The columns that a line has only if forces were asked for."""
UPDATES: Final = tuple(_UPDATES)
"""The columns that a line has only if updates were asked for."""
COUNTS: Final = frozenset({"zeros", "nonfinite"})
"""The columns of integers."""
DELTAS: Final = tuple(_DELTAS)
"""The columns that a line has only if the model has adapters: of each A, what it and its B add to a weight."""
WRITES: Final = tuple(_WRITES)
"""The columns that a line has only if writes to weights are watched."""
WRITTEN: Final = tuple(_WRITES)[1:]
"""The columns that a line has only if something was written to a weight between two steps."""
EXPECTED: Final = tuple(_EXPECTED)
"""The columns that a line has only if a change was announced."""


def unknown(what: str, name: object, known: Iterable[str]) -> str:
    """The message for a name that a history does not have, with the names that are near.

    >>> unknown("column", "kk", ["k", "lambda"])
    "the history has no column 'kk'; did you mean 'k'?"
    """
    names = list(known)
    wanted = str(name)
    near = get_close_matches(wanted, names, 3, 0.6) or [n for n in names if wanted and wanted.lower() in n.lower()][:3]
    if near:
        return f"the history has no {what} {name!r}; did you mean {' or '.join(map(repr, near))}?"
    some = ", ".join(map(repr, names[:5])) + (", …" if len(names) > 5 else "")
    return f"the history has no {what} {name!r}; it has {some or 'none'}"
