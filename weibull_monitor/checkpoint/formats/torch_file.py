"""The tables of files that `torch.save` wrote: pytorch_model.bin, .pt, .pth, Lightning's .ckpt.

Such a file is an uncompressed zip of one pickle and the storages of the tensors, so each storage is one stretch of the file.
The pickle is read by `weibull_monitor.checkpoint.formats.pickles`, which runs nothing; storages are read when they are counted.
"""

from __future__ import annotations

import math
import os
import re
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from weibull_monitor.checkpoint.formats.files import FileStretch, corrupted, open_file, read_at
from weibull_monitor.checkpoint.formats.pickles import MAX_BYTES, Call, Name, flatten, read_pickle
from weibull_monitor.checkpoint.formats.tensors import (
    DTYPES,
    Contents,
    Piece,
    StoredTensor,
    is_shape,
    uncountable,
)
from weibull_monitor.errors import CheckpointError
from weibull_monitor.model.components.storage import MANTISSA

_STORAGES: Final[dict[str, torch.dtype]] = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.ComplexDoubleStorage": torch.complex128,
    "torch.storage.UntypedStorage": torch.uint8,
}
_REBUILT: Final = "torch._utils._rebuild_tensor_v2"
_REBUILT_V3: Final = "torch._utils._rebuild_tensor_v3"
_PARAMETERS: Final = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
_OTHER_TENSORS: Final = {
    "torch._utils._rebuild_qtensor": "its storage is quantised (torch)",
    "torch._utils._rebuild_sparse_tensor": "its layout is sparse",
    "torch._utils._rebuild_sparse_csr_tensor": "its layout is sparse",
    "torch._utils._rebuild_meta_tensor_no_storage": "it is on the meta device and has no values",
    "torch._tensor._rebuild_from_type_v2": "it is of a class of its own",
}
ALLOWED: Final = frozenset(
    {*_STORAGES, *DTYPES, _REBUILT, _REBUILT_V3, *_PARAMETERS, *_OTHER_TENSORS}
    | {"collections.OrderedDict", "collections.defaultdict", "collections.Counter", "builtins.dict", "builtins.set"}
    | {"builtins.int", "builtins.list", "builtins.bytearray", "builtins.complex", "torch.Size", "torch.device"}
    | {"torch.serialization._get_layout", "torch.Tensor", "torch.nn.parameter.Parameter", "_codecs.encode"}
    | {"numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype", "numpy.ndarray"}
    | {"numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct", "pathlib.PosixPath"}
    | {"argparse.Namespace", "lightning.fabric.utilities.data.AttributeDict", "datetime.timedelta"}
    | {"lightning_fabric.utilities.data.AttributeDict", "torch.torch_version.TorchVersion"}
)
"""The names that a pickle of `torch.save` may use. None of them is ever called."""

MAX_ENTRIES: Final = 1_000_000
_LEGACY: Final = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_STATES: Final = ("state_dict", "model_state_dict", "model_state", "model", "module", "net", "weights")
"""Keys under which training checkpoints keep their model, the likeliest first."""
NOT_THE_MODEL: Final = re.compile(
    r"(?i)(?:^|\.)(?:optim(?:izer|izers|izer_states?|_states?|izer_state_dict)?|lr_schedulers?|schedulers?|scaler|callbacks|loops|"
    r"rng\w*|hyper_parameters|opt_state\w*)(?:\.|$|_\d)"
)
"""Paths of what training keeps beside the model."""


@dataclass(frozen=True)
class Storage:
    """A storage within the file: its dtype, its first byte and its size in bytes."""

    key: str
    dtype: torch.dtype
    offset: int
    size: int


def is_zip(fd: int, start: int = 0) -> bool:
    """Whether a zip file begins at a position of a file."""
    return os.pread(fd, 4, start) == b"PK\x03\x04"


def read_torch(path: Path) -> Contents:
    """The tables of one file; only the model's, if it holds an optimizer's as well.

    Raises:
        CheckpointError: If it was not written by `torch.save`, is corrupted or compressed, or its pickle is not safe.
    """
    with open_file(path) as fd:
        size = os.fstat(fd).st_size
        if not is_zip(fd):
            raise CheckpointError(_not_a_zip(read_at(fd, 0, min(size, 16), path), path))
        found = read_archive(fd, 0, size, path)
    if not isinstance(found, Mapping):
        found = {"": found}
    table, inside = _model_of(found)
    leaves = flatten(table, lambda name: not inside and bool(NOT_THE_MODEL.search(name)))
    tensors = {name: tensor for name, leaf in leaves.items() if (tensor := tensor_of(name, leaf, path)) is not None}
    _check_total(tensors, size, path)
    step = next((found[key] for key in ("global_step", "iteration", "step", "iter_num") if key in found), None)
    return Contents(tensors, size, step if type(step) is int and step >= 0 else None)


def read_archive(fd: int, start: int, length: int, path: Path) -> Any:
    """The object in the zip in a stretch of a file; each tensor is a `Call`, and its storage a `Storage`."""
    records = _records(fd, start, length, path)
    name = next((name for name in records if name.rpartition("/")[2] == "data.pkl"), None)
    if name is None:
        raise CheckpointError(f"{path} is a zip file, but torch.save did not write it: there is no data.pkl in it")
    prefix = name.rpartition("/")[0]
    prefix = f"{prefix}/" if prefix else ""
    order = records.get(f"{prefix}byteorder")
    if order is not None and order[1] < 16 and read_at(fd, order[0], order[1], path) == b"big":
        raise CheckpointError(f"{path} was written on a big-endian machine; save it again on another")
    offset, size = records[name]
    if size > MAX_BYTES:
        raise CheckpointError(
            f"{path}: its table of tensors has {size:,} bytes, more than {MAX_BYTES:,}: it is not read"
        )

    def storage(reference: Any) -> Storage:
        if not isinstance(reference, tuple) or len(reference) != 5 or reference[0] != "storage":
            raise ValueError("a tensor without a storage")
        kind, key = reference[1], reference[2]
        if not isinstance(kind, Name) or kind.name not in _STORAGES or f"{prefix}data/{key}" not in records:
            raise ValueError(f"a reference to a storage {str(key)[:20]!r} that is not there")
        return Storage(str(key), _STORAGES[kind.name], *records[f"{prefix}data/{key}"])

    return read_pickle(read_at(fd, offset, size, path), str(path), ALLOWED, storage)


def _records(fd: int, start: int, length: int, path: Path) -> dict[str, tuple[int, int]]:
    """First byte and size of every record of a zip, by name.

    Raises:
        CheckpointError: If a record is compressed, since a few bytes could then be a terabyte, or the zip is corrupted.
    """
    try:
        with zipfile.ZipFile(FileStretch(fd, start, length, path)) as archive:
            entries = archive.infolist()
    except CheckpointError:
        raise
    except Exception as error:  # zipfile raises several errors of its own, and any other for corrupted tables
        raise CheckpointError(
            f"{path} is not a complete zip file ({error}): it is truncated or corrupted; copy it again"
        ) from error
    if len(entries) > MAX_ENTRIES:
        raise corrupted(path, f"it has {len(entries):,} records")
    out: dict[str, tuple[int, int]] = {}
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size or entry.flag_bits & 1:
            raise CheckpointError(
                f"{path}: {entry.filename[:80]!r} is compressed or encrypted, which torch.save never does: it is not read"
            )
        header = entry.header_offset
        if not 0 <= header <= length - 30:
            raise corrupted(path, f"{entry.filename[:80]!r} lies outside of the file")
        raw = read_at(fd, start + header, 30, path)  # the local header, which the data follow
        names, extra = struct.unpack("<HH", raw[26:30])
        begin = header + 30 + names + extra
        if raw[:4] != b"PK\x03\x04" or begin + entry.file_size > length:
            raise corrupted(path, f"{entry.filename[:80]!r} lies outside of the file")
        if entry.filename in out:
            raise corrupted(path, f"{entry.filename[:80]!r} is in it twice")
        out[entry.filename] = (start + begin, entry.file_size)
    return out


def tensor_of(name: str, value: Any, path: Path) -> StoredTensor | None:
    """The tensor that a leaf of the tables describes; None for any other leaf.

    Raises:
        CheckpointError: If its elements do not lie within its storage.
    """
    if not isinstance(value, Call):
        return None
    if value.name in _PARAMETERS and value.arguments:
        return tensor_of(name, value.arguments[0], path)
    if value.name in _OTHER_TENSORS:
        if value.name.endswith("from_type_v2") and len(value.arguments) > 2 and isinstance(value.arguments[2], tuple):
            kind, rebuild = value.arguments[1], value.arguments[0]
            if isinstance(rebuild, Name) and isinstance(kind, Name) and kind.name.startswith("torch."):
                return tensor_of(name, Call(rebuild.name, value.arguments[2]), path)
        return StoredTensor(name, (), None, (), _OTHER_TENSORS[value.name])
    if value.name not in (_REBUILT, _REBUILT_V3) or len(value.arguments) < 4:
        return None
    storage, first, sizes, strides = value.arguments[:4]
    dtype = storage.dtype if isinstance(storage, Storage) else None
    if value.name == _REBUILT_V3 and len(value.arguments) > 6 and isinstance(value.arguments[6], Name):
        dtype = DTYPES.get(value.arguments[6].name)
    if dtype is None or not all(is_shape(v) for v in (sizes, strides, (first,))) or len(sizes) != len(strides):
        raise corrupted(path, f"the entry of {name[:80]!r} is not one of a tensor")
    numel = math.prod(sizes)
    last = first + (1 + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True)) if numel else 0)
    if last * dtype.itemsize > storage.size or numel > (last - first):
        shape = f"{name[:80]!r} of shape {list(sizes)[:8]}"
        raise corrupted(path, f"{shape} does not lie within its {storage.size:,} bytes")
    if dtype not in MANTISSA:
        return uncountable(name, sizes, dtype)
    row_major = [math.prod(sizes[d + 1 :]) for d in range(len(sizes))]  # the strides of a contiguous tensor
    contiguous = all(n == 1 or s == r for n, s, r in zip(sizes, strides, row_major, strict=True))
    offset = storage.offset + first * dtype.itemsize
    return StoredTensor(
        name, sizes, dtype, (Piece(path, offset, sizes, (0,) * len(sizes), None if contiguous else strides),)
    )


def _check_total(tensors: Mapping[str, StoredTensor], size: int, path: Path) -> None:
    """Refuses tables whose tensors have far more bytes than the file: they overlap, and each would be read."""
    places = {
        (p.file, p.offset, p.sizes, p.strides): p.extent * t.dtype.itemsize
        for t in tensors.values()
        if t.dtype is not None
        for p in t.pieces
    }
    if sum(places.values()) > 2 * size:
        raise corrupted(path, f"its tensors have {sum(places.values()):,} bytes in a file of {size:,}")


def _model_of(found: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
    """The table of the model's tensors, and whether it is a table within that of the file."""
    for key in _STATES:
        inner = found.get(key)
        if isinstance(inner, Mapping) and any(isinstance(value, (Call, Mapping)) for value in inner.values()):
            return inner, True
    return found, False


def _not_a_zip(magic: bytes, path: Path) -> str:
    if not magic:
        return f"{path} is empty; was the download cut off?"
    if magic.startswith(_LEGACY[:12]):
        return (
            f"{path} is of the format that torch.save had before version 1.6, which cannot be read in bounded memory: "
            "load and save it once with a newer torch, or as safetensors"
        )
    if magic.startswith(b"version https"):
        return f"{path} is a Git LFS pointer and holds no weights; run 'git lfs pull'"
    if magic[:1] == b"\x80":
        return f"{path} is a bare pickle, which could run code: it is not read; save the weights as safetensors"
    return f"{path} is not a checkpoint: neither safetensors nor a file that torch.save wrote"
