"""How values look in a notebook: small tables in HTML, whose texts are escaped, as names come from files of others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table with a title above it.

    >>> table("a < b", ["k"], [[1.2]])
    '<p><b>a &lt; b</b></p><table><thead><tr><th>k</th></tr></thead><tbody><tr><td>1.2</td></tr></tbody></table>'
    """
    columns = "".join(f"<th>{escape(str(cell))}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return f"<p><b>{escape(title)}</b></p><table><thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table>"
