"""Whether values from a file have the types that a field is declared with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
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
    return _check_of(hint)(value)


@cache
def _check_of(hint: Any) -> Callable[[object], bool]:
    """The test of a type, made once: a history may have ten thousand components."""
    if hint is Any:
        return _is_small
    if hint is None or hint is type(None):
        return lambda value: value is None
    if hint is int:
        return _is_integer
    if hint is float:
        return _is_float
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        tests = [_check_of(one) for one in inner]
        return lambda value: any(test(value) for test in tests)
    if origin is Literal:
        return lambda value: isinstance(value, str) and value in inner
    if origin is tuple and inner[-1] is not Ellipsis:
        return _tuple_of([_check_of(one) for one in inner])
    if origin in (tuple, list, Sequence):
        every = _check_of(inner[0])
        return lambda value: isinstance(value, (list, tuple)) and all(map(every, value))
    if origin in (dict, Mapping):
        each = _check_of(inner[1])
        return lambda value: isinstance(value, dict) and all(isinstance(k, str) and each(v) for k, v in value.items())
    return lambda value: type(value) is hint


def _tuple_of(tests: list[Callable[[object], bool]]) -> Callable[[object], bool]:
    def test(value: object) -> bool:
        if not isinstance(value, (list, tuple)) or len(value) != len(tests):
            return False
        return all(one(entry) for one, entry in zip(tests, value, strict=True))

    return test


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


def _is_float(value: object) -> bool:
    return (type(value) is float and abs(value) <= MAX_FLOAT) or _is_integer(value)


def _is_small(value: object) -> bool:
    """Whether all numbers within a value are possible."""
    if isinstance(value, dict):
        return all(_is_small(inner) for inner in value.values())
    if isinstance(value, list):
        return all(_is_small(inner) for inner in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return not isinstance(value, int) or abs(value) < MAX_INTEGER
