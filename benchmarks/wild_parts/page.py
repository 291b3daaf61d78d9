"""The page that `benchmarks/wild.py --markdown` writes: one row per script; rows of scripts that were not run stay."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ..wild import Found

HEAD: Final = (
    "| code base | script | lines | matrices | loss | said | ms of CPU a step | resumed |\n"
    "|---|---|---|---|---|---|---|---|\n"
)
BEGIN, END = "<!-- results: written by benchmarks/wild.py -->\n", "<!-- end of results -->\n"


def write(page: Path, found: Found) -> None:
    """Puts the row of a script into the table of the page, in the place of an earlier one."""
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    middle, after = rest.split(END)
    rows = {_key(line): line for line in middle.splitlines() if line.startswith("| [")}
    rows[_key(row(found))] = row(found)
    table = HEAD + "\n".join(rows[key] for key in sorted(rows, key=str.lower)) + "\n"
    page.write_text(before + BEGIN + "\n" + table + "\n" + END + after, encoding="utf-8")


def _key(line: str) -> str:
    """What a row is of: the code base without its commit, and the script."""
    cells = line.split(" | ")
    return re.sub(r"\(.*", "", cells[0]) + cells[1]


def row(found: Found) -> str:
    """The row of a script."""
    script, (commit, *date) = found.script, found.commit.split()
    base = f"[{script.source.split('/')[1]}](https://github.com/{script.source}/tree/{commit}) {' '.join(date)}".strip()
    if found.error:
        return f"| {base} | `{script.name}` | – | – | – | failed: {found.error} | – | – |"
    same = "identical" if found.losses and found.weights and found.random else "**different**"
    said = [text.split(": ", 1)[-1] for text in found.said]
    alerts = "; ".join(found.alerts) or "no alert"
    cost = f"{_ms(found.plain, found):.0f} → {_ms(found.monitored, found):.0f}"
    cells = [base, f"`{script.name}` ({script.host})", str(script.lines), matrices(found.kinds), same]
    return "| " + " | ".join([*cells, "; ".join([alerts, *_short(said)]), cost, found.resumed]) + " |"


def _ms(seconds: float, found: Found) -> float:
    return 1000 * seconds / max(1, found.steps - 1)


def _short(said: list[str]) -> list[str]:
    """Warnings without the names in them, as a cell of a table can hold them."""
    return [re.sub(r": [\w.]+( and others)?,", "", text).replace("|", "\\|") for text in said]


def matrices(kinds: Counter[str]) -> str:
    """Their number, and how many were not recognised."""
    number = sum(kinds.values())
    return f"{number}, {kinds['other']} `other`" if kinds["other"] else str(number)
