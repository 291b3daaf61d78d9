"""The version of the package."""

from __future__ import annotations

from functools import cache


@cache
def installed_version() -> str:
    """The version that is installed; "unknown" where the package was only copied, or put on the path, without its metadata."""
    from importlib import metadata  # takes 20 ms

    try:
        return metadata.version("weibull-monitor")
    except metadata.PackageNotFoundError:
        return "unknown"
