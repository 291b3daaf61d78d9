"""Valid files in which one field is another value: each of a list, at every place that a format has.

`mutations` and `structures` draw at random; these know every place of a file, and the file stays what its format asks for. In a
pickle a place is an instruction that puts a value on the stack: what it puts there is replaced, and the rest is kept.
"""

from __future__ import annotations

import io
import json
import pickle
import pickletools
import random
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from hostile.structures import paths_of, with_text

Case = tuple[str, Callable[[], bytes]]
"""What is changed, and what makes the file."""
_LONG = "x" * 1_000_000
JSON_VALUES: dict[str, str] = {
    "null": "null",
    "true": "true",
    "false": "false",
    "zero": "0",
    "minus one": "-1",
    "one": "1",
    "half": "0.5",
    "minus zero": "-0.0",
    "thousand as a float": "1e3",
    "2**31": str(2**31),
    "2**53 + 1": str(2**53 + 1),
    "2**61": str(2**61),
    "2**63": str(2**63),
    "2**64": str(2**64),
    "minus 2**63": str(-(2**63)),
    "10**18": str(10**18),
    "4,000 digits": "9" * 4000,
    "10,000 digits": "9" * 10_000,
    "minus 10,000 digits": "-" + "9" * 10_000,
    "10,000 decimals": "0." + "3" * 10_000,
    "NaN": "NaN",
    "infinity": "Infinity",
    "minus infinity": "-Infinity",
    "overflow": "1e999",
    "largest": "1.7976931348623157e308",
    "1e149": "1e149",
    "smallest": "5e-324",
    "1e-160": "1e-160",
    "empty text": '""',
    "empty list": "[]",
    "empty table": "{}",
    "number as text": '"12"',
    "nan as text": '"nan"',
    "date": '"2026-02-30T25:61:00Z"',
    "lone surrogate": '"\\ud800"',
    "turned surrogates": '"\\udfff\\ud800"',
    "null byte": '"a\\u0000b"',
    "escape": '"\\u001b]0;x\\u0007\\u001b[2J"',
    "lines": '"a\\r\\nb\\u2028c\\u0085d"',
    "right to left": '"\\u202e\\u2066abc"',
    "combining": '"a' + "\\u0301" * 2000 + '"',
    "wide": '"' + "\U0001f468\u200d\U0001f469\u200d\U0001f467" * 50 + '"',
    "formula": '"=HYPERLINK(\\"http://a\\",1)"',
    "mathematics": '"$\\\\frac{1}{$_{a^{b$"',
    "markup": '"[red]</b><img src=x onerror=alert(1)>[/]{{x}}%s%n"',
    "path": '"../../../../etc/passwd"',
    "long text": f'"{_LONG}"',
    "deep list": "[" * 10_000 + "]" * 10_000,
    "deep table": '{"a":' * 10_000 + "1" + "}" * 10_000,
    "deep, but not too deep": "[" * 900 + "]" * 900,
    "many numbers": "[" + "0," * 50_000 + "0]",
    "many texts": '["' + '","'.join(f"a{n}" for n in range(5000)) + '"]',
    "many keys": "{" + ",".join(f'"a{n}":{n}' for n in range(5000)) + "}",
    "keys twice": '{"a":1,"a":{"a":2,"a":3}}',
    "list of lists": "[[],[[]],[null]]",
    "list of tables": '[{},{"a":null}]',
    "mixed list": '[1,"2",null,true,{"a":[]}]',
    "huge list of huge": "[" + ",".join(["1e308"] * 1000) + "]",
    "schema": '{"type":"run","schema":1,"components":[]}',
}
TOML_VALUES: dict[str, str] = {
    **{
        name: text
        for name, text in JSON_VALUES.items()
        if name not in ("null", "infinity", "minus infinity", "NaN", "deep table", "many keys", "keys twice", "schema")
    },
    "nan": "nan",
    "inf": "inf",
    "minus inf": "-inf",
    "moment": "1979-05-27T07:32:00Z",
    "day": "1979-05-27",
    "time": "07:32:00.999999",
    "impossible day": "2026-02-30",
    "hexadecimal": "0xdeadbeefdeadbeefdeadbeef",
    "10,000 digits, hexadecimal": "0x" + "f" * 10_000,
    "underscores": "1_000_000",
    "inline": "{a = 1, b.c.d = [1, {e = 2}]}",
    "deep inline": "{a=" * 2000 + "1" + "}" * 2000,
    "deep key": "1\n" + ".".join(["a"] * 5000) + " = 1",
    "lines of text": '"""\na\\\n   b\n"""',
    "pattern": '["(", "*", "(?P<a", "["]',
    "many patterns": "[" + ",".join(f'"a{n}"' for n in range(5000)) + "]",
    "table": "1\n[alerts.dead]\nz = 1\n[alerts.dead]\nz = 2",
    "tables": "1\n[[alerts]]\nz = 1",
}


def _text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def _list_of(pushes: bytes) -> bytes:
    return b"](" + pushes + b"e"


def _laughs() -> bytes:
    """A list of ten lists of ten lists, each the same, thirty deep: ten values in a few bytes, 10**30 if they are walked."""
    out = b"]r" + struct.pack("<I", 900_000)
    for level in range(30):
        get = b"j" + struct.pack("<I", 900_000 + level)
        out += b"0](" + get * 10 + b"er" + struct.pack("<I", 900_001 + level)
    return out


def _long(value: int) -> bytes:
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data if len(data) < 256 else b"\x8b" + struct.pack("<i", len(data)) + data


def _tensor(
    shape: bytes, stride: bytes, offset: bytes = b"K\x00", count: bytes = b"K\x04", kind: bytes = b"FloatStorage"
) -> bytes:
    reference = b"(" + _text("storage") + b"ctorch\n" + kind + b"\n" + _text("0") + _text("cpu") + count + b"tQ"
    hooks = b"ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + reference + offset + shape + stride + b"\x89" + hooks + b"tR"


_PAIR, _ONES = b"(K\x02K\x02t", b"(K\x02K\x01t"
PUSHES: dict[str, bytes] = {
    "None": b"N",
    "True": b"\x88",
    "zero": b"K\x00",
    "minus one": b"J\xff\xff\xff\xff",
    "2**31": _long(2**31),
    "2**63": _long(2**63),
    "2**200": _long(2**200),
    "10**600": _long(10**600),
    "10**10000": _long(10**10_000),
    "decimal of 10,000 digits": b"I" + b"9" * 10_000 + b"\n",
    "NaN": b"G" + struct.pack(">d", float("nan")),
    "infinity": b"G" + struct.pack(">d", float("inf")),
    "half": b"G" + struct.pack(">d", 0.5),
    "empty text": _text(""),
    "long text": _text(_LONG),
    "surrogate": b"X\x03\x00\x00\x00\xed\xa0\x80",
    "escape": _text("\x1b[2J\x07\n"),
    "path": _text("../../../etc/passwd"),
    "null byte": _text("a\0b"),
    "bytes": b"\x8e" + struct.pack("<Q", 4) + b"abcd",
    "bytes of any length": b"\x8e" + struct.pack("<Q", 1 << 60),
    "bytearray of any length": b"\x96" + struct.pack("<Q", 1 << 40),
    "empty tuple": b")",
    "empty list": b"]",
    "empty table": b"}",
    "deep list": b"](" * 1 + b"](" * 9_999 + b"e" * 10_000,
    "deep tuple": b")" + b"\x85" * 10_000,
    "deep table": b"}" + (_text("a") + b"}") * 10_000 + b"s" * 10_000,
    "list in itself": b"]r" + struct.pack("<I", 900_000) + b"j" + struct.pack("<I", 900_000) + b"a",
    "table in itself": b"}r" + struct.pack("<I", 900_000) + _text("a") + b"j" + struct.pack("<I", 900_000) + b"s",
    "laughs": _laughs(),
    "numbers": _list_of(b"K\x00" * 50_000),
    "set": b"\x8f(K\x01K\x02\x90",
    "frozenset": b"(K\x01\x91",
    "complex": b"cbuiltins\ncomplex\n(K\x01K\x02tR",
    "date": b"cdatetime\ndate\nU\x04\x07\xea\x02\x1e\x85R",
    "decimal": b"cdecimal\nDecimal\n" + _text("1e999999999") + b"\x85R",
    "array": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR",
    "number of NumPy": b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\nU\x02f8\x85RU\x08\x00\x00\x00\x00\x00\x00\xf0?tR",
    "program": b"cposix\nsystem\n" + _text("touch /tmp/weibull-executed") + b"\x85R",
    "program of os": b"cos\nsystem\n" + _text("touch /tmp/weibull-executed") + b"\x85R",
    "evaluation": b"cbuiltins\neval\n" + _text("open('/tmp/weibull-executed','w')") + b"\x85R",
    "import": b"cbuiltins\n__import__\n" + _text("antigravity") + b"\x85R",
    "attribute": b"cbuiltins\ngetattr\n(ctorch\nload\n" + _text("__globals__") + b"tR",
    "class": b"cbuiltins\nint\n",
    "class of torch": b"ctorch\nTensor\n",
    "dtype": b"ctorch\nfloat32\n",
    "module that is not there": b"cno.such.module\nname\n",
    "name with dots": b"ctorch\nnn.Module.__init__\n",
    "persistent": b"(" + _text("storage") + b"tQ",
    "persistent of text": _text("0") + b"Q",
    "stride of zero": _tensor(_PAIR, b"(K\x00K\x00t"),
    "stride below zero": _tensor(_PAIR, b"(J\xff\xff\xff\xffK\x01t"),
    "huge by strides of zero": _tensor(b"(" + _long(10**6) + _long(10**6) + b"t", b"(K\x00K\x00t"),
    "shape of many": _tensor(b"(" + b"K\x01" * 5000 + b"t", b"(" + b"K\x01" * 5000 + b"t"),
    "offset beyond": _tensor(_PAIR, _ONES, offset=_long(2**62)),
    "count beyond": _tensor(_PAIR, _ONES, count=_long(2**62)),
    "storage of another kind": _tensor(_PAIR, _ONES, kind=b"ComplexDoubleStorage"),
    "storage of no kind": _tensor(_PAIR, _ONES, kind=b"NoStorage"),
    "tensor": _tensor(_PAIR, _ONES),
}  # fmt: skip
"""Instructions that put one value on the stack of a pickle."""
_PUSHING = frozenset(
    [
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "LONG4",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "BINBYTES",
        "SHORT_BINBYTES",
        "UNICODE",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "FLOAT",
        "BINFLOAT",
        "NONE",
        "NEWTRUE",
        "NEWFALSE",
        "EMPTY_LIST",
        "EMPTY_DICT",
        "EMPTY_TUPLE",
        "GLOBAL",
        "STACK_GLOBAL",
        "TUPLE",
        "TUPLE1",
        "TUPLE2",
        "TUPLE3",
        "LIST",
        "DICT",
        "REDUCE",
        "NEWOBJ",
        "BUILD",
        "SETITEM",
        "SETITEMS",
        "APPEND",
        "APPENDS",
        "BINPERSID",
        "BINGET",
        "LONG_BINGET",
    ]
)


def instructions(data: bytes) -> list[tuple[str, bytes]]:
    """The instructions of the pickles in a row at the beginning of some bytes, and the rest as one of an empty name.

    Frames are left out: they would have another length.
    """
    out: list[tuple[str, bytes]] = []
    start = 0
    while data[start : start + 1] == b"\x80":
        found = list(pickletools.genops(data[start:]))
        places = [start + (place or 0) for _, _, place in found]
        ends = [*places[1:], places[-1] + 1]
        out += [
            (one.name, data[a:b]) for (one, _, _), a, b in zip(found, places, ends, strict=True) if one.name != "FRAME"
        ]
        start = ends[-1]
    return [*out, ("", data[start:])]


def with_push(found: list[tuple[str, bytes]], place: int, push: bytes) -> bytes:
    """A pickle in which another value is where an instruction puts its own."""
    return b"".join(data + (b"0" + push if n == place else b"") for n, (_, data) in enumerate(found))


def in_pickle(data: bytes, only_first: bool = False) -> Iterator[Case]:
    """A pickle with every value at every place.

    Args:
        data: The pickle, or several in a row.
        only_first: Whether an instruction of the same bytes as an earlier one is left out.
    """
    found = instructions(data)
    seen: set[tuple[bytes, bytes]] = set()
    for place, (name, text) in enumerate(found):
        key = (found[place - 1][1], text)
        if name not in _PUSHING or (only_first and key in seen):
            continue
        seen.add(key)
        for label, push in PUSHES.items():
            yield f"{place} {name}: {label}", partial(with_push, found, place, push)


def in_zip(data: bytes) -> Iterator[Case]:
    """What ``torch.save`` wrote, with every value at every place of its pickle."""
    with zipfile.ZipFile(io.BytesIO(data)) as old:
        members = {name: old.read(name) for name in old.namelist()}
    table = next(name for name in members if name.endswith("data.pkl"))

    def zipped(changed: Callable[[], bytes]) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as new:
            for name, inside in members.items():
                new.writestr(name, changed() if name == table else inside)
        return out.getvalue()

    for label, changed in in_pickle(members[table], only_first=True):
        yield label, partial(zipped, changed)


def _changes(value: Any) -> Iterator[tuple[str, Any, str, int]]:
    """Labels, paths, texts, and how `with_text` puts them in; of paths that differ by an index or a tensor's name, one."""
    seen: set[tuple[Any, ...]] = set()
    for path in paths_of(value):
        alike = tuple("*" if isinstance(part, int) or "." in part else part for part in path)
        if alike in seen:
            continue
        seen.add(alike)
        label = ".".join(map(str, path))[:60]
        for name, text in JSON_VALUES.items():
            yield f"{label}: {name}", path, text, 0
        for how, name in enumerate(("", "twice", "twice, first", "as the key", "left out")):
            if how and path:
                yield f"{label}: {name}", path, JSON_VALUES["lone surrogate"], how


def in_json(data: bytes) -> Iterator[Case]:
    """A JSON file with every value at every path."""
    value = json.loads(data)
    for label, path, text, how in _changes(value):
        yield label, partial(with_text, value, path, text, how)


def in_safetensors(data: bytes) -> Iterator[Case]:
    """A safetensors file with every value at every path of its header."""
    length = int.from_bytes(data[:8], "little")

    def with_header(header: Callable[[], bytes]) -> bytes:
        text = header()
        return struct.pack("<Q", len(text)) + text + data[8 + length :]

    for label, header in in_json(data[8 : 8 + length]):
        yield label, partial(with_header, header)


def in_lines(data: bytes) -> Iterator[Case]:
    """A history with every value at every path, in the last line of a type, or alike in all of them: then they go together."""
    lines = [json.loads(line) for line in data.splitlines()]

    def changed(places: list[int], path: Any, text: str, how: int) -> bytes:
        out = [json.dumps(line).encode() for line in lines]
        for n in places:
            with suppress(KeyError, IndexError, TypeError):  # not every line of a type has each path
                out[n] = with_text(lines[n], path, text, how)
        return b"\n".join(out) + b"\n"

    for kind in dict.fromkeys(line["type"] for line in lines):
        places = [n for n, line in enumerate(lines) if line["type"] == kind]
        for label, path, text, how in _changes(lines[places[-1]]):
            yield f"{kind} {label}, in all", partial(changed, places, path, text, how)
            yield f"{kind} {label}, in the last", partial(changed, places[-1:], path, text, how)


def in_settings(settings: dict[str, list[str]]) -> Iterator[Case]:
    """A TOML file with every value for every setting of every rule."""

    def file(rule: str, key: str, text: str) -> bytes:
        return f"[alerts.{rule}]\n{key} = {text}\n".encode("utf-8", "surrogatepass")

    for rule, keys in settings.items():
        for key in keys:
            for label, text in TOML_VALUES.items():
                yield f"{rule}.{key}: {label}", partial(file, rule, key, text)


def some(cases: Iterator[Case], count: int, seed: int) -> list[Case]:
    """Some of many cases, in an order that the seed gives; all of them if there are no more."""
    every = list(cases)
    return random.Random(seed).sample(every, min(count, len(every)))
