"""Messages about a discovery for the log: why there is nothing to measure, and one line for all matrices with one problem."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from weibull_monitor.errors import counted
from weibull_monitor.model.components.component import Discovery

if TYPE_CHECKING:
    from torch import nn


def nothing_to_measure(model: nn.Module, discovery: Discovery) -> str:
    """Why a model has no components."""
    what = f"{type(model).__name__} has no weight matrix that can be measured"
    if not discovery.skipped:
        return f"{what}: no parameter of two or more dimensions is left after include and exclude"
    first = discovery.skipped[0]
    return f"{what}: {len(discovery.skipped)} cannot be measured, for example {first.name}, because {first.reason}"


def differs(parameters: Sequence[str]) -> str:
    """The warning about parameters that are whole on every rank, but with different values."""
    return (
        f"{counted(len(parameters), 'matrix differs', 'matrices differ')} between ranks ({_first_of(parameters)}); only what the "
        "lowest rank has is measured. If you wrap the model later (DDP makes ranks equal), create the monitor after that; if you "
        "divide it by hand, use torch's DTensor, so that the monitor knows how"
    )


def moved(parameters: Sequence[str]) -> str:
    """The warning about matrices that were to be read once, and have changed."""
    return (
        f"{counted(len(parameters), 'matrix that needs no gradient has', 'matrices that need no gradient have')} changed "
        f'({_first_of(parameters)}) and will be read again, although frozen="once" was passed; '
        'frozen="read" reads all at every sample'
    )


def by_reason(reasons: Mapping[str, str], what: str) -> dict[str, str]:
    """One message for all names with the same reason, by that reason. Numbers in reasons do not matter.

    Args:
        reasons: The reason of each name.
        what: What it is the reason of, said of several matrices: ``have …`` becomes ``has …`` for one.

    >>> list(by_reason({"a": "all 8 values are zero", "b": "all 9 values are zero"}, "have no fit").values())
    ['2 matrices have no fit: a and others, because all 8 values are zero']
    """
    grouped: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        grouped.setdefault(re.sub(r"\d+", "#", reason), []).append(name)
    one = re.sub("^have ", "has ", what)
    return {
        key: f"{counted(len(names), f'matrix {one}', f'matrices {what}')}: {_first_of(names)}, because {reasons[names[0]]}"
        for key, names in grouped.items()
    }


def _first_of(names: Sequence[str]) -> str:
    return names[0] + " and others" * (len(names) > 1)
