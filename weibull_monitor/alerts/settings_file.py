"""Reads thresholds of the rules from a TOML file."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Any, Final

from weibull_monitor.errors import ConfigurationError

MAX_FILE: Final = 1 << 20
"""Bytes of a file with settings; more are refused."""


def read_settings(path: Path) -> Any:
    """What stands under ``[alerts]``.

    Raises:
        ConfigurationError: If the file cannot be read, is not TOML, or has other settings.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        if not path.is_file():  # reading a pipe or a device might never end
            raise FileNotFoundError(errno.ENOENT, "it is not a file" if path.exists() else "it does not exist")
        with path.open("rb") as file:
            text = file.read(MAX_FILE + 1)
        if len(text) > MAX_FILE:
            raise ConfigurationError(f"the alert settings {path} have more than {MAX_FILE:,} bytes; name a TOML file")
        content = tomllib.loads(text.decode("utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"the alert settings {path} cannot be read: {error.strerror}; name a TOML file"
        ) from error
    except (ValueError, RecursionError) as error:  # also what is not UTF-8, integers of thousands of digits
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(f"{path} is not TOML: {error}") from error
    if outside := [key for key in content if key != "alerts"]:
        raise ConfigurationError(
            f"{path}: {outside[0][:80]} is not known; settings stand under [alerts], as in [alerts.scale_shift]"
        )
    return content.get("alerts", {})
