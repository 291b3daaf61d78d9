"""Whether values from a file have the types that a field is declared with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from types import UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

MAX_INTEGER: Final = 1 << 62
"""No count of anything is larger, and sums of such still fit a float."""
MAX_FLOAT: Final = 1e150
"""No measured value is larger; the squares of such are still finite."""


def conforms(value: object, hint: Any) -> bool:
    """Whether a value of JSON has a declared type: a plain one, a Literal, a union, or a table, list or tuple of such.

    A number has to be finite and of a possible size. A list stands for a tuple.

    >>> conforms([1, 2], tuple[int, ...]), conforms([1, 2.5], tuple[int, ...]), conforms(None, int | None)
    (True, False, True)
    >>> conforms(float("nan"), float), conforms(3, float), conforms(True, int), conforms("a", Literal["a", "b"])
    (False, True, False, True)
    """
    if hint is Any:
        return _is_small(value)
    if hint is None or hint is type(None):
        return value is None
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(conforms(value, one) for one in inner)
    if origin is Literal:
        return isinstance(value, str) and value in inner
    if origin is tuple and inner[-1] is not Ellipsis:
        fits = isinstance(value, (list, tuple)) and len(value) == len(inner)
        return fits and all(conforms(entry, one) for entry, one in zip(value, inner, strict=True))  # type: ignore[call-overload]
    if origin in (tuple, list, Sequence):
        return isinstance(value, (list, tuple)) and all(conforms(entry, inner[0]) for entry in value)
    if origin in (dict, Mapping):
        return isinstance(value, dict) and all(isinstance(k, str) and conforms(v, inner[1]) for k, v in value.items())
    if hint is float:
        return (type(value) is float and abs(value) <= MAX_FLOAT) or _is_integer(value)
    return _is_integer(value) if hint is int else type(value) is hint


def conforming(value: object, fields: Any, required: Sequence[str] = ()) -> dict[str, Any] | None:
    """The entries of a table that a class declares and that have its types, and others that are plain.

    Args:
        value: The table.
        fields: A class with annotations, such as a dataclass.
        required: Names of entries that have to be there.

    Returns:
        The table; None if a required entry is missing or of another type.
    """
    if not isinstance(value, dict):
        return None
    hints = hints_of(fields)
    kept = {k: v for k, v in value.items() if conforms(v, hints.get(k, Union[str, float, bool, None]))}  # noqa: UP007
    return kept if all(name in kept for name in required) else None


@cache
def hints_of(fields: Any) -> dict[str, Any]:
    """The types of a class's fields."""
    return get_type_hints(fields)


def _is_integer(value: object) -> bool:
    return type(value) is int and abs(value) < MAX_INTEGER


def _is_small(value: object) -> bool:
    """Whether all numbers within a value are possible."""
    if isinstance(value, dict):
        return all(_is_small(inner) for inner in value.values())
    if isinstance(value, list):
        return all(_is_small(inner) for inner in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return not isinstance(value, int) or abs(value) < MAX_INTEGER
