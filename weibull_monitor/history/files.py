"""Files that are written whole or not at all: under another name first, then all at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from weibull_monitor.errors import ConfigurationError


def check_writable(path: Path) -> None:
    """Refuses a file that cannot be written, before there is anything to write.

    Raises:
        ConfigurationError: Then.
    """
    nearest = next(
        (parent for parent in (path.absolute().parent, *path.absolute().parents) if parent.exists()), Path("/")
    )
    if path.is_dir():
        raise ConfigurationError(f"{path} cannot be written: it is a directory; name a file")
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise ConfigurationError(f"{path} cannot be written: nothing can be written to {nearest}; name another file")


def write_text(path: Path, text: str) -> None:
    """Writes a text file all at once, in UTF-8; its directory is made if need be, and a file that is there is replaced.

    Raises:
        ConfigurationError: If it cannot be written there.
    """
    write_file(path, lambda scratch: scratch.write_text(text, encoding="utf-8"))


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Has a file written under another name in the same directory, and then gives it its own.

    Raises:
        ConfigurationError: If it cannot be written there.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(scratch)
        os.replace(scratch, path)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}; name another file") from error
    finally:
        with suppress(OSError):  # it is not there, or nothing can be
            scratch.unlink()
