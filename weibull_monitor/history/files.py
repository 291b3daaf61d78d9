"""Files that are written completely or not at all: under another name first, then renamed."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from weibull_monitor.errors import ConfigurationError


def check_writable(path: Path) -> None:
    """Checks that a file can be written, before there is anything to write.

    Raises:
        ConfigurationError: If it cannot.
    """
    nearest = next((parent for parent in path.absolute().parents if parent.exists()), Path("/"))
    if path.is_dir():
        raise ConfigurationError(f"{path} cannot be written: it is a directory; name a file")
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise ConfigurationError(f"{path} cannot be written: nothing can be written to {nearest}; name another file")


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8. Creates its directory if needed, and replaces a file that exists.

    Raises:
        ConfigurationError: If it cannot be written.
    """
    write_file(path, lambda scratch: scratch.write_text(text, encoding="utf-8", errors="backslashreplace"))


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file under another name in the same directory, and then renames it.

    Args:
        path: The file.
        write: Writes the file whose path it gets.

    Raises:
        ConfigurationError: If it cannot be written.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(scratch)
        os.replace(scratch, path)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}; name another file") from error
    finally:
        with suppress(OSError):  # it was renamed, or never written
            scratch.unlink()
