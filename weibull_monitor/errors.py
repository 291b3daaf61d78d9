"""The exceptions of this package, and the guard that keeps failures of the monitor away from training."""

from __future__ import annotations

import logging
import operator
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

logger = logging.getLogger("weibull_monitor")
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Method = TypeVar("Method", bound=Callable[..., Any])


class WeibullMonitorError(Exception):
    """Base class of the exceptions of this package."""


class UnsupportedTensorError(WeibullMonitorError, TypeError):
    """A tensor that cannot be measured: integer, complex, meta, sparse, quantised or empty."""


class ConfigurationError(WeibullMonitorError, ValueError):
    """An invalid argument: out of range, an unknown name, or a directory that cannot be written."""


class CheckpointError(WeibullMonitorError, ValueError):
    """A checkpoint that cannot be read: missing, of an unknown format, truncated, corrupted or unsafe."""


class MissingDependencyError(WeibullMonitorError, ImportError):
    """A required optional library is not installed; the message gives the command that installs it."""

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


def text_of(error: BaseException) -> str:
    """The text of an exception, whose ``__str__`` may raise too.

    >>> text_of(ValueError("too large"))
    'too large'
    """
    try:
        return str(error)
    except Exception:
        return "its text cannot be read"


def visible(text: str) -> str:
    r"""A text that is data, such as a name, with every invisible character escaped as in JSON.

    These are control characters, line breaks, lone surrogates, and marks that turn text around: they could move the cursor,
    forge a line, or break an encoding.

    >>> print(visible("layers.0\x1b[2J\n\ud800.weight"))
    layers.0\u001b[2J\u000a\ud800.weight
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)


def shown(value: object, most: int = 100) -> str:
    """A value as Python writes it, cut off after ``most`` characters; also one that cannot be written.

    >>> shown([1, "a"]), len(shown("x" * 1000)), shown(16**9999)
    ("[1, 'a']", 101, 'a value of type int')
    """
    try:
        text = repr(value)
    except Exception:  # an integer of thousands of digits, lists too deep within each other
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= most else f"{text[:most]}…"


def counted(number: int, one: str, many: str = "") -> str:
    """A number with its noun, and a verb if you like.

    >>> counted(1, "alert"), counted(2, "matrix has", "matrices have")
    ('1 alert', '2 matrices have')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def say(level: int, message: str, error: BaseException | None = None) -> None:
    """Logs a message as it is, with the traceback of an exception at level DEBUG. A log handler that raises is ignored.

    On a line of its own: progress bars of tqdm, which hold the last line of a terminal, are cleared and drawn again.
    """
    with suppress(Exception), ExitStack() as stack:
        with suppress(Exception):
            stack.enter_context(_above_bars())
        message = "\n".join(visible(line) for line in message.split("\n"))
        logger.log(level, "%s", message, exc_info=error if error and logger.isEnabledFor(logging.DEBUG) else None)


def _above_bars() -> AbstractContextManager[object]:
    """What clears the progress bars of tqdm on a terminal, if this program has any."""
    bars = getattr(sys.modules.get("tqdm"), "tqdm", None)
    if bars is None or not getattr(bars, "_instances", None) or not sys.stderr.isatty():
        return nullcontext()
    cleared: AbstractContextManager[object] = bars.external_write_mode(file=sys.stderr)
    return cleared


class Guard:
    """Calls functions of the monitor and catches their exceptions; each kind of failure is reported once.

    >>> guard = Guard()
    >>> guard("dividing", divmod, 7, 3)
    (2, 1)
    """

    def __init__(self) -> None:
        self._reported: set[str] = set()

    def __call__(
        self, what: str, work: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Result | None:
        """Returns ``work(*args, **kwargs)``, or None if it raises; ``what`` names the work in the report."""
        try:
            return work(*args, **kwargs)
        except Exception as error:
            self.failed(what, error)
            return None

    def failed(self, what: str, error: Exception) -> None:
        """Reports that some work raised an exception; does not raise one itself."""
        with suppress(Exception):
            kind = type(error).__name__
            message = f"{what} failed and is skipped ({kind}: {text_of(error)}); training continues"
            self.once(message, key=f"{what} {kind}", error=error)

    def once(
        self, message: str, key: str | None = None, error: Exception | None = None, level: int = logging.WARNING
    ) -> None:
        """Logs a warning, unless one with this key (by default, this message) was logged before."""
        if (key or message) not in self._reported:
            self._reported.add(key or message)
            say(level, message, error)


def shielded(what: str, otherwise: Callable[[Any], Any] = lambda _: None) -> Callable[[Method], Method]:
    """Makes a method that training calls report every exception instead of raising it.

    It is the last net, for what no `Guard` within the method has caught.

    Args:
        what: The work, for the report.
        otherwise: What the method returns after an exception, given its object, which has a `Guard` as ``_guard``.

    >>> class Meter:
    ...     _guard = Guard()
    ...
    ...     @shielded("dividing", lambda self: 0.0)
    ...     def divide(self, a: float, b: float) -> float:
    ...         return a / b
    >>> Meter().divide(1.0, 2.0), Meter().divide(1.0, 0.0)
    (0.5, 0.0)
    """

    def decorate(method: Method) -> Method:
        @wraps(method)
        def call(self: Any, /, *args: Any, **kwargs: Any) -> Any:
            try:
                return method(self, *args, **kwargs)
            except Exception as error:
                self._guard.failed(what, error)
            try:
                return otherwise(self)
            except Exception:
                return None

        return cast("Method", call)

    return decorate
