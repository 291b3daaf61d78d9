"""The tables of files as `torch.save` wrote them before version 1.6: five pickles, then the storages one after another.

The second newest protocol is still written with ``_use_new_zipfile_serialization=False``. Its fourth pickle has the tables, its
fifth the order of the storages; each of them begins with the number of its elements.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from weibull_monitor.checkpoint.formats.files import corrupted, read_at
from weibull_monitor.checkpoint.formats.pickles import MAX_BYTES, read_pickle
from weibull_monitor.checkpoint.formats.rebuild import Storage, storage_of
from weibull_monitor.errors import CheckpointError


def read_legacy(fd: int, size: int, path: Path) -> Any:
    """The object in a file; each tensor is a `Call`, and its storage a `Storage`.

    Args:
        fd: The file.
        size: Its bytes.
        path: For messages.

    Raises:
        CheckpointError: If it is corrupted, truncated, or of a kind that cannot be read.
    """
    storages: dict[str, Storage] = {}

    def storage(reference: Any) -> Any:
        if isinstance(reference, tuple) and len(reference) > 1 and reference[0] == "module":
            return reference[1]  # a class, saved with its source code
        key, dtype, count = storage_of(reference)
        if len(reference) > 5 and reference[5] is not None:
            raise ValueError("a view of a storage, as torch wrote before version 0.4")
        return storages.setdefault(key, Storage(key, dtype, size, count * dtype.itemsize))

    data = io.BytesIO(read_at(fd, 0, min(size, MAX_BYTES), path))
    for _ in ("magic", "protocol"):
        read_pickle(data, str(path), frozenset())
    system = read_pickle(data, str(path), frozenset())
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise CheckpointError(f"{path} was written on a big-endian machine; save it again on another")
    found = read_pickle(data, str(path), None, storage)
    order = read_pickle(data, str(path), frozenset())
    at = data.tell()
    for key in order if isinstance(order, list) else ():
        here = storages.pop(key, None) if isinstance(key, str) else None
        if here is None:
            raise corrupted(path, "its storages are not those of its tensors")
        if int.from_bytes(read_at(fd, at, 8, path), "little") * here.dtype.itemsize != here.size:
            raise corrupted(path, f"the storage {key[:20]!r} does not have the size that its tensors say")
        here.offset, at = at + 8, at + 8 + here.size
        if at > size:
            raise CheckpointError(f"{path} ends before what it says it holds: it is truncated; copy it again")
    if storages:
        raise corrupted(path, "some of its storages are missing")
    return found
