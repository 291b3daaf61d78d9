"""Files that cannot be trusted: opened only if regular, read only in bounded pieces."""

from __future__ import annotations

import io
import json
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from weibull_monitor.checkpoint.formats.foreign import MAGIC, foreign
from weibull_monitor.errors import CheckpointError

MAX_HEADER: Final = 16 << 20
"""Most bytes of JSON, or of a zip's directory, that are read: 100,000 tensors take about 15 MB. The worst header that
`check_nesting` lets through takes 25 times as much memory once it is parsed."""

MAX_INDEX: Final = 40 << 20
"""Most bytes of an index of shards: 250,000 tensors take about 30 MB. It is flat, so it takes less memory for its size."""
MAX_NAME: Final = 255
"""Most characters of a file's name."""


@contextmanager
def open_file(path: Path) -> Iterator[int]:
    """Opens a regular file for reading; gives its descriptor and closes it.

    Raises:
        CheckpointError: If the file does not exist, may not be read, or is a directory, a pipe or a device.
    """
    fd = open_regular(path)
    try:
        yield fd
    finally:
        os.close(fd)


def open_regular(path: Path) -> int:
    """Like `open_file`, but the caller closes the descriptor."""
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CheckpointError(f"{path} cannot be opened: {reason}; check the path") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise CheckpointError(f"{path} is not a regular file; name a checkpoint's file or directory")
    return fd


def read_at(fd: int, offset: int, size: int, path: Path) -> bytes:
    """Reads ``size`` bytes at ``offset``. The caller bounds the size.

    Raises:
        CheckpointError: If the file ends earlier.
    """
    parts = []
    while size:
        part = os.pread(fd, size, offset)
        if not part:
            raise CheckpointError(f"{path} ends before what it says it holds: it is truncated; copy it again")
        parts.append(part)
        size, offset = size - len(part), offset + len(part)
    return b"".join(parts)


def check_flat(data: bytes, path: Path) -> None:
    """Refuses JSON that is not one long table of long names, as an index of shards is."""
    if (
        data.count(b"{") + data.count(b"[") > 1000
        or data.count(b",") > len(data) // 40
        or data.count(b":") > len(data) // 40
    ):
        raise corrupted(path, "its JSON is nested far more than the tables of a checkpoint are")


def check_nesting(data: bytes, path: Path) -> None:
    """Refuses JSON with so many tables and lists that parsing it takes far more memory than the text."""
    if data.count(b"{") + data.count(b"[") > len(data) // 8 + 1000 or data.count(b":") > len(data) // 12 + 1000:
        raise corrupted(path, "its JSON is nested far more than the tables of a checkpoint are")


def read_json(path: Path, limit: int | None = None) -> dict[str, Any]:
    """Reads a small file that holds one JSON object in which no key occurs twice.

    Args:
        path: The file.
        limit: Most bytes that it may have; `MAX_HEADER` by default.

    Raises:
        CheckpointError: If it holds something else, or is too large.
    """
    data = read_small(path, MAX_HEADER if limit is None else limit)
    if what := foreign(data[:MAGIC], path):
        raise CheckpointError(what)
    (check_flat if len(data) > MAX_HEADER else check_nesting)(data, path)
    try:
        value = json.loads(data, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise corrupted(path, f"it is not valid JSON ({str(error)[:80]})") from error
    if not isinstance(value, dict):
        raise corrupted(path, "it is not a JSON object")
    return value


def read_small(path: Path, limit: int) -> bytes:
    """Reads a whole file of at most ``limit`` bytes.

    Raises:
        CheckpointError: If it has more, or cannot be read.
    """
    with open_file(path) as fd:
        size = os.fstat(fd).st_size
        if size > limit:
            raise CheckpointError(f"{path} has {size:,} bytes, more than {limit:,}: it is not read")
        return read_at(fd, 0, size, path)


def corrupted(path: Path, what: str) -> CheckpointError:
    """The error for a file whose tables contradict themselves."""
    return CheckpointError(f"{path}: {what}; the file is corrupted")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key occurs twice")
    return value


def siblings(index: Path, names: Sequence[object]) -> list[Path]:
    """The paths of files that an index names; all have to be in the index's own directory.

    Raises:
        CheckpointError: For a name that leads elsewhere.
    """
    out = []
    made: dict[str, Path] = {}  # an index names each file many times
    for name in names:
        if isinstance(name, str) and name in made:
            out.append(made[name])
            continue
        special = not isinstance(name, str) or not name or name in (".", "..") or len(name) > MAX_NAME
        if not isinstance(name, str) or special or "/" in name or "\\" in name or "\0" in name:
            raise CheckpointError(
                f"{index} names the file {str(name)[:80]!r}, which is not in its own directory: it is not opened"
            )
        made[name] = index.parent / name
        out.append(made[name])
    return out


class FileStretch(io.RawIOBase):
    """A stretch of a file as a read-only file of its own. No single read may be larger than `MAX_HEADER`.

    Args:
        fd: The file.
        start: First byte.
        length: Number of bytes.
        path: For messages.
    """

    def __init__(self, fd: int, start: int, length: int, path: Path) -> None:
        super().__init__()
        self._fd, self._start, self._length, self._path, self._at = fd, start, length, path, 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """The position."""
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        """Moves the position."""
        base = (0, self._at, self._length)[whence]
        if base + offset < 0:
            raise OSError("a position before the beginning")
        self._at = base + offset
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """Bytes from the position on."""
        rest = max(0, self._length - self._at)
        size = rest if size is None or size < 0 else min(size, rest)
        if size > MAX_HEADER:
            raise corrupted(self._path, f"it has a table of {size:,} bytes, where at most {MAX_HEADER:,} are read")
        data = read_at(self._fd, self._start + self._at, size, self._path)
        self._at += len(data)
        return data
