"""The tables of safetensors files, read with the safetensors library.

The library checks the header: its dtypes, that sizes fit shapes, and that the tensors follow one another without gaps up to the
end of the file. The offset of a tensor is therefore the sum of the sizes before it. Values are not read through the library,
because it maps the file: every page that is read would stay in memory until the file is closed.
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open

from weibull_monitor.checkpoint.formats.files import MAX_HEADER, check_nesting, corrupted, open_file, read_at
from weibull_monitor.checkpoint.formats.foreign import MAGIC, foreign
from weibull_monitor.checkpoint.formats.tensors import (
    MAX_ELEMENTS,
    Contents,
    Piece,
    StoredTensor,
    is_shape,
    uncountable,
)
from weibull_monitor.errors import CheckpointError

FLOATS: Final = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
}
"""The dtypes of the format that can be counted. All others (integers, F4, F6, F8_E8M0, …) are named and skipped."""


def read_safetensors(path: Path) -> Contents:
    """The tables of one file.

    Raises:
        CheckpointError: If it is not a valid safetensors file.
    """
    with open_file(path) as fd:  # checked before the library sees it: it waits for pipes, and reads headers of 100 MB
        size = os.fstat(fd).st_size
        length = int.from_bytes(read_at(fd, 0, 8, path), "little") if size >= 8 else 0
        if not 0 < length <= min(MAX_HEADER, size - 8):
            if size and (what := foreign(read_at(fd, 0, min(size, MAGIC), path), path)):
                raise CheckpointError(what)
            raise CheckpointError(
                f"{path} is not a safetensors file, or is truncated: it has {size:,} bytes, and its header would have {length:,} "
                f"(at most {MAX_HEADER:,} are read); was the download cut off?"
            )
        check_nesting(read_at(fd, 8, length, path), path)
    tensors: dict[str, StoredTensor] = {}
    offset = 8 + length  # bytes from the beginning of the file
    try:
        with safe_open(path, "np") as file:
            for name in file.offset_keys():
                entry = file.get_slice(name)
                kind, shape = str(entry.get_dtype()), tuple(entry.get_shape())
                if not is_shape(shape) or math.prod(max(n, 1) for n in shape) > MAX_ELEMENTS:
                    raise corrupted(path, f"{name[:80]!r} has an impossible shape")
                pieces, dtype = (Piece(path, offset, shape, (0,) * len(shape)),), FLOATS.get(kind)
                stored = StoredTensor(name, shape, dtype, pieces) if dtype else uncountable(name, shape, kind, pieces)
                tensors[name] = stored
                offset += math.prod(shape) * _bits(kind) // 8
    except (SafetensorError, OSError) as error:
        reason = str(error).removeprefix("Error while deserializing header: ")
        raise CheckpointError(
            f"{path} is not a valid safetensors file ({reason[:100]!r}): it is truncated or corrupted; copy it again"
        ) from error
    if offset != size:
        raise corrupted(path, f"it has {size:,} bytes, but its header describes {offset:,}")
    return Contents(tensors, size)


def _bits(kind: str) -> int:
    """Bits of one element: the first number in the dtype's name.

    >>> [_bits(kind) for kind in ("BF16", "F8_E4M3", "F6_E2M3", "F4", "BOOL")]
    [16, 8, 6, 4, 8]
    """
    found = re.search(r"\d+", kind)
    return int(found[0]) if found else 8  # BOOL has no number
