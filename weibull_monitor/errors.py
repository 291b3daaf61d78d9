"""What can be wrong with what a user passed in, and the guard that keeps failures of the monitor away from training."""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable
from typing import ParamSpec, TypeVar

logger = logging.getLogger("weibull_monitor")
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


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


def as_integer(value: object) -> int | None:
    """An integer of Python, NumPy or PyTorch as an int; None for anything else, True and False included.

    >>> as_integer(5), as_integer(5.0), as_integer(True)
    (5, None, None)
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


class Guard:
    """Runs pieces of the monitor's work so that no exception leaves it; each kind of failure is reported once.

    >>> guard = Guard()
    >>> guard("dividing", divmod, 7, 3)
    (2, 1)
    """

    def __init__(self) -> None:
        self._reported: set[str] = set()

    def __call__(
        self, what: str, work: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Result | None:
        """The result of ``work(*args, **kwargs)``, or None if it raises; ``what`` names it in the report."""
        try:
            return work(*args, **kwargs)
        except Exception as error:
            self.once(
                f"{what} failed and is passed over ({type(error).__name__}: {error}); training goes on",
                key=f"{what} {type(error).__name__}",
                error=error,
            )
            return None

    def once(self, message: str, key: str | None = None, error: Exception | None = None) -> None:
        """Logs a warning, unless one with this key (by default, this message) was logged before."""
        if (key or message) not in self._reported:
            self._reported.add(key or message)
            logger.warning(message, exc_info=error if logger.isEnabledFor(logging.DEBUG) else None)
