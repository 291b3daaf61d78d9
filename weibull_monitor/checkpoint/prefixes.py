"""Gives the matrices of several checkpoints the same names where they differ by a prefix, such as ``bert.`` or ``model.``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import replace

from weibull_monitor.checkpoint.layout import CheckpointLayout
from weibull_monitor.model.components import Component, Skipped

MAX_SEGMENTS = 4
"""Most segments that a prefix may have."""


def with_names_of(layout: CheckpointLayout, names: Set[str]) -> CheckpointLayout:
    """The layout of a checkpoint; its matrices have the names of those of another, if they differ by prefixes alone.

    Args:
        layout: The layout.
        names: Names of the components of the checkpoints before it.
    """
    own = {c.name for c in layout.discovery.components}
    theirs, ours = differing_prefixes(names, own)
    if theirs == ours:
        return layout

    # A head lies beside what has the whole prefix: where that has ``net.bert.``, the head has ``net.``.
    pairs = [(new, old) for old in _leading(ours) for new in _leading(theirs)]

    def prefixes(name: str) -> tuple[str, str]:
        if name not in names:
            for new, old in pairs:
                if name.startswith(old) and new + name[len(old) :] in names:
                    return new, old
        return "", ""

    def renamed(name: str) -> str:
        new, old = prefixes(name)
        return new + name[len(old) :]

    def component(c: Component) -> Component:
        new, old = prefixes(c.name)
        tower = new + c.tower.removeprefix(old) if c.tower else ""
        return replace(c, name=new + c.name[len(old) :], tower=tower)

    discovery = replace(
        layout.discovery,
        components=tuple(component(c) for c in layout.discovery.components),
        skipped=tuple(Skipped(renamed(s.name), s.reason, s.numel) for s in layout.discovery.skipped),
    )
    found, first = ours or "no prefix", theirs or "none"
    note = f"its names have {found} where the first checkpoint has {first}; the names of the first are used"
    return replace(layout, discovery=discovery, notes=(*layout.notes, note))


def differing_prefixes(theirs: Set[str], ours: Set[str]) -> tuple[str, str]:
    """The prefixes without which most names of two checkpoints are the same, the shortest of them.

    >>> differing_prefixes({"bert.layer.0.q", "bert.layer.1.q"}, {"layer.0.q", "layer.1.q"})
    ('bert.', '')
    >>> differing_prefixes({"layer.0.q"}, {"layer.0.q", "layer.1.q"})
    ('', '')
    """
    rests: dict[str, list[str]] = {}
    for name in theirs:
        for prefix, rest in _prefixes(name):
            rests.setdefault(rest, []).append(prefix)
    found: Counter[tuple[str, str]] = Counter()
    for name in ours:
        for prefix, rest in _prefixes(name):
            found.update((other, prefix) for other in rests.get(rest, ()))
    same = len(theirs & ours)
    pairs = [(count, pair) for pair, count in found.items() if count > same and 2 * count > min(len(theirs), len(ours))]
    if not pairs:
        return "", ""
    return min(pairs, key=lambda p: (-p[0], len(p[1][0]) + len(p[1][1]), p[1]))[1]


def _leading(prefix: str) -> list[str]:
    """The prefix and what it begins with, the longest first.

    >>> _leading("net.bert.")
    ['net.bert.', 'net.', '']
    """
    segments = prefix.split(".")[:-1]
    return ["".join(f"{segment}." for segment in segments[:depth]) for depth in range(len(segments), -1, -1)]


def _prefixes(name: str) -> Iterator[tuple[str, str]]:
    """The name cut into a prefix of whole segments and the rest, in every way that is looked at."""
    segments = name.split(".")
    for depth in range(min(MAX_SEGMENTS + 1, len(segments) - 1)):
        prefix = "".join(f"{segment}." for segment in segments[:depth])
        yield prefix, name[len(prefix) :]
