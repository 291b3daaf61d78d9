"""The lines of a history, read within bounds: what cannot be read is counted and left out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import IO, Any, Final, NoReturn

from weibull_monitor.errors import visible

MAX_LINE: Final = 48 << 20
"""Most bytes of a line: the record of 100,000 components takes about 35 MB."""


def nested_too_much(data: bytes) -> bool:
    """Whether JSON has so many tables and lists that parsing it takes far more memory than the text."""
    return data.count(b"{") + data.count(b"[") > len(data) // 8 + 1000 or data.count(b":") > len(data) // 12 + 1000


def parsed(line: bytes) -> dict[str, Any] | None:
    """The JSON object of a line, its texts `visible`; None if it is torn, or something else. JSON has no NaN."""
    if len(line) > 1 << 20 and nested_too_much(line):
        return None
    try:
        value = json.loads(line, parse_constant=_refuse)
    except (ValueError, RecursionError):  # torn by a kill, or never a history; UnicodeDecodeError is a ValueError
        return None
    if not isinstance(value, dict):
        return None
    hidden = b"\\" in line or not line.isascii()  # only then can a text within hold what is not visible
    return _with_visible_texts(value) if hidden else value


def raw_lines(file: IO[bytes], wanted: Callable[[bytes], bool] = lambda _: True) -> Iterator[bytes | None]:
    """The lines of a file from where it is, each with its end; None for one that is too long.

    Args:
        file: The file.
        wanted: Whether a line is wanted; others are left out.
    """
    while line := file.readline(MAX_LINE):
        if len(line) < MAX_LINE or line.endswith(b"\n"):
            if wanted(line):
                yield line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(MAX_LINE)
        yield None


def _with_visible_texts(value: Any) -> Any:
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {visible(key): _with_visible_texts(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_visible_texts(inner) for inner in value]
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)
