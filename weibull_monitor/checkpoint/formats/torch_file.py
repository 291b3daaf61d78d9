"""The tables of files that `torch.save` wrote: pytorch_model.bin, .pt, .pth, Lightning's .ckpt.

Such a file is an uncompressed zip of one pickle and the storages of the tensors, so each storage is one stretch of the file.
The pickle is read by `weibull_monitor.checkpoint.formats.pickles`, which runs nothing; storages are read when they are counted.
"""

from __future__ import annotations

import os
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from weibull_monitor.checkpoint.formats.files import FileStretch, corrupted, open_file, read_at
from weibull_monitor.checkpoint.formats.foreign import LEGACY, MAGIC, NEITHER, foreign, foreign_archive
from weibull_monitor.checkpoint.formats.legacy import read_legacy
from weibull_monitor.checkpoint.formats.pickles import MAX_BYTES, Leaf, entries_of, flatten, read_pickle
from weibull_monitor.checkpoint.formats.rebuild import Storage, is_tensor, storage_of, tensor_of
from weibull_monitor.checkpoint.formats.tensors import Contents, StoredTensor
from weibull_monitor.errors import CheckpointError

_INERT: Final = re.compile(
    r"(?:builtins|collections|datetime|decimal|fractions|uuid|pathlib(?:\._local)?|types|argparse|numpy[\w.]*|copyreg|_codecs|re)\.\w+$"
    r"|torch\.(?:Size|device|dtype|Tensor|Generator|torch_version\.TorchVersion|nn\.parameter\.Parameter)$"
    r"|torch\.serialization\._get_layout$|lightning\w*\.fabric\.utilities\.data\.AttributeDict$|torch\.jit\._pickle\.build_\w+$|_io\.BytesIO$"
)
"""Names of plain values, which may lie among the weights."""
_CODE: Final = re.compile(r"builtins\.(?:eval|exec|execfile|compile|open|input|getattr|__import__|apply|breakpoint)$")
"""Names of these modules that are not values."""
_EXTRA: Final = "_extra_state"
"""What a module keeps beside its parameters, of any class."""
MAX_ENTRIES: Final = 1_000_000
_STATES: Final = ("state_dict", "model_state_dict", "model_state", "model", "module", "net", "weights")
"""Keys under which training checkpoints keep their model, the likeliest first."""
NOT_THE_MODEL: Final = re.compile(
    r"(?i)(?:^|\.)(?:optim(?:izer|izers|izer_states?|_states?|izer_state_dict)?|lr_schedulers?|schedulers?|scaler|callbacks|loops|"
    r"rng\w*|hyper_parameters|opt_state\w*)(?:\.|$|_\d)"
)
"""Paths of what training keeps beside the model."""


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
        magic = read_at(fd, 0, min(size, MAGIC), path)
        if is_zip(fd):
            found = read_archive(fd, 0, size, path)
        elif LEGACY in magic[:32]:
            found = read_legacy(fd, size, path)
        else:
            raise CheckpointError(foreign(magic, path) or f"{path} is not a checkpoint: {NEITHER}")
    whole = entries_of(found)
    if whole is not None and {"state", "param_groups"} <= whole.keys():
        raise CheckpointError(f"{path} holds the state of an optimizer, not a model; name the file of the weights")
    found = {"": found} if whole is None else whole
    table, inside = _model_of(found)
    leaves = flatten(table, lambda name: not inside and bool(NOT_THE_MODEL.search(name)))
    tensors = {
        name: tensor for name, leaf in leaves.items() if (tensor := tensor_of(name, leaf.value, path)) is not None
    }
    _check_strangers(leaves, tensors, path)
    _check_total(tensors, size, path)
    step = next((found[key] for key in ("global_step", "iteration", "step", "iter_num") if key in found), None)
    return Contents(tensors, size, step if type(step) is int and step >= 0 else None)


def read_archive(fd: int, start: int, length: int, path: Path) -> Any:
    """The object in the zip in a stretch of a file; each tensor is a `Call`, and its storage a `Storage`."""
    records = _records(fd, start, length, path)
    name = next((name for name in records if name.rpartition("/")[2] == "data.pkl"), None)
    if name is None:
        what = "is a zip file, but torch.save did not write it: there is no data.pkl in it"
        raise CheckpointError(f"{path} {what}; {foreign_archive(records)}")
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
        key, dtype, _ = storage_of(reference)
        if f"{prefix}data/{key}" not in records:
            raise ValueError(f"a reference to a storage {key[:20]!r} that is not there")
        return Storage(key, dtype, *records[f"{prefix}data/{key}"])

    return read_pickle(read_at(fd, offset, size, path), str(path), None, storage)


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
    ours = any(entry.filename.rpartition("/")[2] == "data.pkl" for entry in entries)
    for entry in entries:
        if not ours:
            out[entry.filename] = (0, 0)
            continue
        if "/code/" in entry.filename:  # of TorchScript
            continue
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


def _check_strangers(leaves: Mapping[str, Leaf], tensors: Mapping[str, StoredTensor], path: Path) -> None:
    """Refuses objects of unknown classes among weights: one of them may be a kind of tensor, or code that means harm.

    Objects in other tables, such as settings and schedulers, stay what they are: names that nothing calls.
    """
    weights = {leaves[name].table for name, tensor in tensors.items() if len(tensor.shape) > 1}
    for name, leaf in leaves.items():
        kind = getattr(leaf.value, "name", "")
        if name in tensors or name.endswith(_EXTRA) or (_INERT.match(kind) and not _CODE.match(kind)):
            continue
        if leaf.table in weights or not tensors:
            where = f"among its weights, {name[:80]!r}" if tensors else "it holds no tensors, and"
            raise CheckpointError(
                f"{path} is not read: {where} asks for {kind[:100]!r}, which could run code. Nothing of it was run; "
                "save the weights alone, best as safetensors"
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


def _model_of(found: Mapping[Any, Any]) -> tuple[Mapping[Any, Any], bool]:
    """The table of the model's tensors, and whether it is a table within that of the file."""
    for key in _STATES:
        inner = entries_of(found.get(key))
        if inner is not None and any(is_tensor(leaf.value) for leaf in flatten(inner).values()):
            return inner, True
    return found, False
