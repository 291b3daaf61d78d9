"""Tables as lines of text whose pieces may have a style: printed plainly, or in colours where the terminal has them."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Collection, Iterable, Sequence

Piece = tuple[str, str]
"""Text and its style: one of rich's, such as ``bold red``; empty for none."""
Line = list[Piece]


def width(text: str) -> int:
    """How many columns of a terminal a text takes.

    >>> width("λ_wd"), width("漢字"), width("e\u0301")
    (4, 4, 1)
    """
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def aligned(
    rows: Sequence[Sequence[str | Piece]], right: Collection[int] = (), rules: Collection[int] = ()
) -> list[Line]:
    """A table with two spaces between its columns; the first row is the head, in bold.

    Args:
        rows: Rows of equally many cells, each a text or a text with its style.
        right: Columns that are aligned to the right.
        rules: Rows that a horizontal rule is drawn above.

    >>> print(plain(aligned([["kind", "k"], ["attn_q", "1.2"]], right=[1], rules=[1])))
    kind      k
    ───────────
    attn_q  1.2
    """
    cells = [[(cell, "") if isinstance(cell, str) else cell for cell in row] for row in rows]
    widths = [max(width(text) for text, _ in column) for column in zip(*cells, strict=True)]
    lines: list[Line] = []
    for n, row in enumerate(cells):
        if n in rules:
            lines.append([("─" * (sum(widths) + 2 * len(widths) - 2), "")])
        lines.append([])
        for i, (text, style) in enumerate(row):
            gap, room = "  " if i else "", " " * (widths[i] - width(text))
            before, after = (gap + room, "") if i in right else (gap, room)
            lines[-1] += [(before, ""), (text, style or ("" if n else "bold")), (after, "")]
    return lines


def wrapped(texts: Iterable[str], columns: int, style: str = "") -> list[Line]:
    """Each text as an item of a list, in lines of so many columns."""
    folded = (textwrap.wrap(f"- {text}", columns, subsequent_indent="  ", break_long_words=False) for text in texts)
    return [[(line, style)] for lines in folded for line in lines]


def joined(parts: Iterable[list[Line]]) -> list[Line]:
    """The parts that are not empty, with an empty line between two of them."""
    lines: list[Line] = []
    for part in parts:
        if part:
            lines += [*([[]] if lines else []), *part]
    return lines


def plain(lines: Iterable[Line]) -> str:
    """The lines without styles."""
    return "\n".join("".join(text for text, _ in line).rstrip() for line in lines)
