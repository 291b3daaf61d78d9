"""An extension of griffe: the examples of a docstring become blocks of code, as Markdown has them."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension

EXAMPLE = re.compile(r"(?:^[ ]*>>> .*\n?(?:^[ ]*\S.*\n?)*)+", re.MULTILINE)


class Doctests(Extension):
    """Puts a fence around every run of lines that begins with a prompt."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        """Called for every object that is documented."""
        if obj.docstring is not None:
            text = re.sub(r"::$", ":", obj.docstring.value, flags=re.MULTILINE)  # before an indented block
            obj.docstring.value = EXAMPLE.sub(_fenced, text)


def _fenced(found: re.Match[str]) -> str:
    return f"```pycon\n{found[0].rstrip()}\n```\n"
