"""The tables of safetensors files.

The header is read here and not by the safetensors library, which tells neither where a tensor's bytes lie nor, of a tensor, less
than a whole slice: it maps the file, and every page that is read stays in the process' memory until the mapping goes. The
checks are those of its specification: a header of bounded length, known dtypes, stretches that fit their shapes and follow one
another without a gap or an overlap from the header to the end of the file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import torch

from weibull_monitor.checkpoint.formats.files import MAX_HEADER, opened, parse_json, read_at, read_json, siblings
from weibull_monitor.checkpoint.formats.tensors import Contents, Piece, StoredTensor
from weibull_monitor.errors import CheckpointError

FLOATS: Final[dict[str, torch.dtype]] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
for _key, _name in (
    ("F8_E4M3", "e4m3fn"),
    ("F8_E5M2", "e5m2"),
    ("F8_E4M3FNUZ", "e4m3fnuz"),
    ("F8_E5M2FNUZ", "e5m2fnuz"),
):
    if _dtype := getattr(torch, f"float8_{_name}", None):
        FLOATS[_key] = _dtype
BITS: Final = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "U16": 16,
    "I16": 16,
    "U32": 32,
    "I32": 32,
    "U64": 64,
    "I64": 64,
    "C64": 64,
    "F8_E8M0": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F16": 16,
    "BF16": 16,
    "F32": 32,
    "F64": 64,
}
"""Bits of an element of each dtype of the format."""
MAX_DIMENSIONS: Final = 16
MAX_ELEMENTS: Final = 1 << 62


def read_safetensors(path: Path) -> Contents:
    """The tables of one file.

    Raises:
        CheckpointError: If it is not a valid safetensors file.
    """
    with opened(path) as fd:
        size = os.fstat(fd).st_size
        if size < 8:
            raise CheckpointError(f"{path} is no safetensors file: it has {size} bytes; was the download cut off?")
        length = int.from_bytes(read_at(fd, 0, 8, path), "little")
        if length > min(MAX_HEADER, size - 8):
            raise CheckpointError(
                f"{path} is no safetensors file, or a truncated one: its header would have {length:,} of the file's {size:,} "
                f"bytes (at most {MAX_HEADER:,} are read)"
            )
        header = parse_json(read_at(fd, 8, length, path), path)
    header.pop("__metadata__", None)
    start, tensors, spans = 8 + length, {}, []
    for name, entry in header.items():
        tensors[name], span = _entry(name, entry, start, path)
        spans.append((*span, name))
    spans.sort()
    at = 0
    for begin, end, name in spans:
        if begin != at:
            raise CheckpointError(
                f"{path}: {name!r} begins at byte {begin} of the data and not at {at}, where the tensor before it ends: the "
                "header is corrupted"
            )
        at = end
    if at != size - start:
        raise CheckpointError(
            f"{path} has {size - start:,} bytes of data and its header says {at:,}: it is truncated or corrupted; copy it again"
        )
    return Contents({name: tensors[name] for _, _, name in spans}, size)


def _entry(name: str, entry: Any, start: int, path: Path) -> tuple[StoredTensor, tuple[int, int]]:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{path}: the entry of {name[:80]!r} is not one of a tensor: the header is corrupted")
    kind, shape, span = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or kind not in BITS:
        raise CheckpointError(
            f"{path}: {name[:80]!r} has the unknown dtype {str(kind)[:20]!r}; it is corrupted or newer"
        )
    if not _whole_numbers(shape) or len(shape) > MAX_DIMENSIONS or not _whole_numbers(span) or len(span) != 2:
        raise CheckpointError(
            f"{path}: shape or offsets of {name[:80]!r} are no whole numbers: the header is corrupted"
        )
    numel = 1
    for n in shape:
        numel *= n
        if numel > MAX_ELEMENTS:
            raise CheckpointError(f"{path}: {name[:80]!r} would have more than 2**62 elements: the header is corrupted")
    begin, end = span
    if (end - begin) * 8 != numel * BITS[kind]:
        raise CheckpointError(
            f"{path}: {name[:80]!r} of shape {shape} and dtype {kind} has {end - begin} bytes: the header is corrupted"
        )
    dtype = FLOATS.get(kind)
    where = Piece(path, start + begin, tuple(shape), (0,) * len(shape))
    problem = "" if dtype is not None else f"its dtype is {kind}, not a float that can be counted"
    return StoredTensor(name, tuple(shape), dtype, (where,), problem), (begin, end)


def _whole_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n <= MAX_ELEMENTS for n in value)


def weight_map(index: Path) -> dict[Path, list[str]]:
    """The shards that an index names, and the names of the tensors in each.

    Raises:
        CheckpointError: If it is no index, or names files outside of its directory.
    """
    table = read_json(index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise CheckpointError(
            f"{index} is no index of shards: it has no weight_map; name a checkpoint's file or directory"
        )
    shards: dict[Path, list[str]] = {}
    for name, path in zip(table, siblings(index, list(table.values())), strict=True):
        shards.setdefault(path, []).append(name)
    return shards
