"""The tensors of pickles that `torch.save` wrote: where their elements are, or why they cannot be read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from weibull_monitor.checkpoint.formats.files import corrupted
from weibull_monitor.checkpoint.formats.pickles import Call, Name
from weibull_monitor.checkpoint.formats.tensors import DTYPES, Piece, StoredTensor, is_shape, uncountable
from weibull_monitor.model.components.storage import MANTISSA

STORAGES: Final[dict[str, torch.dtype]] = {
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
    "torch.QInt8Storage": torch.qint8,
    "torch.QUInt8Storage": torch.quint8,
    "torch.QInt32Storage": torch.qint32,
    "torch.QUInt4x2Storage": torch.quint4x2,
    "torch.QUInt2x4Storage": torch.quint2x4,
}
"""Dtypes of the elements of storages, by the class that a pickle names."""
_UTILS: Final = "torch._utils."
_REBUILT: Final = (_UTILS + "_rebuild_tensor", _UTILS + "_rebuild_tensor_v2", _UTILS + "_rebuild_tensor_v3")
_WRAPPED: Final = (
    _UTILS + "_rebuild_parameter",
    _UTILS + "_rebuild_parameter_with_state",
    _UTILS + "_rebuild_device_tensor_from_cpu_tensor",
)
"""Calls whose first argument is the tensor."""
_OF_A_CLASS: Final = ("torch._tensor._rebuild_from_type_v2", "torch._tensor._rebuild_from_type")
_WRAPPER: Final = _UTILS + "_rebuild_wrapper_subclass"
_OTHERS: Final = {
    "_rebuild_qtensor": "its storage is quantised (torch)",
    "_rebuild_sparse_tensor": "its layout is sparse",
    "_rebuild_sparse_csr_tensor": "its layout is sparse",
    "_rebuild_nested_tensor": "it is a nested tensor",
    "_rebuild_meta_tensor_no_storage": "it is on the meta device and has no values",
    "_rebuild_device_tensor_from_numpy": "it was saved as a NumPy array of another device; save it from the CPU",
    "_rebuild_xla_tensor": "it was saved as a NumPy array of another device; save it from the CPU",
}
_ARRAYS: Final = tuple(f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core"))


@dataclass
class Storage:
    """A storage within the file: its dtype, its first byte and its size in bytes."""

    key: str
    dtype: torch.dtype
    offset: int
    size: int


def is_tensor(value: Any) -> bool:
    """Whether a leaf is a tensor of any kind, whether or not it can be read."""
    if not isinstance(value, Call):
        return False
    kind = value.name
    return kind in (*_REBUILT, *_WRAPPED, *_OF_A_CLASS, _WRAPPER) or kind.removeprefix(_UTILS) in _OTHERS


def tensor_of(name: str, value: Any, path: Path) -> StoredTensor | None:
    """The tensor that a leaf of the tables describes; None for any other leaf.

    Raises:
        CheckpointError: If its elements do not lie within its storage.
    """
    if not isinstance(value, Call):
        return None
    arguments = value.arguments
    if value.name in _WRAPPED and arguments:
        return tensor_of(name, arguments[0], path)
    if value.name in _OF_A_CLASS:
        return _of_a_class(name, value, path)
    if value.name == _WRAPPER:
        return _wrapper(name, arguments)
    if value.name.startswith(_UTILS) and (why := _OTHERS.get(value.name.removeprefix(_UTILS))):
        return _unreadable(name, _sizes(arguments), why)
    if value.name in _ARRAYS and isinstance(value.state, tuple) and len(value.state) > 1:
        return _unreadable(name, value.state[1], "it is a NumPy array; save it as a tensor")
    return _plain(name, value, path) if value.name in _REBUILT and len(arguments) > 3 else None


def _plain(name: str, value: Call, path: Path) -> StoredTensor:
    storage, first, sizes, strides = value.arguments[:4]
    dtype = storage.dtype if isinstance(storage, Storage) else None
    if value.name == _REBUILT[2] and len(value.arguments) > 6 and isinstance(value.arguments[6], Name):
        dtype = DTYPES.get(value.arguments[6].name)
    sizes, strides = _tuple(sizes), _tuple(strides)
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


def _of_a_class(name: str, value: Call, path: Path) -> StoredTensor | None:
    """A tensor of a subclass: read if the class is one of torch's own that only adds behaviour, else named."""
    if len(value.arguments) < 3 or not isinstance(value.arguments[2], tuple):
        return _unreadable(name, (), "it is of a class of its own")
    rebuild, kind, arguments = value.arguments[:3]
    label = kind.name if isinstance(kind, Name) else ""
    inner = tensor_of(name, Call(rebuild.name, arguments), path) if isinstance(rebuild, Name) else None
    if inner is not None and (label.startswith("torch.") or inner.problem):
        return inner
    shape = inner.shape if inner is not None else ()
    return _unreadable(name, shape, f"it is of a class of its own ({label.rpartition('.')[2][:60]})")


def _wrapper(name: str, arguments: tuple[Any, ...]) -> StoredTensor:
    """A tensor that is made of others: their values alone are not those of the whole."""
    label = arguments[0].name if arguments and isinstance(arguments[0], Name) else ""
    short = label.rpartition(".")[2][:60] or "a class of its own"
    if "dtensor" in label.lower():
        why = "it is a DTensor, of which the file has the part of one process; save a full state dict (full_tensor())"
    elif label.startswith("torchao.") or "quant" in label.lower():
        why = f"its storage is quantised ({short})"
    else:
        why = f"it is made of other tensors ({short})"
    return _unreadable(name, _sizes(arguments), why)


def _unreadable(name: str, shape: Any, why: str) -> StoredTensor:
    return StoredTensor(name, shape if is_shape(shape) else (), None, (), why)


def _sizes(arguments: tuple[Any, ...]) -> tuple[int, ...]:
    """The first of some arguments that looks like a shape; empty if there is none."""
    for value in arguments:
        found = _tuple(value)
        if found and is_shape(found):
            return tuple(found)
    return ()


def _tuple(value: Any) -> Any:
    """The tuple in a `torch.Size`; any other value as it is."""
    return value.arguments[0] if isinstance(value, Call) and value.name == "torch.Size" and value.arguments else value


def storage_of(reference: Any) -> tuple[str, torch.dtype, int]:
    """The key, the dtype and the number of elements of a storage that a pickle refers to.

    Raises:
        ValueError: If it is not such a reference.
    """
    if not isinstance(reference, tuple) or len(reference) < 5 or reference[0] != "storage":
        raise ValueError("a tensor without a storage")
    kind, key, count = reference[1], reference[2], reference[4]
    if not isinstance(kind, Name) or kind.name not in STORAGES or type(count) is not int or count < 0:
        raise ValueError(f"a reference to a storage {str(key)[:20]!r} that is not valid")
    return str(key), STORAGES[kind.name], count
