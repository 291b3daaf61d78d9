"""What commands print, made safe: names from files cannot control the terminal, and every encoding can take the text."""

from __future__ import annotations

import codecs
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

PLAINER: Final = {
    "λ": "lambda",
    "τ": "tau",
    "η": "eta",
    "σ": "sigma",
    "β": "beta",
    "γ": "gamma",
    "Δ": "delta ",
    "Σ": "sum ",
    "√": "sqrt",
    "─": "-",
    "━": "-",
    "│": "|",
    "┃": "|",
    "–": "-",
    "—": "-",
    "−": "-",
    "×": "x",
    "·": ".",
    "•": "*",
    "…": "...",
    "°": " deg",
    "↑": "^",
    "↓": "v",
    "→": "->",
    "←": "<-",
    "≤": "<=",
    "≥": ">=",
    "≈": "~",
    "±": "+-",
    "∝": "~",
    "∞": "inf",
    "′": "'",
    "²": "^2",
    "⁰": "^0",
    "₀": "0",
    "▲": "^",
    "▼": "v",
    "●": "*",
    "✓": "ok",
    "✗": "x",
    "’": "'",
    "“": '"',
    "”": '"',
}
"""What stands for a character that the encoding of the output does not have."""
BARS: Final = "▁▂▃▄▅▆▇█"
_CONTROL: Final = "\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069"  # all but tab and line feed
_EVERYWHERE: Final = re.compile(f"[{_CONTROL}]")
_STYLES: Final = r"\x1b\[[\d;]*m|\x1b\[\?(?:25|1049)[hl]|\x1b\[\d*[AH]|\x1b\[2K|\r"
_ON_TERMINAL: Final = re.compile(f"(?P<kept>{_STYLES})|[{_CONTROL}]")
ERRORS: Final = "weibull_monitor.plainer"


def visible(text: str, terminal: bool = False) -> str:
    r"""The text with control characters as escapes, as JSON has them.

    Args:
        text: The text.
        terminal: Whether it goes to a terminal, where the colours and the cursor movements of rich are kept.

    >>> print(visible("a\x1b]0;title\x07b"))
    a\u001b]0;title\u0007b
    """
    pattern = _ON_TERMINAL if terminal else _EVERYWHERE
    return pattern.sub(lambda m: m.groupdict().get("kept") or f"\\u{ord(m[0]):04x}", text)


def plainer(error: UnicodeError) -> tuple[str, int]:
    """An error handler of `codecs`: a character that cannot be encoded becomes one or several of ASCII.

    >>> codecs.register_error(ERRORS, plainer)
    >>> "λ ∝ √η ↑".encode("cp1252", ERRORS)
    b'lambda ~ sqrteta ^'
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    wrong = error.object[error.start : error.end]
    return "".join(PLAINER.get(c) or ("." if c in BARS[:4] else "#" if c in BARS else "?") for c in wrong), error.end


class SafeStream:
    """A text stream that writes what is `visible`; everything else is done by the stream itself."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes the text; the number of its characters."""
        self._stream.write(visible(text, self._stream.isatty()))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Writes several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def safe_output() -> Iterator[None]:
    """Within it, standard output and standard error are safe; then they are what they were."""
    codecs.register_error(ERRORS, plainer)
    before = {name: getattr(sys, name) for name in ("stdout", "stderr")}
    handlers = {name: getattr(stream, "errors", None) for name, stream in before.items()}
    try:
        for name, stream in before.items():
            if stream is not None:
                _handle(stream, ERRORS)
                setattr(sys, name, SafeStream(stream))
        yield
    finally:
        for name, stream in before.items():
            setattr(sys, name, stream)
            if (handler := handlers[name]) and not stream.closed:
                _handle(stream, handler)


def _handle(stream: Any, errors: str) -> None:
    if callable(reconfigure := getattr(stream, "reconfigure", None)):
        reconfigure(errors=errors)
