"""Files with faults: bytes that are changed, and values that are not what a reader expects."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
from typing import Any

NASTY_TEXT = (
    "",
    "\x1b]0;owned\x07",
    "\x1b[2J",
    "\ud800",
    "\x00",
    "=cmd|' /C calc'!A0",
    "</script><script>alert(1)</script>",
    "[bold]x[/]",
    "a" * 5000,
    "../../../etc/passwd",
    "\u202egnp.exe",
    "line\nbreak\r\ttab",
    "=1+1",
    "NaN",
    "1e999",
    "attn_zzz",
    "float33",
    "%s%d{0}{x}",
)
NASTY: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 10**400, -(10**400), 0.5, -0.0, 1e308, 5e-324, float("nan"),
    float("inf"), float("-inf"), [], {}, [[]], [None], {"a": {"b": []}}, [1, "2", None], *NASTY_TEXT,
)  # fmt: skip
"""Values that replace others."""


def mutated_bytes(data: bytes, source: random.Random) -> bytes:
    """A copy with one or a few faults: mostly near the beginning and the end, where tables are."""
    out = bytearray(data)
    for _ in range(source.choice((1, 1, 1, 2, 5))):
        size = len(out)
        if not size:
            break
        where = source.choice(
            (source.randrange(size), source.randrange(min(size, 600)), size - 1 - source.randrange(min(size, 600)))
        )
        kind = source.randrange(8)
        if kind == 0:
            del out[where:]
        elif kind == 1:
            del out[where : where + source.randrange(1, 40)]
        elif kind == 2:
            out[where:where] = source.randbytes(source.randrange(1, 40))
        elif kind == 3:
            out[where : where + 8] = source.choice(
                (b"\xff" * 8, bytes(8), (1 << 62).to_bytes(8, "little"), b"99999999")
            )
        elif kind == 4:
            other = source.randrange(size)
            out[where : where + 16] = out[other : other + 16]
        elif kind == 5:
            out[where] = source.choice(b'[]{}",:0123456789-.eE\x80cR(tb.}uQX\x8c')
        else:
            out[where] ^= 1 << source.randrange(8)
    return bytes(out)


def mutated_value(value: Any, source: random.Random) -> Any:
    """A JSON value with one fault somewhere within it."""
    if not isinstance(value, (dict, list)) or not value or source.random() < 0.12:
        return source.choice(NASTY)
    if isinstance(value, dict):
        out = dict(value)
        key = source.choice(list(out))
        kind = source.randrange(10)
        if kind == 0:
            del out[key]
        elif kind == 1:
            out[source.choice(NASTY_TEXT)] = out.pop(key)
        elif kind == 2:
            out[source.choice(NASTY_TEXT)] = source.choice(NASTY)
        elif kind == 3:
            other = source.choice(list(out))
            out[key], out[other] = out[other], out[key]
        else:
            out[key] = mutated_value(out[key], source)
        return out
    items = list(value)
    at = source.randrange(len(items))
    kind = source.randrange(10)
    if kind == 0:
        del items[at]
    elif kind == 1:
        items.insert(at, items[source.randrange(len(items))])
    elif kind == 2:
        items.insert(at, source.choice(NASTY))
    elif kind == 3:
        items = items * source.choice((0, 2, 7))
    else:
        items[at] = mutated_value(items[at], source)
    return items


def mutated_json(data: bytes, source: random.Random) -> bytes:
    """A JSON file with one or two faults."""
    value = json.loads(data)
    for _ in range(source.choice((1, 1, 2))):
        value = mutated_value(value, source)
    return _dumped(value)


def mutated_lines(data: bytes, source: random.Random) -> bytes:
    """A history with faults in some lines: in their bytes, their values, their order."""
    lines = data.splitlines(keepends=True)
    for _ in range(source.choice((1, 1, 2, 4))):
        at = source.choice((0, source.randrange(len(lines))))
        kind = source.randrange(12)
        if kind == 0:
            lines[at] = mutated_bytes(lines[at], source)
        elif kind == 1:
            lines.insert(at, lines[source.randrange(len(lines))])
        elif kind == 2 and len(lines) > 1:
            del lines[at]
        elif kind == 3:
            lines[at] = lines[at][: source.randrange(len(lines[at]))]
        else:
            try:
                lines[at] = mutated_json(lines[at], source) + b"\n"
            except ValueError:
                lines[at] = mutated_bytes(lines[at], source)
    return b"".join(lines)


def mutated_safetensors(data: bytes, source: random.Random) -> bytes:
    """A safetensors file whose header has faults and the right length."""
    length = int.from_bytes(data[:8], "little")
    header = mutated_json(data[8 : 8 + length], source)
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def mutated_zip(data: bytes, source: random.Random) -> bytes:
    """A zip file with faults within one of its files, and the right checksums."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as new:
        names = old.namelist()
        chosen = next((n for n in names if n.endswith("data.pkl")), names[0])
        if source.random() < 0.2:
            chosen = source.choice(names)
        for name in names:
            inside = old.read(name)
            new.writestr(name, mutated_bytes(inside, source) if name == chosen else inside)
    return out.getvalue()


def _dumped(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
