"""Files with faults of structure: another value at any key, keys twice, tables without end, tokens where none belong.

Other than `mutations`, these know the text of a format: what they write is mostly well-formed, and wrong.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import struct
import zipfile
from collections.abc import Iterator
from typing import Any

RAW = (
    *("1e400", "-1e400", "NaN", "Infinity", "-Infinity", "-0", "1e-400", "0.1e1", "1" + "0" * 4400, "-" + "9" * 25, "1.5"),
    *("2147483648", "9223372036854775808", "18446744073709551616", "-1", "0", "1", "true", "false", "null", '""', "[]", "{}"),
    *('"\\ud800"', '"\\udfff\\ud800"', '"\\u0000"', '"\\u001b[2J\\u0007"', '"\\u202e"', '"\x7f\x85"', '"a\\nb"', '"=1+1"'),
    *('"NaN"', '"float32"', '"torch.float32"', '"../../.."', '"/etc/passwd"', '"weight"', '"' + "x" * 70_000 + '"'),
    *("[" * 900 + "]" * 900, "[" * 60_000 + "]" * 60_000, '{"a":' * 30_000 + "1" + "}" * 30_000, "[1,2,[3,[4,[5]]]]"),
    *("[null]", "[[]]", "[0.5]", '["a"]', "[1e308,1e308]", "[" + "0," * 20_000 + "0]", '{"":null}', '{"a":{"b":[]}}'),
    *('{"__class__":"x"}', '{"type":"run"}', '{"type":"snapshot"}', "", "tru", "0x10", "1_000", "'a'", "[1,]"),
    *('"\\x41"', "/**/1"),
)  # fmt: skip
"""Texts that stand for values: of JSON mostly, and of what some readers take for it."""
TOKENS = tuple(
    text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    for text in (
        *('{"', '":', "[[", "]]", "}{", ",", ":", '\\u', "\\ud800", "null", "1e999", "\x00", "\r\n", "\n", "\ufeff", "\x1b["),
        *('"dtype":"F64"', '"BF16"', '"F8_E4M3"', '"data_offsets":[0,0]', '"shape":[0]', '"shape":[-1]', '"__metadata__"'),
        *(b"\x80\x02", b"\x80\x05", b"\x8c\xff", b"X\xff\xff\xff\x7f", b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f", b"(t.", b"R"),
        *(b"ctorch._utils\n_rebuild_tensor_v2\n", b"cos\nsystem\n(S'true'\ntR.", b"cbuiltins\neval\n", b"cposix\nsystem\n"),
        *(b"\x93", b"\x94" * 40, b"h\xff", b"j\xff\xff\xff\xff", b"Q", b"ccollections\nOrderedDict\n", b"\x8a\xff" + b"\xff" * 9),
        *(b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06" + bytes(18), b"PK\x06\x06", b"\xff" * 8, bytes(16), b"\x1f\x8b\x08"),
        *("storage", "FloatStorage", "cpu", "state_dict", "model.layers.0.self_attn.q_proj.weight", "weight_map", "\u2028"),
    )
)  # fmt: skip
"""Pieces of all formats."""


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value within a value of JSON; of a list, those of its first and last two entries."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from paths_of(value[key], (*path, key))
    elif isinstance(value, list):
        for place in sorted({*range(min(2, len(value))), *range(max(0, len(value) - 2), len(value))}):
            yield from paths_of(value[place], (*path, place))


def with_text(value: Any, path: tuple[Any, ...], text: str, how: int) -> bytes:
    """A value of JSON as text, with another text at a path.

    Args:
        value: The value.
        path: A path of `paths_of`.
        text: The text.
        how: 0 to replace what is there; 1 to put the key in twice, the text last; 2 to put it in twice, the text first;
            3 to put the text where the key is; 4 to leave the key out.
    """
    mark = "@@mark@@"

    def changed(inner: Any, rest: tuple[Any, ...]) -> Any:
        if not rest:
            return mark
        copy = inner.copy()
        if len(rest) == 1 and isinstance(inner, dict) and how:
            held = copy.pop(rest[0])
            if how == 3:
                copy[mark] = held
            elif how != 4:
                copy[mark] = [rest[0], held]
        elif len(rest) == 1 and how == 4:
            del copy[rest[0]]
        else:
            copy[rest[0]] = changed(inner[rest[0]], rest[1:])
        return copy

    out = json.dumps(changed(value, path), separators=(",", ":"))
    quoted = json.dumps(mark)
    if how in (1, 2) and path and quoted + ":[" in out:
        start = out.index(quoted + ":[")
        decoder = json.JSONDecoder()
        (key, held), end = decoder.raw_decode(out, start + len(quoted) + 1)
        first, second = (json.dumps(held), text) if how == 1 else (text, json.dumps(held))
        out = f"{out[:start]}{json.dumps(key)}:{first},{json.dumps(key)}:{second}{out[end:]}"
    elif how == 3:
        out = out.replace(quoted, text if text.startswith('"') else json.dumps(text[:50]))
    else:
        out = out.replace(quoted, text)
    return out.encode("utf-8", "surrogatepass")


def restructured(data: bytes, source: random.Random) -> bytes:
    """A JSON file with another text at one of its paths."""
    value = json.loads(data)
    paths = list(paths_of(value))
    depth = source.randrange(1, 5)  # evenly over depths: most paths are deep
    near = [path for path in paths if len(path) <= depth] or paths
    return with_text(value, source.choice(near), source.choice(RAW), source.choice((0, 0, 0, 0, 1, 2, 3, 4)))


def restructured_lines(data: bytes, source: random.Random) -> bytes:
    """A history with another text at a path of one or two lines, or with foreign lines."""
    lines = data.splitlines()
    kinds: dict[bytes, list[int]] = {}
    for place, line in enumerate(lines):
        kinds.setdefault(line[:12], []).append(place)
    for _ in range(source.choice((1, 1, 2))):
        place = source.choice(kinds[source.choice(sorted(kinds))])  # evenly over the types of lines
        try:
            lines[place] = restructured(lines[place], source)
        except (ValueError, RecursionError):
            lines[place] = source.choice(RAW).encode("utf-8", "surrogatepass")
        if source.random() < 0.1:
            lines.insert(source.randrange(len(lines)), source.choice(RAW).encode("utf-8", "surrogatepass"))
    out = b"\n".join(lines) + b"\n"
    return tokens_in(out, source) if source.random() < 0.15 else out


def restructured_safetensors(data: bytes, source: random.Random) -> bytes:
    """A safetensors file with another text in its header."""
    length = int.from_bytes(data[:8], "little")
    header = restructured(data[8 : 8 + length], source)
    said = len(header) if source.random() < 0.9 else source.choice((0, 1, length, 2**63, len(header) + 1, 10**8))
    return struct.pack("<Q", said) + header + data[8 + length :]


def tokens_in(data: bytes, source: random.Random) -> bytes:
    """Bytes with tokens put in, or in place of others, and bits flipped."""
    out = bytearray(data)
    for _ in range(source.choice((1, 1, 2, 4, 16))):
        at = source.choice((source.randrange(len(out) + 1), source.randrange(min(len(out), 400) + 1)))
        token = source.choice(TOKENS)
        kind = source.randrange(4)
        if kind == 0:
            out[at:at] = token
        elif kind == 1:
            out[at : at + len(token)] = token
        elif kind == 2 and at < len(out):
            out[at] = source.choice((0, 1, 0x7F, 0x80, 0xFF, out[at] ^ (1 << source.randrange(8))))
        else:
            out[at : at + source.randrange(1, 200)] = b""
    return bytes(out)


def rezipped(data: bytes, source: random.Random) -> bytes:
    """A zip file whose members are renamed, doubled, compressed, bombs, or have tokens in them."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        names = old.namelist()
        chosen, kind = source.choice(names), source.randrange(7)
        if source.random() < 0.6:
            chosen = next((name for name in names if name.endswith("data.pkl")), chosen)
        for name in names:
            inside, written, method = old.read(name), name, zipfile.ZIP_STORED
            if name == chosen:
                if kind == 0:
                    written = source.choice(
                        ("../" + name, "/" + name, name.upper(), "x\x1b[2J", "a" * 60_000, name + "/")
                    )
                elif kind == 1:
                    method = zipfile.ZIP_DEFLATED
                elif kind == 2:
                    method, inside = zipfile.ZIP_DEFLATED, inside[:40] + bytes(source.choice((10**6, 4 * 10**7)))
                elif kind == 3:
                    new.writestr(written, tokens_in(inside, source))
                else:
                    inside = tokens_in(inside, source)
            new.writestr(written, inside, method)
    return out.getvalue() if source.random() < 0.9 else tokens_in(out.getvalue(), source)


def gzipped(data: bytes, source: random.Random) -> bytes:
    """The file compressed, whole or cut off: no reader takes it for what it was."""
    packed = gzip.compress(data)
    return packed if source.random() < 0.3 else packed[: source.randrange(len(packed))]
