"""What can be wrong with what the user passed in; each message says what to do. Nothing here is raised during training."""

from __future__ import annotations


class WeibullMonitorError(Exception):
    """Base of every error that this package raises on purpose."""


class UnsupportedTensorError(WeibullMonitorError, TypeError):
    """A tensor whose values cannot be read as floats where they are: integer, complex, meta, sparse, quantised, empty."""


class ConfigurationError(WeibullMonitorError, ValueError):
    """An argument out of its range, an unknown name, a directory that cannot be written."""


class CheckpointError(WeibullMonitorError, ValueError):
    """A checkpoint that cannot be read: not there, of an unknown format, truncated, corrupted, or not safe to read."""


class MissingDependencyError(WeibullMonitorError, ImportError):
    """An optional library is needed and not installed; the message holds the exact install command."""

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(f"{library} is not installed; run: pip install 'weibull-monitor[{extra}]'")
