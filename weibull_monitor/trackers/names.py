"""Names are data: what a library does not take as a name is logged under one that it takes."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from weibull_monitor.errors import say, visible

MOST: Final = 250
"""Characters of a name that every library takes: MLflow refuses all metrics of a step for one that is longer."""
ANY: Final = re.compile(r"(?!)")
"""No character is left out."""


class CleanKeys:
    """Turns keys of metrics into names that a library takes, each always into the same one, and no two into one.

    Names of parameters are part of some keys, and may be anything. A key that is changed is said once.

    Args:
        library: The library, for the message.
        forbidden: Matches what is replaced by an underscore.

    >>> clean = CleanKeys("MLflow", re.compile("[^a-z/]"))
    >>> clean({"a/b[q]": 1.0, "a/b(q)": 2.0, "a/../b": 3.0})
    {'a/b_q_': 1.0, 'a/b_q__8fddae61': 2.0, 'a/__/b': 3.0}
    >>> [len(key) for key in clean({"x" * 5000 + "/k": 1.0})]
    [250]
    """

    def __init__(self, library: str, forbidden: re.Pattern[str] = ANY) -> None:
        self._library, self._forbidden = library, forbidden
        self._names: dict[str, str] = {}
        self._taken: set[str] = set()
        self._said = False

    def __call__(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """The same values under such names."""
        return {self._names.get(key) or self._new(key): value for key, value in metrics.items()}

    def _new(self, key: str) -> str:
        plain = self._forbidden.sub("_", visible(key))
        parts = plain.split("/")
        name = "/".join(
            part if part.strip(". ") else "_" * max(1, len(part)) for part in parts
        )  # no path leads elsewhere
        mark = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        plainly = len(name) <= MOST and name not in self._taken
        if len(name) > MOST:
            name = f"{name[: MOST - 50]}_{mark}_{name[-40:]}"
        elif name in self._taken:
            name = f"{name[: MOST - 9]}_{mark}"
        if name != key and not self._said:
            self._said = True
            what = f"{self._library} refuses some names: {key[:80]} is logged as {name[:80]}"
            say(logging.INFO if plainly else logging.WARNING, f"weibull_monitor: {what}")
        self._names[key] = name
        self._taken.add(name)
        return name


def run_name(directory: str | Path) -> str:
    r"""The name of a run that is started for a directory: that of the directory, as a library can take it.

    >>> run_name("runs/a\nb"), run_name("."), len(run_name("runs/" + "x" * 5000))
    ('a\\u000ab', 'run', 250)
    """
    return visible(Path(directory).name)[:MOST] or "run"


def plain_directory(directory: str | Path, library: str) -> Path:
    r"""A directory that a library can write to: if its path is not UTF-8, one beside it with escapes in its path.

    >>> plain_directory("runs/x", "W&B").name
    'x'
    """
    path = Path(directory)
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        other = Path(*(part if part == path.anchor else visible(part) for part in path.parts))
        say(
            logging.WARNING,
            f"weibull_monitor: {library} cannot write to {path}, whose name is not UTF-8; it writes to {other}",
        )
        return other
    return path
