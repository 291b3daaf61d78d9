"""The tables of torch's distributed checkpoints (DCP): a ``.metadata`` file, and the files in which each rank wrote its shards.

FSDP, Lightning's sharded strategies and Accelerate save this format. ``.metadata`` is a pickle, which
`weibull_monitor.checkpoint.formats.pickles` reads without running anything; a shard is a small file of `torch.save` within
a larger file. No process group is needed, and shards are not gathered: a parameter is counted shard by shard.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from weibull_monitor.checkpoint.formats.files import corrupted, open_regular, read_small, siblings
from weibull_monitor.checkpoint.formats.pickles import MAX_BYTES, Call, Name, read_pickle
from weibull_monitor.checkpoint.formats.rebuild import tensor_of
from weibull_monitor.checkpoint.formats.tensors import DTYPES, Contents, StoredTensor, is_shape, uncountable
from weibull_monitor.checkpoint.formats.torch_file import NOT_THE_MODEL, is_zip, read_archive
from weibull_monitor.errors import CheckpointError
from weibull_monitor.model.components.storage import MANTISSA

METADATA: Final = ".metadata"
_DCP: Final = "torch.distributed.checkpoint."
_META: Final = _DCP + "metadata."
ALLOWED: Final = frozenset(
    {*DTYPES, "torch.Size", "collections.OrderedDict", "builtins.getattr", "builtins.dict", "builtins.set"}
    | {_META + name for name in ("Metadata", "MetadataIndex", "TensorStorageMetadata", "BytesStorageMetadata")}
    | {_META + name for name in ("ChunkStorageMetadata", "TensorProperties", "_MEM_FORMAT_ENCODING", "StorageMeta")}
    | {_DCP + "filesystem._StorageInfo", _DCP + "filesystem._StoragePrefix", _DCP + "planner.WriteItem"}
    | {
        "torch.serialization._get_layout",
        "torch.storage._load_from_bytes",
        "pathlib.PosixPath",
        "pathlib._local.PosixPath",
    }
    | {"torch.distributed.checkpoint._fsspec_filesystem._StorageInfo", "torch.strided"}
)
"""The names that a ``.metadata`` file may use. None of them is ever called."""
MAX_PAIRED_BOXES: Final = 2048
"""Up to this many shards of a tensor are checked for overlaps pair by pair; more are only checked to add up."""
_OPEN_FILES: Final = 64


def read_dcp(directory: Path) -> Contents:
    """The tables of a distributed checkpoint; only the model's, if it holds an optimizer's as well.

    Raises:
        CheckpointError: If it is corrupted, or its pickles are not safe.
    """
    path = directory / METADATA
    found = read_pickle(read_small(path, MAX_BYTES), str(path), ALLOWED)
    fields = found.fields if isinstance(found, Call) and found.name == _META + "Metadata" else {}
    tensors, places = fields.get("state_dict_metadata"), fields.get("storage_data")
    if not isinstance(tensors, Mapping) or not isinstance(places, Mapping):
        raise CheckpointError(f"{path} does not say what it holds: it is corrupted, or of another version of torch")
    where = _places(places, path)
    with _Shards() as shards:
        out: dict[str, StoredTensor] = {}
        for name, entry in tensors.items():
            if isinstance(name, str) and not NOT_THE_MODEL.search(name) and _is(entry, "TensorStorageMetadata"):
                out[name] = _tensor(name, entry.fields, where, shards, path)
        return Contents(out, shards.total())


def _places(places: Mapping[Any, Any], path: Path) -> dict[tuple[str, tuple[int, ...]], tuple[Path, int, int]]:
    """File, first byte and size of every shard, by the tensor's name and the shard's offsets in the tensor."""
    out = {}
    files: dict[object, Path] = {}  # a name that occurs often becomes one path
    for index, info in places.items():
        key, place = getattr(index, "fields", None), getattr(info, "fields", None)
        if not key or not place:
            raise corrupted(path, "an entry of its table of shards is invalid")
        if place.get("transform_descriptors"):
            raise CheckpointError(f"{path}: its shards are compressed or encrypted and cannot be read; save them plain")
        offset, length = place.get("offset"), place.get("length")
        if type(offset) is not int or type(length) is not int or offset < 0 or length < 0:
            raise corrupted(path, "an entry of its table of shards is invalid")
        name = place.get("relative_path")
        if not isinstance(name, str) or name not in files:
            (files[str(name)],) = siblings(path, [name])
        out[str(key.get("fqn")), _size(key.get("offset"))] = (files[name], offset, length)
    return out


def _tensor(
    name: str,
    entry: Mapping[str, Any],
    where: Mapping[tuple[str, tuple[int, ...]], tuple[Path, int, int]],
    shards: _Shards,
    path: Path,
) -> StoredTensor:
    shape, dtype = _size(entry.get("size")), _dtype(entry.get("properties"))
    chunks = [(_size(c.fields.get("offsets")), _size(c.fields.get("sizes"))) for c in entry.get("chunks", ()) if c]
    if dtype is None or dtype not in MANTISSA:
        return uncountable(name, shape, dtype)
    _check_boxes(name, shape, chunks, path)
    pieces = []
    for at, sizes in chunks:
        if not math.prod(sizes):
            continue
        place = where.get((name, at)) or (where.get((name, ())) if len(chunks) == 1 else None)
        if place is None:
            raise corrupted(path, f"it does not say where {name[:80]!r} from {list(at)} on is stored")
        found = shards.tensor(*place, name)
        (piece,) = found.pieces
        reshaped = found.shape != sizes  # a flat shard of as many elements is fine, unless its elements are scattered
        if found.dtype != dtype or found.numel != math.prod(sizes) or (reshaped and piece.strides is not None):
            what = f"the shard of {name[:80]!r} at {list(at)} does not have the shape and dtype that {path} says"
            raise corrupted(place[0], what)
        pieces.append(replace(piece, sizes=sizes, at=at))
    return StoredTensor(name, shape, dtype, tuple(pieces))


def _check_boxes(
    name: str, shape: tuple[int, ...], chunks: Sequence[tuple[tuple[int, ...], tuple[int, ...]]], path: Path
) -> None:
    """Refuses shards that leave the tensor, overlap, or do not cover it."""
    ranks = {len(at) for at, _ in chunks} | {len(sizes) for _, sizes in chunks}
    ok = ranks <= {len(shape)} and sum(math.prod(sizes) for _, sizes in chunks) == math.prod(shape)
    ok = ok and all(a + n <= limit for at, sizes in chunks for a, n, limit in zip(at, sizes, shape, strict=True))
    boxes = [(at, sizes) for at, sizes in chunks if math.prod(sizes)]
    if ok and shape and 1 < len(boxes) <= MAX_PAIRED_BOXES:
        low = np.array([at for at, _ in boxes], dtype=np.int64)  # (boxes, dimensions)
        high = low + np.array([sizes for _, sizes in boxes], dtype=np.int64)
        for box in range(len(boxes) - 1):  # boxes overlap if they do so along every dimension
            meet = (low[box + 1 :] < high[box]).all(1) & (high[box + 1 :] > low[box]).all(1)
            ok = ok and not meet.any()
    if not ok:
        raise corrupted(path, f"the shards of {name[:80]!r} do not make up its shape {list(shape)[:8]}")


class _Shards:
    """Looks up tensors in the files of shards, and keeps a bounded number of them open."""

    def __init__(self) -> None:
        self._open: dict[Path, int] = {}
        self._sizes: dict[Path, int] = {}

    def __enter__(self) -> _Shards:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._open.values():
            os.close(fd)

    def total(self) -> int:
        """Bytes of all files that were opened."""
        return sum(self._sizes.values())

    def tensor(self, file: Path, offset: int, length: int, name: str) -> StoredTensor:
        """The tensor that is stored in a stretch of a file."""
        if file not in self._open:
            if len(self._open) >= _OPEN_FILES:
                os.close(self._open.pop(next(iter(self._open))))
            self._open[file] = open_regular(file)
            self._sizes[file] = os.fstat(self._open[file]).st_size
        fd = self._open[file]
        if offset + length > self._sizes[file] or not is_zip(fd, offset):
            raise corrupted(file, f"the shard of {name[:80]!r} is not where the table says")
        found = tensor_of(name, read_archive(fd, offset, length, file), file)
        if found is None or found.problem:
            raise corrupted(file, f"the shard of {name[:80]!r} cannot be read as a tensor")
        return found


def _is(value: Any, name: str) -> bool:
    return isinstance(value, Call) and value.name == _META + name


def _size(value: Any) -> tuple[int, ...]:
    """A `torch.Size` as the pickle describes it; empty for None."""
    if isinstance(value, Call) and value.name == "torch.Size":
        value = value.arguments[0] if value.arguments else ()
    sizes = () if value is None else tuple(value) if isinstance(value, list) else value
    if not is_shape(sizes):
        raise CheckpointError("a size in the table of a distributed checkpoint is invalid; the file is corrupted")
    found: tuple[int, ...] = sizes
    return found


def _dtype(properties: Any) -> torch.dtype | None:
    """The dtype in the state of `TensorProperties`, which is a tuple of its fields or a table of them."""
    state = getattr(properties, "state", None)
    first = state.get("dtype") if isinstance(state, dict) else state[0] if isinstance(state, tuple) and state else None
    return DTYPES.get(first.name) if isinstance(first, Name) else None
