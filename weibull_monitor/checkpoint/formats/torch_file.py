"""The tables of files that `torch.save` wrote: pytorch_model.bin, .pt, .pth, Lightning's .ckpt.

Such a file is a zip of one pickle and the tensors' storages, uncompressed, so that each lies in one stretch of the file. The
pickle is read by `weibull_monitor.checkpoint.formats.pickles`, which runs nothing; the storages are read as they are needed.
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

from weibull_monitor.checkpoint.formats.files import FileStretch, opened, read_at
from weibull_monitor.checkpoint.formats.pickles import MAX_BYTES, Call, Name, flattened, read_pickle
from weibull_monitor.checkpoint.formats.tensors import Contents, Piece, StoredTensor
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
_DTYPES: Final = {f"torch.{name}": value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
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
    {*_STORAGES, *_DTYPES, _REBUILT, _REBUILT_V3, *_PARAMETERS, *_OTHER_TENSORS}
    | {"collections.OrderedDict", "collections.defaultdict", "collections.Counter", "builtins.dict", "builtins.set"}
    | {"builtins.int", "builtins.list", "builtins.bytearray", "builtins.complex", "torch.Size", "torch.device"}
    | {"torch.serialization._get_layout", "torch.Tensor", "torch.nn.parameter.Parameter", "_codecs.encode"}
    | {"numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype", "numpy.ndarray"}
    | {"numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct", "pathlib.PosixPath"}
    | {"argparse.Namespace", "lightning.fabric.utilities.data.AttributeDict", "datetime.timedelta"}
    | {"lightning_fabric.utilities.data.AttributeDict", "torch.torch_version.TorchVersion"}
)
"""What the tables of a checkpoint may name. None of it is called, whatever it is."""

MAX_ENTRIES: Final = 1_000_000
_LEGACY: Final = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_STATES: Final = ("state_dict", "model_state_dict", "model_state", "model", "module", "net", "weights")
"""Where a training checkpoint keeps its model, the likeliest first."""
NOT_THE_MODEL: Final = re.compile(
    r"(?i)(?:^|\.)(?:optim(?:izer|izers|izer_states?|_states?|izer_state_dict)?|lr_schedulers?|schedulers?|scaler|callbacks|loops|"
    r"rng\w*|hyper_parameters|opt_state\w*)(?:\.|$|_\d)"
)
"""Paths of what training keeps beside its model."""


@dataclass(frozen=True)
class Storage:
    """A storage within the file: its dtype, its first byte and its size in bytes."""

    key: str
    dtype: torch.dtype
    offset: int
    size: int


def is_zip(fd: int, start: int = 0) -> bool:
    """Whether a zip begins there."""
    return os.pread(fd, 4, start) == b"PK\x03\x04"


def read_torch(path: Path) -> Contents:
    """The tables of one file: of the model in it, if it also holds an optimizer's.

    Raises:
        CheckpointError: If it was not written by `torch.save`, is corrupted, compressed, or its pickle is not safe.
    """
    with opened(path) as fd:
        size = os.fstat(fd).st_size
        if not is_zip(fd):
            raise CheckpointError(_no_zip(read_at(fd, 0, min(size, 16), path), path))
        found = unpickled(fd, 0, size, path)
    if not isinstance(found, Mapping):
        found = {"": found}
    table, inside = _model_of(found)
    leaves = flattened(table, (lambda _: False) if inside else (lambda name: bool(NOT_THE_MODEL.search(name))))
    tensors = {name: tensor for name, leaf in leaves.items() if (tensor := as_stored(name, leaf, path)) is not None}
    check_total(tensors, size, path)
    step = next((found[key] for key in ("global_step", "iteration", "step", "iter_num") if key in found), None)
    return Contents(tensors, size, step if type(step) is int and step >= 0 else None)


def unpickled(fd: int, start: int, length: int, path: Path) -> Any:
    """What the zip in a stretch of a file describes; tensors are `Call`, and their storages `Storage`."""
    records = _records(fd, start, length, path)
    name = next((name for name in records if name.rpartition("/")[2] == "data.pkl"), None)
    if name is None:
        raise CheckpointError(f"{path} is a zip, but none that torch.save wrote: there is no data.pkl in it")
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
            raise ValueError("a reference to no storage")
        kind, key = reference[1], reference[2]
        if not isinstance(kind, Name) or kind.name not in _STORAGES or f"{prefix}data/{key}" not in records:
            raise ValueError(f"a reference to a storage {str(key)[:20]!r} that is not there")
        return Storage(str(key), _STORAGES[kind.name], *records[f"{prefix}data/{key}"])

    return read_pickle(read_at(fd, offset, size, path), str(path), ALLOWED, storage)


def _records(fd: int, start: int, length: int, path: Path) -> dict[str, tuple[int, int]]:
    """First byte and size of every record of a zip, by name. Compressed records are refused: a few bytes could be a terabyte."""
    try:
        with zipfile.ZipFile(FileStretch(fd, start, length, path)) as archive:
            entries = archive.infolist()
    except CheckpointError:
        raise
    except Exception as error:  # zipfile has several, and corrupted tables bring out others
        raise CheckpointError(
            f"{path} is no whole zip file ({error}): it is truncated or corrupted; copy it again"
        ) from error
    if len(entries) > MAX_ENTRIES:
        raise CheckpointError(f"{path} has {len(entries):,} records; it is corrupted")
    out: dict[str, tuple[int, int]] = {}
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size or entry.flag_bits & 1:
            raise CheckpointError(
                f"{path}: {entry.filename[:80]!r} is compressed or encrypted, which torch.save never does: it is not read"
            )
        header = entry.header_offset
        if not 0 <= header <= length - 30:
            raise CheckpointError(f"{path}: {entry.filename[:80]!r} lies outside of the file: it is corrupted")
        raw = read_at(fd, start + header, 30, path)
        names, extra = struct.unpack("<HH", raw[26:30])
        begin = header + 30 + names + extra
        if raw[:4] != b"PK\x03\x04" or begin + entry.file_size > length:
            raise CheckpointError(f"{path}: {entry.filename[:80]!r} lies outside of the file: it is corrupted")
        if entry.filename in out:
            raise CheckpointError(f"{path}: {entry.filename[:80]!r} is there twice: it is corrupted")
        out[entry.filename] = (start + begin, entry.file_size)
    return out


def as_stored(name: str, value: Any, path: Path) -> StoredTensor | None:
    """The tensor that a leaf of the tables is, or None if it is none.

    Raises:
        CheckpointError: If its elements do not lie in its storage.
    """
    if not isinstance(value, Call):
        return None
    if value.name in _PARAMETERS and value.arguments:
        return as_stored(name, value.arguments[0], path)
    if value.name in _OTHER_TENSORS:
        if value.name.endswith("from_type_v2") and len(value.arguments) > 2 and isinstance(value.arguments[2], tuple):
            kind, rebuild = value.arguments[1], value.arguments[0]
            if isinstance(rebuild, Name) and isinstance(kind, Name) and kind.name.startswith("torch."):
                return as_stored(name, Call(rebuild.name, value.arguments[2]), path)
        return StoredTensor(name, (), None, (), _OTHER_TENSORS[value.name])
    if value.name not in (_REBUILT, _REBUILT_V3) or len(value.arguments) < 4:
        return None
    storage, first, sizes, strides = value.arguments[:4]
    dtype = storage.dtype if isinstance(storage, Storage) else None
    if value.name == _REBUILT_V3 and len(value.arguments) > 6 and isinstance(value.arguments[6], Name):
        dtype = _DTYPES.get(value.arguments[6].name)
    if dtype is None or not all(_whole(v) for v in (sizes, strides, (first,))) or len(sizes) != len(strides):
        raise CheckpointError(f"{path}: the entry of {name[:80]!r} is not one of a tensor: it is corrupted")
    numel = math.prod(sizes)
    last = first + (1 + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True)) if numel else 0)
    if last * dtype.itemsize > storage.size or numel > (last - first):
        raise CheckpointError(
            f"{path}: {name[:80]!r} of shape {list(sizes)[:8]} does not lie within its {storage.size:,} bytes: it is corrupted"
        )
    if dtype not in MANTISSA:
        return StoredTensor(
            name, tuple(sizes), None, (), f"its dtype is {str(dtype)[6:]}, not a float that can be counted"
        )
    rows = _row_major(sizes)
    where = Piece(
        path,
        storage.offset + first * dtype.itemsize,
        tuple(sizes),
        (0,) * len(sizes),
        None if all(n == 1 or s == r for n, s, r in zip(sizes, strides, rows, strict=True)) else tuple(strides),
    )
    return StoredTensor(name, tuple(sizes), dtype, (where,))


def check_total(tensors: Mapping[str, StoredTensor], size: int, path: Path) -> None:
    """Refuses tables whose different tensors have more bytes than the file: they lie on top of one another."""
    places = {
        (p.file, p.offset, p.sizes, p.strides): p.extent * t.dtype.itemsize
        for t in tensors.values()
        if t.dtype is not None
        for p in t.pieces
    }
    if sum(places.values()) > 2 * size:
        raise CheckpointError(
            f"{path}: its tensors have {sum(places.values()):,} bytes in a file of {size:,}: it is corrupted"
        )


def _model_of(found: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
    """The table of the model's tensors in what a file holds, and whether that is a table within it."""
    for key in _STATES:
        inner = found.get(key)
        if isinstance(inner, Mapping) and any(isinstance(value, (Call, Mapping)) for value in inner.values()):
            return inner, True
    return found, False


def _no_zip(magic: bytes, path: Path) -> str:
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
    return f"{path} is no checkpoint: neither safetensors nor a file that torch.save wrote"


def _row_major(sizes: tuple[int, ...]) -> list[int]:
    return [math.prod(sizes[d + 1 :]) for d in range(len(sizes))]


def _whole(values: Any) -> bool:
    return isinstance(values, tuple) and len(values) <= 16 and all(type(n) is int and 0 <= n < 1 << 62 for n in values)
