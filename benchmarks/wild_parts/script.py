"""A training script of somebody else: where it is, how it is called, and what is added to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

SAMPLING: Final = "every_n_steps=10"
"""What every monitor here is given: runs of a few dozen steps are sampled ten times as often as by default."""


class Changed(Exception):
    """The foreign code does not have the line that an edit hangs on."""


@dataclass(frozen=True)
class Add:
    """Lines that are added after, or before, the only line that contains `at`. They get the indentation of that line."""

    file: str
    at: str
    lines: str
    before: bool = False

    @property
    def count(self) -> int:
        return len(self.lines.splitlines())

    def apply(self, root: Path) -> None:
        text = (root / self.file).read_text().splitlines()
        found = [i for i, line in enumerate(text) if self.at in line]
        if len(found) != 1:
            raise Changed(f"{self.file}: {len(found)} lines contain {self.at!r}")
        (i,) = found
        indent = text[i][: len(text[i]) - len(text[i].lstrip())]
        place = i if self.before else i + 1
        text[place:place] = [indent + line for line in self.lines.splitlines()]
        (root / self.file).write_text("\n".join(text) + "\n")


@dataclass(frozen=True)
class Replace:
    """Text that is replaced wherever it stands. It counts as one line, as an argument that is added does."""

    file: str
    old: str
    new: str
    count: int = 1

    def apply(self, root: Path) -> None:
        text = (root / self.file).read_text()
        if self.old not in text:
            raise Changed(f"{self.file} does not contain {self.old!r}")
        (root / self.file).write_text(text.replace(self.old, self.new))


@dataclass(frozen=True)
class Script:
    """One script of a code base.

    Attributes:
        name: How the table calls it.
        folder: The name of the folder of its code base, among those that the command is given.
        source: Where the code base comes from.
        run: The script, or ``-m`` and a module, relative to `within`.
        arguments: Of every run: a tiny model, a few dozen steps.
        within: The folder of the code base in which it is started.
        data: Makes its data in a copy of the code base.
        setup: What has to be changed for it to run here at all, with or without the monitor: sizes, a device, a data set.
        monitor: What a user adds for the monitor.
        resume: Further arguments of a run that goes on from a checkpoint which the run before has left in its middle; None
            if the script cannot.
        naming: The argument that names a run, where a resumed one has to have another name: the first is called ``whole``.
        path: Folders of the code base that Python has to find modules in.
        environment: More environment variables.
        host: Which integration it uses.
        needs: Modules without which it cannot run.
    """

    name: str
    folder: str
    source: str
    run: tuple[str, ...]
    arguments: str
    data: Callable[[Path], None]
    monitor: tuple[Add | Replace, ...]
    host: str
    within: str = "."
    setup: tuple[Add | Replace, ...] = ()
    resume: str | None = None
    naming: str = ""
    path: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()

    @property
    def lines(self) -> int:
        """Lines that a user adds or changes."""
        return sum(edit.count for edit in self.monitor)
