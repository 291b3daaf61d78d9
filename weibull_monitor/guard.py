"""The monitor's outer edge: what fails inside is reported once, with its cause, and training goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

logger = logging.getLogger("weibull_monitor")
Result = TypeVar("Result")


class Guard:
    """Runs pieces of the monitor's work so that no exception leaves it; each kind of failure is reported once.

    >>> guard = Guard()
    >>> guard("dividing", lambda: 6 / 3)
    2.0
    """

    def __init__(self) -> None:
        self._reported: set[str] = set()

    def __call__(self, what: str, work: Callable[[], Result]) -> Result | None:
        """The result of ``work``, or None if it raises; ``what`` names it in the report."""
        try:
            return work()
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
